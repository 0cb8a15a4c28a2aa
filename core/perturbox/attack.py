"""The heart: an attack is an objective, a space, a solver and a budget; `run` composes them.

Best-so-far, live scores, tracing, early stop, cancelling and the independent budget check live here, once, for every
attack. The surrogate loss that is climbed never decides what is kept: that is the goal's success score on the arg-max
prediction.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perturbox.budget import Budget, Norm
from perturbox.goals import Goal
from perturbox.objectives import Loss
from perturbox.solvers import Oracle, Solver
from perturbox.spaces import Space
from perturbox.types import Case, Volume
from perturbox.victim import BoundVictim, as_input


@dataclass(frozen=True, eq=False)
class Scene:
    """What an objective is told: the label map to leave (or, `towards`, to reach), weights, and the classes a Dice
    averages.

    labels: "b *g" int64; weight: "b *g" float; both on the network's grid.
    """

    labels: Tensor
    weight: Tensor
    towards: bool
    classes: tuple[int, ...]


# (victim, x_adv, scene, progress in [0, 1]) -> scalar, higher = worse for the victim.
Objective = Callable[[Callable[[Tensor], Tensor], Tensor, Scene, float], Tensor]


def climb(loss: Loss) -> Objective:
    """The objective that climbs a loss away from the scene's labels, or descends towards them."""

    def objective(victim: Callable[[Tensor], Tensor], x: Tensor, scene: Scene, progress: float) -> Tensor:
        value = loss(victim(x), scene.labels, scene.weight, scene.classes, scene.towards)
        return -value if scene.towards else value

    return objective


@dataclass(frozen=True)
class Attack:
    """A composed attack. parameters: everything a replay needs; uses_gradient: False for attacks that only look."""

    name: str
    objective: Objective
    space: Space
    solver: Solver
    eps: float
    norm: Norm = "linf"
    steps: int = 20
    restarts: int = 1
    uses_gradient: bool = True
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """One step as seen from outside; dice and score are live values on the network's grid, before clean-up."""

    step: int
    steps: int
    restart: int
    loss: float | None
    score: float
    dice: dict[int, float | None]
    linf: float
    seconds: float

    def describe(self, names: Mapping[int, str]) -> dict[str, Any]:
        """The entry of a trace: plain JSON, structures by name."""
        return {
            "step": self.step,
            "restart": self.restart,
            "loss": self.loss,
            "score": self.score,
            "dice": {names[value]: dice for value, dice in self.dice.items()},
            "linf": self.linf,
        }


@dataclass(frozen=True, eq=False)
class Outcome:
    """x_adv: "c *s", what the file will hold, in the source's dtype; delta: its difference from the source. touched:
    bool "*s", voxels that ever had a gradient (None where the attack asks for none). stopped: the step at which the
    user stopped it, None if it ran to its end."""

    x_adv: np.ndarray
    delta: np.ndarray
    trace: list[Step]
    best: Step
    touched: np.ndarray | None
    stopped: int | None


class _Run:
    """The evaluations of one run: scores every point a solver asks about and remembers the best."""

    def __init__(
        self,
        attack: Attack,
        victim: BoundVictim,
        x: Tensor,
        scene: Scene,
        reference: Tensor,
        goal: Goal,
        budget: Budget,
        enough: Callable[[Step], bool],
    ):
        self.attack, self.victim, self.x, self.scene = attack, victim, x, scene
        self.reference, self.goal, self.budget, self.enough = reference, goal, budget, enough
        self.trace: list[Step] = []
        self.best: Step | None = None
        self.best_x = x
        self.done = False
        self.touched = torch.zeros_like(x, dtype=torch.bool)
        self.step = self.restart = 0
        self.started = time.perf_counter()
        self.prediction: Tensor | None = None

    def watched(self, x: Tensor) -> Tensor:
        logits = self.victim(x)
        self.prediction = logits.detach().argmax(1)
        return logits

    def gradient(self, z: Tensor) -> tuple[float, Tensor]:
        z = z.detach().requires_grad_(True)
        x_adv = self.attack.space.decode(z, self.x, self.budget)
        loss = self.attack.objective(self.watched, x_adv, self.scene, self.progress)
        # One backward pass: what every voxel could do, and what the variables of the space can.
        at_voxels, gradient = torch.autograd.grad(loss, (x_adv, z))
        self.touched |= at_voxels != 0
        self.record(x_adv.detach(), float(loss.detach()))
        return float(loss.detach()), gradient

    def value(self, z: Tensor) -> float:
        with torch.no_grad():
            x_adv = self.attack.space.decode(z, self.x, self.budget)
            loss = float(self.attack.objective(self.watched, x_adv, self.scene, self.progress))
        self.record(x_adv, loss)
        return loss

    @property
    def progress(self) -> float:
        return self.step / max(1, self.attack.steps)

    def record(self, x_adv: Tensor, loss: float) -> None:
        changed = x_adv != self.x
        now = Step(
            self.step,
            self.attack.steps,
            self.restart,
            loss,
            self.goal.score(self.prediction, self.reference),
            self.goal.dice(self.prediction, self.reference),
            float((x_adv - self.x).abs().max()),
            time.perf_counter() - self.started,
        )
        self.trace.append(now)
        # A voxel whose gradient was never anything but 0 has no part in an attack that follows gradients; a point that
        # changes one, as a random start does, is no result.
        if self.attack.uses_gradient and bool((changed & ~self.touched).any()):
            return
        rank = (self.enough(now), -now.score)
        # Of equals the first is kept: an unchanged scan is where every attack starts.
        if self.best is None or rank > (self.done, -self.best.score):
            self.best, self.best_x, self.done = now, x_adv, rank[0]


