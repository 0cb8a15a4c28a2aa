"""Moving what is in a scan: values at displaced voxels, linearly interpolated, differentiable, slab by slab.

Interpolation starts from whole voxels, so that no displacement gives back the scan bit for bit.
"""

import itertools
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
    total = torch.zeros(())
    for corner in itertools.product((0, 1), repeat=x.dim() - 2):
        index, weight = torch.zeros((), dtype=torch.int64), torch.ones(()).to(x)
        for axis, (n, side) in enumerate(zip(x.shape[2:], corner, strict=True)):
            rows = torch.arange(whole.shape[axis + 2], device=x.device) + (first if axis == 0 else 0)
            rows = rows.view([-1 if a == axis else 1 for a in range(len(corner))])
            index = index * n + (rows + whole[0, axis].long() + side).clamp(0, n - 1)
            weight = weight * (share[0, axis] if side else 1 - share[0, axis])
        total = total + flat[..., index] * weight
    return total


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
