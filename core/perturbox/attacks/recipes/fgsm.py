"""FGSM: one step of size eps along the sign of the gradient.

    x_adv = clip(x + eps * sign(grad L(f(x), y)))

Goodfellow, Shlens & Szegedy 2015, arXiv 1412.6572.
"""

from perturbox.attacks.attack import Attack, Climb, ascend
from perturbox.attacks.budget import Norm
from perturbox.attacks.objectives import LOSSES
from perturbox.attacks.recipes import recipe
from perturbox.attacks.settings import LossName
from perturbox.attacks.solvers.ascent import Ascent, chain, scale, sign
from perturbox.attacks.spaces.additive import Additive


@recipe(
    title="FGSM",
    paper="Goodfellow et al. 2015, arXiv 1412.6572",
    norms=("linf",),
    cost="2 forwards, 1 backward",
    deviations=("the loss is averaged over the voxels that matter; soft Dice + cross-entropy unless told otherwise",),
)
def fgsm(eps: float, norm: Norm, steps: int, *, loss: LossName = "dice-ce") -> Attack:
    """One step of the full budget; `steps` is always 1."""
    return Climb(ascend(LOSSES[loss]), Additive(), Ascent(chain(sign(), scale(eps))), eps, norm, steps=1)
