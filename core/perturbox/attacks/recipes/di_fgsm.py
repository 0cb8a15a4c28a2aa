"""DI-FGSM: BIM through scans that are now and then shrunk and put at a random place, so that less is learnt of one
model.

    x <- project(x + alpha * sign(grad L(f(T(x)), y))),   T: with probability p, shrink to a random size and pad

Xie et al. 2019, CVPR, arXiv 1803.06978.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from perturbox.attacks.attack import Attack, Climb, Model, Objective, Task, ascend
from perturbox.attacks.budget import Norm
from perturbox.attacks.objectives import LOSSES
from perturbox.attacks.on_scan import StandIn
from perturbox.attacks.recipes import Param, recipe
from perturbox.attacks.settings import BIM_STEP, BimStep, LossName
from perturbox.attacks.solvers.ascent import Ascent, chain, l1_normalise, momentum, scale, sign
from perturbox.attacks.spaces.additive import Additive

MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True)
class Shrunk:
    """One draw of T on a grid of shape `whole`: the size it is shrunk to and where its first voxel goes; size None: the
    identity."""

    whole: tuple[int, ...]
    size: tuple[int, ...] | None = None
    place: tuple[int, ...] = ()

    @classmethod
    def draw(cls, shape: tuple[int, ...], probability: float, least: float, generator: torch.Generator) -> "Shrunk":
        """least: smallest share of each axis."""
        if float(torch.rand((), generator=generator)) >= probability:
            return cls(shape)
        share = least + (1 - least) * float(torch.rand((), generator=generator))
        size = tuple(max(1, round(share * n)) for n in shape)
        room = [n - s for n, s in zip(shape, size, strict=True)]
        return cls(shape, size, tuple(int(torch.randint(r + 1, (), generator=generator)) for r in room))

    def apply(self, x: Tensor) -> Tensor:
        """ "b c *g" shrunk and surrounded by its lowest value."""
        if self.size is None:
            return x
        small = F.interpolate(x, self.size, mode=MODES[len(self.size)], align_corners=False)
        pads = []
        for start, size, n in zip(self.place, self.size, x.shape[2:], strict=True):
            pads = [start, n - start - size, *pads]
        return F.pad(small, pads, value=float(x.detach().min()))

    def undo(self, logits: Tensor) -> Tensor:
        """ "b k *g" cut out where the scan was put, and enlarged to the whole grid."""
        if self.size is None:
            return logits
        for axis, (start, size) in enumerate(zip(self.place, self.size, strict=True), start=2):
            logits = logits.narrow(axis, start, size)
        return F.interpolate(logits, self.whole, mode=MODES[len(self.whole)], align_corners=False)


@dataclass(frozen=True, eq=False)
class Through(StandIn):
    """A model whose input is shrunk, and whose logits are brought back."""

    drawn: Shrunk

    def __call__(self, x: Tensor) -> Tensor:
        return self.slide(self.prepare(x))

    def slide(self, prepared: Tensor) -> Tensor:
        return self.drawn.undo(self.model.slide(self.drawn.apply(prepared)))


def diverse(objective: Objective, probability: float, least: float) -> Objective:
    """The same objective through a new T at every look. Labels stay in place: the logits are brought back."""

    def through(model: Model, x: Tensor, task: Task, progress: float) -> Tensor:
        drawn = Shrunk.draw(tuple(task.labels.shape[1:]), probability, least, task.generator)
        return objective(model if drawn.size is None else Through(model, drawn), x, task, progress)

    return through


@recipe(
    title="DI-FGSM",
    paper="Xie et al. 2019, arXiv 1803.06978",
    norms=("linf",),
    cost="steps x (1 + p) + 1 forwards, steps backwards",
    deviations=(
        "scans are shrunk to at least 0.9 of the model's grid and padded with its lowest value, in all their axes",
        "the logits are brought back to the labels' place, where the paper attacks classifiers",
    ),
    family="transfer",
    notes=(
        "with the default step of eps / steps its changing signs cancel and fill about 60 % of the ball; a "
        "larger alpha, such as eps / 4, fills it",
    ),
)
def di_fgsm(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    loss: LossName = "dice-ce",
    alpha: BimStep = BIM_STEP,
    probability: Annotated[float, Param("How often a scan is transformed", minimum=0, maximum=1)] = 0.5,
    least: Annotated[float, Param("Smallest share of each axis", minimum=0.1, maximum=1)] = 0.9,
    decay: Annotated[float, Param("Momentum's decay factor mu", minimum=0, maximum=10)] = 0.0,
) -> Attack:
    """Input-diverse FGSM, iterated; with decay 1 it is M-DI2-FGSM."""
    rule = chain(l1_normalise(), momentum(decay), sign(), scale(alpha))
    objective = diverse(ascend(LOSSES[loss]), probability, least)
    return Climb(objective, Additive(), Ascent(rule), eps, norm, steps)
