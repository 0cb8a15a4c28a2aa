"""Bit depth: values on 2^bits levels of the model's range.

    g(x) = low + step * rint((x - low) / step),    step = (high - low) / (2^bits - 1)

Xu, Evans & Qi 2018, NDSS, arXiv 1704.01155 (EvadeML-Zoo: rint(x (2^b - 1)) / (2^b - 1) on [0, 1]). A step that is not
larger than the attack's limit hides nothing.
"""

import math
from typing import Annotated

import torch
from torch import Tensor

from perturbox.attacks.settings import Param
from perturbox.defenses import High, Low, defense
from perturbox.defenses.filters import IDENTITY
from perturbox.model.defended import Defense, StandIn


@defense(
    title="Bit depth",
    paper="Xu et al. 2018, arXiv 1704.01155",
    inverse="identity: nothing; soft steps: one sine per voxel",
    deviations=("levels go on beyond the model's range: the scan is not clipped", "3D: voxel by voxel, as in 2D"),
)
def bit_depth(
    bits: Annotated[int, Param("Bits that are kept", minimum=1, maximum=12)] = 3, low: Low = None, high: High = None
) -> Defense:
    """Rounds to the levels; the identity stands in, or a staircase that is steepest between two levels."""
    assert low is not None and high is not None
    step, base = (high - low) / (2**bits - 1), low

    def quantised(x: Tensor, spacing: tuple[float, ...], draws: torch.Generator) -> Tensor:
        return base + step * torch.round((x - base) / step)

    def soft(x: Tensor, spacing: tuple[float, ...], draws: torch.Generator) -> Tensor:
        turn = 2 * math.pi / step
        return x - torch.sin(turn * (x - base)) / turn

    return Defense("", quantised, (IDENTITY, StandIn("soft steps", soft)))
