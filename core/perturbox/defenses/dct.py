"""JPEG-like quantisation: the cosine coefficients of blocks of 8 voxels along each axis, on multiples of one step.

    g(x) = IDCT( step * rint( DCT(x) / step ) ),    step in the scan's unit, the DCT orthonormal

After JPEG as a defence: Dziugaite et al. 2016, arXiv 1608.00853; Guo et al. 2018, ICLR, arXiv 1711.00117. Coefficients
below half a step vanish, and with them all that an attack does there: so the gradient passes only those that live.
"""

from typing import Annotated

import torch
from torch import Tensor

from perturbox.attacks.settings import Param
from perturbox.attacks.spaces.dct import along_blocks, cosine_matrix, cropped, to_blocks
from perturbox.defenses import defense
from perturbox.defenses.filters import IDENTITY
from perturbox.model.defended import Defense, StandIn

LIVE = 0.25  # of a step: coefficients above may come to life


@defense(
    title="JPEG-like quantisation",
    paper="after Guo et al. 2018, arXiv 1711.00117",
    inverse="live coefficients: two transforms; identity: nothing",
    deviations=(
        "one step for all coefficients, in the scan's unit, in place of JPEG's table on 8-bit slices",
        "3D: blocks of 8 x 8 x 8",
    ),
)
def dct(
    step: Annotated[
        float, Param("Distance of two values of a coefficient", unit="HU", minimum=1e-3, maximum=1e6)
    ] = 60.0,
    block: Annotated[int, Param("Edge of a block", unit="voxels", minimum=2, maximum=64)] = 8,
) -> Defense:
    """Quantises every coefficient."""
    matrix = cosine_matrix(block)

    def quantised(x: Tensor, spacing: tuple[float, ...], draws: torch.Generator) -> Tensor:
        coefficients = along_blocks(to_blocks(x, block), matrix)
        return cropped(along_blocks(step * torch.round(coefficients / step), matrix.T), x.shape)

    def live(x: Tensor, spacing: tuple[float, ...], draws: torch.Generator) -> Tensor:
        coefficients = along_blocks(to_blocks(x, block), matrix)
        kept = coefficients * (coefficients.detach().abs() > LIVE * step)
        return cropped(along_blocks(kept, matrix.T), x.shape)

    return Defense("", quantised, (StandIn("live coefficients", live), IDENTITY))
