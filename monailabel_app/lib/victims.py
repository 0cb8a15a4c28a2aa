"""The victims this server serves: those it was started with, and those fine-tuned here since."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib.options import Options
from perturbox.attacks.recipes import discover
from perturbox.detectors.fitted import Detector
from perturbox.load import load_victim
from perturbox.types import InputError


@dataclass(frozen=True)
class Fitted:
    """A detector as clients see it; the workers read its file."""

    file: str
    described: Mapping[str, Any]


@dataclass(frozen=True)
class Served:
    """A victim as clients see it; the workers load the model itself by its spec."""

    name: str
    spec: str
    described: Mapping[str, Any]
    detectors: Mapping[str, "Fitted"] = field(default_factory=dict)
    """By name, those that were fitted on it."""

    @property
    def title(self) -> str:
        return self.described["title"]

    @property
    def labels(self) -> dict[str, int]:
        """Structures without the background."""
        return {name: value for name, value in self.described["labels"].items() if value != 0}

    @property
    def dims(self) -> int:
        return self.described["dims"]


def load(options: Options) -> dict[str, Served]:
    """The victims by name, each loaded once to see that it works. Raises InputError for one that doesn't."""
    served: dict[str, Served] = {}
    detectors = {name: Detector.read(path) for name, path in options.detectors.items()}
    for spec in options.victims:
        _add(served, spec, options, detectors)
    for spec in fine_tuned(options.home):
        try:
            _add(served, spec, options, detectors)
        except InputError as error:
            raise InputError(
                f"{str(error).rstrip('.')} ({spec} was fine-tuned here; fix or remove that file)."
            ) from None
    attacks = {f"{name}-{recipe}": name for name in served for recipe in discover()}
    if taken := attacks.keys() & served.keys():
        raise InputError(f"'{min(taken)}' is the name of a victim and of an attack's task; rename the victim.")
    fitting = {name for victim in served.values() for name in victim.detectors}
    for name, detector in detectors.items():
        if name not in fitting:
            raise InputError(
                f"The detector '{name}' was fitted on {detector.victim}, which isn't served, or on other weights of "
                "it; serve that model too, or leave the detector out."
            )
    return served


def _add(served: dict[str, Served], spec: str, options: Options, detectors: Mapping[str, Detector]) -> None:
    victim = load_victim(spec, options.device, trust=True)  # `perturbox serve` asked for trust
    described = victim.describe()
    name = str(described["name"])
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII):
        raise InputError(f"The victim of {spec} is named '{name}'; rename it with letters, digits and dashes.")
    if name in served:
        raise InputError(f"Both {served[name].spec} and {spec} name their victim '{name}'; rename one.")
    fitted = {
        own: Fitted(str(options.detectors[own]), describe(own, name, detector))
        for own, detector in detectors.items()
        if victim.is_the_one(detector.sha256)
    }
    served[name] = Served(name, spec, described, fitted)


def describe(name: str, victim: str, detector: Detector) -> dict[str, Any]:
    """What a client is told of a detector."""
    return {
        "name": name,
        "victim": victim,
        "detector": detector.method.name,
        "title": detector.method.title,
        "threshold": detector.threshold,
        "clean": len(detector.clean),
        "alarms": detector.alarms,
    }


def folder(home: Path) -> Path:
    """Where fine-tuned victims are kept: NAME.safetensors and NAME.py, which loads it."""
    return home / "victims"


def fine_tuned(home: Path) -> list[str]:
    return [f"{path}:victim" for path in sorted(folder(home).glob("*.py"))]
