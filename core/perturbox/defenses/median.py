"""Median filter: each voxel becomes the median of the window around it.

    g(x)_v = median of x_u, u in v + [-r, r]^d,    size = 2 r + 1, mirrored at the border

Xu, Evans & Qi 2018, NDSS, arXiv 1704.01155. Its own gradient reaches one voxel of each window only, so the mean of the
window stands in for it.
"""

from typing import Annotated, Literal

import torch
from torch import Tensor

from perturbox.attacks.settings import Param
from perturbox.defenses import defense
from perturbox.defenses.filters import IDENTITY, mirrored
from perturbox.model.defended import Defense, StandIn

VALUES = 1 << 24  # that are sorted at once, in windows: a scan's own windows are 27 times as large as it


@defense(
    title="Median filter",
    paper="Xu et al. 2018, arXiv 1704.01155",
    inverse="window mean: a sum over the window per axis; identity: nothing",
    deviations=("odd sizes only; the paper also has 2 x 2", "3D: a cube, where the paper has a square"),
)
def median(size: Annotated[Literal[3, 5, 7], Param("Edge of the window", unit="voxels")] = 3):
    """The median along all axes at once."""
    radius = size // 2

    def medians(x: Tensor, spacing: tuple[float, ...], draws: torch.Generator) -> Tensor:
        windows = mirrored(x, radius)
        for axis in range(2, x.dim()):
            windows = windows.unfold(axis, size, 1)
        rows = max(1, VALUES // max(1, windows[:, :, :1].numel()))
        parts = [windows[:, :, i : i + rows].flatten(x.dim()) for i in range(0, x.shape[2], rows)]
        return torch.cat([part.median(-1).values for part in parts], 2)

    def means(x: Tensor, spacing: tuple[float, ...], draws: torch.Generator) -> Tensor:
        x = mirrored(x, radius)
        for axis in range(2, x.dim()):
            x = x.unfold(axis, size, 1).mean(-1)
        return x

    return Defense("", medians, (StandIn("window mean", means), IDENTITY))
