"""Evade: any attack that climbs a loss, told to pass a detector: J = J_base - weight * the detector's score.

The attack an evaluation of detectors can't do without. Carlini & Wagner 2017, arXiv 1705.07263.
"""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from perturbox.attacks.attack import Attack, Objective, Task
from perturbox.attacks.budget import Norm
from perturbox.attacks.on_scan import ModelOnScan, buffers_of, queries_of
from perturbox.attacks.recipes import Param, Settings, recipe
from perturbox.attacks.recipes.added import (
    Base,
    BaseSettings,
    Fitted,
    absolute,
    base_words,
    built_base,
    with_objectives,
)
from perturbox.detectors.fitted import Detector
from perturbox.model.victim import Victim
from perturbox.types import Volume


def to_pass(path: str | None) -> Fitted[Detector]:
    """The detector to pass."""
    return Fitted(
        path,
        Detector.read,
        "evade needs a detector to pass; fit one with `perturbox fit-detector --victim MODEL --detector NAME --clean "
        "'SCANS' --out FILE` and give --set detector=FILE.",
    )


@dataclass(frozen=True, eq=False)
class Evading:
    """The objective J: a base objective minus the detector's score."""

    base: Objective
    passed: Fitted[Detector]
    weight: float

    @property
    def queries(self) -> int:
        own = self.passed.value.asked.queries if self.weight and self.passed.path is not None else 0
        return queries_of(self.base) + own

    @property
    def buffers(self) -> int:
        return buffers_of(self.base)

    def __call__(self, model: ModelOnScan, x: Tensor, task: Task, progress: float) -> Tensor:
        value = self.base(model, x, task, progress)
        return value - self.weight * self.passed.value.score(model.victim, x) if self.weight else value


def resolve(settings: Settings) -> Settings:
    """The base attack's settings with its defaults, and the file by its absolute path."""
    return {"base_settings": base_words("evade", settings), "detector": absolute(settings["detector"])}


def check(victim: Victim, image: Volume, settings: Settings) -> None:
    """As the base attack does; raises InputError where the detector is not this victim's."""
    built_base("evade", settings).check(victim, image)
    to_pass(settings["detector"]).value.check(victim)


@recipe(
    title="Evading a detector",
    paper="Carlini & Wagner 2017, arXiv 1705.07263",
    norms=("linf", "l2"),
    cost="as the base attack and, per step, 1 gradient and 1 forward more (features), 1 gradient (the answer), 10 "
    "gradients (dropout)",
    deviations=(
        "the score counts as long as it is above 0, not only above the threshold: it is its distance from clean scans",
        "which voxels are of which class counts as constant in each step",
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
        Param("File of the detector to pass, made by `perturbox fit-detector`", local=True, required=True),
    ] = None,
    detector_weight: Annotated[float, Param("Weight of the detector's score beside the loss", minimum=0)] = 0.1,
) -> Attack:
    """An attack that a detector is to miss."""
    passed = to_pass(detector)
    built = built_base(
        "evade", {"base": base, "base_settings": base_settings, "eps": eps, "norm": norm, "steps": steps}
    )
    return with_objectives(built.attack, lambda objective: Evading(objective, passed, detector_weight))
