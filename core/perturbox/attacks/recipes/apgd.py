"""APGD: PGD without a step size to choose; the solver has the algorithm (`solvers.apgd`).

    DLR = -(z_y - max_(i != y) z_i) / (z_(1) - z_(3)),   z_(1) >= z_(2) >= z_(3) the sorted logits

Croce & Hein 2020, ICML, arXiv 2003.01690.
"""

from typing import Annotated, Literal

from torch import Tensor

from perturbox.attacks.attack import Attack, climb
from perturbox.attacks.budget import Norm
from perturbox.attacks.objectives import LOSSES, Voxels, average
from perturbox.attacks.recipes import Param, recipe
from perturbox.attacks.recipes.pgd import Restarts, direction
from perturbox.attacks.solvers.apgd import Apgd
from perturbox.attacks.spaces.additive import Additive
from perturbox.model.victim import Victim
from perturbox.types import InputError, Volume


def dlr(voxels: Voxels) -> Tensor:
    """Difference of logits ratio, "b a *g"; where answers are yes or no there is no third logit, so the margin
    itself."""
    if voxels.regions is not None:
        return voxels.margin
    best = voxels.logits.topk(3, 1).values
    return voxels.margin / (best[:, :1] - best[:, 2:] + 1e-12)


dlr_loss = average("dlr", dlr)
APGD_LOSSES = {**LOSSES, "dlr": dlr_loss}


def needs_three_classes(victim: Victim, image: Volume) -> None:
    """Raises InputError where DLR has no third logit."""
    if victim.regions is None and len(victim.labels) < 3:
        raise InputError(f"The loss dlr needs 3 classes and {victim.name} has {len(victim.labels)}; use loss=ce.")


@recipe(
    title="APGD",
    paper="Croce & Hein 2020, arXiv 2003.01690",
    norms=("linf", "l2"),
    cost="restarts x (steps + 1) forwards, restarts x steps backwards",
    deviations=(
        "losses are averaged over the voxels that matter; dlr is the margin where each channel is a yes-or-no answer",
        "towards a label, dlr with its sign turned in place of the targeted ratio",
    ),
    family="loss",
    notes=("its published loss is cross-entropy; where Dice is the measure, loss=dice finds far more",),
)
def apgd(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    loss: Annotated[Literal["ce", "dlr", "dice", "dice-ce", "margin"], Param("Loss that is climbed")] = "ce",
    restarts: Restarts = 1,
) -> Attack:
    """APGD from a random start."""
    check = needs_three_classes if loss == "dlr" else None
    solver = Apgd(steps, direction(norm))
    return Attack("apgd", climb(APGD_LOSSES[loss]), Additive(True), solver, eps, norm, steps, restarts, check=check)
