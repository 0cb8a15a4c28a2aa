"""SMIA: BIM with a stabilisation term, the divergence from the prediction at a look-ahead point, so that the steps keep
their direction and don't settle where one of them happened to lead.

    J = a1 * L(f(x_t), y) - a2 * KL( f(x_(t-1) + eps * K * sign(g_(t-1))) || f(x_t) )
    x <- project(x + alpha * sign(grad J))

g: the gradient of J at the point before; K: a Gaussian; the first argument of KL is fixed. The first step has only the
first term. Qi et al. 2021, ICLR, arXiv 2103.05232.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from perturbox.attacks.attack import Attack, Climb, Model, Task
from perturbox.attacks.budget import Norm
from perturbox.attacks.objectives import LOSSES, Loss, mean
from perturbox.attacks.recipes import Param, recipe
from perturbox.attacks.settings import BIM_STEP, BimStep, LossName
from perturbox.attacks.slabs import slabwise_sum
from perturbox.attacks.smoothing import gaussian_mm, smooth
from perturbox.attacks.solvers.ascent import Ascent, chain, scale, sign
from perturbox.attacks.spaces.additive import Additive


def divergence(logits: Tensor, fixed: Tensor, weight: Tensor, regions: Tensor | None, hard: bool = False) -> Tensor:
    """Mean KL(fixed || logits) over the answers with weight "b *g", both logits "b k *g"; no gradient for `fixed`.
    hard: of its most probable answers alone, which makes it their cross-entropy."""

    def sums(logits: Tensor, fixed: Tensor, weight: Tensor) -> Tensor:
        if regions is None:
            log_p, log_q = logits.log_softmax(1), fixed.log_softmax(1)
            q = F.one_hot(fixed.argmax(1), fixed.shape[1]).movedim(-1, 1).to(log_q) if hard else log_q.exp()
            apart = (q * ((0 if hard else log_q) - log_p)).sum(1, keepdim=True)
        else:
            q = (fixed > 0).to(fixed) if hard else fixed.sigmoid()
            apart = F.binary_cross_entropy_with_logits(logits, q, reduction="none")
            if not hard:
                apart = apart - F.binary_cross_entropy_with_logits(fixed, q, reduction="none")
        return torch.stack([(apart * weight[:, None]).sum(), (weight.sum() * apart.shape[1]).to(apart)])

    return mean(slabwise_sum(sums, logits, fixed.detach(), weight), ())


@dataclass(frozen=True)
class Stabilised:
    """The objective J. sigma_mm: of K along the scan's own axes."""

    loss: Loss
    deviation: float
    stabilisation: float
    eps: float
    sigma_mm: float
    hard: bool

    @property
    def queries(self) -> int:
        return 1 if self.stabilisation else 0

    def __call__(self, model: Model, x: Tensor, task: Task, progress: float) -> Tensor:
        if not self.stabilisation or task.previous is None:
            return self.deviation * task.gain(self.loss, model(x))
        with torch.no_grad():
            ahead = model(self.ahead(task))
        logits = model(x)
        apart = divergence(logits, ahead, task.weight, task.regions, self.hard)
        return self.deviation * task.gain(self.loss, logits) - self.stabilisation * apart

    def ahead(self, task: Task) -> Tensor:
        """The point before, moved along its smoothed gradient's sign, "b c *s"."""
        assert task.previous is not None
        kernels = gaussian_mm(self.sigma_mm, task.scan_spacing)
        return task.previous.x_adv + self.eps * smooth(task.previous.grad.sign(), kernels)


@recipe(
    title="SMIA",
    paper="Qi et al. 2021, ICLR, arXiv 2103.05232",
    norms=("linf",),
    cost="2 x steps + 1 forwards, steps backwards",
    deviations=(
        "the second term is the divergence from the whole prediction; answers=hard takes the paper's arg-max",
        "a2 is 1, where the released code's 0 leaves BIM",
        "K is a centred Gaussian in mm along every axis, where the released code's 3 x 3 kernel is off its centre",
        "steps are projected onto the eps ball, which the released code has not",
    ),
    notes=(
        "in every run so far it left the Dice that bim leaves, for one and a half times the calls of "
        "the model; take bim for its strength",
    ),
)
def smia(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    loss: LossName = "dice-ce",
    alpha: BimStep = BIM_STEP,
    a1: Annotated[float, Param("Weight of the loss against the labels", minimum=0)] = 1.0,
    a2: Annotated[float, Param("Weight of staying with the prediction farther along; 0 is BIM", minimum=0)] = 1.0,
    sigma: Annotated[float, Param("Standard deviation of the Gaussian", unit="mm", minimum=0, maximum=100)] = 3.0,
    answers: Annotated[Literal["soft", "hard"], Param("What is stayed with: probabilities, or the arg-max")] = "soft",
) -> Attack:
    """BIM on deviation minus instability."""
    objective = Stabilised(LOSSES[loss], a1, a2, eps, sigma, answers == "hard")
    return Climb(
        objective,
        Additive(),
        Ascent(chain(sign(), scale(alpha))),
        eps,
        norm,
        steps,
    )
