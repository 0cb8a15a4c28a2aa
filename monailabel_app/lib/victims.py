"""The victims this server serves: those it was started with, and those fine-tuned here since."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.options import Options
from perturbox.attacks.recipes import discover
from perturbox.load import load_victim
from perturbox.types import InputError


@dataclass(frozen=True)
class Served:
    """A victim as clients see it; the workers load the model itself by its spec."""

    name: str
    spec: str
    described: Mapping[str, Any]

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
    for spec in options.victims:
        _add(served, spec, options.device)
    for spec in fine_tuned(options.home):
        try:
            _add(served, spec, options.device)
        except InputError as error:
            raise InputError(
                f"{str(error).rstrip('.')} ({spec} was fine-tuned here; fix or remove that file)."
            ) from None
    attacks = {f"{name}-{recipe}": name for name in served for recipe in discover()}
    if taken := attacks.keys() & served.keys():
        raise InputError(f"'{min(taken)}' is the name of a victim and of an attack's task; rename the victim.")
    return served


def _add(served: dict[str, Served], spec: str, device: str) -> None:
    described = load_victim(spec, device, trust=True).describe()  # `perturbox serve` asked for trust
    name = str(described["name"])
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII):
        raise InputError(f"The victim of {spec} is named '{name}'; rename it with letters, digits and dashes.")
    if name in served:
        raise InputError(f"Both {served[name].spec} and {spec} name their victim '{name}'; rename one.")
    served[name] = Served(name, spec, described)


def folder(home: Path) -> Path:
    """Where fine-tuned victims are kept: NAME.safetensors and NAME.py, which loads it."""
    return home / "victims"


def fine_tuned(home: Path) -> list[str]:
    return [f"{path}:victim" for path in sorted(folder(home).glob("*.py"))]
