"""Bias field: a smooth multiplicative field, as coils and contrast make it, bent until the model fails.

    x_adv = low + (x - low) * exp(sum_k z_k B_k),   |z_k| <= strength,   B_k cubic B-splines

Chen et al. 2020 (MICCAI, arXiv 2006.13322) and 2022 (AdvChain, arXiv 2108.03429).
"""

from typing import Annotated

from perturbox.attacks.attack import Attack, Climb, ascend
from perturbox.attacks.budget import Norm
from perturbox.attacks.objectives import LOSSES
from perturbox.attacks.recipes import OwnBudget, Param, derived, recipe
from perturbox.attacks.settings import LossName
from perturbox.attacks.solvers.ascent import Ascent, chain, scale, sign
from perturbox.attacks.spaces.bias_field import BiasField


@recipe(
    title="Bias field",
    paper="Chen et al. 2020, arXiv 2006.13322; 2022, arXiv 2108.03429",
    norms=("linf",),
    cost="steps + 1 forwards, steps backwards",
    space="bias field",
    deviations=(
        "control points lie at a distance in mm, where the paper takes a share of the image",
        "the scan's lowest value stays what it is; values stay in the scan's own range",
    ),
    family="smooth",
    use="A smooth change, as a scanner might make",
    own=OwnBudget("strength", "largest logarithm of the field"),
)
def bias_field(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    strength: Annotated[float, Param("Largest logarithm of the field", minimum=0, maximum=3)] = 0.3,
    distance: Annotated[float, Param("Between control points", unit="mm", minimum=1)] = 60.0,
    loss: LossName = "dice-ce",
    alpha: Annotated[float, Param("Step size; 2.5 strength / steps if not given", minimum=0)] = derived(
        lambda s: 2.5 * s["strength"] / s["steps"]
    ),
) -> Attack:
    """Signed ascent on the control points of a log-space B-spline, from no field."""
    space, solver = BiasField(strength, distance), Ascent(chain(sign(), scale(alpha)))
    return Climb(ascend(LOSSES[loss]), space, solver, eps, norm, steps)
