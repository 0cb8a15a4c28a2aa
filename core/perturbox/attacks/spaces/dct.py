"""Frequency spaces: the scan's blocks in the discrete cosine transform, quantised more or less coarsely, or multiplied.

A block of b voxels along each axis has b coefficients along each axis (orthonormal DCT-II); scans are continued by
their edge to whole blocks. Both change what is there in the scan, so flat regions stay as they are.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from perturbox.attacks.budget import Budget
from perturbox.attacks.spaces import settle, slice_axis


def cosine_matrix(n: int) -> Tensor:
    """The orthonormal DCT-II of length n, "n n": coefficients = matrix @ values."""
    k, i = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)[None]
    matrix = torch.cos(math.pi * (i + 0.5) * k / n) * math.sqrt(2 / n)
    matrix[0] /= math.sqrt(2)
    return matrix


def along_blocks(x: Tensor, matrix: Tensor) -> Tensor:
    """The matrix (b, b) applied to every run of b voxels along every spatial axis of x, whose axes are multiples of
    b."""
    b = matrix.shape[0]
    for axis in range(2, x.dim()):
        moved = x.movedim(axis, -1)
        blocks = moved.reshape(*moved.shape[:-1], -1, b) @ matrix.to(x).T
        x = blocks.reshape(moved.shape).movedim(-1, axis)
    return x


def to_blocks(x: Tensor, block: int) -> Tensor:
    """x continued by its edge values to multiples of `block`."""
    pads = [side for n in reversed(x.shape[2:]) for side in (0, -n % block)]
    return F.pad(x, pads, mode="replicate")


def cropped(x: Tensor, shape: torch.Size) -> Tensor:
    """The corner of `x` that has the spatial shape of `shape`: what padding to whole blocks added is taken off."""
    return x[(..., *(slice(n) for n in shape[2:]))]


def filling(x: Tensor, window: tuple[float, float], axis: int | None) -> Tensor:
    """x "b c *s" with every slice across a spatial axis (None: every image) scaled linearly to span a window; flat
    slices stay as they are."""
    over = [a for a in range(1, x.dim()) if axis is None or a != axis + 2]
    low, high = x.amin(over, keepdim=True), x.amax(over, keepdim=True)
    scaled = window[0] + (x - low) / (high - low).clamp_min(1e-6) * (window[1] - window[0])
    return torch.where(high > low, scaled, x)


class _SoftRound(torch.autograd.Function):
    """Round forward; backward the derivative of round(u) + (u - round(u))^3, which is 0 at whole numbers."""

    @staticmethod
    def forward(ctx, u: Tensor) -> Tensor:
        whole = u.round()
        ctx.save_for_backward(u - whole)
        return whole

    @staticmethod
    def backward(ctx, *gradients):
        (rest,) = ctx.saved_tensors
        return gradients[0] * 3 * rest * rest


def soft_round(u: Tensor) -> Tensor:
    """The nearest whole number, with a derivative: three times the square of the distance to it."""
    return _SoftRound.apply(u)  # type: ignore[return-value]


@dataclass(frozen=True)
class Quantised:
    """z is the quantisation step of every coefficient of every block, in grey levels (1/255 of the victim's window),
    within [least, most]: x_adv = IDCT( round(DCT(x) / z) * z ). It starts at `most`, and has no zero. rescaled: every
    slice is then stretched to fill the victim's window, as the authors' code does."""

    block: int
    least: float
    most: float
    rescaled: bool = False
    voxelwise: bool = False

    def init(self, x: Tensor, budget: Budget, generator: torch.Generator) -> Tensor:
        return torch.full_like(to_blocks(x, self.block), self.most)

    def draw(self, x: Tensor, budget: Budget, generator: torch.Generator) -> Tensor:
        shape = to_blocks(x, self.block).shape
        return (self.least + (self.most - self.least) * torch.rand(shape, generator=generator)).to(x)

    def decode(self, z: Tensor, x: Tensor, budget: Budget) -> Tensor:
        assert budget.visible is not None
        grey = (budget.visible[1] - budget.visible[0]) / 255
        matrix = cosine_matrix(self.block)
        coefficients = along_blocks(to_blocks(x, self.block), matrix)
        steps = (z * grey).clamp_min(1e-6)
        quantised = soft_round(coefficients / steps) * steps
        change = cropped(along_blocks(quantised - coefficients, matrix.T), x.shape)
        if self.rescaled:
            seen = x.clamp(*budget.visible)
            change = filling(seen + change, budget.visible, slice_axis(budget.spacing)) - seen
        return settle(change, x, budget)

    def project(self, z: Tensor, x: Tensor, budget: Budget) -> Tensor:
        return z.clamp(self.least, self.most)


@dataclass(frozen=True)
class Multiplied:
    """z multiplies every coefficient of what the victim sees of the scan, within [1 - rho, 1 + rho]: x_adv = x + IDCT(
    (z - 1) * DCT(window(x)) ). z = 1 is the scan. A block's mean is left as it is, and so are flat blocks."""

    block: int
    rho: float
    random_start: bool = False
    voxelwise: bool = False

    def init(self, x: Tensor, budget: Budget, generator: torch.Generator) -> Tensor:
        return self.draw(x, budget, generator) if self.random_start else torch.ones_like(to_blocks(x, self.block))

    def draw(self, x: Tensor, budget: Budget, generator: torch.Generator) -> Tensor:
        shape = to_blocks(x, self.block).shape
        return (1 + self.rho * (2 * torch.rand(shape, generator=generator) - 1)).to(x)

    def decode(self, z: Tensor, x: Tensor, budget: Budget) -> Tensor:
        assert budget.visible is not None
        matrix = cosine_matrix(self.block)
        coefficients = along_blocks(to_blocks(x.clamp(*budget.visible), self.block), matrix)
        coefficients[(..., *[slice(None, None, self.block)] * (x.dim() - 2))] = 0
        change = along_blocks((z - 1) * coefficients, matrix.T)
        return settle(cropped(change, x.shape), x, budget)

    def project(self, z: Tensor, x: Tensor, budget: Budget) -> Tensor:
        return z.clamp(1 - self.rho, 1 + self.rho)
