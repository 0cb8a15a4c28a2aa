"""SPSA: projected Adam along a gradient estimated from values at pairs of opposite points, each voxel moved by a random
sign; the model stays closed.

    grad = mean over n pairs of v * (J(x + sigma v) - J(x - sigma v)) / (2 sigma),   v = -1 or 1 with equal odds
    x <- project(x + alpha * Adam(grad))

Uesato et al. 2018, ICML, arXiv 1802.05666; the estimate is Spall 1992, doi 10.1109/9.119632.
"""

from typing import Annotated

from perturbox.attacks.attack import Attack, Climb, ascend
from perturbox.attacks.budget import Norm
from perturbox.attacks.objectives import LOSSES
from perturbox.attacks.oracle import Antithetic
from perturbox.attacks.recipes import Param, derived, recipe
from perturbox.attacks.recipes.nes import Coarse, Pairs, Sigma, probe_distance
from perturbox.attacks.settings import PGD_STEP, LossName
from perturbox.attacks.solvers.adam import adam
from perturbox.attacks.solvers.ascent import Ascent, chain, scale
from perturbox.attacks.solvers.estimated import Estimated
from perturbox.attacks.spaces.additive import Additive


@recipe(
    title="SPSA",
    paper="Uesato et al. 2018, arXiv 1802.05666",
    norms=("linf", "l2"),
    cost="steps x (2 pairs + 1) + 1 forwards",
    deviations=(
        "the learning rate follows eps and the number of steps; the margin is averaged over the voxels",
        "directions may be constant over blocks of voxels, for fewer queries; far fewer pairs unless told otherwise",
        "the points asked about aren't rounded to the file's steps, the answers are",
    ),
    family="black-box",
    steps=100,
)
def spsa(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    loss: LossName = "margin",
    alpha: Annotated[
        float, Param("Learning rate of Adam; 2.5 eps / steps if not given", unit="HU", minimum=0)
    ] = PGD_STEP,
    pairs: Pairs = 10,
    sigma: Sigma = derived(lambda s: probe_distance(s["eps"])),
    coarse: Coarse = 4,
) -> Attack:
    """Projected Adam with SPSA gradients, from the clean scan."""
    ascent, estimator = Ascent(chain(adam(), scale(alpha))), Antithetic(pairs, sigma, "sign", coarse)
    return Climb(
        ascend(LOSSES[loss]),
        Additive(),
        Estimated(ascent, estimator),
        eps,
        norm,
        steps,
    )
