"""K-space: an MR scan is changed where the scanner measures it, each sample by a share of itself.

    x_adv = |F^-1( (1 + z) F x )|,   |z| <= share

Ours; no paper. MR magnitude images only. There is no eps ball: share bounds the change.
"""

from typing import Annotated, Literal

import numpy as np
from torch import Tensor

from perturbox.attacks.attack import Attack, Climb, ascend
from perturbox.attacks.budget import Norm
from perturbox.attacks.objectives import LOSSES
from perturbox.attacks.recipes import OwnBudget, Param, Settings, derived, recipe
from perturbox.attacks.settings import LossName
from perturbox.attacks.solvers.ascent import Ascent, chain, scale, stateless
from perturbox.attacks.spaces.kspace import KSpace
from perturbox.model.victim import Victim
from perturbox.types import InputError, Volume

NEGATIVE = 0.01  # of the energy


def only_mr(victim: Victim, image: Volume, settings: Settings) -> None:
    """Refuse what no MR scanner measures: CT, other modalities if the file names them, colours, normalised values."""
    modality = "CT" if "HU" in (victim.unit, image.unit) else str(image.header.get("modality", "MR"))
    if modality != "MR":
        raise InputError(f"kspace changes what an MR scanner measures and this is {modality}; use sa2 instead.")
    if image.dims == 2 and image.data.shape[0] == 3:
        raise InputError("kspace changes what an MR scanner measures and this is a colour picture; use sa2 instead.")
    # Resampling leaves a few small values below 0; a scan whose values were normalised has many.
    if np.square(image.data.clip(max=0)).sum() > NEGATIVE * np.square(image.data).sum():
        raise InputError(
            f"kspace needs magnitude images and this scan goes down to {image.data.min():g}; give the scan as it was "
            "reconstructed, before its values were normalised."
        )


def unit_phasors(gradient: Tensor) -> Tensor:
    """Complex numbers "b c *s 2" of size 1, or 0 where the gradient is: the steepest step under a limit on each."""
    # Scaled first: gradients of means over millions of voxels underflow when squared in float32.
    gradient = gradient / gradient.abs().max().clamp_min(1e-30)
    return gradient / gradient.norm(dim=-1, keepdim=True).clamp_min(1e-30)


@recipe(
    title="K-space",
    paper="ours, no paper",
    norms=("linf",),
    cost="steps + 1 forwards, steps backwards",
    space="k-space",
    deviations=(
        "k-space is that of the magnitude image, fully sampled by one coil; the scanner's own phase, coils and filters "
        "aren't known from it",
        "the limit is on each sample, relative to it: F is unitary, so a limit on all of k-space at once would allow "
        "the same images as one without any transform",
    ),
    family="frequency",
    check=only_mr,
    own=OwnBudget("share", "largest change of a k-space sample as a share of its size"),
)
def kspace(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    share: Annotated[
        float, Param("Largest change of a k-space sample as a share of its size", minimum=0, maximum=1)
    ] = 0.05,
    acquisition: Annotated[
        Literal["3D", "2D"], Param("Whether the volume has one k-space, or every slice one of its own")
    ] = "3D",
    loss: LossName = "dice-ce",
    alpha: Annotated[
        float, Param("Step size, as a share of a sample's size; 2.5 share / steps if not given", minimum=0)
    ] = derived(lambda s: 2.5 * s["share"] / s["steps"]),
) -> Attack:
    """Ascent on a complex relative change of every k-space sample, from none."""
    space, solver = KSpace(share, acquisition == "2D"), Ascent(chain(stateless(unit_phasors), scale(alpha)))
    return Climb(ascend(LOSSES[loss]), space, solver, eps, norm, steps)
