"""MI-FGSM: BIM along a momentum of L1-normalised gradients.

    g <- mu * g + grad / |grad|_1;   x <- project(x + alpha * sign(g))

Dong et al. 2018, arXiv 1710.06081.
"""

from typing import Annotated

from perturbox.attacks.attack import Attack, Climb, ascend
from perturbox.attacks.budget import Norm
from perturbox.attacks.objectives import LOSSES
from perturbox.attacks.recipes import Param, recipe
from perturbox.attacks.settings import BIM_STEP, BimStep, LossName
from perturbox.attacks.solvers.ascent import Ascent, chain, l1_normalise, momentum, scale, sign
from perturbox.attacks.spaces.additive import Additive


@recipe(
    title="MI-FGSM",
    paper="Dong et al. 2018, arXiv 1710.06081",
    norms=("linf",),
    cost="steps + 1 forwards, steps backwards",
    family="transfer",
    deviations=("the gradient is normalised over all axes of a case but the batch, depth included",),
)
def mi_fgsm(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    loss: LossName = "dice-ce",
    alpha: BimStep = BIM_STEP,
    decay: Annotated[float, Param("Momentum's decay factor mu", minimum=0, maximum=10)] = 1.0,
) -> Attack:
    """Momentum iterative FGSM without random start."""
    solver = Ascent(chain(l1_normalise(), momentum(decay), sign(), scale(alpha)))
    return Climb(ascend(LOSSES[loss]), Additive(), solver, eps, norm, steps)
