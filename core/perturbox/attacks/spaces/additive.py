"""The additive space: z is the perturbation itself, x_adv = x + z rounded to the file's steps."""

from dataclasses import dataclass

import torch
from torch import Tensor

from perturbox.attacks.budget import Budget
from perturbox.attacks.spaces import stored


@dataclass(frozen=True)
class Additive:
    """random_start: begin at a uniformly random point of the ball (linf), of the sphere (l2), or at 0 (False)."""

    random_start: bool = False
    voxelwise: bool = True

    def init(self, x: Tensor, budget: Budget, generator: torch.Generator) -> Tensor:
        return self.draw(x, budget, generator) if self.random_start else torch.zeros_like(x)

    def draw(self, x: Tensor, budget: Budget, generator: torch.Generator) -> Tensor:
        if budget.eps == 0:
            return torch.zeros_like(x)
        # Drawn on the CPU in any case, so that a seed means the same on every device.
        if budget.norm == "linf":
            draw = torch.rand(x.shape, generator=generator, dtype=torch.float32) * 2 - 1
        else:
            draw = torch.randn(x.shape, generator=generator, dtype=torch.float32)
        return self.project(draw.to(x) * budget.eps, x, budget)

    def decode(self, z: Tensor, x: Tensor, budget: Budget) -> Tensor:
        """What is evaluated is exactly what the file will hold; the gradient passes the rounding unchanged, and is 0
        outside the region."""
        return x + torch.where(budget.region, stored(z, budget), 0)

    def project(self, z: Tensor, x: Tensor, budget: Budget) -> Tensor:
        return budget.project(z, x)
