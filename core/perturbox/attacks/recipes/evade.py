"""Evade: any attack that climbs a loss, told to pass a detector: J = J_base - weight * the detector's score, or one of
the two at a time.

The attack an evaluation of detectors can't do without. Carlini & Wagner 2017, arXiv 1705.07263; selective and
orthogonal steps after Bryniarski et al. 2021, arXiv 2106.15023, whose code was read.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import torch
from torch import Tensor

from perturbox.attacks.attack import Attack, Objective, Task
from perturbox.attacks.budget import Norm
from perturbox.attacks.on_scan import ModelOnScan, buffers_of, queries_of
from perturbox.attacks.recipes import Param, Settings, recipe
from perturbox.attacks.recipes.added import (
    Base,
    BaseSettings,
    absolute,
    base_words,
    built_base,
    with_objectives,
)
from perturbox.detectors import get
from perturbox.detectors.fitted import Detector
from perturbox.detectors.shipped import place
from perturbox.model.victim import Victim
from perturbox.types import InputError, Volume

TINY = 1e-30


NONE = (
    "evade needs a detector to pass; give --set detector=FILE of one that `perturbox fit-detector --victim MODEL "
    "--detector NAME --clean 'SCANS' --out FILE` made, or detector=NAME of one that is shipped for the model."
)


@dataclass(frozen=True, eq=False)
class ToPass:
    """The detector to pass, which is read when it is needed first. word: its file, or the name of one that is shipped
    for the victim; None: the user named none. found: by the victim's name."""

    word: str | None
    found: dict[str, Detector] = field(default_factory=dict)

    def of(self, victim: Victim) -> Detector:
        """Raises InputError where there is none, or it is damaged."""
        if self.word is None:
            raise InputError(NONE)
        if victim.name not in self.found:
            self.found[victim.name] = Detector.read(place(self.word, victim.name))
        return self.found[victim.name]

    @property
    def queries(self) -> int:
        """Predictions that one score with its gradient takes."""
        if self.word is None:
            return 0
        return (Detector.read(self.word).method if Path(self.word).is_file() else get(self.word)).queries


@dataclass(frozen=True, eq=False)
class Evading:
    """The objective J: a base objective minus the detector's score."""

    base: Objective
    passed: ToPass
    weight: float

    @cached_property
    def queries(self) -> int:
        return queries_of(self.base) + (self.passed.queries if self.weight else 0)

    @property
    def buffers(self) -> int:
        return buffers_of(self.base)

    def __call__(self, model: ModelOnScan, x: Tensor, task: Task, progress: float) -> Tensor:
        value = self.base(model, x, task, progress)
        return value - self.weight * self._seen(model, x) if self.weight else value

    def _seen(self, model: ModelOnScan, x: Tensor) -> Tensor:
        """The detector's score."""
        return self.passed.of(model.victim.victim).score(model.victim, x)


@dataclass(frozen=True, eq=False)
class InTurns(Evading):
    """The base objective as long as the model isn't wrong enough, then minus the detector's score; until: the goal's
    score from which on it is. orthogonal: each follows only the part of its gradient that is at right angles to the
    other's, so that neither undoes what the other won."""

    until: float = 0.5
    orthogonal: bool = False

    def __call__(self, model: ModelOnScan, x: Tensor, task: Task, progress: float) -> Tensor:
        value = self.base(model, x, task, progress)
        fooled = model.judge()[0] <= self.until
        if not (fooled or self.orthogonal):
            return value
        score = -self._seen(model, x)
        climbed, other = (score, value) if fooled else (value, score)
        if not (self.orthogonal and torch.is_grad_enabled() and x.requires_grad):
            return climbed
        along, across = (torch.autograd.grad(one, x)[0] for one in (climbed, other))
        along = along - along.flatten().dot(across.flatten()) / across.square().sum().clamp_min(TINY) * across
        return climbed.detach() + (along * (x - x.detach())).sum()


def resolve(settings: Settings) -> Settings:
    """The base attack's settings with its defaults, and a file by its absolute path."""
    word = settings["detector"]
    known = absolute(word) if word is not None and Path(word).is_file() else word
    return {"base_settings": base_words("evade", settings), "detector": known}


def check(victim: Victim, image: Volume, settings: Settings) -> None:
    """As the base attack does; raises InputError where the detector is not this victim's."""
    built_base("evade", settings).check(victim, image)
    ToPass(settings["detector"]).of(victim).check(victim)


@recipe(
    title="Evading a detector",
    paper="Carlini & Wagner 2017, arXiv 1705.07263; Bryniarski et al. 2021, arXiv 2106.15023",
    norms=("linf", "l2"),
    cost="as the base attack and, per step, 1 gradient and 1 forward more (features), 1 gradient (the answer), 10 "
    "gradients (dropout); selective: one of the two; orthogonal: both",
    deviations=(
        "the score counts as long as it is above 0, not only above the threshold: it is its distance from clean scans",
        "which voxels are of which class counts as constant in each step",
        "selective and orthogonal: the model counts as fooled at a score of the goal, such as a Dice, not at a logit",
    ),
    family="loss",
    check=check,
    resolve=resolve,
)
def evade(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    base: Base = "pgd",
    base_settings: BaseSettings = "",
    detector: Annotated[
        str | None,
        Param(
            "Detector to pass: a file of `perturbox fit-detector`, or the name of one that is shipped for the model",
            local=True,
            required=True,
        ),
    ] = None,
    detector_weight: Annotated[
        float, Param("Weight of the detector's score beside the loss; way=sum", minimum=0)
    ] = 0.1,
    way: Annotated[
        Literal["sum", "selective", "orthogonal"],
        Param("Both at once; one at a time; or one at a time at right angles to the other"),
    ] = "sum",
    until: Annotated[
        float, Param("Score of the goal at which the model is wrong enough; not way=sum", minimum=0, maximum=1)
    ] = 0.5,
) -> Attack:
    """An attack that a detector is to miss."""
    passed = ToPass(detector)
    built = built_base(
        "evade", {"base": base, "base_settings": base_settings, "eps": eps, "norm": norm, "steps": steps}
    )
    if way == "sum":
        return with_objectives(built.attack, lambda objective: Evading(objective, passed, detector_weight))
    turns = with_objectives(built.attack, lambda objective: InTurns(objective, passed, 1.0, until, way == "orthogonal"))
    return replace(turns, floor=until)  # of all that is wrong enough, what the detector sees least of
