"""C&W: the smallest Euclidean change that takes every voxel of the targets across the decision boundary.

    min over r of |r|^2 + c * sum over the voxels of max(lead of the label, -kappa)

by Adam, for a c found by binary search. Carlini & Wagner 2017, IEEE S&P, arXiv 1608.04644 (L2 attack, f_6).
"""

from typing import Annotated

from perturbox.attacks.attack import Attack, Climb
from perturbox.attacks.budget import Norm
from perturbox.attacks.must_change import descend, missing
from perturbox.attacks.recipes import Param, recipe
from perturbox.attacks.solvers.tradeoff import Adam, Tradeoff
from perturbox.attacks.spaces.additive import Additive

Searches = Annotated[int, Param("Values of c tried at most, with at least 10 steps each", minimum=1, maximum=100)]
First = Annotated[float, Param("First weight c of the loss, beside the change in windows squared", minimum=1e-12)]


@recipe(
    title="C&W",
    paper="Carlini & Wagner 2017, arXiv 1608.04644",
    norms=("l2", "linf"),
    cost="steps + 1 forwards, steps backwards",
    deviations=(
        "the loss is summed over the voxels of the targets (towards a label map: over all that matter)",
        "the box is kept by projection instead of a change of variables by tanh, which would never reach its limits",
        "with norm linf the same Euclidean problem is solved; what is kept is what changes least in linf; eps is a cap",
        "success is the goal's, half of the clean score for the goal 'change', where the paper asks it of every voxel",
    ),
    family="minimal",
    steps=200,
)
def cw(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    kappa: Annotated[float, Param("Lead of the wrong answer that is enough", unit="logits", minimum=0)] = 0.0,
    rate: Annotated[float, Param("Learning rate of Adam", unit="of the window", minimum=1e-9)] = 0.01,
    searches: Searches = 9,
    first: First = 0.001,
) -> Attack:
    """The smallest Euclidean change, by a trade-off with the margins."""
    loss = descend("cw", lambda voxels, targeted: missing(voxels, targeted).clamp_min(-kappa))
    solver = Tradeoff(Adam(rate), steps, searches, first)
    return Climb(loss, Additive(), solver, eps, norm, steps, keep="smallest", stop_on_success=False)
