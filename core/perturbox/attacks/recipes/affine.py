"""Affine: the whole scan is turned, scaled and shifted by a few millimetres, as a patient lies otherwise.

    x_adv(p) = x(p + (R S - 1) p + t),   no voxel further than `displacement`

Chen et al. 2022, Medical Image Analysis, arXiv 2108.03429 (AdvChain). There is no eps ball.
"""

from typing import Annotated

from perturbox.attacks.attack import Attack, Climb, ascend
from perturbox.attacks.budget import Norm
from perturbox.attacks.objectives import LOSSES
from perturbox.attacks.recipes import OwnBudget, Param, derived, recipe
from perturbox.attacks.recipes.deformation import unit_vectors
from perturbox.attacks.settings import LossName
from perturbox.attacks.solvers.ascent import Ascent, chain, scale, stateless
from perturbox.attacks.spaces.affine import Affine


@recipe(
    title="Affine",
    paper="Chen et al. 2022, arXiv 2108.03429",
    norms=("linf",),
    cost="steps + 1 forwards, steps backwards",
    space="affine",
    deviations=(
        "judged against outlines that don't move, so part of the fall in Dice is the motion itself: the control of "
        "random motions says how much",
        "one limit in mm on how far any voxel moves, where the authors' code limits the angle (15 degrees), the "
        "scaling (0.2) and the shift (0.1 of half the image) one by one; under it steps go along the gradient, not its "
        "signs, which would move every part alike",
        "volumes; from no motion, where the authors' code starts at a random one; the edge continues beyond the "
        "border instead of zeros",
        "linear interpolation smooths the scan a little; only voxels in the region of interest change, so it is torn "
        "at the region's border",
    ),
    family="smooth",
    own=OwnBudget("displacement", "largest distance a voxel is moved"),
)
def affine(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    displacement: Annotated[
        float,
        Param(
            "Largest distance a voxel is moved; outlines stay, so some Dice is lost to the motion itself",
            unit="mm",
            minimum=0,
            maximum=100,
        ),
    ] = 5.0,
    loss: LossName = "dice-ce",
    alpha: Annotated[
        float,
        Param("Step size of all parts together; 2.5 displacement / steps if not given", unit="mm", minimum=0),
    ] = derived(lambda s: 2.5 * s["displacement"] / s["steps"]),
) -> Attack:
    """Ascent on rotation, scaling and translation, from no motion."""
    space, solver = Affine(displacement), Ascent(chain(stateless(unit_vectors), scale(alpha)))
    return Climb(ascend(LOSSES[loss]), space, solver, eps, norm, steps)
