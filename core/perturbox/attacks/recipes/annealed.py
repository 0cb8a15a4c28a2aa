"""Annealed ascent: signed steps that begin larger than the ball and shrink to nothing, up the loss that fits the goal.

    x <- project(x + a_k * direction(grad L(f(x), y))),   a_k = a_0 (1 + cos(pi k / steps)) / 2

From the clean scan; a_0 = 2 eps with signs (linf), 4 eps with the gradient over its RMS (l2). The first steps cross
the ball and choose a corner of it, the last ones settle there. L is soft Dice unless the goal asks for another loss.
A step size falling along a cosine is Loshchilov & Hutter's 2017, arXiv 1608.03983; the steps are PGD's, Madry et al.
2018, arXiv 1706.06083.
"""

from typing import Annotated, Any

from torch import Tensor

from perturbox.attacks.attack import Attack, Climb, Objective, Task, ascend
from perturbox.attacks.budget import Norm
from perturbox.attacks.objectives import LOSSES
from perturbox.attacks.on_scan import Model
from perturbox.attacks.recipes import Param, derived, recipe
from perturbox.attacks.recipes.pgd import direction
from perturbox.attacks.settings import Restarts
from perturbox.attacks.solvers.ascent import Ascent, chain, cosine
from perturbox.attacks.spaces.additive import Additive

FIRST = {"linf": 2.0, "l2": 4.0}  # of eps
BY_GOAL = {"change": "dice", "vanish": "margin", "grow": "dice", "become": "dice"}


def fitting(model: Model, x: Tensor, task: Task, progress: float) -> Any:
    """The loss that was measured to serve the scene's goal best."""
    return task.gain(LOSSES[BY_GOAL[task.kind]], model(x))


@recipe(
    title="Annealed ascent",
    paper="this project, after Madry et al. 2018, arXiv 1706.06083, and Loshchilov & Hutter 2017, arXiv 1608.03983",
    norms=("linf", "l2"),
    cost="restarts x (steps + 1) forwards, restarts x steps backwards",
    deviations=(
        "no paper states it whole: schedule, start and losses were chosen by measuring, see docs/benchmarks.md",
        "of several starts each begins at a random point of the ball",
    ),
    use="A first look: what does a change of this size do?",
)
def annealed(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    loss: Annotated[
        str, Param("Loss that is climbed; by-goal takes what fits", choices=lambda: ("by-goal", *LOSSES))
    ] = "by-goal",
    alpha: Annotated[
        float, Param("First step size; 2 eps (linf) or 4 eps (l2) if not given", unit="HU", minimum=0)
    ] = derived(lambda s: FIRST[s["norm"]] * s["eps"]),
    restarts: Restarts = 1,
) -> Attack:
    """Steps that shrink from twice the limit to nothing."""
    objective: Objective = fitting if loss == "by-goal" else ascend(LOSSES[loss])
    solver = Ascent(chain(direction(norm), cosine(alpha, steps)))
    return Climb(objective, Additive(restarts > 1), solver, eps, norm, steps, restarts)
