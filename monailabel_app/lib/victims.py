"""The victims this server serves: those it was started with, and those fine-tuned here since."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.options import Options
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
    for spec in (*options.victims, *fine_tuned(options.home)):
        described = load_victim(spec, options.device).describe()
        name = str(described["name"])
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
            raise InputError(f"The victim of {spec} is named '{name}'; rename it with letters, digits and dashes.")
        if name in served:
            raise InputError(f"Both {served[name].spec} and {spec} name their victim '{name}'; rename one.")
        served[name] = Served(name, spec, described)
    return served


def folder(home: Path) -> Path:
    """Where fine-tuned victims are kept: NAME.safetensors and NAME.py, which loads it."""
    return home / "victims"


def fine_tuned(home: Path) -> list[str]:
    return [f"{path}:victim" for path in sorted(folder(home).glob("*.py"))]
