"""A pipeline, and what it becomes on one scan."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from perturbox.model.pipeline import nnunet, space, totalsegmentator  # noqa: F401  (their steps are known by name)
from perturbox.model.pipeline.step import Bound, Frame, Step

BACK_AT_ONCE = 2**22  # voxels of all classes that are brought back to the scan's grid together


@dataclass(frozen=True)
class Pipeline:
    """The steps from a scan's values on its own grid to a network's input, in order."""

    steps: tuple[Step, ...] = ()

    def plan(self, shape: Sequence[int], affine: np.ndarray, values: Callable[[], Tensor]) -> "Plan":
        """The pipeline on one scan. values: gives the scan "1 c *s"; asked only where a step's plan depends on it."""
        frame, bound = Frame(tuple(shape), np.asarray(affine, dtype=float)), []
        last = max((i for i, step in enumerate(self.steps) if step.needs_values), default=-1)
        with torch.no_grad():
            x = values() if last >= 0 else None
            for index, step in enumerate(self.steps):
                bound.append(step.plan(frame, x if step.needs_values else None))
                frame = bound[-1].after
                x = bound[-1].exact(x) if x is not None and index < last else None
        return Plan(tuple(bound), tuple(shape))

    @property
    def visible(self) -> tuple[float, float] | None:
        """The range of the scan's values that the network tells apart, where a step says so."""
        for step in self.steps:
            if step.visible is not None or not step.keeps_values:
                return step.visible
        return None

    def to_json(self) -> list[dict[str, object]]:
        return [step.to_json() for step in self.steps]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Plan:
    """A pipeline on one scan; it offers what `regrid.Regrid` does.

    bound: the steps; shape: the scan's.
    """

    bound: tuple[Bound, ...]
    shape: tuple[int, ...]

    @property
    def target(self) -> tuple[int, ...]:
        """The network grid's shape."""
        return self.bound[-1].after.shape if self.bound else self.shape

    def parted(self, first: int) -> "tuple[Plan, Plan]":
        """(the plan of the first steps, that of the rest)."""
        frame = self.bound[first].before.shape if first < len(self.bound) else self.target
        return Plan(self.bound[:first], self.shape), Plan(self.bound[first:], frame)

    def unlike(self, other: "Plan") -> int | None:
        """The first step that another plan of the same pipeline gives another box or shape; None where none is."""
        for index, (mine, theirs) in enumerate(zip(self.bound, other.bound, strict=True)):
            one, two = mine.after, theirs.after
            if one.shape != two.shape or not np.allclose(one.affine, two.affine, atol=1e-6):
                return index
        return None

    @cached_property
    def order(self) -> tuple[int, ...]:
        """Network axis k is scan axis order[k]."""
        order = tuple(range(len(self.shape)))
        for step in self.bound:
            order = tuple(order[a] for a in step.order)
        return order

    @property
    def oriented_shape(self) -> tuple[int, ...]:
        return tuple(self.shape[a] for a in self.order)

    def spacing(self, native: Sequence[float]) -> tuple[float, ...]:
        """mm between the network's voxels along its own axes; native: along the scan's."""
        return self.bound[-1].after.spacing if self.bound else tuple(native)

    def to_network(self, x: Tensor) -> Tensor:
        """ "b c *s" -> "b c *g", differentiable."""
        for step in self.bound:
            x = step.forward(x)
        return x

    def exact(self, x: Tensor) -> Tensor:
        """The same by the framework's own bits, for the judge."""
        for step in self.bound:
            x = step.exact(x)
        return x

    def labels_to_network(self, labels: np.ndarray) -> np.ndarray:
        """Label map or mask "*s" -> "*g" by the nearest voxel."""
        there = torch.from_numpy(np.ascontiguousarray(labels))
        for step in self.bound:
            there = step.nearest(there)
        return np.ascontiguousarray(there.numpy())

    def back(self, scores: Tensor) -> Tensor:
        """Scores "k *g" -> "k *s" as the framework inverts them; 0 where a crop has left the scan out."""
        for step in reversed(self.bound):
            scores = step.back(scores)
        return scores

    def back_labels(self, labels: Tensor) -> Tensor:
        """Labels "1 *g" -> "1 *s"."""
        for step in reversed(self.bound):
            labels = step.back_labels(labels)
        return labels

    def argmax_to_native(self, scores: Tensor, painted: Sequence[int] | None = None) -> np.ndarray:
        """Scores "k *g" -> the label of the highest score on the scan's grid, "*s"; see `Regrid.argmax_to_native`.

        Class by class where a scan is large, so that k volumes of its size never exist at once.
        """
        largest = len(scores) - 1 if painted is None else max(painted)
        labels = torch.zeros(self.shape, dtype=torch.uint8 if largest <= 255 else torch.int16)
        best: Tensor | None = None
        for k, found in enumerate(self._class_by_class(scores)):
            if painted is not None:
                # A logit so small that its sigmoid rounds to one half says no, as in the framework.
                labels[(torch.sigmoid(found.float()) > 0.5).cpu()] = painted[k]
            elif best is None:
                best = found
            else:
                labels[(found > best).cpu()] = k
                best = torch.maximum(best, found)
        return labels.numpy()

    def _class_by_class(self, scores: Tensor) -> Iterator[Tensor]:
        """Each class of `back`; several are brought back at once while they are small, for its grid is made once."""
        for some in scores.split(max(1, BACK_AT_ONCE // math.prod(self.shape))):
            yield from self.back(some)

    @cached_property
    def reach(self) -> np.ndarray:
        """bool "*s": voxels that have any weight in the network's grid."""
        used = torch.ones(self.target, dtype=torch.bool)
        for step in reversed(self.bound):
            used = step.reach(used)
        return used.numpy()
