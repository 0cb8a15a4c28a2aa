"""One file per paper. A recipe is a typed function that composes an `Attack`; it is found here, never listed.

From its signature come the command line's help, `perturbox list attacks --json`, server and Slicer forms and the
parametrised tests: every keyword parameter is `Annotated` with a `Param` that states its unit, range and meaning.
"""

import importlib
import inspect
import math
import pkgutil
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from perturbox.attack import Attack
from perturbox.types import InputError


@dataclass(frozen=True)
class Param:
    """What a recipe's parameter means: help in one sentence, unit, and inclusive limits."""

    help: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None


@dataclass(frozen=True)
class Recipe:
    """A discovered recipe: `function(eps, norm, steps, **parameters) -> Attack` and what is said about it."""

    name: str
    title: str
    paper: str
    function: Callable[..., Attack]
    norms: tuple[str, ...]
    space: str
    dims: tuple[int, ...]
    targeted: bool
    access: Literal["white", "black"]
    cost: str
    deviations: tuple[str, ...]

    @property
    def parameters(self) -> list[dict[str, Any]]:
        """One entry per keyword parameter: name, type, unit, default, minimum, maximum, choices, help."""
        hints = get_type_hints(self.function, include_extras=True)
        entries = []
        for parameter in inspect.signature(self.function).parameters.values():
            if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
                continue
            kind, told = get_args(hints[parameter.name])[:2]
            choices, plain = _plain_type(kind)
            entries.append(
                {
                    "name": parameter.name,
                    "type": plain.__name__,
                    "unit": told.unit,
                    "default": parameter.default,
                    "minimum": told.minimum,
                    "maximum": told.maximum,
                    "choices": choices,
                    "help": told.help,
                }
            )
        return entries

    def describe(self) -> dict[str, Any]:
        """The entry of `perturbox list attacks --json`."""
        return {
            "name": self.name,
            "title": self.title,
            "paper": self.paper,
            "space": self.space,
            "norm": list(self.norms),
            "dims": list(self.dims),
            "targeted": self.targeted,
            "access": self.access,
            "cost": self.cost,
            "parameters": self.parameters,
            "deviations": list(self.deviations),
        }

    def build(self, eps: float, norm: str, steps: int, settings: Mapping[str, Any]) -> Attack:
        """Compose the attack; settings are values or the user's strings. Raises InputError for anything it doesn't
        take."""
        if norm not in self.norms:
            raise InputError(f"{self.name} works with norm {' or '.join(self.norms)}, not '{norm}'.")
        if steps < 1:
            raise InputError(f"steps must be at least 1, not {steps}.")
        known = {entry["name"]: entry for entry in self.parameters}
        values = {name: _checked(name, value, known, self.name) for name, value in settings.items()}
        attack = self.function(eps, norm, steps, **values)
        parameters = {name: entry["default"] for name, entry in known.items()} | values | attack.parameters
        parameters |= {"eps": attack.eps, "norm": attack.norm, "steps": attack.steps}
        return Attack(**{**vars(attack), "name": self.name, "parameters": parameters})


def recipe(
    *,
    title: str,
    paper: str,
    norms: Sequence[str],
    cost: str,
    space: str = "additive",
    dims: Sequence[int] = (2, 3),
    targeted: bool = True,
    access: Literal["white", "black"] = "white",
    deviations: Sequence[str] = (),
):
    """Mark a function (eps, norm, steps, *, …) -> Attack as a recipe; its name in kebab case is the attack's name."""

    def mark(function: Callable[..., Attack]) -> Callable[..., Attack]:
        name = function.__name__.replace("_", "-")
        function.recipe = Recipe(  # type: ignore[attr-defined]
            name, title, paper, function, tuple(norms), space, tuple(dims), targeted, access, cost, tuple(deviations)
        )
        return function

    return mark


@cache
def discover() -> dict[str, Recipe]:
    """All recipes by name: every function marked with `recipe` in a module of this package."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        for value in vars(importlib.import_module(f"{__name__}.{module.name}")).values():
            if isinstance(mark := getattr(value, "recipe", None), Recipe):
                found[mark.name] = mark
    return dict(sorted(found.items()))


def get(name: str) -> Recipe:
    """The recipe of that name; raises InputError that suggests a near one."""
    recipes = discover()
    if name in recipes:
        return recipes[name]
    near = get_close_matches(name.lower().replace("_", "-"), recipes, 1)
    hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(recipes)}."
    raise InputError(f"Unknown attack '{name}'; {hint}")


def _plain_type(kind: Any) -> tuple[list[Any] | None, type]:
    """(choices, type) of an annotation: Literal choices, and Optional[T] counted as T."""
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(argument for argument in get_args(kind) if argument is not type(None))
    if get_origin(kind) is Literal:
        return list(get_args(kind)), type(get_args(kind)[0])
    if get_origin(kind) is Annotated:
        return _plain_type(get_args(kind)[0])
    return None, kind


def _checked(name: str, value: Any, known: Mapping[str, dict[str, Any]], attack: str) -> Any:
    if name not in known:
        near = get_close_matches(name, known, 1)
        hint = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(known) or 'none'}."
        raise InputError(f"{attack} has no setting '{name}'; {hint}")
    entry = known[name]
    if value is None and entry["default"] is None:
        return None
    kind = {"float": _finite, "int": _whole, "bool": _truth, "str": str}[entry["type"]]
    try:
        value = kind(value)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"The setting '{name}' needs a value of type {entry['type']}, not '{value}'.") from None
    low, high, choices = entry["minimum"], entry["maximum"], entry["choices"]
    if choices is not None and value not in choices:
        raise InputError(f"The setting '{name}' is one of {', '.join(map(str, choices))}, not '{value}'.")
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        limits = (
            f"at least {low}" if high is None else f"at most {high}" if low is None else f"between {low} and {high}"
        )
        raise InputError(f"The setting '{name}' must be {limits}, not {value}.")
    return value


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _whole(value: Any) -> int:
    number = int(value)
    if not isinstance(value, str) and number != value:
        raise ValueError
    return number


def _truth(value: Any) -> bool:
    words = {"true": True, "yes": True, "1": True, "on": True, "false": False, "no": False, "0": False, "off": False}
    if str(value).lower() not in words:
        raise ValueError
    return words[str(value).lower()]
