"""A smooth bias field, as coils and contrast make it: x_adv = low + (x - low) * exp(field), the field a cubic B-spline.

low is the scan's lowest value (air in CT, 0 in MR), so that what is empty stays empty.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from perturbox.attacks.budget import Budget
from perturbox.attacks.spaces import settle
from perturbox.model.regrid import apply_along


def spline_matrix(n: int, knots: int) -> Tensor:
    """Cubic B-spline with `knots` equidistant intervals over n voxels, (n, knots + 3); rows sum to 1."""
    place = (torch.arange(n, dtype=torch.float64) + 0.5) / n * knots
    cell = place.floor().clamp(max=knots - 1)
    t = place - cell
    weights = torch.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], 1) / 6
    index = cell.long()[:, None] + torch.arange(4)
    return torch.zeros(n, knots + 3, dtype=torch.float64).scatter_(1, index, weights)


def knots_along(shape: torch.Size, spacing: tuple[float, ...], distance_mm: float) -> list[int]:
    """Intervals per spatial axis so that control points lie about distance_mm apart, at least one."""
    return [max(1, round(n * step / distance_mm)) for n, step in zip(shape[2:], spacing, strict=True)]


def spline_field(z: Tensor, shape: torch.Size) -> Tensor:
    """Control points "b c *k" -> the field "b c *s"."""
    for axis, n in enumerate(shape[2:], start=2):
        z = apply_along(spline_matrix(n, z.shape[axis] - 3), z, axis)
    return z


@dataclass(frozen=True)
class BiasField:
    """z: control points in log space, "1 1 *k", each within [-strength, strength]; so the field is within it too. 0 is
    the scan. distance_mm: between control points."""

    strength: float
    distance_mm: float
    voxelwise: bool = False

    def init(self, x: Tensor, budget: Budget, generator: torch.Generator) -> Tensor:
        knots = knots_along(x.shape, budget.spacing, self.distance_mm)
        return x.new_zeros((1, 1, *(k + 3 for k in knots)))

    def draw(self, x: Tensor, budget: Budget, generator: torch.Generator) -> Tensor:
        z = self.init(x, budget, generator)
        return self.strength * (2 * torch.rand(z.shape, generator=generator) - 1).sign().to(z)

    def decode(self, z: Tensor, x: Tensor, budget: Budget) -> Tensor:
        gain = torch.expm1(spline_field(z, x.shape))
        return settle((x - budget.low) * gain, x, budget)

    def project(self, z: Tensor, x: Tensor, budget: Budget) -> Tensor:
        return z.clamp(-self.strength, self.strength)
