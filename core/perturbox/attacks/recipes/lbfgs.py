"""L-BFGS: the first attack on neural networks, a box-constrained minimisation with a line search over the trade-off.

    min over r of |r|^2 + c * sum over the voxels of -log p(any other label)      (towards a label map: -log p(label))

Szegedy et al. 2014, ICLR, arXiv 1312.6199.
"""

from typing import Annotated

import torch
from torch import Tensor

from perturbox.attacks.attack import Attack, Climb
from perturbox.attacks.budget import Norm
from perturbox.attacks.must_change import descend
from perturbox.attacks.objectives import Voxels
from perturbox.attacks.recipes import Param, recipe
from perturbox.attacks.recipes.cw import First, Searches
from perturbox.attacks.solvers.lbfgs import Lbfgs
from perturbox.attacks.solvers.tradeoff import Tradeoff
from perturbox.attacks.spaces.additive import Additive


def other_answer(voxels: Voxels, targeted: bool) -> Tensor:
    """-log probability of any answer but the labelled one (targeted: of the labelled one), "b a *g"."""
    if targeted:
        return voxels.cross_entropy
    if voxels.regions is not None:
        return torch.nn.functional.softplus((2 * voxels.targets - 1) * voxels.logits)
    labelled = voxels.logits.gather(1, voxels.labels[:, None])
    others = voxels.logits.scatter(1, voxels.labels[:, None], -torch.inf).logsumexp(1, keepdim=True)
    return torch.nn.functional.softplus(labelled - others)


@recipe(
    title="L-BFGS",
    paper="Szegedy et al. 2014, arXiv 1312.6199",
    norms=("l2", "linf"),
    cost="steps + 1 forwards, steps backwards",
    deviations=(
        "|r|^2 in place of |r|, which has no gradient at the clean scan; c weighs the loss instead of the change",
        "without labels to reach, the loss is the cross-entropy of 'any other label'; the paper aims at a label",
        "the loss is summed over the voxels of the targets (towards a label map: over all that matter)",
        "with norm linf the same Euclidean problem is solved; what is kept is what changes least in linf; eps is a cap",
        "success is the goal's, half of the clean score for the goal 'change', where the paper asks it of every voxel",
    ),
    family="minimal",
    steps=200,
)
def lbfgs(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    history: Annotated[
        int, Param("Steps that the curvature is known from; each takes the memory of two scans", minimum=1, maximum=100)
    ] = 5,
    stride: Annotated[
        float, Param("Largest change of the first step of a search", unit="of the window", minimum=1e-9)
    ] = 0.01,
    searches: Searches = 9,
    first: First = 0.001,
) -> Attack:
    """The smallest Euclidean change, by a trade-off with the cross-entropy."""
    solver = Tradeoff(Lbfgs(history, stride), steps, searches, first)
    loss = descend("lbfgs", other_answer)
    return Climb(loss, Additive(), solver, eps, norm, steps, keep="smallest", stop_on_success=False)
