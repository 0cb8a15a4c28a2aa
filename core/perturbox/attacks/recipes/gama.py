"""GAMA: PGD on the margin between probabilities, guided at first by how far the prediction has moved.

    L = mean [ max_(i != y) p_i(x) - p_y(x) ] + lambda * mean | p(x) - p(x_0) |^2,   lambda from 50 linearly to 0

Sriramanan et al. 2020, NeurIPS, arXiv 2011.14969. lambda ends after a quarter of the steps; the step is 2 eps, a tenth
of that after 60 % of the steps and a hundredth after 85 %.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from perturbox.attacks.attack import Attack, Climb, Model, Task
from perturbox.attacks.budget import Budget, Norm
from perturbox.attacks.objectives import Voxels, average, mean
from perturbox.attacks.recipes import Param, derived, recipe
from perturbox.attacks.recipes.pgd import direction
from perturbox.attacks.settings import Restarts
from perturbox.attacks.slabs import slabwise_sum
from perturbox.attacks.solvers.ascent import Ascent, Rule, chain
from perturbox.attacks.spaces.additive import Additive

DROPS, FACTOR = (0.6, 0.85), 10.0


def lead(voxels: Voxels) -> Tensor:
    """How far the best wrong answer leads in probability, -1 to 1, "b a *g"."""
    if voxels.regions is not None:
        return 1 - 2 * voxels.right
    others = voxels.probabilities.scatter(1, voxels.labels[:, None], -torch.inf).amax(1, keepdim=True)
    return others - voxels.right


def moved(voxels: Voxels, clean: Tensor) -> Tensor:
    """Squared distance of the prediction from clean probabilities "b k *g", "b a *g"; of a yes-or-no answer, that of
    (p, 1 - p)."""
    square = (voxels.probabilities - clean).square()
    return square.sum(1, keepdim=True) if voxels.regions is None else 2 * square


probability_margin = average("gama", lead)


@dataclass(frozen=True)
class Guided:
    """The objective: weight is lambda at first; until: the share of the steps after which it is 0."""

    weight: float
    until: float

    def __call__(self, model: Model, x: Tensor, task: Task, progress: float) -> Tensor:
        logits = model(x)
        value = task.gain(probability_margin, logits)
        now = self.weight * (1 - progress / self.until) if progress < self.until else 0.0
        if now == 0:
            task.memory.pop("clean", None)  # as large as the prediction
            return value
        if "clean" not in task.memory:
            assert task.clean is not None
            with torch.no_grad():
                clean = model(task.clean)
                task.memory["clean"] = clean.softmax(1) if task.regions is None else clean.sigmoid()

        def slab(logits: Tensor, labels: Tensor, weight: Tensor, clean: Tensor) -> Tensor:
            voxels = Voxels(logits, labels, weight, task.regions)
            return voxels.total(moved(voxels, clean))

        sums = slabwise_sum(slab, logits, task.labels, task.weight, task.memory["clean"])
        return value + now * mean(sums, ())


@dataclass(frozen=True)
class Corner(Additive):
    """As additive, but a random start is a corner of the linf ball: +eps or -eps, voxel by voxel."""

    def init(self, x: Tensor, budget: Budget, generator: torch.Generator) -> Tensor:
        z = super().init(x, budget, generator)
        return self.project(z.sign() * budget.eps, x, budget) if budget.norm == "linf" else z


def dropping(alpha: float, steps: int) -> Rule:
    """A step of alpha that is divided by 10 at two shares of the steps."""

    def apply(gradient: Tensor, step: int) -> tuple[Tensor, int]:
        return gradient * (alpha / FACTOR ** sum(step >= share * steps for share in DROPS)), step + 1

    return Rule(lambda z, budget: 0, apply)


@recipe(
    title="GAMA",
    paper="Sriramanan et al. 2020, arXiv 2011.14969",
    norms=("linf", "l2"),
    cost="restarts x (steps + 2) forwards, restarts x steps backwards",
    deviations=(
        "margin and distance are averaged over the voxels that matter, where the paper attacks classifiers",
        "the distance is from the clean prediction; the released code measures it from that at the random start",
        "towards a wanted label map the margin falls and the distance still rises",
    ),
    family="loss",
)
def gama(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    weight: Annotated[float, Param("Weight lambda of the squared distance, at first", minimum=0)] = 50.0,
    until: Annotated[float, Param("Share of the steps after which lambda is 0", minimum=0.001, maximum=1)] = 0.25,
    alpha: Annotated[float, Param("First step size; 2 eps if not given", unit="HU", minimum=0)] = derived(
        lambda s: 2 * s["eps"]
    ),
    random_start: Annotated[bool, Param("Start at a random corner of the ball")] = True,
    restarts: Restarts = 1,
) -> Attack:
    """GAMA-PGD."""
    solver = Ascent(chain(direction(norm), dropping(alpha, steps)))
    space = Corner(random_start)
    return Climb(Guided(weight, until), space, solver, eps, norm, steps, restarts)
