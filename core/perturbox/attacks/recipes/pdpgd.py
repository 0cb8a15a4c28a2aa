"""PDPGD: descent in the change and ascent in a multiplier for every voxel, with a proximal step for the norm.

    min over r, max over lambda of lambda_0 |r| + sum over voxels of lambda_v softplus(lead of the label at v),
    (lambda_0, lambda) = softmax(0, l),   l_v <- l_v + rate * sign(lead at v)

Matyasko & Chau 2021, arXiv 2106.01538; one multiplier per voxel as in Rony et al. 2023, arXiv 2206.07179.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from perturbox.attacks.attack import Attack, Climb, Model, Task
from perturbox.attacks.budget import Norm
from perturbox.attacks.must_change import missing, sought
from perturbox.attacks.objectives import Voxels
from perturbox.attacks.recipes import Param, recipe
from perturbox.attacks.slabs import slabwise_map, slabwise_sum
from perturbox.attacks.solvers.proximal import RATIO, Proximal
from perturbox.attacks.spaces.additive import Additive

MOST = -math.log(1e-12)  # of a log-multiplier's size
EMA, DUAL_FINAL, PRIMAL_FINAL = 0.9, 0.1, 0.01


@dataclass(eq=False)
class Duals:
    """log: l; smooth: the running mean of lambda; both "b a *g". counted: the answers that must change."""

    counted: Tensor
    log: Tensor
    smooth: Tensor
    k: int = 0

    @classmethod
    def of(cls, counted: Tensor, like: Tensor, first: float) -> "Duals":
        """At first, the norm weighs `first` times what the voxels weigh together."""
        log = torch.full_like(like, -math.log(first * max(1, int(counted.sum()))))
        return cls(counted, log, cls.softmax(log, counted))

    @staticmethod
    def softmax(log: Tensor, counted: Tensor) -> Tensor:
        """lambda at voxels: with one more, of log 0, for the norm, they sum to 1."""
        each = torch.where(counted, log.exp(), 0)
        return each / (1 + each.sum(dtype=torch.float64)).to(each)

    def average(self) -> float:
        """Move the running mean; what all voxels weigh together."""
        if self.k:
            self.smooth = EMA * self.smooth + (1 - EMA) * self.softmax(self.log, self.counted)
        return float(self.smooth.sum(dtype=torch.float64))

    def ascend(self, leads: Tensor, rate: float) -> None:
        """One step of ascent: what isn't reached weighs more."""
        self.log = torch.where(self.counted, self.log + rate * leads.sign(), self.log).clamp(-MOST, MOST)
        self.k += 1


@dataclass(frozen=True)
class Lagrangian:
    """The objective: minus the voxels' part of the Lagrangian over their weight; the norm's goes to the solver."""

    steps: int
    rate: float
    first: float

    def __call__(self, model: Model, x: Tensor, task: Task, progress: float) -> Tensor:
        logits = model(x)

        def per_slab(function: Any) -> Any:
            return lambda logits, labels, weight: function(Voxels(logits, labels, weight, task.regions))

        maps = (logits.detach(), task.labels, task.weight)
        leads = slabwise_map(per_slab(lambda voxels: missing(voxels, task.targeted)), *maps)
        if "duals" not in task.memory:
            counted = slabwise_map(per_slab(lambda voxels: sought(voxels, task.classes, task.targeted) > 0), *maps)
            task.memory["duals"] = Duals.of(counted, leads, self.first)
        duals: Duals = task.memory["duals"]
        weight = max(duals.average() if torch.is_grad_enabled() else float(duals.smooth.sum()), 1e-30)
        task.memory[RATIO] = max(1 - weight, 0.0) / weight
        smooth = duals.smooth / weight
        if torch.is_grad_enabled():
            left = (self.steps - 1 - duals.k) / max(1, self.steps - 1)
            duals.ascend(leads, self.rate * (left * (1 - DUAL_FINAL) + DUAL_FINAL))

        def pieces(logits: Tensor, labels: Tensor, weight: Tensor, smooth: Tensor) -> Tensor:
            return (smooth * F.softplus(missing(Voxels(logits, labels, weight, task.regions), task.targeted))).sum()

        return -slabwise_sum(pieces, logits, task.labels, task.weight, smooth)


@recipe(
    title="PDPGD",
    paper="Matyasko & Chau 2021, arXiv 2106.01538",
    norms=("linf", "l2"),
    cost="steps + 1 forwards, steps backwards",
    deviations=(
        "the voxels are those of the targets (towards a label map: all that matter), with one multiplier each",
        "the proximal step in Adam's metric is exact, by bisection, instead of a few iterations towards it",
        "l0 and l1 of the paper are left out; eps is a cap",
        "success is the goal's, half of the clean score for the goal 'change', where the paper asks it of every voxel",
    ),
    family="minimal",
    steps=200,
)
def pdpgd(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    rate: Annotated[
        float, Param("First step size; a hundredth of it in the end", unit="of the window", minimum=1e-9)
    ] = 0.1,
    dual_rate: Annotated[
        float, Param("First step size of the log-multipliers; a tenth of it in the end", minimum=0)
    ] = 0.1,
    first: Annotated[
        float, Param("Weight of the norm beside the voxels' together at first", minimum=1e-6, maximum=1e6)
    ] = 0.01,
) -> Attack:
    """The smallest change, by descent and ascent in turn; the paper takes 500 steps."""
    solver = Proximal(norm, lambda k, found: rate * PRIMAL_FINAL ** (k / steps), 0.9, 0.999)
    objective = Lagrangian(steps, dual_rate, first)
    return Climb(objective, Additive(), solver, eps, norm, steps, keep="smallest", stop_on_success=False)
