"""Defences: filters that stand before a model, one file per paper, each with the stand-ins by which it is attacked."""

import importlib
import inspect
import math
import pkgutil
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated, Any, get_type_hints

from perturbox.attacks.settings import Param, checked, described
from perturbox.errors import InputError, did_you_mean
from perturbox.load import load_victim
from perturbox.model.defended import Defended, Defense, behind, require_bearable
from perturbox.model.victim import Victim

__all__ = ["Defense", "High", "Low", "Offer", "defend", "defense", "discover", "get", "offered"]

FARTHEST = 1e6  # from 0, of the ends of a range: float32 still tells values there apart
NARROWEST = 1e-6  # of a range, as a share of its ends

# The range of values that a filter counts as [0, 1]: that of the model where the user names none.
Low = Annotated[
    float | None,
    Param("Lowest value of the range that counts; the model's if not given", "HU", minimum=-FARTHEST, maximum=FARTHEST),
]
High = Annotated[
    float | None,
    Param(
        "Highest value of the range that counts; the model's if not given", "HU", minimum=-FARTHEST, maximum=FARTHEST
    ),
]

SPAN = 1000.0  # of a range that is suggested


@dataclass(frozen=True, eq=False)
class Offer:
    """A defence as it is listed: its words, and the function (settings) -> Defense that makes it."""

    name: str
    title: str
    paper: str
    deviations: tuple[str, ...]
    inverse: str
    function: Callable[..., Defense]

    @property
    def parameters(self) -> list[dict[str, Any]]:
        """name, type, unit, default, minimum, maximum, choices, help, local of each setting."""
        hints = get_type_hints(self.function, include_extras=True)
        signature = inspect.signature(self.function).parameters
        return [described(name, hints[name], one.default) for name, one in signature.items()]

    def parameters_on(self, visible: tuple[float, float] | None) -> list[dict[str, Any]]:
        """`parameters` as a form before one model shows them: the ends of the range are the model's, or "required"
        where it names none. visible: as in `build`."""
        ends = dict(zip(("low", "high"), visible or (None, None), strict=True))
        return [
            {**entry, "default": ends[entry["name"]], "required": visible is None}
            if entry["name"] in ends
            else {**entry, "required": False}
            for entry in self.parameters
        ]

    @property
    def unit(self) -> str | None:
        """Of the scans it was made for, with its own settings; None for any."""
        return self._example.unit

    def build(
        self, settings: dict[str, Any], visible: tuple[float, float] | None, model: str, local: bool = True
    ) -> Defense:
        """With the user's words or values as settings; visible: the range of values that the model tells apart; local:
        settings may name files of this machine.

        Raises InputError for a setting it doesn't take, and for a range that nobody names.
        """
        known = {entry["name"]: entry for entry in self.parameters}
        for name in settings:
            if name in known and known[name]["local"] and not local:
                raise InputError(f"The setting '{name}' names files of this machine and can't be set from another.")
        values = {name: entry["default"] for name, entry in known.items()}
        values |= {name: checked(name, value, known, self.name) for name, value in settings.items()}
        if "low" in known:
            ends = dict(zip(("low", "high"), visible or (None, None), strict=True))
            values |= {name: end for name, end in ends.items() if values[name] is None}
            if None in (values["low"], values["high"]):
                raise InputError(
                    f"{model} doesn't say which range of values it tells apart; give it, as in "
                    f"{self._with_range(settings, values['low'], values['high'])}."
                )
            low, high = values["low"], values["high"]
            if not high - low > NARROWEST * max(1.0, abs(low), abs(high)):
                raise InputError(f"{self.name} needs low clearly below high, not {low:g} and {high:g}.")
        made = self.function(**values)
        values |= made.settings or {}  # as they are recorded: a file by its absolute path
        return replace(
            made, name=self.name, settings=values, title=self.title, paper=self.paper, deviations=self.deviations
        )

    def _with_range(self, settings: Mapping[str, Any], low: float | None, high: float | None) -> str:
        """A spec with the user's own settings, and ends of a range where they gave none."""
        start = low if low is not None else 0.0 if high is None or high > 0 else high - SPAN
        end = high if high is not None else start + SPAN
        own = [f"{key}={value}" for key, value in settings.items() if key not in ("low", "high")]
        return ":".join([self.name, *own, f"low={start:g}", f"high={end:g}"])

    def describe(self) -> dict[str, Any]:
        """The entry of `perturbox list defenses --json`."""
        example = self._example
        return {
            "name": self.name,
            "title": self.title,
            "paper": self.paper,
            "unit": example.unit,
            "random": example.draws > 0,
            "stand_ins": [one.name for one in example.stand_ins],
            "inverse": self.inverse,
            "parameters": self.parameters,
            "deviations": list(self.deviations),
        }

    @property
    def _example(self) -> Defense:
        """With its own settings, before a model that tells values from 0 to 1 apart."""
        return self.build({}, (0.0, 1.0), "")


