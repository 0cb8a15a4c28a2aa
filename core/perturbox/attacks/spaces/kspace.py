"""What an MR scanner measures: every sample of k-space is changed by a share of itself, in size and phase.

    x_adv = |F^-1( F x + delta )|,   delta = z F x,   |z| <= share

F is unitary, so a limit on all of delta at once would allow the same scans whatever the transform; a limit on each
sample does not: what was not measured stays 0, and high frequencies change as little as there is of them. Values below
0, as resampling leaves them, keep their sign.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from perturbox.attacks.budget import Budget
from perturbox.attacks.spaces import settle, slice_axis


@dataclass(frozen=True)
class KSpace:
    """z: complex relative changes of the samples, as two real numbers, "b c *s 2"; each within a circle of radius
    `share`. 0 is the scan. slices: every slice has a k-space of its own, as in 2D acquisitions."""

    share: float
    slices: bool = False
    voxelwise: bool = False

    def init(self, x: Tensor, budget: Budget, generator: torch.Generator) -> Tensor:
        return x.new_zeros((*x.shape, 2))

    def draw(self, x: Tensor, budget: Budget, generator: torch.Generator) -> Tensor:
        phase = 2 * torch.pi * torch.rand(x.shape, generator=generator)
        return self.share * torch.stack([phase.cos(), phase.sin()], -1).to(x)

    def axes(self, budget: Budget) -> list[int]:
        """Axes of "b c *s" that are transformed."""
        across = slice_axis(budget.spacing) if self.slices else None
        return [axis + 2 for axis in range(len(budget.spacing)) if axis != across]

    def decode(self, z: Tensor, x: Tensor, budget: Budget) -> Tensor:
        axes = self.axes(budget)
        delta = torch.view_as_complex(z.contiguous()) * torch.fft.fftn(x, dim=axes, norm="ortho")
        # F is linear: what delta adds to the image is all that has to be transformed back, and 0 adds nothing.
        added = torch.fft.ifftn(delta, dim=axes, norm="ortho")
        sign = torch.where(x < 0, -1, 1)
        return settle(sign * ((x + added).abs() - x.abs()), x, budget)

    def project(self, z: Tensor, x: Tensor, budget: Budget) -> Tensor:
        return z * (self.share / z.norm(dim=-1, keepdim=True).clamp_min(1e-30)).clamp_max(1)
