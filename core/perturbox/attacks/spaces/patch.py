"""A visible patch: a box (in 2D a square) whose values are free inside the victim's intensity window; nothing else
changes."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from perturbox.attacks.budget import Budget
from perturbox.attacks.spaces import settle
from perturbox.types import InputError


@dataclass(frozen=True)
class Place:
    """Where a box lies on a scan: its first voxel and its size along each axis."""

    start: tuple[int, ...]
    size: tuple[int, ...]

    @property
    def slices(self) -> tuple[slice, ...]:
        """Cuts the box out of "b c *s"."""
        box = (slice(first, first + n) for first, n in zip(self.start, self.size, strict=True))
        return (slice(None), slice(None), *box)

    def moved(self, by: tuple[int, ...], shape: torch.Size) -> "Place":
        """Shifted by so many voxels, as far as the spatial shape "*s" allows."""
        limits = zip(self.start, by, self.size, shape, strict=True)
        return Place(tuple(min(max(0, first + step), n - size) for first, step, size, n in limits), self.size)


@dataclass(frozen=True)
class Box:
    """side_mm: edge of the patch; centre: its middle voxel, the middle of the region if not given."""

    side_mm: float
    centre: tuple[int, ...] | None = None

    def wanted(self, budget: Budget) -> Place:
        """Where the patch is to lie: at least one voxel wide along each axis unless the side is 0."""
        least = 1 if self.side_mm else 0
        size = tuple(max(least, round(self.side_mm / step)) for step in budget.spacing)
        if self.centre is not None:
            return Place(tuple(c - n // 2 for c, n in zip(self.centre, size, strict=True)), size)
        start = []
        for axis, n in enumerate(size, start=2):
            others = tuple(a for a in range(budget.region.dim()) if a != axis)
            held = torch.nonzero(budget.region.any(others)).flatten()
            start.append((int(held[0]) + int(held[-1]) + 1 - n) // 2)
        return Place(tuple(start), size)

    def on(self, budget: Budget) -> Place:
        """As `wanted`, cut to the scan."""
        shape, wanted = budget.region.shape[2:], self.wanted(budget)
        size = tuple(min(a, b) for a, b in zip(wanted.size, shape, strict=True))
        return Place(wanted.start, size).moved((0,) * len(size), shape)

    def require(self, budget: Budget) -> None:
        """Raises InputError unless the whole patch lies in the region."""
        place = self.on(budget)
        if place != self.wanted(budget) or not bool(budget.region[place.slices].all()):
            size = " × ".join(f"{n * step:g}" for n, step in zip(self.wanted(budget).size, budget.spacing, strict=True))
            raise InputError(
                f"The patch of {size} mm doesn't lie within the region that may change; make it smaller, or put its "
                "centre elsewhere."
            )


@dataclass(frozen=True)
class Patch:
    """z: the patch "1 c *p" in shares of the victim's window, within [0, 1]. It starts as what lies there."""

    box: Box
    voxelwise: bool = False

    def init(self, x: Tensor, budget: Budget, generator: torch.Generator) -> Tensor:
        self.box.require(budget)
        low, span = window(budget)
        return self.project((x[self.box.on(budget).slices] - low) / span, x, budget)

    def draw(self, x: Tensor, budget: Budget, generator: torch.Generator) -> Tensor:
        return torch.rand(self.init(x, budget, generator).shape, generator=generator).to(x)

    def decode(self, z: Tensor, x: Tensor, budget: Budget) -> Tensor:
        place, (low, span) = self.box.on(budget), window(budget)
        return settle(padded(low + span * z - x[place.slices], place, x.shape[2:]), x, budget)

    def project(self, z: Tensor, x: Tensor, budget: Budget) -> Tensor:
        return z.clamp(0, 1)


def window(budget: Budget) -> tuple[float, float]:
    """(lowest value, width) of the victim's intensity window."""
    assert budget.visible is not None
    return budget.visible[0], budget.visible[1] - budget.visible[0]


def padded(values: Tensor, place: Place, shape: torch.Size) -> Tensor:
    """Values "b c *p" in their place in a scan of zeros."""
    pads = []
    for first, size, n in zip(place.start, place.size, shape, strict=True):
        pads = [first, n - first - size, *pads]
    return F.pad(values, pads)
