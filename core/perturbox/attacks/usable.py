"""Whether what a run was told could be used: scores that aren't finite numbers, losses and gradients that aren't, and
gradients that are 0 everywhere. What couldn't be used was no test, and has to be said."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from perturbox.attacks.on_scan import ModelOnScan
from perturbox.model.finite import is_finite, without_undefined
from perturbox.types import Undefined

MANY = 0.5  # of the voxels a model reads: as many without a gradient are worth a warning
ALL = 0.99  # as many are no test
INSTEAD = "try an attack that needs no gradient (square, nes), or craft it on another model (a surrogate)"


@dataclass
class Usable:
    """Counts what one run saw, and gives its solvers what they can go on with.

    of_values: whether some part of the attack needs no gradient.
    """

    models: Sequence[ModelOnScan]
    of_values: bool
    gradients: int = 0
    flat: int = 0  # of these, 0 everywhere
    holed: int = 0  # of these, no finite number somewhere
    hole: float = 0.0  # the largest share of voxels where one wasn't
    losses: int = 0
    lost: int = 0  # of these, no finite number
    lowest: float | None = None
    looks: int = 0  # at changed scans
    undefined: list[tuple[float, Undefined]] = field(default_factory=list)  # (size of the change, what)

    # ---- while it runs

    def loss(self, value: float) -> float:
        """A loss that solvers can compare: one that is no finite number counts as the lowest so far."""
        self.losses += 1
        if not math.isfinite(value):
            self.lost += 1
            return self.lowest or 0.0
        self.lowest = value if self.lowest is None else min(value, self.lowest)
        return value

    def grad(self, grad: Tensor) -> Tensor:
        """A gradient at voxels that can be followed, bit for bit itself where all of it is finite."""
        self.gradients += 1
        if not is_finite(grad):
            self.holed += 1
            self.hole = max(self.hole, float((~torch.isfinite(grad)).float().mean()))
            grad = without_undefined(grad)
        self.flat += not bool(grad.any())
        return grad

    def scores(self, size: float) -> bool:
        """Whether the scores of every model were finite at the point just judged, a change as large as `size`."""
        found = [model.undefined for model in self.models if model.undefined is not None]
        self.looks += size > 0
        self.undefined += [(size, max(found, key=lambda one: one.scores))] if found else []
        return not found

    # ---- afterwards

    @property
    def who(self) -> str:
        return " and ".join(dict.fromkeys(model.victim.victim.name for model in self.models))

    def untested(self, through: float | None) -> str | None:
        """Why structures that held were not tested, None where they were; through: share of the voxels that the models
        read whose gradient passes them, None if unknown."""
        if self._mostly_undefined:
            changed = [size for size, _ in self.undefined if size > 0]
            return (
                f"{self.who} returned scores that are no finite numbers for {len(changed)} of the "
                f"{_times(self.looks, 'changed scan')} that the attack looked at, from a change of {min(changed):g} on "
                f"(at most {self._worst()}). Labels are undefined there, so what held was not tested, but that so "
                "small a change brings the model to that is a finding of its own; run it in float32, or "
                "correct the model."
            )
        if self.of_values or not self.gradients:
            return None
        if self.holed and self.flat == self.gradients:
            return (
                f"The gradient of {self.who} was never a finite number that could be followed, so what held was not "
                f"tested; mend the model, or {INSTEAD}."
            )
        if self.flat == self.gradients:
            return (
                f"{self.who} gives no gradient: it was 0 at every voxel, as of a network that rounds or whose "
                f"activations saturate. What held was not tested; {INSTEAD}."
            )
        if through is not None and 1 - through > ALL:
            return (
                f"{self.who} gives almost no gradient: {_percent(1 - through)} of the voxels that it reads pass none. "
                f"What held was not tested; {INSTEAD}."
            )
        return None

    def notes(self, through: float | None) -> dict[str, str]:
        """What is to be said, by kind."""
        found = {}
        if self.undefined and not self._mostly_undefined:
            sizes = [size for size, _ in self.undefined]
            found["scores"] = (
                f"At {_times(len(sizes), 'point')} that the attack looked at, from a change of {min(sizes):g} on, "
                f"{self.who} returned scores that are no finite numbers (at most {self._worst()}). Labels are "
                "undefined there, so these points are no result; that so small a change brings the model to that is a "
                "finding of its own."
            )
        if self.lost > len(self.undefined):
            found["loss"] = (
                f"The loss was no finite number at {self.lost} of {_times(self.losses, 'look')}, which taught the "
                "attack nothing."
            )
        if self.holed:
            found["gradient"] = (
                f"{self.holed} of {_times(self.gradients, 'gradient')} of {self.who} held values that are no finite "
                f"numbers, at up to {_percent(self.hole)} of the voxels: the attack left those out."
            )
        for model in self.models:
            if model.saturated:
                name = model.victim.victim.name
                found[f"saturated {name}"] = (
                    f"The scores of {name} lie so far apart that float32 holds no gradient of "
                    f"their probabilities (a masked gradient): the attack divided them by {model.scale:g} before its "
                    "loss, which changes no label."
                )
        if through is not None and ALL >= 1 - through > MANY:
            found["through"] = (
                f"{_percent(1 - through)} of the voxels that {self.who} reads pass no gradient (activations that "
                "saturate or round): the attack couldn't use them, and the model may look sturdier than it is; "
                f"{INSTEAD}."
            )
        return found

    @property
    def _mostly_undefined(self) -> bool:
        return sum(size > 0 for size, _ in self.undefined) > self.looks / 2

    def _worst(self) -> str:
        return str(max((one for _, one in self.undefined), key=lambda one: one.scores))


def passing(model: ModelOnScan, had_gradient: Tensor) -> float | None:
    """Share of the voxels a model's model reads, and on which a loss rests, whose gradient passes its network; None
    where the attack itself reached most of them, so that there is nothing to ask.

    had_gradient: bool "b c *s", voxels with a gradient so far. A random sum of the scores has a gradient wherever the
    network lets one through, whatever a loss does with the scores; one of the prepared scan, wherever it is read.
    """
    generator = torch.Generator().manual_seed(0)
    weight = model.task.weight[:, None]

    def drawn(values: Tensor) -> Tensor:
        return (values * torch.randn(values.shape, generator=generator).to(values) * weight).sum()

    x = model.x.detach().requires_grad_(True)
    prepared = model.prepare(x)
    if not prepared.requires_grad:
        return None
    (reads,) = torch.autograd.grad(drawn(prepared), x)
    read = reads != 0
    count = int(read.sum())
    if not count or int((had_gradient & read).sum()) >= (1 - MANY) * count:
        return None
    x = model.x.detach().requires_grad_(True)
    (grad,) = torch.autograd.grad(drawn(model.slide(model.prepare(x))), x)
    return int(((without_undefined(grad) != 0) & read).sum()) / count


def _percent(share: float) -> str:
    return f"{math.floor(100 * share)} %" if share >= 0.01 else "less than 1 %"


def _times(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"
