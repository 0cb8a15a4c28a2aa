"""What may change: a space decodes variables z into an adversarial scan and keeps z inside the budget.

Whatever a space does with z, `settle` makes of it what the file can hold: inside the region, the scan's own range, the
ball if there is one, and on the file's steps, with a gradient that passes the rounding unchanged.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from perturbox.attacks.budget import Budget


class Space(Protocol):
    """init(x, budget, generator) -> z, where an attack starts; decode(z, x, budget) -> x_adv, differentiable in z;
    project(z, x, budget) -> z; draw(x, budget, generator) -> z: a random point on the budget's boundary, the control
    for what the space does without being aimed.

    voxelwise: z is one number per voxel, so that a voxel whose gradient is always 0 can be left alone.
    """

    @property
    def voxelwise(self) -> bool: ...

    def init(self, x: Tensor, budget: Budget, generator: torch.Generator) -> Tensor: ...

    def decode(self, z: Tensor, x: Tensor, budget: Budget) -> Tensor: ...

    def project(self, z: Tensor, x: Tensor, budget: Budget) -> Tensor: ...

    def draw(self, x: Tensor, budget: Budget, generator: torch.Generator) -> Tensor: ...


class _Stored(torch.autograd.Function):
    """Round forward, pass the gradient unchanged (straight-through)."""

    @staticmethod
    def forward(ctx: Any, delta: Tensor, budget: Budget) -> Tensor:
        return budget.quantise(delta)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        return gradients[0], None


def stored(delta: Tensor, budget: Budget) -> Tensor:
    """delta on the file's steps, no larger than it was; the gradient passes unchanged."""
    return _Stored.apply(delta, budget)  # type: ignore[return-value]


def settle(delta: Tensor, x: Tensor, budget: Budget) -> Tensor:
    """x plus an allowed, storable version of delta, for spaces whose variables aren't the perturbation itself."""
    return x + torch.where(budget.region, stored(budget.project(delta, x), budget), 0)


def slice_axis(spacing: tuple[float, ...]) -> int | None:
    """The axis across the slices a volume was taken in: that of the largest distance in mm, the last where several are
    equal; None in 2D."""
    return None if len(spacing) < 3 else max(range(len(spacing)), key=lambda axis: (round(spacing[axis], 3), axis))
