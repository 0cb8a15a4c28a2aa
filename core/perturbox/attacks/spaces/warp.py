"""Moving what is in a scan: values at displaced voxels, linearly interpolated, differentiable, slab by slab.

Interpolation starts from whole voxels, so that no displacement gives back the scan bit for bit.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

SLAB_VOXELS = 2**21


def sampled(x: Tensor, displacement: Tensor, first: int = 0) -> Tensor:
    """x "b c *s" at voxel + displacement, "b c *t"; the edge continues beyond the border.

    displacement: in voxels, "1 d *t", of the rows from `first` on along the first spatial axis.
    """
    flat, whole = x.flatten(2), displacement.detach().floor()
    share = displacement - whole
    sides = []
    for axis, n in enumerate(x.shape[2:]):
        rows = torch.arange(whole.shape[axis + 2], device=x.device) + (first if axis == 0 else 0)
        lower = whole[0, axis].long() + rows.view([-1 if a == axis else 1 for a in range(x.dim() - 2)])
        sides.append((lower.clamp(0, n - 1), (lower + 1).clamp(0, n - 1)))

    def between(axis: int, index: Tensor | int) -> Tensor:
        """Interpolated along this axis and those after it; index: of the corner along those before."""
        if axis == len(sides):
            return flat[..., index]
        below, above = (between(axis + 1, index * x.shape[axis + 2] + side) for side in sides[axis])
        return torch.lerp(below, above, share[0, axis])

    return between(0, 0)


def warped(x: Tensor, field: Callable[..., Tensor], *parameters: Tensor) -> Tensor:
    """x "b c *s" moved by a field: (first row, end, *parameters) -> displacement in voxels, "1 d *t".

    Differentiable in x and the parameters, and not in what the field closes over. Nothing but the result is kept of a
    slab; it is computed once more when its gradient is needed.
    """
    length, rest = x.shape[2], x[0, 0, 0].numel()
    rows = max(1, SLAB_VOXELS // rest)

    def slab(first: int) -> Tensor:
        def moved(x: Tensor, *parameters: Tensor) -> Tensor:
            return sampled(x, field(first, min(length, first + rows), *parameters), first)

        return _ComputedAgain.apply(moved, x, *parameters)  # type: ignore[return-value]

    return torch.cat([slab(first) for first in range(0, length, rows)], 2)


class _ComputedAgain(torch.autograd.Function):
    """A function of tensors that keeps nothing for its gradient but them."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(*tensors)
        return function(*tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[1:]
        leaves = [t.detach().requires_grad_(want) for t, want in zip(ctx.saved_tensors, wanted, strict=True)]
        with torch.enable_grad():
            result = ctx.function(*leaves)
        found = iter(torch.autograd.grad(result, [leaf for leaf in leaves if leaf.requires_grad], gradients[0]))
        return (None, *(next(found) if want else None for want in wanted))
