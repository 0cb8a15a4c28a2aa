"""BIM: FGSM repeated with a small step, projected onto the budget each time, from the clean scan.

    x <- project(x + alpha * sign(grad L(f(x), y)))

Kurakin, Goodfellow & Bengio 2017, arXiv 1607.02533.
"""

from typing import Annotated

from perturbox.attacks.attack import Attack, climb
from perturbox.attacks.budget import Norm
from perturbox.attacks.objectives import LOSSES
from perturbox.attacks.recipes import Param, recipe
from perturbox.attacks.recipes.fgsm import Surrogate
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
    loss: Surrogate = "dice-ce",
    alpha: Annotated[float | None, Param("Step size; eps / steps if not given", unit="HU", minimum=0)] = None,
) -> Attack:
    """Iterated FGSM without random start."""
    alpha = eps / steps if alpha is None else alpha
    solver = Ascent(chain(sign(), scale(alpha)))
    return Attack("bim", climb(LOSSES[loss]), Additive(), solver, eps, norm, steps, parameters={"alpha": alpha})
