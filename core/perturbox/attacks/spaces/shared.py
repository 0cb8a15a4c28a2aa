"""One pattern for scans of any shape, for perturbations that are crafted on some scans and used on others."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from perturbox.attacks.budget import TINY, Budget
from perturbox.attacks.spaces import settle
from perturbox.model.regrid import apply_along, linear_matrix


@dataclass(frozen=True)
class Shared:
    """z: a block "1 c *side" of changes within the ball of eps, which doesn't depend on any scan.

    fit: how it covers a scan: as "tile", again and again, its samples `pitch` mm apart (None: on the scan's own
    voxels), linearly interpolated between them; or once, "stretch"ed over the whole scan.
    """

    side: int
    pitch: float | None = None
    fit: Literal["tile", "stretch"] = "tile"
    voxelwise: bool = False

    def init(self, x: Tensor, budget: Budget, generator: torch.Generator) -> Tensor:
        return x.new_zeros((1, x.shape[1], *[self.side] * (x.dim() - 2)))

    def draw(self, x: Tensor, budget: Budget, generator: torch.Generator) -> Tensor:
        draw = torch.randn(self.init(x, budget, generator).shape, generator=generator)
        draw = draw.sign() if budget.norm == "linf" else draw / _rms(draw)
        return self.project(budget.eps * draw.to(x), x, budget)

    def decode(self, z: Tensor, x: Tensor, budget: Budget) -> Tensor:
        for axis, (n, step) in enumerate(zip(x.shape[2:], budget.spacing, strict=True), start=2):
            z = apply_along(self.weights(n, step), z, axis)
        return settle(z, x, budget)

    def project(self, z: Tensor, x: Tensor, budget: Budget) -> Tensor:
        if budget.norm == "linf":
            return z.clamp(-budget.eps, budget.eps)
        size = _rms(z)
        return z * torch.where(size > budget.eps, budget.eps / size.clamp_min(TINY), 1.0)

    def weights(self, n: int, step: float) -> Tensor:
        """How n voxels, `step` mm apart, are made of the block's samples along an axis, (n, side); rows sum to 1."""
        if self.fit == "stretch":
            return linear_matrix(self.side, n, antialias=False)
        place = torch.arange(n, dtype=torch.float64) * (1.0 if self.pitch is None else step / self.pitch)
        first = place.floor()
        index, share = first.long(), (place - first)[:, None]
        weights = torch.zeros(n, self.side, dtype=torch.float64)
        weights.scatter_add_(1, index[:, None] % self.side, 1 - share)
        return weights.scatter_add_(1, (index[:, None] + 1) % self.side, share)

    def period(self, step: float) -> int:
        """Voxels, `step` mm apart, that show every sample of the block along an axis."""
        return self.side if self.fit == "stretch" or self.pitch is None else -int(-self.side * self.pitch // step)


def _rms(z: Tensor) -> Tensor:
    return z.double().square().mean().sqrt().to(z)
