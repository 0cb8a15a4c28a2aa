"""What an attack sees: a victim on a scan, what is to be left or reached there, and how well that goes.

An ordinary attack has one view, of the victim it is judged by. With surrogates it has one of each of them and none of
the victim; a universal one has one of each scan it is crafted on.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from perturbox.attacks.budget import Budget, Norm
from perturbox.attacks.goals import Goal, Kind
from perturbox.attacks.objectives import Loss
from perturbox.attacks.saturation import scale_of
from perturbox.model.sliding import Inside
from perturbox.model.victim import BoundVictim, as_input
from perturbox.types import Case, InputError, Undefined, Volume


class NothingToAttack(InputError):
    """A model finds none of the structures in a scan."""


class Previous(NamedTuple):
    """The last point with a gradient in this round: x_adv and the gradient at its voxels, both "b c *s"."""

    x_adv: Tensor
    grad: Tensor


@dataclass(frozen=True, eq=False)
class Task:
    """What an objective is told.

    labels: "b *g" int64, the label map to leave (or, `targeted`, to reach); weight: "b *g" float; both on the network's
    grid. classes: the channels a Dice averages. regions: bool "values k" of a multi-label network, see
    `objectives.Voxels`. clean: the scan "b c *s"; spacing: mm of the network's grid; scan_spacing: mm along the scan's
    own axes. generator: for what is random in an objective. previous: the point before, None at a round's first.
    memory: empty at a round's start, for what an objective carries from step to step. visible: lowest and highest value
    that the model or a reader tells apart. kind: of the goal, for objectives that choose their loss by it.
    """

    labels: Tensor
    weight: Tensor
    targeted: bool
    classes: tuple[int, ...]
    regions: Tensor | None = None
    clean: Tensor | None = None
    spacing: tuple[float, ...] = ()
    generator: torch.Generator = field(default_factory=torch.Generator)
    previous: Previous | None = None
    memory: dict[str, Any] = field(default_factory=dict)
    visible: tuple[float, float] = (0.0, 1.0)
    scan_spacing: tuple[float, ...] = ()
    kind: Kind = "change"

    def gain(self, loss: Loss, logits: Tensor) -> Tensor:
        """A loss as it is climbed: away from the labels, or with the opposite sign towards them."""
        value = loss(logits, self.labels, self.weight, self.classes, self.targeted, self.regions)
        return -value if self.targeted else value


class Model(Protocol):
    """What an objective may ask of a victim on a scan, or of what stands in for it (`StandIn`).

    model(x): the logits "b k *g" of a scan x "b c *s", with `prepare` (voxels to the network's input) and `slide`
    (input to logits) its two halves; look_inside: (logits, the sum of a loss inside the windows), see `sliding.Inside`;
    undivided: the logits before they were divided, see `saturation`. budget: the limits on its scan.
    """

    @property
    def budget(self) -> Budget: ...

    def __call__(self, x: Tensor) -> Tensor: ...

    def prepare(self, x: Tensor) -> Tensor: ...

    def slide(self, prepared: Tensor) -> Tensor: ...

    def look_inside(self, x: Tensor, inside: Inside) -> tuple[Tensor, Tensor]: ...

    def undivided(self, logits: Tensor) -> Tensor: ...


# (model, x_adv, task, progress in [0, 1]) -> scalar, higher = worse for the victim; model is a `Model`. An objective
# that asks for more than one prediction, or holds many tensors, is `Costing` or has its properties.
Objective = Callable[[Any, Tensor, Task, float], Tensor]
BUFFERS = 4


@dataclass(frozen=True, eq=False)
class Costing:
    """An objective that says what it costs. queries: predictions beside the one with its gradient; buffers: tensors as
    large as the prediction that it holds at once."""

    objective: Objective
    queries: int = 0
    buffers: int = BUFFERS

    def __call__(self, model: Model, x: Tensor, task: Task, progress: float) -> Tensor:
        return self.objective(model, x, task, progress)


def queries_of(objective: Objective) -> int:
    """Predictions that an objective asks for beside the one with its gradient."""
    return getattr(objective, "queries", 0)


def buffers_of(objective: Objective) -> int:
    """Tensors as large as the prediction that an objective holds at once."""
    return getattr(objective, "buffers", BUFFERS)


def ascend(loss: Loss | Callable[[float], Loss]) -> Objective:
    """The objective that climbs a loss, or one that depends on progress, away from the task's labels or descends
    towards them."""

    def objective(model: Model, x: Tensor, task: Task, progress: float) -> Tensor:
        now = loss if isinstance(loss, Loss) else loss(progress)
        logits = model(x)
        return task.gain(now, model.undivided(logits) if now.of_scores else logits)

    return objective


@dataclass(frozen=True, eq=False)
class StandIn:
    """A model with some answers of its own; all else is asked of the model it stands in for."""

    model: Model

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


@dataclass(frozen=True, eq=False)
class Answered(StandIn):
    """The logits of one point are known already."""

    x: Tensor
    logits: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return self.logits if x is self.x else self.model(x)


@dataclass(eq=False)
class ModelOnScan:
    """One victim on one scan, as an objective sees it: view(x) are the logits, `prepare` and `slide` its two halves.

    x: the scan "b c *s"; reference: on the network's grid, in this victim's values; goal: in this victim's
    values; values: {this victim's value: the judging victim's}, by the structures' names. undefined: what of the
    point's scores isn't finite. scale: what all scores are divided by, see `saturation`; None before the first.
    """

    victim: BoundVictim
    x: Tensor
    budget: Budget
    task: Task
    reference: Tensor
    goal: Goal
    values: Mapping[int, int]
    point: Tensor | None = None
    divides: bool = True  # whether the objective uses the divided scores
    prediction: Tensor | None = None
    undefined: Undefined | None = None
    scale: float | None = None

    @classmethod
    def of(
        cls,
        victim: BoundVictim,
        image: Volume,
        reference: np.ndarray,
        goal: Goal,
        budget: Budget,
        generator: torch.Generator,
        values: Mapping[int, int] | None = None,
    ) -> "ModelOnScan":
        """reference: labels "*s" on the scan's grid, in the victim's values."""
        own, spacing = victim.to_grid(reference), victim.grid_spacing(image)
        labels, weight, targeted = goal.task(own, spacing)
        regions = victim.victim.membership()
        classes = goal.classes if regions is None else channels_of(goal.classes, regions, targeted)
        x = as_input(image, victim.victim.device)
        visible, mm = budget.visible or budget.clip, tuple(image.spacing)
        task = Task(
            labels,
            weight,
            targeted,
            classes,
            regions,
            x,
            spacing,
            generator,
            visible=visible,
            scan_spacing=mm,
            kind=goal.kind,
        )
        return cls(victim, x, budget, task, own, goal, values or {value: value for value in goal.targets})

    def __call__(self, x: Tensor) -> Tensor:
        return self._seen(x, self.victim(x))

    def prepare(self, x: Tensor) -> Tensor:
        """Native voxels -> network input on the network's grid."""
        return self.victim.prepare(x)

    def slide(self, prepared: Tensor) -> Tensor:
        """Network input -> logits."""
        if self.scale is None and self.point is not None:  # of the scan itself, not of what became of it
            with torch.no_grad():
                self(self.point)
        return self._scaled(self.victim.slide(prepared))

    def look_inside(self, x: Tensor, inside: Inside) -> tuple[Tensor, Tensor]:
        """(logits, the sum of a loss inside the windows) of x; see `sliding.Inside`."""
        logits, total = self.victim.look_inside(self.prepare(x), inside)
        return self._seen(x, logits), total

    def _seen(self, x: Tensor, logits: Tensor) -> Tensor:
        if x is self.point:
            self.prediction = self.victim.victim.decide(logits.detach())
            self.undefined = self.victim.effort.undefined
        if self.scale is None:
            self.scale = scale_of(logits, self.task.weight, self.task.regions is not None)
        return self._scaled(logits)

    def undivided(self, logits: Tensor) -> Tensor:
        """The logits before they were divided."""
        self.divides = False
        return logits if self.scale is None else logits * self.scale

    def _scaled(self, logits: Tensor) -> Tensor:
        return logits if self.scale in (None, 1.0) else logits / self.scale

    @property
    def saturated(self) -> bool:
        return self.scale not in (None, 1.0) and self.divides

    def watch(self, point: Tensor) -> None:
        """From here on, this is the point that is scored."""
        self.point, self.prediction, self.undefined = point, None, None

    def judge(self) -> tuple[float, dict[int, float | None]]:
        """(score, Dice by the judging victim's values) of the point; one more prediction where the objective looked
        only at something else."""
        if self.prediction is None:
            assert self.point is not None
            with torch.no_grad():
                self(self.point)
        dice = self.goal.dice(self.prediction, self.reference)
        return self.goal.score(self.prediction, self.reference), {self.values[v]: dice[v] for v in dice}


def channels_of(values: Sequence[int], regions: Tensor, targeted: bool) -> tuple[int, ...]:
    """The channels of a multi-label network that decide on these label values.

    A label is left where the innermost of its channels says no; those around it may stay. To reach one, all that hold
    it have to answer.
    """
    if targeted:
        return tuple(torch.nonzero(regions[list(values)].any(0)).flatten().tolist())
    sizes = regions.sum(0)
    held = [torch.nonzero(regions[value]).flatten().tolist() for value in values]
    return tuple(sorted({min(channels, key=lambda channel: int(sizes[channel])) for channels in held if channels}))


def surrogate_on_scan(
    surrogate: BoundVictim,
    case: Case,
    goal: Goal,
    names: Mapping[int, str],
    budget: Budget,
    generator: torch.Generator,
) -> ModelOnScan:
    """The view of a model that stands in for the victim: structures correspond by name.

    names: of the victim's label values. The reference is the expert's where the case has one, else the surrogate's own
    prediction, for the attacker can't ask the victim. Raises InputError where they share no structure to attack.
    """
    model = surrogate.victim
    theirs = {value: model.labels.get(name) for value, name in names.items()}

    def translated(value: int | None) -> int | None:
        found = None if value is None else theirs.get(value)
        if value is not None and found is None:
            raise InputError(
                f"The surrogate {model.name} has no structure '{names[value]}'; it has {', '.join(model.structures)}."
            )
        return found

    own = model.plain.predict(case.image, surrogate.effort)
    if case.label is not None:
        known = [name for name in model.structures if name in names.values()]
        # Where the expert marks nothing the surrogate knows, it may still see structures the expert wasn't asked for.
        own = np.where(np.isin(own, [model.labels[name] for name in known]), 0, own)
        for value, name in names.items():
            if name in known:
                own[case.label == value] = model.labels[name]
    targets = [translated(value) for value in goal.targets] if goal.named else [theirs[v] for v in goal.targets]
    kept = {value: target for value, target in zip(goal.targets, targets, strict=True) if target is not None}
    wanted = translated(goal.wanted)
    there = Goal(goal.kind, tuple(kept.values()), goal.named, wanted).present(own)
    if not there.targets:
        raise NothingToAttack(f"The surrogate {model.name} finds no structure to attack in this scan; use another.")
    values = {target: value for value, target in kept.items()}
    return ModelOnScan.of(surrogate, case.image, own, there, budget, generator, values)


def models_on_others(
    scans: Sequence[Volume],
    models: Sequence[BoundVictim],
    goal: Goal,
    names: Mapping[int, str],
    eps: float | None,
    norm: Norm,
    generator: torch.Generator,
) -> list[ModelOnScan]:
    """The views of models on other scans than the case, against their own predictions there; see `surrogate_on_scan`.

    Scans where a model finds none of the structures are left out, which its effort notes. Raises InputError where none
    is left.
    """
    views = []
    for model in models:
        found = []
        for scan in scans:
            bound = model.victim.on(scan, model.effort, model.memory_budget)
            budget = Budget.of(Case(scan), eps, norm, model.victim.device, model.victim.visible)
            with suppress(NothingToAttack):
                found.append(surrogate_on_scan(bound, Case(scan), goal, names, budget, generator))
        if missed := len(scans) - len(found):
            what = "none of the structures and taught the attack nothing"
            model.effort.notes.append(
                f"In {missed} of the {len(scans)} scans to craft on {model.victim.name} saw {what}."
            )
        views += found
    if not views:
        raise InputError("The scans the attack is to be crafted on hold none of the structures; choose others.")
    return views
