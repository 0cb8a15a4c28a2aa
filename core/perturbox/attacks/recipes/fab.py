"""FAB: the smallest change, by steps to the linearised decision boundary that stay close to the clean scan.

    z <- clip((1 - a) (z + eta d1) + a eta d2),   d1, d2: to the plane from z and from the clean scan

Croce & Hein 2020, ICML, arXiv 1907.02044. The solver has the formulas (`solvers.fab`), the function f whose boundary is
sought is that of DeepFool: 0 exactly where every voxel of the targets has lost its label.
"""

from typing import Annotated

from perturbox.attacks.attack import Attack, Climb
from perturbox.attacks.budget import Norm
from perturbox.attacks.recipes import Param, recipe
from perturbox.attacks.recipes.deepfool import distance_left
from perturbox.attacks.solvers.fab import Fab
from perturbox.attacks.spaces.additive import Additive


@recipe(
    title="FAB",
    paper="Croce & Hein 2020, arXiv 1907.02044",
    norms=("linf", "l2"),
    cost="at most 2 steps + starts forwards and 2 steps backwards",
    deviations=(
        "one function for a whole volume, the RMS of how far the targets' voxels lead: no target classes to go through",
        "the boundary is where that function was when the goal was last reached, as half a structure may be enough",
        "a change that still reaches the goal after the step back is taken back further; no final search; eps is a cap",
        "starts share the steps",
    ),
    family="minimal",
    steps=50,
)
def fab(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    alpha_max: Annotated[float, Param("Largest weight of the clean scan's own projection", minimum=0, maximum=1)] = 0.1,
    eta: Annotated[float, Param("How far steps go, 1 being the linearised boundary", minimum=1, maximum=2)] = 1.05,
    beta: Annotated[float, Param("How much is kept of a change that reached the goal", minimum=0.01, maximum=1)] = 0.9,
    starts: Annotated[
        int, Param("Starts that share the steps; all but the first at random points", minimum=1, maximum=1000)
    ] = 1,
) -> Attack:
    """The smallest change found by FAB."""
    solver = Fab(norm, alpha_max, eta, beta, -(-steps // starts))
    return Climb(distance_left, Additive(), solver, eps, norm, steps, keep="smallest", stop_on_success=False)
