"""Deformation: the anatomy is moved smoothly and without folds, by millimetres, until the model loses it.

    x_adv = x o exp(v),   v = sum_k z_k B_k,   |z_k| <= displacement,   B_k cubic B-splines

Chen et al. 2022, Medical Image Analysis, arXiv 2108.03429 (AdvChain). There is no eps ball: no voxel is moved further
than `displacement`.
"""

from typing import Annotated

from torch import Tensor

from perturbox.attacks.attack import Attack, Climb, ascend
from perturbox.attacks.budget import Norm
from perturbox.attacks.objectives import LOSSES
from perturbox.attacks.recipes import OwnBudget, Param, derived, recipe
from perturbox.attacks.settings import LossName
from perturbox.attacks.solvers.ascent import Ascent, chain, scale, stateless
from perturbox.attacks.spaces.deformation import Deformation


def unit_vectors(gradient: Tensor) -> Tensor:
    """Vectors "1 d *k" of length 1, or 0 where the gradient is 0: the steepest step under a limit on each length."""
    # Scaled first: gradients of means over millions of voxels underflow when squared in float32.
    gradient = gradient / gradient.abs().max().clamp_min(1e-30)
    return gradient / gradient.norm(dim=1, keepdim=True).clamp_min(1e-30)


@recipe(
    title="Deformation",
    paper="Chen et al. 2022, arXiv 2108.03429",
    norms=("linf",),
    cost="steps + 1 forwards, steps backwards",
    space="deformation",
    deviations=(
        "judged against outlines that don't move, so part of the fall in Dice is the motion itself: the control of "
        "random deformations says how much",
        "every control point has a limit in mm, where the authors' code limits the L2 norm of all velocities, in half "
        "image widths, to 1.5; each takes a step of length alpha",
        "volumes; control points of a cubic B-spline at a distance in mm, where the authors' code smooths a coarse "
        "linear grid; from no deformation, where it starts at a random one",
        "what would fold (a Jacobian determinant of at most 0) is slowed down until it doesn't",
        "linear interpolation smooths the scan a little; only voxels in the region of interest change, so it is torn "
        "at the region's border",
    ),
    family="smooth",
    own=OwnBudget("displacement", "largest distance a voxel is moved"),
)
def deformation(
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
    ] = 3.0,
    distance: Annotated[float, Param("Between control points", unit="mm", minimum=1)] = 30.0,
    loss: LossName = "dice-ce",
    alpha: Annotated[float, Param("Step size; 2.5 displacement / steps if not given", unit="mm", minimum=0)] = derived(
        lambda s: 2.5 * s["displacement"] / s["steps"]
    ),
) -> Attack:
    """Ascent on a stationary velocity field, from no deformation."""
    space, solver = Deformation(displacement, distance), Ascent(chain(stateless(unit_vectors), scale(alpha)))
    return Climb(ascend(LOSSES[loss]), space, solver, eps, norm, steps)
