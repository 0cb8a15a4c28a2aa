"""A small affine motion of the whole scan: a rotation, a scaling along each axis and a translation.

x_adv(p) = x(p + u(p)),   u(p) = (R S - 1) p + t,   p in mm from the middle of the scan
"""

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from perturbox.attacks.budget import Budget
from perturbox.attacks.spaces import settle
from perturbox.attacks.spaces.warp import warped

SHRINKS = 50


@dataclass(frozen=True)
class Affine:
    """z: rotations, logarithms of the scalings and translations, "1 n" (5 in 2D, 9 in 3D), each in the mm by which it
    moves the border of the scan; together they move no voxel further than `displacement` mm. One motion for all
    channels. 0 is the scan."""

    displacement: float
    voxelwise: bool = False

    def init(self, x: Tensor, budget: Budget, generator: torch.Generator) -> Tensor:
        dims = x.dim() - 2
        return x.new_zeros((1, dims * (dims - 1) // 2 + 2 * dims))

    def draw(self, x: Tensor, budget: Budget, generator: torch.Generator) -> Tensor:
        z = torch.randn(self.init(x, budget, generator).shape, generator=generator).to(x)
        return self._to(self.displacement, z, x, budget)

    def motion(self, z: Tensor, x: Tensor, budget: Budget) -> tuple[Tensor, Tensor]:
        """(R S - 1, t): "d d", and "d" in mm."""
        dims = x.dim() - 2
        half = torch.tensor([n * step / 2 for n, step in zip(x.shape[2:], budget.spacing, strict=True)]).to(z)
        turns, scalings, shift = z[0].split([dims * (dims - 1) // 2, dims, dims])
        above = torch.zeros(dims, dims).to(z)
        above[tuple(torch.triu_indices(dims, dims, 1))] = turns / half.norm()
        rotation = torch.linalg.matrix_exp(above - above.T)
        return rotation * torch.exp(scalings / half) - torch.eye(dims).to(z), shift

    def decode(self, z: Tensor, x: Tensor, budget: Budget) -> Tensor:
        places = [
            (torch.arange(n).to(x) - (n - 1) / 2) * step for n, step in zip(x.shape[2:], budget.spacing, strict=True)
        ]

        def field(first: int, end: int, matrix: Tensor, shift: Tensor) -> Tensor:
            grid = torch.meshgrid(places[0][first:end], *places[1:], indexing="ij")
            rows = [
                (shift[i] + sum(matrix[i, j] * p for j, p in enumerate(grid))) / step
                for i, step in enumerate(budget.spacing)
            ]
            return torch.stack(rows)[None]

        return settle(warped(budget.without_padding(x), field, *self.motion(z, x, budget)) - x, x, budget)

    def largest(self, z: Tensor, x: Tensor, budget: Budget) -> float:
        """How far z moves the voxel that it moves furthest, in mm: one of those in the corners."""
        matrix, shift = self.motion(z, x, budget)
        ends = [(n - 1) / 2 * step for n, step in zip(x.shape[2:], budget.spacing, strict=True)]
        corners = torch.tensor(list(itertools.product(*[(-end, end) for end in ends]))).to(z)
        return float((corners @ matrix.T + shift).norm(dim=1).max())

    def project(self, z: Tensor, x: Tensor, budget: Budget) -> Tensor:
        return z if self.largest(z, x, budget) <= self.displacement else self._to(self.displacement, z, x, budget)

    def _to(self, displacement: float, z: Tensor, x: Tensor, budget: Budget) -> Tensor:
        """z scaled until the largest displacement is this one, a hair less at most."""
        for _ in range(SHRINKS):
            found = self.largest(z, x, budget)
            if displacement * (1 - 1e-3) <= found <= displacement or not found:
                break
            z = z * (displacement * (1 - 1e-4) / found)
        return z if math.isfinite(found) and found <= displacement else torch.zeros_like(z)
