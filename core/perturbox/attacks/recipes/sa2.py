"""SA^2: what the victim sees is taken apart into frequencies, block by block, and each of them made a little stronger
or weaker.

    x_adv = IDCT( z * DCT(x) ),   z <- clip(z + alpha sign grad_z L, 1 - rho, 1 + rho),   z of a block's mean is 1

Hanif et al. 2025, ISBI. There is no eps ball: rho bounds the change.
"""

from typing import Annotated

from perturbox.attacks.attack import Attack, Climb, ascend
from perturbox.attacks.budget import Norm
from perturbox.attacks.objectives import LOSSES
from perturbox.attacks.recipes import OwnBudget, Param, recipe
from perturbox.attacks.settings import LossName
from perturbox.attacks.solvers.ascent import Ascent, chain, scale, sign
from perturbox.attacks.spaces.dct import Multiplied


@recipe(
    title="SA²",
    paper="Hanif et al. 2025, On Frequency Domain Adversarial Vulnerabilities of Volumetric Medical Image "
    "Segmentation, ISBI",
    norms=("linf",),
    cost="steps + 1 forwards, steps backwards",
    space="dct",
    deviations=(
        "through the sliding window of the whole scan in HU, where the authors' code attacks 96-voxel crops scaled to "
        "[0, 1]; frequencies are those of the scan inside the victim's window, what lies outside keeps its distance",
        "all frequencies at once; no similarity term, as in the authors' code unless asked for",
    ),
    family="frequency",
    own=OwnBudget("rho", "largest relative change of a frequency"),
)
def sa2(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    rho: Annotated[float, Param("Largest relative change of a frequency", minimum=0, maximum=1)] = 0.2,
    block: Annotated[int, Param("Edge of a block", unit="voxels", minimum=2, maximum=128)] = 8,
    loss: LossName = "dice-ce",
    alpha: Annotated[float, Param("Step size, as a relative change", minimum=0)] = 0.1,
    random_start: Annotated[bool, Param("Start at random relative changes")] = True,
) -> Attack:
    """Signed ascent on a factor for every frequency of every block."""
    space, solver = Multiplied(block, rho, random_start), Ascent(chain(sign(), scale(alpha)))
    return Climb(ascend(LOSSES[loss]), space, solver, eps, norm, steps)
