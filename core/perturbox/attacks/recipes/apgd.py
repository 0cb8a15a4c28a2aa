"""APGD: PGD without a step size to choose; the solver has the algorithm (`solvers.apgd`).

    DLR = -(z_y - max_(i != y) z_i) / (z_(1) - z_(3)),   z_(1) >= z_(2) >= z_(3) the sorted logits

Croce & Hein 2020, ICML, arXiv 2003.01690.
"""

from collections import ChainMap
from typing import Annotated

from torch import Tensor

from perturbox.attacks.attack import Attack, Climb, ascend
from perturbox.attacks.budget import Norm
from perturbox.attacks.objectives import LOSSES, Voxels, average
from perturbox.attacks.recipes import Param, Settings, recipe
from perturbox.attacks.recipes.pgd import direction
from perturbox.attacks.settings import Restarts
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
APGD_LOSSES = ChainMap(LOSSES, {"dlr": dlr_loss})


def needs_three_classes(victim: Victim, image: Volume, settings: Settings) -> None:
    """Raises InputError where DLR has no third logit."""
    if settings["loss"] == "dlr" and victim.regions is None and len(victim.labels) < 3:
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
    check=needs_three_classes,
    notes=("its published loss is cross-entropy; where Dice is the measure, loss=dice finds far more",),
)
def apgd(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    loss: Annotated[str, Param("Loss that is climbed", choices=lambda: APGD_LOSSES)] = "ce",
    restarts: Restarts = 1,
) -> Attack:
    """APGD from a random start."""
    solver = Apgd(steps, direction(norm))
    return Climb(ascend(APGD_LOSSES[loss]), Additive(True), solver, eps, norm, steps, restarts)
