"""PGD: projected gradient ascent from a random point of the ball, with restarts.

    x <- project(x + alpha * sign(grad L(f(x), y)))          (linf)
    x <- project(x + alpha * grad / RMS(grad))               (l2, RMS over the region)

Madry et al. 2018, arXiv 1706.06083.
"""

from typing import Annotated

from perturbox.attacks.attack import Attack, Climb, ascend
from perturbox.attacks.budget import Norm
from perturbox.attacks.objectives import LOSSES
from perturbox.attacks.recipes import Param, recipe
from perturbox.attacks.settings import PGD_STEP, LossName, PgdStep, Restarts
from perturbox.attacks.solvers.ascent import Ascent, Rule, chain, rms_normalise, scale, sign
from perturbox.attacks.spaces.additive import Additive


def direction(norm: Norm) -> Rule:
    """The steepest step of length 1 in a norm: the sign, or the gradient over its RMS."""
    return sign() if norm == "linf" else rms_normalise()


@recipe(
    title="PGD",
    paper="Madry et al. 2018, arXiv 1706.06083",
    norms=("linf", "l2"),
    cost="restarts x (steps + 1) forwards, restarts x steps backwards",
    deviations=(
        "the loss is averaged over the voxels that matter; soft Dice + cross-entropy unless told otherwise",
        "iterates are rounded to the file's storage steps inside the loop",
        "l2 is the RMS change over the region in HU, so that it doesn't grow with the scan",
    ),
    notes=(
        "its step of 2.5 eps / steps, the habit of its paper, shrinks as steps grow, so that more steps hardly find "
        "more; annealed is the default for that reason",
    ),
)
def pgd(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    loss: LossName = "dice-ce",
    alpha: PgdStep = PGD_STEP,
    random_start: Annotated[bool, Param("Start at a random point of the ball")] = True,
    restarts: Restarts = 1,
) -> Attack:
    """Projected gradient ascent; with one step, no random start and alpha = eps it is FGSM."""
    return Climb(
        ascend(LOSSES[loss]),
        Additive(random_start),
        Ascent(chain(direction(norm), scale(alpha))),
        eps,
        norm,
        steps,
        restarts,
    )
