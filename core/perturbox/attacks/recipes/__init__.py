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

from perturbox.attacks.attack import Attack
from perturbox.defaults import ATTACK as DEFAULT
from perturbox.defaults import STEPS
from perturbox.types import InputError


@dataclass(frozen=True)
class Param:
    """What a recipe's parameter means: help in one sentence, unit, and inclusive limits. local: it names files of this
    machine, which only the user of this machine may set. required: the attack refuses to work without it."""

    help: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    local: bool = False
    required: bool = False


@dataclass(frozen=True)
class Own:
    """The budget a recipe has in place of eps: which of its parameters limits the change, and in what sense. zero: the
    value at which nothing changes, None where there is none. With it, eps is but an additional cap where the user gave
    one, and results are never ranked beside those at an eps."""

    parameter: str
    meaning: str
    zero: float | None = 0.0


Family = Literal[
    "gradient", "loss", "transfer", "combined", "minimal", "black-box", "frequency", "smooth", "patch", "universal",
    "control",
]  # fmt: skip
# What each family does, in the order in which lists show them.
FAMILIES: dict[str, str] = {
    "gradient": "Steps along the gradient",
    "loss": "Losses made for segmentation",
    "transfer": "Made to deceive other models too",
    "combined": "Made of several attacks",
    "minimal": "The smallest change that breaks it",
    "black-box": "Without gradients: the model is only asked",
    "frequency": "Changes of spatial frequencies",
    "smooth": "Smooth changes, as scanners and bodies make them",
    "patch": "Objects and marks in the picture",
    "universal": "One change for many scans",
    "control": "Controls: no attack at all",
}


@dataclass(frozen=True)
class Recipe:
    """A discovered recipe: `function(eps, norm, steps, **parameters) -> Attack` and what is said about it. eps is
    infinite for a recipe with a budget of its own that nobody capped. use: what to choose it for, in plain words, for
    the few that one starts with; empty for the others. steps: its own default, with which it can reach its limit.
    notes: what was measured of it that one should know before choosing it."""

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
    family: Family = "gradient"
    own: Own | None = None
    use: str = ""
    steps: int = STEPS
    notes: tuple[str, ...] = ()

    @property
    def default(self) -> bool:
        """Whether it is the attack that is taken where none is named."""
        return self.name == DEFAULT

    @property
    def margin_steps(self) -> int:
        """Steps of each attack of a search for the margin, most of which start where another one ended."""
        return -(-self.steps // 2)

    @property
    def parameters(self) -> list[dict[str, Any]]:
        """One entry per keyword parameter: name, type, unit, default, minimum, maximum, choices, help, local."""
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
                    "local": told.local,
                }
            )
        return entries

    def describe(self) -> dict[str, Any]:
        """The entry of `perturbox list attacks --json`."""
        return {
            "name": self.name,
            "title": self.title,
            "default": self.default,
            "steps": self.steps,
            "paper": self.paper,
            "space": self.space,
            "norm": list(self.norms),
            "dims": list(self.dims),
            "targeted": self.targeted,
            "access": self.access,
            "family": self.family,
            "use": self.use,
            "own_budget": self.own_budget(),
            "cost": self.cost,
            "parameters": self.parameters,
            "deviations": list(self.deviations),
            "notes": list(self.notes),
        }

    def own_budget(self, parameters: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
        """What limits the change in place of eps: {parameter, value, unit, meaning}; value as set, or the default."""
        if self.own is None:
            return None
        (entry,) = (entry for entry in self.parameters if entry["name"] == self.own.parameter)
        value = entry["default"] if parameters is None else parameters[entry["name"]]
        return {"parameter": entry["name"], "value": value, "unit": entry["unit"], "meaning": self.own.meaning}

    def build(
        self, eps: float | None, norm: str, steps: int | None, settings: Mapping[str, Any], local: bool = False
    ) -> Attack:
        """Compose the attack; eps None: not capped; steps None: the recipe's own default; settings are values or the
        user's strings; local: settings may name files of this machine. Raises InputError for anything it doesn't
        take."""
        if eps is None and self.own is None:
            raise InputError(f"{self.name} needs a limit; give --eps.")
        if norm not in self.norms:
            raise InputError(f"{self.name} works with norm {' or '.join(self.norms)}, not '{norm}'.")
        steps = self.steps if steps is None else steps
        if steps < 1:
            raise InputError(f"steps must be at least 1, not {steps}.")
        if not local and not self.remote:
            raise InputError(
                f"{self.name} needs files of the machine it runs on ({', '.join(self._files())}); run it "
                "there with `perturbox attack`."
            )
        known = {entry["name"]: entry for entry in self.parameters}
        values = {name: _checked(name, value, known, self.name) for name, value in settings.items()}
        for name, value in values.items():
            if known[name]["local"] and not local and value != known[name]["default"]:
                raise InputError(f"The setting '{name}' names files of this machine and can't be set from another.")
        attack = self.function(math.inf if eps is None else eps, norm, steps, **values)
        parameters = {name: entry["default"] for name, entry in known.items()} | values | attack.parameters
        parameters |= {"eps": attack.limit, "norm": attack.norm, "steps": attack.steps}
        return Attack(**{**vars(attack), "name": self.name, "parameters": parameters})

    @property
    def remote(self) -> bool:
        """Whether it can be asked for from another machine: it needs no files of the one it runs on."""
        return not self._files()

    def _files(self) -> list[str]:
        """The parameters that name files it can't do without."""
        hints = get_type_hints(self.function, include_extras=True)
        told = {name: get_args(hint)[1] for name, hint in hints.items() if get_origin(hint) is Annotated}
        return [name for name, param in told.items() if isinstance(param, Param) and param.local and param.required]


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
    family: Family = "gradient",
    own: Own | None = None,
    use: str = "",
    steps: int = STEPS,
    notes: Sequence[str] = (),
):
    """Mark a function (eps, norm, steps, *, …) -> Attack as a recipe; its name in kebab case is the attack's name."""

    def mark(function: Callable[..., Attack]) -> Callable[..., Attack]:
        name = function.__name__.replace("_", "-")
        said = (title, paper, function, tuple(norms), space, tuple(dims), targeted, access, cost, tuple(deviations))
        function.recipe = Recipe(name, *said, family, own, use, steps, tuple(notes))  # type: ignore[attr-defined]
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


def offered() -> list[Recipe]:
    """All recipes as lists show them: the few to start with, then family by family, by name."""
    order = list(FAMILIES)
    return sorted(discover().values(), key=lambda one: (not one.use, order.index(one.family), one.name))


def get(name: str) -> Recipe:
    """The recipe of that name; raises InputError that suggests a near one."""
    recipes = discover()
    if name in recipes:
        return recipes[name]
    near = " or ".join(f"'{one}'" for one in get_close_matches(name.lower().replace("_", "-"), recipes, 2))
    hint = f"did you mean {near}?" if near else "see `perturbox list attacks`."
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
