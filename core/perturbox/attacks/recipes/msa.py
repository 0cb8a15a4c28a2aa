"""MSA: cross-entropy at several scales at once, so that the wanted mask is reached as a whole and in its details.

    L = sum over s = 1, 2, 4 ... of CE( pool_s(z), pool_s(y) ),   x <- project(x - alpha * sign(grad L))

Shao et al. 2021, Information Sciences, doi 10.1016/j.ins.2020.12.013. Only the abstract is known: gradients at several
scales, cross-entropy, a target mask.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from perturbox.attacks.attack import Attack, Climb, Model, Task
from perturbox.attacks.budget import Norm
from perturbox.attacks.objectives import cross_entropy, mean
from perturbox.attacks.recipes import Param, recipe
from perturbox.attacks.recipes.pgd import direction
from perturbox.attacks.settings import BIM_STEP, BimStep
from perturbox.attacks.slabs import slabwise_sum
from perturbox.attacks.solvers.ascent import Ascent, chain, scale
from perturbox.attacks.spaces.additive import Additive


def pooled(values: Tensor, edge: float, spacing: tuple[float, ...]) -> Tensor:
    """ "b k *g" averaged over blocks of at most `edge` mm along each axis, smaller ones at the end."""
    size = tuple(min(n, max(1, int(edge / step + 1e-6))) for n, step in zip(values.shape[2:], spacing, strict=True))
    pool = F.avg_pool3d if values.dim() == 5 else F.avg_pool2d
    return pool(values, size, ceil_mode=True, count_include_pad=False)


def soft_cross_entropy(logits: Tensor, targets: Tensor, weight: Tensor, sigmoid: bool) -> Tensor:
    """The weighted mean of the cross-entropy with targets "b k *g" in [0, 1]; weight "b *g"."""

    def slab(logits: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
        if sigmoid:
            found = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)
        else:
            found = -(targets * logits.log_softmax(1)).sum(1)
        return torch.stack([(found * weight).sum(), weight.sum()])

    return mean(slabwise_sum(slab, logits, targets, weight), ())


@dataclass(frozen=True)
class Scales:
    """The objective: the sum over `count` scales, each twice as coarse as the one before."""

    count: int

    def __call__(self, model: Model, x: Tensor, task: Task, progress: float) -> Tensor:
        logits = model(x)
        value = task.gain(cross_entropy, logits)
        for level in range(1, self.count):
            edge = 2**level * min(task.spacing)
            if f"labels {level}" not in task.memory:
                task.memory[f"labels {level}"] = self._labels(task, logits, edge)
            targets, weight = task.memory[f"labels {level}"]
            coarse = pooled(logits, edge, task.spacing)
            found = soft_cross_entropy(coarse, targets, weight, task.regions is not None)
            value = value - found if task.targeted else value + found
        return value

    def _labels(self, task: Task, logits: Tensor, edge: float) -> tuple[Tensor, Tensor]:
        """The labels' share of each channel in each block, and the blocks' weight; a channel at a time, for memory."""
        shares = []
        for channel in range(logits.shape[1]):
            held = task.labels == channel if task.regions is None else task.regions[:, channel][task.labels]
            shares.append(pooled(held[:, None].to(logits), edge, task.spacing))
        return torch.cat(shares, 1), pooled(task.weight[:, None].to(logits), edge, task.spacing)[:, 0]


@recipe(
    title="MSA",
    paper="Shao et al. 2021, doi 10.1016/j.ins.2020.12.013",
    norms=("linf", "l2"),
    cost="steps + 1 forwards, steps backwards",
    deviations=(
        "written from the abstract; the scales are those of the logits, pooled by averaging, not of inner features",
        "scales are blocks in mm, alike along all axes; their losses are summed with equal weight",
        "with the goal change it climbs the same loss away from the labels, where the paper only aims at masks",
    ),
    family="loss",
)
def msa(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    scales: Annotated[int, Param("Number of scales, each twice as coarse as the one before", minimum=1, maximum=8)] = 3,
    alpha: BimStep = BIM_STEP,
) -> Attack:
    """Iterated steps on the sum over scales; with one scale and linf it is BIM on cross-entropy."""
    solver = Ascent(chain(direction(norm), scale(alpha)))
    return Climb(Scales(scales), Additive(), solver, eps, norm, steps)
