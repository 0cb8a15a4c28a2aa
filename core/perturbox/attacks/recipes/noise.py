"""Random noise: the control every attack must beat, with no gradient at all. Each step is a fresh draw; the worst is
kept."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from perturbox.attacks.attack import Attack, Climb, ascend
from perturbox.attacks.budget import Budget, Norm
from perturbox.attacks.objectives import LOSSES
from perturbox.attacks.oracle import Oracle
from perturbox.attacks.recipes import Param, recipe
from perturbox.attacks.solvers import Solver
from perturbox.attacks.spaces.additive import Additive


@dataclass(frozen=True)
class FreshDraws(Solver):
    """Replaces z by a new random draw each step: +-eps with equal chance, uniform in [-eps, eps], or Gaussian with SD
    eps."""

    eps: float
    distribution: str

    uses_gradient = False

    def init(self, z: Tensor, budget: Budget, generator: torch.Generator) -> torch.Generator:
        return generator

    def step(self, oracle: Oracle, z: Tensor, state: Any) -> tuple[Tensor, Any]:
        oracle.value(z)
        if self.distribution == "gaussian":
            draw = torch.randn(z.shape, generator=state)
        else:
            draw = torch.rand(z.shape, generator=state) * 2 - 1
            draw = draw.sign() if self.distribution == "sign" else draw
        return (draw * self.eps).to(z), state


@recipe(
    title="Random noise",
    paper="control, no paper",
    norms=("linf", "l2"),
    cost="steps + 1 forwards",
    targeted=False,
    family="control",
    use="Control: does any change of this size do it?",
)
def noise(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    distribution: Annotated[
        Literal["sign", "uniform", "gaussian"], Param("+eps or -eps per voxel, uniform between, or normal with SD eps")
    ] = "sign",
) -> Attack:
    """White noise inside the budget; the worst of `steps` draws."""
    solver = FreshDraws(eps, distribution)
    return Climb(ascend(LOSSES["ce"]), Additive(), solver, eps, norm, steps)
