"""Watermark: a word is blended into every slice, or hidden in wavelet coefficients, where it hurts most of the places
tried; only values are asked for.

    z' = a random place and strength;   the worst is kept

After Apostolidis & Papakostas 2022, Journal of Imaging, doi 10.3390/jimaging8060155. The space has both marks
(`spaces.watermark`). There is no eps ball: strength bounds the change.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from perturbox.attacks.attack import Attack, Climb, ascend
from perturbox.attacks.budget import Budget, Norm
from perturbox.attacks.objectives import LOSSES
from perturbox.attacks.oracle import Oracle
from perturbox.attacks.recipes import OwnBudget, Param, recipe
from perturbox.attacks.settings import LossName
from perturbox.attacks.solvers import Solver
from perturbox.attacks.spaces.watermark import Watermark, random_places


@dataclass(frozen=True)
class Placing(Solver):
    """Tries another place each step, with a strength between half of the largest and the largest, of either sign."""

    strength: float

    uses_gradient = False

    def init(self, z: Tensor, budget: Budget, generator: torch.Generator) -> torch.Generator:
        return generator

    def step(self, oracle: Oracle, z: Tensor, state: torch.Generator) -> tuple[Tensor, torch.Generator]:
        oracle.value(z)
        size = self.strength * (1 + torch.rand((1, 1), generator=state)) / 2
        sign = torch.randint(2, (1, 1), generator=state) * 2 - 1
        return torch.cat([random_places(1, state), size * sign], 1).to(z), state


@recipe(
    title="Watermark",
    paper="Apostolidis & Papakostas 2022, doi 10.3390/jimaging8060155",
    norms=("linf",),
    cost="steps + 1 forwards",
    space="watermark",
    deviations=(
        "only the paper's abstract and tables were read; it hides bits in local Krawtchouk moments, ours in Haar "
        "wavelets, or blends them in for all to see",
        "place and strength are drawn at random, where the paper tries a grid of them",
        "the strength is a share of the victim's window; the same mark in every slice of a volume",
    ),
    family="patch",
    own=OwnBudget("strength", "largest change of a voxel as a share of the victim's window"),
)
def watermark(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    kind: Annotated[
        Literal["blend", "wavelet"], Param("A word for all to see, or hidden in wavelet coefficients")
    ] = "blend",
    strength: Annotated[
        float,
        Param(
            "Opacity of the word, or largest change of a voxel; a share of the victim's window", minimum=0, maximum=1
        ),
    ] = 0.1,
    dot: Annotated[float, Param("Edge of a dot; letters are 3 wide and 5 high", unit="mm", minimum=0.1)] = 4.0,
    level: Annotated[int, Param("Wavelet level: blocks of 2^level voxels hold a bit", minimum=1, maximum=6)] = 2,
    loss: LossName = "dice-ce",
) -> Attack:
    """Random search over the place and strength of a mark; each step is one query."""
    space = Watermark(kind, strength, dot, level)
    return Climb(ascend(LOSSES[loss]), space, Placing(strength), eps, norm, steps)
