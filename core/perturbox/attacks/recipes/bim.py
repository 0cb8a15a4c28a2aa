"""BIM: FGSM repeated with a small step, projected onto the budget each time, from the clean scan.

    x <- project(x + alpha * sign(grad L(f(x), y)))

Kurakin, Goodfellow & Bengio 2017, arXiv 1607.02533.
"""

from perturbox.attacks.attack import Attack, Climb, ascend
from perturbox.attacks.budget import Norm
from perturbox.attacks.objectives import LOSSES
from perturbox.attacks.recipes import recipe
from perturbox.attacks.settings import BIM_STEP, BimStep, LossName
from perturbox.attacks.solvers.ascent import Ascent, chain, scale, sign
from perturbox.attacks.spaces.additive import Additive


@recipe(
    title="BIM",
    paper="Kurakin et al. 2017, arXiv 1607.02533",
    norms=("linf",),
    cost="steps + 1 forwards, steps backwards",
    deviations=(
        "the step is eps / steps, so that the last step can just reach the limit, where the paper takes 1 grey level",
    ),
)
def bim(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    loss: LossName = "dice-ce",
    alpha: BimStep = BIM_STEP,
) -> Attack:
    """Iterated FGSM without random start."""
    solver = Ascent(chain(sign(), scale(alpha)))
    return Climb(ascend(LOSSES[loss]), Additive(), solver, eps, norm, steps)
