"""What counts as success, apart from any loss: change, vanish, grow, become=STRUCTURE.

A goal gives the attack a label map to leave or to reach and the voxels that matter, and gives the judge one number of
two label maps - lower is worse for the victim - with a stated threshold. The judge never sees a loss.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from perturbox.errors import InputError, did_you_mean

Kind = Literal["change", "vanish", "grow", "become"]

RULES: dict[str, tuple[str, float]] = {
    "change": ("mean Dice over the targets at most half of its clean value", 0.5),
    "vanish": ("volume of the targets at most 10 % of its clean value", 0.1),
    "grow": ("volume of the targets at least 1.5 times its clean value (inverse ratio at most 2/3)", 2 / 3),
    "become": ("at most half of the targets' voxels not given to the wanted structure", 0.5),
}
SURROUNDINGS_MM = 12.0


@dataclass(frozen=True)
class Goal:
    """kind of change; targets: label values attacked (all structures if the user named none); wanted: value for
    `become`."""

    kind: Kind
    targets: tuple[int, ...]
    named: bool
    wanted: int | None = None

    @classmethod
    def parse(cls, text: str, target: Sequence[str], labels: Mapping[str, int]) -> "Goal":
        """From the user's words, e.g. ("become=spleen", ["liver"]). Raises InputError for unknown goals and
        structures."""
        kind, _, wanted_name = text.partition("=")
        if kind not in RULES:
            raise InputError(f"Unknown goal '{text}'; choose change, vanish, grow or become=STRUCTURE.")
        values = tuple(dict.fromkeys(structure_value(name, labels) for name in target))
        if kind != "change" and not values:
            raise InputError(f"The goal '{kind}' needs --target with the structure it is about.")
        if (kind == "become") != bool(wanted_name):
            raise InputError("Write the goal as change, vanish, grow or become=STRUCTURE, e.g. --goal become=spleen.")
        wanted = structure_value(wanted_name, labels) if wanted_name else None
        if wanted is not None and wanted in values:
            raise InputError(f"A structure can't become itself; choose another one than '{wanted_name}'.")
        everything = tuple(value for value in labels.values() if value != 0)
        return cls(kind, values or everything, bool(values), wanted)  # type: ignore[arg-type]

    @property
    def rule(self) -> str:
        return RULES[self.kind][0]

    @property
    def threshold(self) -> float:
        return RULES[self.kind][1]

    def present(self, reference: np.ndarray) -> "Goal":
        """The same goal on the structures this reference holds."""
        held = tuple(value for value in self.targets if (reference == value).any())
        return Goal(self.kind, held, self.named, self.wanted)

    @property
    def classes(self) -> tuple[int, ...]:
        """Label values a Dice loss averages over: the targets, and what is to stand in their place."""
        return self.targets + {"vanish": (0,), "become": (self.wanted or 0,)}.get(self.kind, ())

    def task(self, reference: Tensor, spacing: Sequence[float]) -> tuple[Tensor, Tensor, bool]:
        """(label map, weight, targeted) on the network's grid: labels "b *g" to leave or (targeted) to reach, weight "b
        *g" of the voxels that matter: all of them, or the named targets with their surroundings (12 mm)."""
        targets = torch.tensor(self.targets, device=reference.device)
        mask = torch.isin(reference, targets)
        near = dilate(mask, SURROUNDINGS_MM, spacing) if self.named else torch.ones_like(mask)
        weight = near.float()
        if self.kind == "change":
            return reference, weight, False
        if self.kind == "grow":
            desired = reference.clone()
            for value in self.targets:
                desired[dilate(reference == value, SURROUNDINGS_MM, spacing) & ~mask] = value
            return desired, weight, True
        filler = self.wanted if self.wanted is not None else 0
        return torch.where(mask, torch.full_like(reference, filler), reference), weight, True

    def score(self, prediction, reference) -> float:
        """The success value of a label map against the reference, arrays or tensors of one grid; lower is worse for the
        victim."""
        if self.kind == "change":
            return float(
                np.mean([dice for dice in self.dice(prediction, reference).values() if dice is not None] or [1.0])
            )
        wrong = sum(int((prediction == value).sum()) for value in self.targets)
        clean = max(1, sum(int((reference == value).sum()) for value in self.targets))
        if self.kind == "vanish":
            return wrong / clean
        if self.kind == "grow":
            return clean / max(1, wrong)
        taken = sum(int(((prediction == self.wanted) & (reference == value)).sum()) for value in self.targets)
        return 1 - taken / clean

    def dice(self, prediction, reference) -> dict[int, float | None]:
        """Dice of each target; None where neither map holds it."""
        result: dict[int, float | None] = {}
        for value in self.targets:
            a, b = prediction == value, reference == value
            total = int(a.sum()) + int(b.sum())
            result[value] = 2 * int((a & b).sum()) / total if total else None
        return result


def structure_value(name: str, labels: Mapping[str, int]) -> int:
    """The label value of a structure's name; raises InputError with a near name where it is unknown."""
    structures = {known: value for known, value in labels.items() if value != 0}
    if name in structures:
        return structures[name]
    hint = did_you_mean(name, structures, f"it knows {', '.join(structures)}.")
    raise InputError(f"This victim has no structure '{name}'; {hint}")


def dilate(mask: Tensor, radius_mm: float, spacing: Sequence[float]) -> Tensor:
    """Box dilation of a bool mask "b *g" by radius_mm along each axis."""
    grown = mask[:, None].float()
    for axis, step in enumerate(spacing):
        reach = round(radius_mm / step)
        if reach:
            size = [1] * len(spacing)
            size[axis] = 2 * reach + 1
            pad = [0] * len(spacing)
            pad[axis] = reach
            pool = F.max_pool3d if len(spacing) == 3 else F.max_pool2d
            grown = pool(grown, tuple(size), 1, tuple(pad))
    return grown[:, 0] > 0
