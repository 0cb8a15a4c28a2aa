"""The settings of recipes: what a parameter means, which defaults follow from others, and the user's words checked."""

import math
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from perturbox.attacks.objectives import LOSSES
from perturbox.errors import InputError, did_you_mean


@dataclass(frozen=True, eq=False)
class Param:
    """What a recipe's parameter means: help in one sentence, unit, and inclusive limits. local: it names files of this
    machine, which only the user of this machine may set. required: the attack refuses to work without it. choices: what
    it may be, if that is known elsewhere; a Literal says it otherwise."""

    help: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    local: bool = False
    required: bool = False
    choices: Callable[[], Iterable[Any]] | None = None


@dataclass(frozen=True)
class Derived:
    """A default that follows from other settings: rule(eps, norm, steps and the parameters before it, by name)."""

    rule: Callable[[Mapping[str, Any]], Any]


def derived(rule: Callable[[Mapping[str, Any]], Any]) -> Any:
    """The default of a parameter that follows from others, as in `alpha: … = derived(lambda s: s["eps"] / s["steps"])`;
    it stands for None in lists, and its value is recorded."""
    return Derived(rule)


LossName = Annotated[str, Param("Loss that is climbed", choices=lambda: LOSSES)]
Restarts = Annotated[int, Param("Independent starts; the worst is kept", minimum=1, maximum=1000)]
PgdStep = Annotated[float, Param("Step size; 2.5 eps / steps if not given", unit="HU", minimum=0)]
PGD_STEP: Any = derived(lambda s: 2.5 * s["eps"] / s["steps"])
BimStep = Annotated[float, Param("Step size; eps / steps if not given", unit="HU", minimum=0)]
BIM_STEP: Any = derived(lambda s: s["eps"] / s["steps"])


def described(name: str, annotation: Any, default: Any) -> dict[str, Any]:
    """The entry of a parameter in lists: name, type, unit, default, minimum, maximum, choices, help, local."""
    kind, param = get_args(annotation)[:2]
    choices, plain = _plain_type(kind)
    return {
        "name": name,
        "type": plain.__name__,
        "unit": param.unit,
        "default": None if isinstance(default, Derived) else default,
        "minimum": param.minimum,
        "maximum": param.maximum,
        "choices": choices if param.choices is None else list(param.choices()),
        "help": param.help,
        "local": param.local,
    }


def _plain_type(kind: Any) -> tuple[list[Any] | None, type]:
    """(choices, type) of an annotation: Literal choices, and Optional[T] counted as T."""
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(argument for argument in get_args(kind) if argument is not type(None))
    if get_origin(kind) is Literal:
        return list(get_args(kind)), type(get_args(kind)[0])
    if get_origin(kind) is Annotated:
        return _plain_type(get_args(kind)[0])
    return None, kind


def checked(name: str, value: Any, known: Mapping[str, dict[str, Any]], attack: str) -> Any:
    """A setting's value, from the user's string or already one; raises InputError for what the attack doesn't take."""
    if name not in known:
        hint = did_you_mean(name, known, f"it has {', '.join(known) or 'none'}.")
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
