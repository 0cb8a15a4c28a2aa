"""Medical Aegis' Cushion: a smooth low-pass of the scan, its cut-off in cycles per mm.

    g(x) = C^T ( H(|f|) * C x ),    H(f) = 1 / (1 + (f / cutoff)^(2 order))

C is the cosine transform along every axis, which continues the scan at its border as in a mirror, and f in cycles per
mm has one part for each axis: slices 5 mm apart lose less across than within. A picture has pixels of 1 mm, so there
the cut-off is in cycles per pixel. The filter is linear, so its own gradient is exact.

Yao et al. 2021, arXiv 2111.10969, of which only the abstract was read: the Cushion removes high frequencies before the
model. How is ours. Its other half, the Shield, is the detector `shield`.
"""

from typing import Annotated

import torch
from torch import Tensor

from perturbox.attacks.settings import Param
from perturbox.attacks.spaces.dct import cosine_matrix
from perturbox.defenses import defense
from perturbox.defenses.filters import IDENTITY
from perturbox.model.defended import Defense, StandIn


def transformed(x: Tensor, back: bool = False) -> Tensor:
    """The orthonormal cosine transform of x "b c *s" along each whole spatial axis, or back from it."""
    for axis in range(2, x.dim()):
        matrix = cosine_matrix(x.shape[axis]).to(x)
        x = (x.movedim(axis, -1) @ (matrix if back else matrix.T)).movedim(-1, axis)
    return x


def passed(shape: torch.Size, spacing: tuple[float, ...], cutoff: float, order: int) -> Tensor:
    """What passes of each coefficient, "*s" float64; the k-th of n voxels has k / (2 n mm) cycles per mm."""
    squares = torch.zeros((), dtype=torch.float64)
    for n, mm in zip(shape, spacing, strict=True):
        squares = squares[..., None] + (torch.arange(n, dtype=torch.float64) / (2 * n * mm)).square()
    return 1 / (1 + (squares / cutoff**2) ** order)


@defense(
    title="Medical Aegis' Cushion (low-pass)",
    paper="after Yao et al. 2021, arXiv 2111.10969 (abstract)",
    inverse="exact: the same transforms; identity: nothing",
    deviations=(
        "only the paper's abstract was read, which says that high frequencies are removed and not how: the "
        "Butterworth form, its order and the cut-off are ours",
        "alone: the paper's other half, the Shield, is the detector `shield`",
        "3D: one cut-off in cycles per mm along all axes",
    ),
)
def aegis(
    cutoff: Annotated[
        float,
        Param(
            "Frequency of which half passes; of a picture without mm in cycles per pixel",
            unit="cycles/mm",
            minimum=1e-3,
            maximum=1e3,
        ),
    ] = 0.2,
    order: Annotated[int, Param("How steep the filter falls beyond it", minimum=1, maximum=8)] = 4,
) -> Defense:
    """Takes away high frequencies."""

    def smooth(x: Tensor, spacing: tuple[float, ...], draws: torch.Generator) -> Tensor:
        share = passed(x.shape[2:], spacing, cutoff, order).to(x)
        return transformed(share * transformed(x), back=True)

    return Defense("", smooth, (StandIn("exact"), IDENTITY))
