"""A smooth deformation without folds: the scan moves along a stationary velocity field for a unit of time.

    x_adv(p) = x(p + u(p)),   p + u = exp(v),   v = sum_k z_k B_k,   B_k cubic B-splines

exp by scaling and squaring: u <- v / 2^n, then n times u <- u + u(p + u). A flow never moves further than its largest
velocity, nor does the squaring: lengths of z bound the displacement.
"""

import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from perturbox.attacks.budget import Budget
from perturbox.attacks.spaces import settle
from perturbox.attacks.spaces.bias_field import knots_along, spline_field
from perturbox.attacks.spaces.warp import warped
from perturbox.model.regrid import apply_along, linear_matrix

SQUARINGS = 8
NODES = 6  # per distance between control points, on the grid the flow is computed on: beyond it splines are smooth
SHRINK, SHRINKS = 0.8, 64


def per_axis(lengths: tuple[float, ...], like: Tensor) -> Tensor:
    """One length per axis as "1 d *1", to divide a field by."""
    return torch.tensor(lengths).to(like).view(1, -1, *[1] * len(lengths))


def exponential(v: Tensor, cell: tuple[float, ...]) -> Tensor:
    """The displacement that a velocity field makes in a unit of time, both in mm, "1 d *m", on nodes `cell` mm
    apart."""
    u, lengths = v / 2**SQUARINGS, per_axis(cell, v)
    for _ in range(SQUARINGS):
        u = u + warped(u, lambda first, end, nodes: nodes[:, :, first:end], u / lengths)
    return u


def least_jacobian(u: Tensor, cell: tuple[float, ...]) -> float:
    """The smallest determinant of the Jacobian of p + u(p), at the corners of every cell between nodes `cell` mm apart
    and beyond the border, where u continues; u in mm, "1 d *m". In 2D nothing between the corners is smaller."""
    dims = len(cell)
    u = F.pad(u, [1, 1] * dims, mode="replicate")
    derivatives = [u.diff(dim=axis + 2)[0] / length for axis, length in enumerate(cell)]
    least = []
    for corner in itertools.product((0, 1), repeat=dims):
        columns = []
        for axis, along in enumerate(derivatives):
            for other in set(range(dims)) - {axis}:
                along = along.narrow(other + 1, corner[other], along.shape[other + 1] - 1)
            columns.append(along + torch.eye(dims).to(u)[axis].view(-1, *[1] * dims))
        if dims == 2:
            (a, b), (c, d) = columns
            determinant = a * d - b * c
        else:
            determinant = (columns[0] * torch.linalg.cross(columns[1], columns[2], dim=0)).sum(0)
        least.append(determinant.min())
    return float(torch.stack(least).min())  # NaN if there is any


@dataclass(frozen=True)
class Deformation:
    """z: velocities in mm per unit of time at control points, "1 d *k", none longer than `displacement`, which no voxel
    is then moved beyond; one motion for all channels. 0 is the scan. distance_mm: between control points.

    What would fold is slowed down until it doesn't.
    """

    displacement: float
    distance_mm: float
    voxelwise: bool = False

    def init(self, x: Tensor, budget: Budget, generator: torch.Generator) -> Tensor:
        knots = knots_along(x.shape, budget.spacing, self.distance_mm)
        return x.new_zeros((1, len(knots), *(k + 3 for k in knots)))

    def draw(self, x: Tensor, budget: Budget, generator: torch.Generator) -> Tensor:
        directions = torch.randn(self.init(x, budget, generator).shape, generator=generator)
        # Far out: every one of them is then shortened to the limit.
        return self.project(1e6 * directions.to(x), x, budget)

    def cell(self, x: Tensor, budget: Budget) -> tuple[list[int], tuple[float, ...]]:
        """Nodes along each axis of the grid the flow is computed on, and their distances in mm."""
        sizes = [(n, n * step) for n, step in zip(x.shape[2:], budget.spacing, strict=True)]
        nodes = [min(n, math.ceil(size * NODES / self.distance_mm)) for n, size in sizes]
        return nodes, tuple(size / m for m, (_, size) in zip(nodes, sizes, strict=True))

    def flow(self, z: Tensor, x: Tensor, budget: Budget) -> Tensor:
        """The displacement in mm on the flow's own grid, "1 d *m"."""
        nodes, cell = self.cell(x, budget)
        return exponential(spline_field(z, torch.Size((1, 1, *nodes))), cell)

    def decode(self, z: Tensor, x: Tensor, budget: Budget) -> Tensor:
        u = self.flow(z, x, budget) / per_axis(budget.spacing, x)
        matrices = [linear_matrix(m, n, False) for m, n in zip(u.shape[2:], x.shape[2:], strict=True)]

        def field(first: int, end: int, u: Tensor) -> Tensor:
            for axis, matrix in enumerate(matrices):
                u = apply_along(matrix[first:end] if axis == 0 else matrix, u, axis + 2)
            return u

        return settle(warped(budget.without_padding(x), field, u) - x, x, budget)

    def project(self, z: Tensor, x: Tensor, budget: Budget) -> Tensor:
        length = z.norm(dim=1, keepdim=True)
        z = z * (self.displacement / length.clamp_min(1e-30)).clamp_max(1)
        with torch.no_grad():
            for _ in range(SHRINKS):
                if least_jacobian(self.flow(z, x, budget), self.cell(x, budget)[1]) > 0:
                    return z
                z = SHRINK * z
        return torch.zeros_like(z)
