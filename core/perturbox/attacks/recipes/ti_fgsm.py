"""TI-FGSM: BIM along a smoothed gradient, which is about what the gradients of shifted scans would sum to.

    x <- project(x + alpha * sign(K * grad L))

K: Gaussian kernel of 15 voxels along each axis that reaches to 3 standard deviations. Dong et al. 2019, CVPR, arXiv
1904.02884.
"""

from typing import Annotated

from perturbox.attacks.attack import Attack, Climb, ascend
from perturbox.attacks.budget import Norm
from perturbox.attacks.objectives import LOSSES
from perturbox.attacks.recipes import Param, recipe
from perturbox.attacks.settings import BIM_STEP, BimStep, LossName
from perturbox.attacks.solvers.ascent import Ascent, chain, gaussian, l1_normalise, momentum, scale, sign
from perturbox.attacks.spaces.additive import Additive
from perturbox.types import InputError


@recipe(
    title="TI-FGSM",
    paper="Dong et al. 2019, arXiv 1904.02884",
    norms=("linf",),
    cost="steps + 1 forwards, steps backwards",
    deviations=(
        "the kernel is separable and three-dimensional in volumes",
        "voxels whose own gradient is always 0 are left alone, whatever their neighbours'",
    ),
    family="transfer",
)
def ti_fgsm(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    loss: LossName = "dice-ce",
    alpha: BimStep = BIM_STEP,
    kernel: Annotated[int, Param("Size of the Gaussian kernel; odd", unit="voxels", minimum=1, maximum=63)] = 15,
    reach: Annotated[float, Param("Standard deviations from the kernel's middle to its end", minimum=0.1)] = 3.0,
    decay: Annotated[float, Param("Momentum's decay factor mu", minimum=0, maximum=10)] = 0.0,
) -> Attack:
    """Translation-invariant FGSM, iterated."""
    if kernel % 2 == 0:
        raise InputError(f"The setting 'kernel' must be odd, not {kernel}.")
    rule = chain(gaussian(kernel, reach), l1_normalise(), momentum(decay), sign(), scale(alpha))
    return Climb(ascend(LOSSES[loss]), Additive(), Ascent(rule), eps, norm, steps)
