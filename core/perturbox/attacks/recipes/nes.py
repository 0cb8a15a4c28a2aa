"""NES: PGD along a gradient estimated from values at pairs of opposite random points; the model stays closed.

    grad = mean over n pairs of u * (J(x + sigma u) - J(x - sigma u)) / (2 sigma),   u ~ N(0, 1)

Ilyas et al. 2018, ICML, arXiv 1804.08598.
"""

from typing import Annotated

from perturbox.attacks.attack import Attack, Climb, ascend
from perturbox.attacks.budget import Norm
from perturbox.attacks.objectives import LOSSES
from perturbox.attacks.oracle import Antithetic
from perturbox.attacks.recipes import Param, derived, recipe
from perturbox.attacks.recipes.pgd import direction
from perturbox.attacks.settings import PGD_STEP, LossName, PgdStep
from perturbox.attacks.solvers.ascent import Ascent, chain, scale
from perturbox.attacks.solvers.estimated import Estimated
from perturbox.attacks.spaces.additive import Additive

Pairs = Annotated[int, Param("Pairs of opposite points per step", minimum=1, maximum=100_000)]
Sigma = Annotated[float, Param("How far the points lie away; a quarter of eps if not given", unit="HU", minimum=1e-6)]
Coarse = Annotated[int, Param("Edge of blocks with one direction", unit="voxels", minimum=1, maximum=512)]


def probe_distance(eps: float) -> float:
    """How far the points that are asked about lie away: a quarter of the limit, in whatever unit the scan has."""
    return max(eps / 4, 1e-6)


@recipe(
    title="NES",
    paper="Ilyas et al. 2018, arXiv 1804.08598",
    norms=("linf", "l2"),
    cost="steps x (2 pairs + 1) + 1 forwards",
    deviations=(
        "the points asked about aren't rounded to the file's steps, the answers are",
        "directions may be constant over blocks of voxels, for fewer queries",
    ),
    family="black-box",
    steps=100,
)
def nes(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    loss: LossName = "dice-ce",
    alpha: PgdStep = PGD_STEP,
    pairs: Pairs = 10,
    sigma: Sigma = derived(lambda s: probe_distance(s["eps"])),
    coarse: Coarse = 4,
) -> Attack:
    """PGD with NES gradients, from the clean scan."""
    ascent, estimator = Ascent(chain(direction(norm), scale(alpha))), Antithetic(pairs, sigma, coarse=coarse)
    return Climb(
        ascend(LOSSES[loss]),
        Additive(),
        Estimated(ascent, estimator),
        eps,
        norm,
        steps,
    )
