"""Forms of stock clients: a task's settings as MONAI Label's `config`, and what comes back from such a form.

Clients show a list of strings as a choice whose first entry is the default, a bool as a box to check, anything else as
text. A whole number refuses "0.5" and zero is shown as blank, so numbers that may be either go as strings.
"""

import math
from typing import Any

from lib.victims import Served
from perturbox.attacks.recipes import Recipe
from perturbox.defaults import UNITS
from perturbox.job.execute import Job
from perturbox.types import InputError

ALL = "all"
PREDICTION, FINAL = "prediction", "final"  # what an attack is measured against


def fields(victim: Served, recipe: Recipe | None, device: str) -> dict[str, Any]:
    """The `config` of a task; None for segmenting."""
    places = {"device": list(dict.fromkeys([device, "cpu"]))}
    if recipe is None:
        return places
    job = Job(image="")
    structures = list(victim.labels)
    goals = ["change", "vanish", "grow", *(f"become={name}" for name in structures)] if recipe.targeted else ["change"]
    return {
        # Without a limit a setting of its own limits it.
        **({} if (eps := recipe.limit(None)) is None else {"eps": f"{eps:g}", "eps_unit": list(UNITS)}),
        "steps": f"{recipe.steps}",
        "target": [ALL, *structures],
        "goal": goals,
        "reference": [PREDICTION, FINAL],
        "norm": list(recipe.norms),
        **{entry["name"]: _field(entry) for entry in recipe.parameters if not entry["local"]},
        "seed": f"{job.seed}",
        **places,
    }


def _field(entry: dict[str, Any]) -> Any:
    default = entry["default"]
    if entry["choices"]:
        return [str(default), *(str(choice) for choice in entry["choices"] if choice != default)]
    if isinstance(default, bool):
        return default
    return "" if default is None else f"{default:g}" if isinstance(default, float) else str(default)


def chosen(value: Any, field: Any) -> Any:
    """What is meant where a client sends a form's field back; whole lists mean their first entry."""
    if isinstance(value, list) and isinstance(field, list) and value == field:
        return field[0]
    return value.strip() if isinstance(value, str) else value


def choice(name: str, value: Any, choices: list[str]) -> str:
    """Raises InputError if the value is not one of the choices."""
    if value not in choices:
        raise InputError(f"'{name}' must be {' or '.join(choices)}, not '{value}'.")
    return value


def switch(name: str, value: Any) -> bool:
    """Raises InputError for what is neither true nor false."""
    said = str(value).strip().lower()
    if said not in ("true", "false", ""):
        raise InputError(f"'{name}' must be true or false, not '{value}'.")
    return said == "true"


def number(name: str, value: Any) -> float:
    """Raises InputError if the value is not a number."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise InputError(f"'{name}' needs a number, not '{value}'.")
    return found


def whole(name: str, value: Any) -> int:
    """Raises InputError if the value is not a whole number."""
    found = number(name, value)
    if not found.is_integer():
        raise InputError(f"'{name}' needs a whole number, not '{value}'.")
    return int(found)
