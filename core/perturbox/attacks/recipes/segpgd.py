"""SegPGD: PGD that turns from the voxels still right to those already wrong as it goes on.

    L = mean [ (1 - lambda) * S * CE + lambda * (1 - S) * CE ],   lambda = t / 2T,   S = 1 where the prediction is right

Gu et al. 2022, ECCV, arXiv 2207.12391. At t = 0 only voxels that are still right count; at t = T it is half of CE.
"""

from typing import Annotated

from torch import Tensor

from perturbox.attacks.attack import Attack, Climb, ascend
from perturbox.attacks.budget import Norm
from perturbox.attacks.objectives import Loss, Voxels, average
from perturbox.attacks.recipes import Param, recipe
from perturbox.attacks.recipes.pgd import direction
from perturbox.attacks.settings import PGD_STEP, PgdStep, Restarts
from perturbox.attacks.solvers.ascent import Ascent, chain, scale
from perturbox.attacks.spaces.additive import Additive


def segpgd_loss(progress: float) -> Loss:
    """The loss at a fraction `progress` of the steps. Towards labels, what has not reached them counts first."""
    share = progress / 2

    def weighed(voxels: Voxels, right: float, wrong: float) -> Tensor:
        return voxels.cross_entropy * voxels.correct.to(voxels.logits).mul(right - wrong).add(wrong)

    return average("segpgd", lambda v: weighed(v, 1 - share, share), lambda v: weighed(v, share, 1 - share))


@recipe(
    title="SegPGD",
    paper="Gu et al. 2022, arXiv 2207.12391",
    norms=("linf", "l2"),
    cost="restarts x (steps + 1) forwards, restarts x steps backwards",
    deviations=("towards a wanted label map, voxels that have not reached it take the place of those still right",),
    family="loss",
)
def segpgd(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    alpha: PgdStep = PGD_STEP,
    random_start: Annotated[bool, Param("Start at a random point of the ball")] = True,
    restarts: Restarts = 1,
) -> Attack:
    """PGD on SegPGD's loss."""
    solver = Ascent(chain(direction(norm), scale(alpha)))
    return Climb(
        ascend(segpgd_loss),
        Additive(random_start),
        solver,
        eps,
        norm,
        steps,
        restarts,
    )
