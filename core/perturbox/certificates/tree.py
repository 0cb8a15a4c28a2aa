"""What may be said of a voxel: its class or, where the classes are close, a group of classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from perturbox.types import InputError

NOTHING = "background"
ANY_STRUCTURE = "some structure"
# Groups that a model gets of itself, where it tells at least two of their structures apart.
GROUPS = {"soft organ": ("liver", "spleen", "kidney", "gut")}


@dataclass(frozen=True)
class Node:
    """An answer: a class, or a group of classes; classes: their numbers in the tree."""

    name: str
    classes: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Tree:
    """Classes by number, 0 for no structure, and levels of ever larger groups above them; the root, "anything", isn't
    told, because it says nothing.

    names: of the classes; values: "k", the label value of each; nodes: all answers, the classes first; levels: "l k",
    the node of each class on each level, the classes themselves first.
    """

    names: tuple[str, ...]
    values: np.ndarray
    nodes: tuple[Node, ...]
    levels: np.ndarray

    @property
    def groups(self) -> tuple[Node, ...]:
        """The nodes that hold several classes."""
        return self.nodes[len(self.names) :]

    @property
    def member(self) -> np.ndarray:
        """bool "nodes k": which classes count as votes for which answer."""
        table = np.zeros((len(self.nodes), len(self.names)), bool)
        for number, node in enumerate(self.nodes):
            table[number, list(node.classes)] = True
        return table

    def numbers(self, labels: np.ndarray) -> np.ndarray:
        """Label values -> class numbers, uint8 or uint16; values that the model doesn't name are no structure."""
        table = np.zeros(
            max(int(self.values.max()), int(labels.max(initial=0))) + 1, np.min_scalar_type(len(self.names))
        )
        table[self.values] = np.arange(len(self.names))
        return table[labels]


def tree_of(
    labels: Mapping[str, int], adaptive: bool = False, groups: Mapping[str, Sequence[str]] | None = None
) -> Tree:
    """The tree of a model's labels; adaptive: with groups above the classes, `groups` or else those of GROUPS whose
    structures it has, and above them "some structure".

    Raises InputError for groups of structures that it hasn't, or that overlap.
    """
    ordered = sorted((value, name) for name, value in labels.items() if value != 0)
    nothing = next((name for name, value in labels.items() if value == 0), NOTHING)
    names = (nothing, *(name for _, name in ordered))
    nodes = [Node(name, (number,)) for number, name in enumerate(names)]
    levels = [list(range(len(names)))]

    def merge(made: Mapping[str, Sequence[int]]) -> None:
        level = list(levels[-1])
        for name, classes in made.items():
            for number in classes:
                level[number] = len(nodes)
            nodes.append(Node(name, tuple(classes)))
        levels.append(level)

    if adaptive:
        chosen = checked_groups(names, groups) if groups else _known_groups(names)
        if chosen:
            merge(chosen)
        structures = tuple(range(1, len(names)))
        if len(structures) > 1 and structures not in [node.classes for node in nodes]:
            merge({ANY_STRUCTURE: structures})
    values = np.array([0, *(value for value, _ in ordered)])
    return Tree(names, values, tuple(nodes), np.array(levels))


def _known_groups(names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    found = {group: tuple(names.index(one) for one in held if one in names) for group, held in GROUPS.items()}
    return {group: classes for group, classes in found.items() if len(classes) > 1}


def checked_groups(names: Sequence[str], groups: Mapping[str, Sequence[str]]) -> dict[str, tuple[int, ...]]:
    """Groups of class names as groups of their numbers; raises InputError where they can't be one level of a tree."""
    seen: set[str] = set()
    for group, held in groups.items():
        unknown = [one for one in held if one not in names[1:]]
        if unknown:
            raise InputError(
                f"The group '{group}' names '{unknown[0]}', which the model doesn't know; it has "
                f"{', '.join(names[1:])}."
            )
        if len(set(held)) < 2:
            raise InputError(f"The group '{group}' needs two structures or more.")
        if group in (*names, ANY_STRUCTURE):
            raise InputError(f"'{group}' has its meaning already; give the group another name.")
        if twice := seen & set(held):
            raise InputError(f"'{min(twice)}' is in two groups; keep it in one.")
        seen |= set(held)
    return {group: tuple(sorted({names.index(one) for one in held})) for group, held in groups.items()}
