"""CosPGD: PGD whose voxels count by how well the prediction still agrees with the labels.

    L = mean [ cos(p, y) * CE ],   cos(p, y) = p_y / |p|, without gradient;   towards labels 1 - cos(p, y)

Agnihotri, Jung & Keuper 2024, ICML, arXiv 2302.02213.
"""

from typing import Annotated

from torch import Tensor

from perturbox.attacks.attack import Attack, Climb, ascend
from perturbox.attacks.budget import Norm
from perturbox.attacks.objectives import Voxels, average
from perturbox.attacks.recipes import Param, recipe
from perturbox.attacks.recipes.pgd import direction
from perturbox.attacks.settings import PGD_STEP, PgdStep, Restarts
from perturbox.attacks.solvers.ascent import Ascent, chain, scale
from perturbox.attacks.spaces.additive import Additive


def cosine(voxels: Voxels) -> Tensor:
    """Cosine between predicted and labelled distribution, "b a *g"; of a yes-or-no answer between (p, 1 - p) and the
    right one. No gradient."""
    right = voxels.right.detach()
    if voxels.regions is None:
        return right / voxels.probabilities.detach().square().sum(1, keepdim=True).sqrt()
    return right / (right.square() + (1 - right).square()).sqrt()


cospgd_loss = average("cospgd", lambda v: cosine(v) * v.cross_entropy, lambda v: (1 - cosine(v)) * v.cross_entropy)


@recipe(
    title="CosPGD",
    paper="Agnihotri et al. 2024, arXiv 2302.02213",
    norms=("linf", "l2"),
    cost="restarts x (steps + 1) forwards, restarts x steps backwards",
    family="loss",
)
def cospgd(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    alpha: PgdStep = PGD_STEP,
    random_start: Annotated[bool, Param("Start at a random point of the ball")] = True,
    restarts: Restarts = 1,
) -> Attack:
    """PGD on CosPGD's loss."""
    solver = Ascent(chain(direction(norm), scale(alpha)))
    return Climb(
        ascend(cospgd_loss),
        Additive(random_start),
        solver,
        eps,
        norm,
        steps,
        restarts,
    )
