"""Bandits: PGD along a coarse gradient that is learnt from step to step, with two values each; the model stays closed.

    prior <- prior + what two points on either side of it tell;   x <- project(x + alpha * steepest(blocks of prior))

Ilyas, Engstrom & Madry 2019, ICLR, arXiv 1807.07978: the variant with time- and data-dependent priors. The estimator
has the formulas (`solvers.bandits`).
"""

from typing import Annotated

from perturbox.attacks.attack import Attack, climb
from perturbox.attacks.budget import Norm
from perturbox.attacks.objectives import LOSSES
from perturbox.attacks.recipes import Param, recipe
from perturbox.attacks.recipes.fgsm import Surrogate
from perturbox.attacks.recipes.nes import apart
from perturbox.attacks.recipes.pgd import direction
from perturbox.attacks.solvers.ascent import Ascent, chain, scale
from perturbox.attacks.solvers.bandits import Bandits
from perturbox.attacks.solvers.estimated import Estimated
from perturbox.attacks.spaces.additive import Additive


@recipe(
    title="Bandits",
    paper="Ilyas et al. 2019, arXiv 1807.07978",
    norms=("linf", "l2"),
    cost="3 steps + 1 forwards",
    access="black",
    deviations=(
        "differences of the loss are measured in the largest so far: the rate of the prior doesn't depend on its scale",
        "the prior's blocks are cubes; the points asked about lie sigma HU (RMS over the region) away, unrounded",
    ),
    family="black-box",
    steps=500,
)
def bandits(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    loss: Surrogate = "dice-ce",
    alpha: Annotated[float | None, Param("Step size; 2.5 eps / steps if not given", unit="HU", minimum=0)] = None,
    sigma: Annotated[
        float | None,
        Param("How far the points asked about lie away (RMS); a quarter of eps if not given", unit="HU", minimum=1e-6),
    ] = None,
    exploration: Annotated[
        float | None, Param("Random change of the prior; 1 (linf) or 0.01 (l2) if not given", minimum=1e-6)
    ] = None,
    rate: Annotated[
        float | None, Param("Learning rate of the prior; as much as the exploration if not given", minimum=0)
    ] = None,
    coarse: Annotated[int, Param("Edge of the prior's blocks", unit="voxels", minimum=1, maximum=512)] = 8,
) -> Attack:
    """PGD with the gradient of Bandits, from the clean scan."""
    alpha = 2.5 * eps / steps if alpha is None else alpha
    sigma = apart(eps) if sigma is None else sigma
    exploration = (1.0 if norm == "linf" else 0.01) if exploration is None else exploration
    rate = exploration if rate is None else rate
    estimator = Bandits(sigma, exploration, rate, coarse, norm == "linf")
    return Attack(
        "bandits",
        climb(LOSSES[loss]),
        Additive(),
        Estimated(Ascent(chain(direction(norm), scale(alpha))), estimator),
        eps,
        norm,
        steps,
        uses_gradient=False,
        queries=estimator.queries,
        parameters={"alpha": alpha, "sigma": sigma, "exploration": exploration, "rate": rate},
    )
