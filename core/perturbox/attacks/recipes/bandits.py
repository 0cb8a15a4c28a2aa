"""Bandits: PGD along a coarse gradient that is learnt from step to step, with two values each; the model stays closed.

    prior <- prior + what two points on either side of it tell;   x <- project(x + alpha * steepest(blocks of prior))

Ilyas, Engstrom & Madry 2019, ICLR, arXiv 1807.07978: the variant with time- and data-dependent priors. The estimator
has the formulas (`solvers.bandits`).
"""

from typing import Annotated

from perturbox.attacks.attack import Attack, Climb, ascend
from perturbox.attacks.budget import Norm
from perturbox.attacks.objectives import LOSSES
from perturbox.attacks.recipes import Param, derived, recipe
from perturbox.attacks.recipes.nes import probe_distance
from perturbox.attacks.recipes.pgd import direction
from perturbox.attacks.settings import PGD_STEP, LossName, PgdStep
from perturbox.attacks.solvers.ascent import Ascent, chain, scale
from perturbox.attacks.solvers.bandits import Bandits
from perturbox.attacks.solvers.estimated import Estimated
from perturbox.attacks.spaces.additive import Additive


@recipe(
    title="Bandits",
    paper="Ilyas et al. 2019, arXiv 1807.07978",
    norms=("linf", "l2"),
    cost="3 steps + 1 forwards",
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
    loss: LossName = "dice-ce",
    alpha: PgdStep = PGD_STEP,
    sigma: Annotated[
        float,
        Param("How far the points asked about lie away (RMS); a quarter of eps if not given", unit="HU", minimum=1e-6),
    ] = derived(lambda s: probe_distance(s["eps"])),
    exploration: Annotated[
        float, Param("Random change of the prior; 1 (linf) or 0.01 (l2) if not given", minimum=1e-6)
    ] = derived(lambda s: 1.0 if s["norm"] == "linf" else 0.01),
    rate: Annotated[
        float, Param("Learning rate of the prior; as much as the exploration if not given", minimum=0)
    ] = derived(lambda s: s["exploration"]),
    coarse: Annotated[int, Param("Edge of the prior's blocks", unit="voxels", minimum=1, maximum=512)] = 8,
) -> Attack:
    """PGD with the gradient of Bandits, from the clean scan."""
    estimator = Bandits(sigma, exploration, rate, coarse, norm == "linf")
    return Climb(
        ascend(LOSSES[loss]),
        Additive(),
        Estimated(Ascent(chain(direction(norm), scale(alpha))), estimator),
        eps,
        norm,
        steps,
    )
