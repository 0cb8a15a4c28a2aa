"""ASMA: the logits of a wanted mask are raised where it isn't predicted yet, in steps that grow with the overlap.

    x <- clip( x + (beta * IoU + tau) * grad [ sum over v: pred != Y of z_Y - |x - x_0|^2 ] )

Ozbulak et al. 2019, MICCAI, arXiv 1907.13124. The paper's tau = 1e-7 and beta = 1e-6 are for scans in [0, 1]; its first
step counts the overlap as 0.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from perturbox.attacks.attack import Attack, Climb, Model, Task
from perturbox.attacks.budget import Budget, Norm
from perturbox.attacks.objectives import Loss, Voxels, overlap_sums
from perturbox.attacks.oracle import Oracle, bpda
from perturbox.attacks.recipes import Param, derived, recipe
from perturbox.attacks.solvers import Solver
from perturbox.attacks.solvers.ascent import Rule, rms_normalise
from perturbox.attacks.spaces.additive import Additive

TAU, BETA = 1e-7, 1e-6


def _held(voxels: Voxels, correct: bool) -> Tensor:
    """The sum of the labels' logits where the answer is right (or wrong); a yes-or-no answer's logit has its sign."""
    if voxels.regions is None:
        logits = voxels.logits.gather(1, voxels.labels[:, None])
    else:
        logits = (2 * voxels.targets - 1) * voxels.logits
    return (logits * (voxels.correct == correct) * voxels.weight[:, None]).sum()


def _mean_iou(sums: Tensor, classes: tuple[int, ...]) -> Tensor:
    overlap, predicted, labelled = sums.view(3, -1)
    union = predicted + labelled - overlap
    held = union > 0
    # Where all channels are to be empty and are, the wanted labels are reached.
    return (overlap[held] / union[held]).mean() if bool(held.any()) else torch.ones_like(union[0])


masked_logits = Loss("asma", lambda v: -_held(v, True), lambda total, _: total, lambda v: -_held(v, False))
mean_iou = Loss("iou", lambda v: overlap_sums(v, v.decided), _mean_iou)


def width(visible: tuple[float, float], window: float | None) -> float:
    """HU that count as 1: the given window, or the range that the victim tells apart."""
    return max(visible[1] - visible[0], 1e-6) if window is None else window


@dataclass(frozen=True)
class Masked:
    """The objective. Its value is the overlap with the wanted labels, the mean IoU of the channels that occur, or 1
    minus that with labels to be left; its gradient is that of the masked logits and the squared change.

    penalty: weight of the squared change; window: HU that count as 1 in it.
    """

    penalty: float
    window: float | None

    def __call__(self, model: Model, x: Tensor, task: Task, progress: float) -> Tensor:
        assert task.clean is not None
        logits = model(x)
        everywhere = torch.ones_like(task.weight)
        iou = mean_iou(logits.detach(), task.labels, everywhere, task.classes, regions=task.regions)
        change = ((x - task.clean) / width(task.visible, self.window)).square().sum()
        pull = task.gain(masked_logits, logits) - self.penalty * change
        return bpda(iou if task.targeted else 1 - iou, pull)


@dataclass(frozen=True)
class Growing(Solver):
    """z <- z + (beta * value + tau) * rule(gradient); at the first step the value counts as 0."""

    tau: float
    beta: float
    rule: Rule

    def init(self, z: Tensor, budget: Budget, generator: torch.Generator) -> tuple[bool, Any]:
        return True, self.rule.init(z, budget)

    def step(self, oracle: Oracle, z: Tensor, state: tuple[bool, Any]) -> tuple[Tensor, tuple[bool, Any]]:
        first, inner = state
        value, gradient = oracle.gradient(z)
        update, inner = self.rule.apply(gradient, inner)
        return z + (self.tau + (0 if first else self.beta * value)) * update, (False, inner)


def rescaled(window: float | None) -> Rule:
    """The step in HU that is the gradient's on a scan divided by its window."""

    def init(z: Tensor, budget: Budget) -> float:
        return width(budget.visible or budget.clip, window) ** 2

    return Rule(init, lambda gradient, square: (gradient * square, square))


@recipe(
    title="ASMA",
    paper="Ozbulak et al. 2019, arXiv 1907.13124",
    norms=("linf", "l2"),
    cost="steps + 1 forwards, steps backwards",
    deviations=(
        "the gradient is divided by its RMS, so that steps don't depend on the model's scale, unless normalise=false",
        "the change also stays within eps, where the paper has no limit but the penalty",
        "with the goal change, the labels' logits are lowered where they still win, and steps grow with 1 - IoU",
        "the squared change is that of scans divided by the model's intensity window",
        "what is kept is the worst score on the way, where the paper takes the last step",
    ),
    family="loss",
)
def asma(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    normalise: Annotated[bool, Param("Divide the gradient by its root mean square")] = True,
    tau: Annotated[
        float,
        Param(
            "Step without overlap, in HU; 2.5 eps / 11 steps if not given; raw and 1e-7 if not normalised", minimum=0
        ),
    ] = derived(lambda s: 2.5 * s["eps"] / (11 * s["steps"]) if s["normalise"] else TAU),
    beta: Annotated[
        float,
        Param("Step that comes with full overlap, as tau; 10 tau if not given", minimum=0),
    ] = derived(lambda s: BETA / TAU * s["tau"]),
    penalty: Annotated[float, Param("Weight of the squared change", minimum=0)] = 1.0,
    window: Annotated[
        float | None, Param("Range that counts as 1; the model's if not given", unit="HU", minimum=1e-6)
    ] = None,
) -> Attack:
    """The adaptive segmentation mask attack."""
    solver = Growing(tau, beta, rms_normalise() if normalise else rescaled(window))
    return Climb(Masked(penalty, window), Additive(), solver, eps, norm, steps)
