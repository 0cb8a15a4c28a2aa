"""VAFA: how coarsely each frequency of the scan's blocks is quantised is learnt, so that the model fails and the scan
still looks like itself.

    x_adv = IDCT( round(DCT(x) / q) * q ),   q <- clip(q + sign grad_q [ DiceCE - (1 - SSIM(x, x_adv)) ], q_min, q_max)

Hanif et al. 2023, MICCAI, arXiv 2307.07269. There is no eps ball: q bounds the change.
"""

from typing import Annotated

from torch import Tensor

from perturbox.attacks.attack import Attack, Climb, Model, Task
from perturbox.attacks.budget import Norm
from perturbox.attacks.objectives import dice_ce
from perturbox.attacks.recipes import OwnBudget, Param, recipe
from perturbox.attacks.smoothing import ssim
from perturbox.attacks.solvers.ascent import Ascent, chain, scale, sign
from perturbox.attacks.spaces.dct import Quantised


def alike_and_wrong(model: Model, x: Tensor, task: Task, progress: float) -> Tensor:
    """DiceCE - (1 - SSIM), the similarity of what the victim's window shows."""
    assert task.clean is not None
    low, high = task.visible
    return task.gain(dice_ce, model(x)) - (1 - ssim(task.clean.clamp(low, high), x.clamp(low, high), high - low))


@recipe(
    title="VAFA",
    paper="Hanif et al. 2023, arXiv 2307.07269",
    norms=("linf",),
    cost="steps + 1 forwards, steps backwards",
    space="dct",
    deviations=(
        "through the sliding window of the whole scan in HU, where the paper attacks 96-voxel crops scaled to [0, 255]",
        "no slice is rescaled unless rescale=true; flat slices stay as they are, values in the scan's own range",
        "rounding has a cubic's derivative from the first step on, where the authors' is soft at first",
        "the similarity is that of the whole scan in the victim's window, where theirs is taken block by block",
    ),
    notes=(
        "the strength in the paper is that of the authors' rescaling of every slice to the whole window after the "
        "attack: in our runs Dice fell to .22 to .38 with it and stayed at .91 to .94 without; rescale=true does it",
    ),
    family="frequency",
    own=OwnBudget("q_max", "largest quantisation step of a frequency", zero=None),
)
def vafa(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    q_max: Annotated[float, Param("Largest quantisation step", unit="1/255 of the window", minimum=0.01)] = 20.0,
    q_min: Annotated[float, Param("Smallest quantisation step", unit="1/255 of the window", minimum=0.01)] = 5.0,
    alpha: Annotated[float, Param("Step size", unit="1/255 of the window", minimum=0)] = 1.0,
    block: Annotated[int, Param("Edge of a block", unit="voxels", minimum=2, maximum=128)] = 32,
    rescale: Annotated[bool, Param("Stretch every slice to fill the window, as the authors' code does")] = False,
) -> Attack:
    """Learnt quantisation of the 3D cosine transform, from the coarsest."""
    space = Quantised(block, min(q_min, q_max), q_max, rescale)
    return Climb(alike_and_wrong, space, Ascent(chain(sign(), scale(alpha))), eps, norm, steps)
