"""SEA: three losses that leave wrong voxels alone, each climbed by APGD in a ball that shrinks; the worst counts.

    JS      = [ KL(p || m) + KL(e_y || m) ] / 2,   m = (p + e_y) / 2
    MCE     = CE where argmax z = y, else 0
    MCE-Bal = MCE / N_y,   N_y the number of voxels labelled y

Of the steps, 3 : 3 : 4 go to the limits 2 eps, 1.5 eps and eps, each from the best point of the one before. Croce,
Singh & Hein 2024, ECCV, arXiv 2306.12941.
"""

import math
from typing import Annotated

import torch
from torch import Tensor

from perturbox.attacks.attack import Attack, Climb, Composed, ascend
from perturbox.attacks.budget import Norm
from perturbox.attacks.objectives import Loss, Voxels, average
from perturbox.attacks.recipes import Param, recipe
from perturbox.attacks.recipes.pgd import direction
from perturbox.attacks.solvers.apgd import Apgd
from perturbox.attacks.spaces.additive import Additive


def jensen_shannon(voxels: Voxels) -> Tensor:
    """Divergence between prediction and label in nats, 0 to ln 2, "b a *g": as e_y is 0 elsewhere it depends on p_y
    alone, ln 2 + [ p_y ln p_y - (1 + p_y) ln(1 + p_y) ] / 2, and so holds for yes-or-no answers too."""
    right = voxels.right
    return math.log(2) + (right * voxels.labelled - (1 + right) * right.log1p()) / 2


def masked(voxels: Voxels, correct: bool) -> Tensor:
    """Cross-entropy where the answer is right (or where it is wrong), else 0, "b a *g"."""
    return voxels.cross_entropy * (voxels.correct == correct)


def balanced_sums(voxels: Voxels, correct: bool) -> Tensor:
    """Masked cross-entropy and weight of each label, summed: of each class, or of each channel's no and yes."""
    axes = (0, *range(2, voxels.logits.dim()))
    values, labels = masked(voxels, correct), voxels.targets
    if voxels.regions is not None:
        values, labels = torch.cat([values, values], 1), torch.cat([1 - labels, labels], 1)
    counted = labels * voxels.weight[:, None]
    return torch.stack([(values * counted).sum(axes), counted.sum(axes)])


def balanced(sums: Tensor, classes: tuple[int, ...]) -> Tensor:
    """The mean over the labels that occur of the mean over their voxels."""
    values, counts = sums
    return (values / counts.clamp_min(1e-6)).sum() / (counts > 0).sum().clamp_min(1)


js = average("js", jensen_shannon)
mce = average("mce", lambda v: masked(v, True), lambda v: masked(v, False))
mce_bal = Loss("mce-bal", lambda v: balanced_sums(v, True), balanced, lambda v: balanced_sums(v, False))


def split(steps: int) -> tuple[int, int, int]:
    """The steps in each ball, 3 : 3 : 4; what can't be split goes to the last."""
    share = 3 * steps // 10
    return share, share, steps - 2 * share


def shrinking(loss: Loss, eps: float, norm: Norm, steps: int, first: float) -> Attack:
    """Red-eps APGD: a chain of APGD in balls of first x eps, halfway, and eps."""
    radii = (first, (first + 1) / 2, 1.0)
    stages: dict[str, Attack] = {}
    for radius, n in zip(radii, split(steps), strict=True):
        if n:
            warm = "score" if stages else None
            apgd = Apgd(n, direction(norm))
            stages[f"ball {len(stages) + 1}"] = Climb(ascend(loss), Additive(), apgd, radius * eps, norm, n, warm=warm)
    return Composed(stages, eps, norm)


@recipe(
    title="SEA",
    paper="Croce et al. 2024, arXiv 2306.12941",
    norms=("linf", "l2"),
    cost="3 x (steps + 3) forwards, 3 x steps backwards",
    deviations=(
        "the paper's three losses, where the released code runs masked CE, SegPGD, JS and a masked normalised logit",
        "N_y is counted in the case itself, where the paper counts in the training images",
        "steps are those of each loss, 300 in the paper; a smaller ball starts from the point with the lowest score",
        "the worst of the losses is that of the goal's score, case by case",
        "where each channel is a yes-or-no answer, each channel's no and yes count as labels of their own",
        "towards a wanted label map JS hardly moves voxels that give that label next to no probability",
        "towards a wanted label map, voxels that have not reached it take the place of those still right",
    ),
    family="combined",
)
def sea(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    first: Annotated[
        float,
        Param("Limit of the first ball, of which the second is halfway to eps", unit="eps", minimum=1, maximum=10),
    ] = 2.0,
) -> Attack:
    """Red-eps APGD on each of the three losses."""
    members = {loss.name: shrinking(loss, eps, norm, steps, first) for loss in (js, mce, mce_bal)}
    return Composed(members, eps, norm)
