"""UAP: one perturbation for every scan, crafted on some scans and tried on another.

    for each epoch, for each scan x_i in random order on which the goal isn't reached:
        delta <- project(delta + alpha * sign(grad L(f(x_i + delta), y_i)))

Hirano, Minagi & Takemoto 2021, doi 10.1186/s12880-020-00530-y, after Moosavi-Dezfooli et al. 2017, arXiv 1610.08401.
"""

import os
from pathlib import Path
from typing import Annotated, Literal

from perturbox.attacks.attack import Attack, Climb, ascend
from perturbox.attacks.budget import Norm
from perturbox.attacks.objectives import LOSSES
from perturbox.attacks.recipes import Param, Settings, derived, listed, recipe
from perturbox.attacks.settings import LossName
from perturbox.attacks.solvers.one_by_one import OneByOne
from perturbox.attacks.spaces.shared import Shared
from perturbox.model.victim import Victim
from perturbox.types import InputError, Volume

STEP = 0.0024 / 0.04  # the inner step and the ball of the paper's code
Fit = Annotated[Literal["tile", "stretch"], Param("How the pattern covers a scan: again and again, or once, enlarged")]
Side = Annotated[int, Param("Samples of the pattern along each axis", minimum=1, maximum=512)]
Pitch = Annotated[
    float | None, Param("Between samples of a tile; the scan's own voxels if not given", unit="mm", minimum=0.01)
]
Alpha = Annotated[float, Param("Inner step size; 0.06 eps if not given", unit="HU", minimum=0)]


def absolute(paths: str) -> str:
    """The same list of files, joined by the system's separator as in PATH, by their absolute paths."""
    return os.pathsep.join(str(Path(path).resolve()) for path in listed(paths))


def needs_scans(victim: Victim, image: Volume, settings: Settings) -> None:
    """Raises InputError where no scans are named."""
    if not listed(settings["scans"]):
        raise InputError(
            "uap is crafted on other scans than the one it attacks; name some with `--set "
            f"scans=FIRST{os.pathsep}SECOND`."
        )


@recipe(
    title="Universal perturbation (UAP)",
    paper="Hirano et al. 2021, doi 10.1186/s12880-020-00530-y",
    norms=("linf", "l2"),
    cost="per scan: steps x 2 + 1 forwards, steps backwards",
    space="shared pattern",
    deviations=(
        "the pattern is stretched to a scan of any shape or tiled over it, where the paper's images are all alike",
        "an inner step is kept in any case, where the paper keeps only those that change an image's class at once; a "
        "scan rests while the goal is reached on it",
        "each scan's labels are the victim's own clean prediction; as many epochs as steps, where the paper takes 15",
        "soft Dice + cross-entropy averaged over the voxels that matter, unless told otherwise",
        "l2 limits the RMS of the pattern, which a scan it is stretched over sees lowered by interpolation",
    ),
    family="universal",
    steps=50,
    crafted_on="scans",
    check=needs_scans,
    resolve=lambda s: {"scans": absolute(s["scans"])},
)
def uap(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    scans: Annotated[
        str, Param(f"Scans it is crafted on, joined by '{os.pathsep}'; never the attacked", local=True, required=True)
    ] = "",
    loss: LossName = "dice-ce",
    alpha: Alpha = derived(lambda s: STEP * s["eps"]),
    fit: Fit = "stretch",
    side: Side = 32,
    pitch: Pitch = None,
) -> Attack:
    """Signed steps for one scan after another on a pattern they share."""
    return Climb(ascend(LOSSES[loss]), Shared(side, pitch, fit), OneByOne(alpha), eps, norm, steps)
