"""DAG: dense adversary generation; steps along the gradient over the voxels that aren't fooled yet, until they are.

    r <- r + gamma * g / |g|_inf,   g = sum over voxels still labelled l of grad (z_l' - z_l)

l' is the voxel's adversarial label. Xie et al. 2017, ICCV, arXiv 1703.08603.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from perturbox.attacks.attack import Attack, Climb, Model, Task
from perturbox.attacks.budget import Norm
from perturbox.attacks.must_change import descend, missing
from perturbox.attacks.objectives import Voxels
from perturbox.attacks.recipes import Param, recipe
from perturbox.attacks.solvers.ascent import Ascent, Rule
from perturbox.attacks.spaces.additive import Additive


def along_the_largest(share: float) -> Rule:
    """Steps whose largest change is a share of the victim's intensity window."""

    def apply(gradient: Tensor, step: float) -> tuple[Tensor, float]:
        return gradient * (step / gradient.abs().max().clamp_min(1e-30)), step

    return Rule(lambda z, budget: share * budget.width, apply)


def still_leading(voxels: Voxels, targeted: bool) -> Tensor:
    """Logits by which the best other answer is to catch up, "b a *g"; 0 where it has."""
    return missing(voxels, targeted).clamp_min(0)


@dataclass(frozen=True)
class Permuted:
    """The objective with a permutation of the classes, drawn once a round, for adversarial labels: label l is to
    become order[l]."""

    def __call__(self, model: Model, x: Tensor, task: Task, progress: float) -> Tensor:
        if task.targeted or task.regions is not None:  # labels are given, or an answer has but one other
            return descend("dag", still_leading)(model, x, task, progress)

        def behind(voxels: Voxels, targeted: bool) -> Tensor:
            if "order" not in task.memory:
                task.memory["order"] = cycle(voxels.logits.shape[1], task.generator).to(voxels.labels.device)
            labelled = voxels.logits.gather(1, voxels.labels[:, None])
            wanted = voxels.logits.gather(1, task.memory["order"][voxels.labels][:, None])
            return (labelled - wanted) * voxels.correct

        return descend("dag", behind)(model, x, task, progress)


def cycle(classes: int, generator: torch.Generator) -> Tensor:
    """A random permutation "k" that leaves no class where it is: one cycle through all."""
    order = torch.randperm(classes, generator=generator)
    return torch.empty_like(order).scatter_(0, order, order.roll(-1))


@recipe(
    title="DAG",
    paper="Xie et al. 2017, arXiv 1703.08603",
    norms=("linf", "l2"),
    cost="steps + 1 forwards, at most steps backwards",
    deviations=(
        "the voxels are those of the targets (towards a label map: all that matter, until they have its label)",
        "it ends as soon as the goal is reached, and returns the best iterate where it isn't; eps is a cap",
        "the adversarial label is the best other one at each step, which needs the least; the paper draws it at "
        "random, as labels=permutation does for whole classes",
        "where each channel is a yes-or-no answer, its adversarial label is the other answer",
    ),
    family="minimal",
    steps=200,
)
def dag(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    gamma: Annotated[float, Param("Largest change of a step", unit="of the window", minimum=0, maximum=1)] = 0.002,
    labels: Annotated[
        Literal["runner-up", "permutation"], Param("Adversarial labels where a goal gives none")
    ] = "runner-up",
) -> Attack:
    """Steps over the voxels that aren't fooled yet; the paper takes up to 200."""
    objective = Permuted() if labels == "permutation" else descend("dag", still_leading)
    solver = Ascent(along_the_largest(gamma))
    return Climb(objective, Additive(), solver, eps, norm, steps, keep="smallest")
