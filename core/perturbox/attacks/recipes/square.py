"""Square Attack: random search with cubes of +eps or -eps that shrink as it goes on; only values are asked for.

    delta' = delta but +-eps in a random cube;   kept if the loss rises

Andriushchenko et al. 2020, ECCV, arXiv 1912.00049. The solver has the schedule (`solvers.random_search`).
"""

from typing import Annotated

from perturbox.attacks.attack import Attack, Climb, ascend
from perturbox.attacks.budget import Norm
from perturbox.attacks.objectives import LOSSES
from perturbox.attacks.recipes import Param, recipe
from perturbox.attacks.settings import LossName, Restarts
from perturbox.attacks.solvers.random_search import Cubes
from perturbox.attacks.spaces.additive import Additive


@recipe(
    title="Square Attack",
    paper="Andriushchenko et al. 2020, arXiv 1912.00049",
    norms=("linf",),
    cost="restarts x (steps + 1) forwards",
    deviations=(
        "cubes in volumes; the first point has stripes along the first axis",
        "the schedule of 10 000 queries is shrunk to the number of steps; the loss is averaged over the voxels",
    ),
    family="black-box",
    use="A model that can't be opened, only asked",
    steps=1000,
)
def square(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    loss: LossName = "margin",
    share: Annotated[float, Param("Volume of the first cubes as a share of the region", minimum=0, maximum=1)] = 0.8,
    restarts: Restarts = 1,
) -> Attack:
    """Random search over cubes; each step is one query."""
    solver = Cubes(steps, share)
    return Climb(ascend(LOSSES[loss]), Additive(), solver, eps, norm, steps, restarts)