def run(
    attack: Attack,
    victim: BoundVictim,
    case: Case,
    reference: np.ndarray,
    goal: Goal,
    *,
    seed: int = 0,
    start: np.ndarray | None = None,
    on_step: Callable[[Step], None] = lambda step: None,
    stop: Callable[[], bool] = lambda: False,
    enough: Callable[[Step], bool] = lambda step: step.score <= 0,
) -> Outcome:
    """Attack one case and return the best perturbation found, checked against the budget.

    reference: labels "*s" on the scan's grid that the goal leaves. start: a perturbation "c *s" an earlier attack
    found, from which the first restart begins. on_step is told every step; stop is polled before each and ends the run
    with the best so far; enough(step) ends it early, and what it accepts counts as better than anything else. Raises
    BudgetViolated if what the attack made is outside its budget, InputError for an impossible budget.
    """
    image, device = case.image, victim.victim.device
    x = as_input(image, device)
    budget = Budget.of(case, attack.eps, attack.norm, device)
    grid_reference = victim.to_grid(reference)
    labels, weight, towards = goal.scene(grid_reference, victim.grid_spacing(image))
    scene = Scene(labels, weight, towards, goal.classes)
    state = _Run(attack, victim, x, scene, grid_reference, goal, budget, enough)
    oracle = Oracle(state.gradient, state.value)
    generator = torch.Generator().manual_seed(seed)
    stopped: int | None = None
    for restart in range(attack.restarts):
        state.restart = restart
        z = attack.space.init(x, budget, generator)
        if start is not None and restart == 0:
            z = attack.space.project(torch.from_numpy(start)[None].to(x), x, budget)
            state.touched |= z != 0  # they had a gradient in the attack that found them
        progress = attack.solver.init(z, budget, generator)
        for step in range(attack.steps + 1):
            state.step = step
            if stop():
                stopped = step
                break
            if step == attack.steps:
                state.value(z)  # the last update has not been looked at yet
            else:
                z, progress = attack.solver.step(oracle, z, progress)
                z = attack.space.project(z.detach(), x, budget)
                if attack.uses_gradient and z.shape == x.shape:
                    z = torch.where(state.touched, z, 0)
            on_step(state.trace[-1])
            if state.done:
                break
        if stopped is not None or state.done:
            break
    x_adv = _as_saved(image, state.best_x[0].cpu().numpy())
    budget.verify(torch.from_numpy(x_adv)[None], torch.from_numpy(np.require(image.data, None, ["C", "W"]))[None])
    return Outcome(
        x_adv,
        x_adv - image.data,
        state.trace,
        state.best or Step(0, attack.steps, 0, None, 1.0, {}, 0.0, 0.0),  # stopped before the first look
        state.touched[0].any(0).cpu().numpy() if attack.uses_gradient else None,
        stopped,
    )


def _as_saved(image: Volume, x_adv: np.ndarray) -> np.ndarray:
    """float32 values "c *s" as the source's file will give them back: unchanged voxels bit for bit, changed ones on its
    steps."""
    if image.data.dtype != np.float32:
        # What float32 can't hold of the source must not look like a change.
        x_adv = image.data + (x_adv - image.data.astype(np.float32))
    if image.step is None:
        return x_adv
    stored = image.with_data(x_adv).stored().astype(np.float64)
    return (image.slope * stored + image.intercept).astype(image.data.dtype)
