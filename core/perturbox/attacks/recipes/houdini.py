"""Houdini: how likely noise would turn each voxel wrong, times how badly the task itself goes.

    L = mean [ P_(gamma ~ N(0, sigma)) ( z_y - max_(i != y) z_i < gamma ) ] * (1 - Dice)

Cisse et al. 2017, NeurIPS, arXiv 1707.05373. The task loss is a number without gradient.
"""

from typing import Annotated

import torch
from torch import Tensor

from perturbox.attacks.attack import Attack, Climb, ascend
from perturbox.attacks.budget import Norm
from perturbox.attacks.objectives import Loss, Voxels, mean, one_minus_dice, overlap_sums
from perturbox.attacks.recipes import Param, recipe
from perturbox.attacks.recipes.pgd import direction
from perturbox.attacks.settings import PGD_STEP, PgdStep, Restarts
from perturbox.attacks.solvers.ascent import Ascent, chain, scale
from perturbox.attacks.spaces.additive import Additive

LEAST = 1e-3


def houdini_loss(sigma: float) -> Loss:
    """The loss with noise of a standard deviation of `sigma` logits. The task loss counts as at least 0.001, so that an
    intact prediction has a gradient."""

    def sums(voxels: Voxels) -> Tensor:
        turned = torch.special.ndtr(voxels.margin / sigma)
        return torch.cat([voxels.total(turned), overlap_sums(voxels, voxels.decided)])

    def formula(sums: Tensor, classes: tuple[int, ...]) -> Tensor:
        return mean(sums[:2], classes) * one_minus_dice(sums[2:], classes).detach().clamp_min(LEAST)

    return Loss("houdini", sums, formula)


@recipe(
    title="Houdini",
    paper="Cisse et al. 2017, arXiv 1707.05373",
    norms=("linf", "l2"),
    cost="restarts x (steps + 1) forwards, restarts x steps backwards",
    deviations=(
        "the task loss is 1 - Dice of the case, at least 0.001; the reference may be the model's own prediction",
        "each voxel's rival is its best wrong answer; voxels that lead it by over 5 sigma have next to no gradient",
        "margins are those of voxels, averaged over those that matter; the loss is climbed by PGD",
    ),
    family="loss",
    notes=(
        "the factor (1 - Dice) is the same for every voxel, so steps by sign or of a fixed RMS cancel it: what is "
        "climbed is the probability of being turned wrong",
    ),
)
def houdini(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    sigma: Annotated[float, Param("Standard deviation of the noise", unit="logits", minimum=0.01)] = 1.0,
    alpha: PgdStep = PGD_STEP,
    random_start: Annotated[bool, Param("Start at a random point of the ball")] = False,
    restarts: Restarts = 1,
) -> Attack:
    """PGD on Houdini's loss."""
    return Climb(
        ascend(houdini_loss(sigma)),
        Additive(random_start),
        Ascent(chain(direction(norm), scale(alpha))),
        eps,
        norm,
        steps,
        restarts,
    )
