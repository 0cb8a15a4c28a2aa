"""One start of one climb: what its solver may ask, and what is seen of every point it looks at."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from perturbox.attacks.attack import Climb
from perturbox.attacks.best import Best
from perturbox.attacks.budget import Budget
from perturbox.attacks.influence import MeanGradient
from perturbox.attacks.on_scan import ModelOnScan, Previous
from perturbox.attacks.oracle import Oracle
from perturbox.attacks.outcome import Step
from perturbox.attacks.usable import Usable
from perturbox.model.finite import without_undefined


@dataclass(frozen=True, eq=False)
class Shared:
    """What all starts of a run have in common.

    models: the objective is the mean over them; x: the scan "b c *s"; goes_on: whether nothing is enough, so that a
    start ends with its steps.
    """

    models: Sequence[ModelOnScan]
    x: Tensor
    budget: Budget
    generator: torch.Generator
    best: Best
    usable: Usable
    on_step: Callable[[Step], None]
    stop: Callable[[], bool]
    goes_on: bool
    started: float = field(default_factory=time.perf_counter)


class Start:
    """climb: what is run; limits: its budget; index: how many starts came before; member: of a composed attack, whose.

    had_gradient: bool "b c *s", voxels that ever had a gradient, kept up to date in place. warm_points: where the
    objective, and minus the score, was highest, (value, z) each. mean_gradient: at the voxels of the case.
    """

    def __init__(
        self, shared: Shared, climb: Climb, limits: Budget, index: int, member: str | None, had_gradient: Tensor
    ):
        self.shared, self.climb, self.limits, self.index, self.member = shared, climb, limits, index, member
        self.had_gradient = had_gradient
        self.mean_gradient = MeanGradient(climb.steps)
        self.warm_points: dict[str, tuple[float, Tensor]] = {}
        self.step = 0
        self.succeeded = False  # the last look
        self.point: Tensor | None = None  # x_adv of the last look, where a model sees the case itself

    def run(self, z: Tensor) -> int | None:
        """All steps from z; the step at which the user stopped it, None if it ran to its end."""
        shared, climb = self.shared, self.climb
        for model in shared.models:
            model.task = dataclasses.replace(model.task, previous=None, memory={})
        oracle = Oracle(
            gradient=self.gradient,
            value=self.value,
            peek=self.peek,
            project=self.project,
            succeeded=lambda: self.succeeded,
            memories=lambda: [model.task.memory for model in shared.models],
            bounds=self.bounds,
            models=len(shared.models),
            single=self.single,
        )
        state = climb.solver.init(z, self.limits, shared.generator)
        for self.step in range(climb.steps + 1):
            if shared.stop():
                return self.step
            if last := self.step == climb.steps or climb.solver.done(state):
                self.value(z)  # the last update has not been looked at yet
            else:
                z, state = climb.solver.step(oracle, z, state)
                z = self.project(z)
            shared.on_step(shared.best.trace[-1])
            if last or (climb.stop_on_success and self.succeeded and not shared.goes_on):
                break
        return None

    # ---- what a solver may ask

    def project(self, z: Tensor) -> Tensor:
        z = self.climb.space.project(z.detach(), self.shared.x, self.limits)
        return torch.where(self.had_gradient, z, 0) if self._follows_voxels else z

    def bounds(self, z: Tensor) -> tuple[Tensor, Tensor]:
        free = dataclasses.replace(self.limits, eps=math.inf, norm="linf")
        far = (torch.full_like(z, -math.inf), torch.full_like(z, math.inf))
        low, high = (self.climb.space.project(end, self.shared.x, free) for end in far)
        return low, high

    def gradient(self, z: Tensor) -> tuple[float, Tensor]:
        z = z.detach().requires_grad_(True)
        total, gradient, models = 0.0, torch.zeros_like(z), self.shared.models
        for model in models:
            loss, grad = self._ascended(model, z)
            total, gradient = total + loss / len(models), gradient + grad / len(models)
        self._look(z.detach(), total)
        return self.shared.usable.loss(total), gradient

    def single(self, z: Tensor, index: int) -> tuple[float, Tensor, bool]:
        model = self.shared.models[index]
        loss, grad = self._ascended(model, z.detach().requires_grad_(True))
        return self.shared.usable.loss(loss), grad, model.judge()[0] <= model.goal.threshold

    def value(self, z: Tensor) -> float:
        total = self._evaluated(z, self.limits.step)
        self._look(z.detach(), total)
        return self.shared.usable.loss(total)

    def peek(self, z: Tensor) -> float:
        return self.shared.usable.loss(self._evaluated(z, None))

    # ---- how it is answered

    def _ascended(self, model: ModelOnScan, z: Tensor) -> tuple[float, Tensor]:
        """The objective of one model at z, and its gradient there."""
        x_adv = self.climb.space.decode(z, model.x, self._limits_on(model))
        # Cut here, so that several models never hold their graphs at once.
        point = x_adv.detach().requires_grad_(True)
        loss = self._objective(model, point)
        grad = self.shared.usable.grad(torch.autograd.grad(loss, point)[0])
        if self.climb.space.voxelwise:
            self.had_gradient |= grad != 0
        if model.budget is self.shared.budget:
            self.mean_gradient.add(self.step, grad)
        model.task = dataclasses.replace(model.task, previous=Previous(point.detach(), grad))
        if not x_adv.requires_grad:  # a limit of 0 may leave nothing of z
            return float(loss.detach()), torch.zeros_like(z)
        return float(loss.detach()), without_undefined(torch.autograd.grad(x_adv, z, grad)[0])

    def _evaluated(self, z: Tensor, step: float | None) -> float:
        """The mean objective at z, on a file with that storage step, or one that holds any value."""
        total, models = 0.0, self.shared.models
        with torch.no_grad():
            for model in models:
                limits = dataclasses.replace(self._limits_on(model), step=step)
                point = self.climb.space.decode(z, model.x, limits)
                total += float(self._objective(model, point)) / len(models)
        return total

    def _objective(self, model: ModelOnScan, point: Tensor) -> Tensor:
        self.point = point.detach() if model.budget is self.shared.budget else None
        model.watch(point)
        return self.climb.objective(model, point, model.task, self.step / max(1, self.climb.steps))

    def _look(self, z: Tensor, loss: float) -> None:
        """Score the point z, which every model has just seen."""
        shared, climb = self.shared, self.climb
        judged = [model.judge() for model in shared.models]
        x_adv = self.point
        if x_adv is None:  # every model sees another scan
            with torch.no_grad():
                x_adv = climb.space.decode(z, shared.x, self.limits)
        delta = x_adv - shared.x
        size, score = float(delta.abs().max()), float(np.mean([score for score, _ in judged]))
        finite, dice = shared.usable.scores(size), _mean_dice([dice for _, dice in judged])
        now = Step(
            step=self.step,
            steps=climb.steps,
            restart=self.index,
            loss=loss if math.isfinite(loss) else None,
            score=score if finite else None,
            dice=dice if finite else dict.fromkeys(dice),
            linf=size,
            seconds=time.perf_counter() - shared.started,
            member=self.member,
        )
        shared.best.trace.append(now)
        self.succeeded = False
        if not finite:  # its labels are undefined, so it is no result
            return
        for by, value in (("loss", loss), ("score", -score)):
            # Of equals the latest has gone furthest.
            if math.isfinite(value) and (by not in self.warm_points or value >= self.warm_points[by][0]):
                self.warm_points[by] = (value, z)
        # A voxel whose gradient was always 0 has no part in an attack that follows gradients; a point that changes one,
        # as a random start does, is no result.
        if self._follows_voxels and bool(((delta != 0) & ~self.had_gradient).any()):
            return
        self.succeeded = shared.best.note(now, x_adv, climb, own_limits=self.limits is not shared.budget)

    @property
    def _follows_voxels(self) -> bool:
        return self.climb.solver.uses_gradient and self.climb.space.voxelwise

    def _limits_on(self, model: ModelOnScan) -> Budget:
        """The limits on a model's scan: those of the case, or its own if it sees another scan."""
        return self.limits if model.budget is self.shared.budget else model.budget


def _mean_dice(found: list[dict[int, float | None]]) -> dict[int, float | None]:
    """Structure by structure over several models, of those that have a value."""
    if len(found) == 1:
        return found[0]
    known: dict[int, list[float]] = {value: [] for one in found for value in one}
    for one in found:
        for value, dice in one.items():
            known[value] += [] if dice is None else [dice]
    return {value: float(np.mean(dices)) if dices else None for value, dices in known.items()}
