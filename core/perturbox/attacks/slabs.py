"""Sums over voxels, slab by slab: a loss over many classes never holds temporaries as large as the whole prediction.

The logits of a clinical CT are gigabytes, and every intermediate of a loss (softmax, its logarithm, one-hot labels,
their products) is as large again when written plainly. Losses are built of sums over voxels, so those sums can be taken
over slabs, keeping nothing, and each slab's intermediates computed once more when its gradient is needed. What remains
is the gradient itself.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from perturbox.types import InputError

SLAB_BYTES = 256 * 2**20


def slabwise_sum(
    fn: Callable[..., Tensor], logits: Tensor, *tensors: Tensor | None, slabs: int | None = None
) -> Tensor:
    """`fn(logits, *tensors)` for an fn that sums over voxels, with the memory of one slab beside the gradient.

    fn: deterministic; its result (any shape, e.g. one sum per class) is added up over slabs of the first spatial axis.
    It is differentiated with respect to its arguments only, not to what it closes over, and once.
    logits: "b k *s". tensors: "*s", "b *s" or "b c *s", cut alike, or None, which is passed on.
    slabs: how many; by default as many as keep a slab of logits below 256 MB.
    Raises InputError when a tensor's spatial shape isn't that of the logits.
    """
    slabs = _count(logits, tensors, slabs)
    if slabs == 1:
        return fn(logits, *tensors)
    total = _SlabwiseSum.apply(fn, slabs, logits.dim() - 2, logits, *tensors)
    assert isinstance(total, Tensor)
    return total


def slabwise_map(
    fn: Callable[..., Tensor], logits: Tensor, *tensors: Tensor | None, slabs: int | None = None
) -> Tensor:
    """`fn(logits, *tensors)` "b a *s" for an fn that works voxel by voxel, with the memory of one slab beside the
    result and without a gradient; arguments and errors as of `slabwise_sum`."""
    slabs, dims = _count(logits, tensors, slabs), logits.dim() - 2
    with torch.no_grad():
        return torch.cat([fn(*pieces) for pieces in _slabs((logits, *tensors), slabs, dims)], dim=-dims)


def _count(logits: Tensor, tensors: tuple[Tensor | None, ...], slabs: int | None) -> int:
    length = logits.shape[2]
    for tensor in tensors:
        if tensor is not None and tensor.shape[-(logits.dim() - 2) :] != logits.shape[2:]:
            raise InputError(
                f"A tensor {tuple(tensor.shape)} isn't on the grid of logits {tuple(logits.shape)}; resample it."
            )
    if slabs is None:
        slabs = -(-logits.numel() * logits.element_size() // SLAB_BYTES)
    return max(1, min(slabs, length))


class _SlabwiseSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, fn: Callable[..., Tensor], slabs: int, dims: int, *tensors: Tensor | None) -> Tensor:
        ctx.fn, ctx.slabs, ctx.dims = fn, slabs, dims
        ctx.save_for_backward(*tensors)
        total: Tensor | None = None
        for pieces in _slabs(tensors, slabs, dims):
            part = fn(*pieces)
            total = part if total is None else total + part
        assert total is not None
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "A sum over slabs can't be differentiated twice; leave out create_graph=True, or use 1 slab."
            )
        tensors, wanted = ctx.saved_tensors, ctx.needs_input_grad[3:]
        gradients = [torch.zeros_like(t) if want else None for t, want in zip(tensors, wanted, strict=True)]
        pairs = zip(_slabs(tensors, ctx.slabs, ctx.dims), _slabs(gradients, ctx.slabs, ctx.dims), strict=True)
        for pieces, targets in pairs:
            leaves = [p if t is None else p.detach().requires_grad_() for p, t in zip(pieces, targets, strict=True)]
            with torch.enable_grad():
                part = ctx.fn(*leaves)
            if not part.requires_grad:  # a slab the sum doesn't look at
                continue
            inputs = [leaf for leaf, target in zip(leaves, targets, strict=True) if target is not None]
            found = torch.autograd.grad(part, inputs, upstream, allow_unused=True)
            for target, gradient in zip((t for t in targets if t is not None), found, strict=True):
                if gradient is not None:
                    target.copy_(gradient)
        return (None, None, None, *gradients)


def _slabs(tensors: Any, slabs: int, dims: int) -> Iterator[list[Any]]:
    """Views of every tensor, slab after slab along the first of its last `dims` axes; None stays None."""
    cut = [[None] * slabs if tensor is None else tensor.tensor_split(slabs, dim=-dims) for tensor in tensors]
    for pieces in zip(*cut, strict=True):
        yield list(pieces)