def defense(*, title: str, paper: str, inverse: str, deviations: Sequence[str] = ()):
    """Mark a function (settings) -> Defense; its name in kebab case is the defence's. inverse: what a stand-in's
    gradient costs beside the filter itself."""

    def mark(function: Callable[..., Defense]) -> Callable[..., Defense]:
        name = function.__name__.replace("_", "-")
        function.offer = Offer(name, title, paper, tuple(deviations), inverse, function)  # type: ignore[attr-defined]
        return function

    return mark


@cache
def discover() -> dict[str, Offer]:
    """All defences by name: every function marked with `defense` in a module of this package."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        for value in vars(importlib.import_module(f"{__name__}.{module.name}")).values():
            if isinstance(offer := getattr(value, "offer", None), Offer):
                found[offer.name] = offer
    return dict(sorted(found.items()))


def offered() -> list[Offer]:
    """All defences as lists show them, by name."""
    return list(discover().values())


def get(name: str) -> Offer:
    """The defence of that name; raises InputError that suggests a near one, or lists all."""
    known = discover()
    if name in known:
        return known[name]
    hint = did_you_mean(name, known, f"there are {', '.join(known)}.")
    raise InputError(f"Unknown defence '{name}'; {hint}")


def read_spec(spec: str) -> tuple[Offer, dict[str, str]]:
    """The defence that "NAME:key=value…" names, and its settings as words; raises InputError for what isn't one."""
    if not spec.isprintable():
        raise InputError("The name of a defence holds characters that none has; write it as in bit-depth:bits=3.")
    name, *parts = spec.split(":", 1)
    offer, settings = get(name), {}
    for part in re.split(r":(?=\w+=)", parts[0]) if parts else ():  # other colons are a file's
        key, equals, value = (word.strip() for word in part.partition("="))
        if not (key and equals and value):
            raise InputError(f"'{part}' of '{spec}' isn't understood; write settings as {name}:key=value.")
        if key in settings:
            raise InputError(f"'{spec}' gives {key} twice; keep one of them.")
        settings[key] = value
    return offer, settings


def chain_of(
    defenses: Sequence[str | Defense], visible: tuple[float, float] | None, model: str, local: bool = True
) -> tuple[Defense, ...]:
    """Defences before a model that tells the values of `visible` apart, checked without loading it; local: their
    settings may name files of this machine.

    Raises InputError for unknown names and settings, and for more than can stand before a model.
    """
    require_bearable(len(defenses))
    chain = []
    for one in defenses:
        if isinstance(one, Defense):
            chain.append(one)
        elif isinstance(one, str):
            offer, settings = read_spec(one)
            chain.append(offer.build(dict(settings), visible, model, local))
        else:
            raise InputError(f"A defence is a name or a px.Defense, not a {type(one).__name__}.")
    require_bearable(len(chain), math.prod(one.draws_at_once for one in chain))
    return tuple(chain)


def require_known(*specs: str) -> None:
    """Raises InputError for defences, or settings, that are refused whatever the model."""
    for spec in specs:
        _, settings = read_spec(spec)
        chain_of([spec], (-FARTHEST, FARTHEST) if {"low", "high"} & settings.keys() else (0.0, 1.0), "the model")
    require_bearable(len(specs))


def defend(victim: Victim | str, *defenses: str | Defense) -> Defended:
    """A model behind defences, the first nearest to the scan: names with their settings, as in "bit-depth:bits=3", or
    `Defense` objects of one's own. victim: a model, or what `load_victim` takes.

    An attack on it is run through the defences, with every stand-in that they declare, and beside the attack that
    doesn't know of them: "defense" of result.json. Raises InputError for unknown names and settings.
    """
    victim = load_victim(victim) if isinstance(victim, str) else victim
    if not defenses:
        raise InputError(f"Name at least one defence; there are {', '.join(discover())}.")
    return behind(victim, chain_of(defenses, victim.visible, victim.name))
