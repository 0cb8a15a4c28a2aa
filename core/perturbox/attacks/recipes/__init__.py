"""One file per paper. A recipe is a typed function that composes an `Attack`; it is found here, never listed.

From its signature come the command line's help, `perturbox list attacks --json`, server and Slicer forms and the
parametrised tests: every keyword parameter is `Annotated` with a `Param` that states its unit, range and meaning.
"""

import importlib
import inspect
import math
import os
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, cached_property
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import torch

from perturbox.attacks.attack import Attack, Climb
from perturbox.attacks.settings import Derived, Param, checked, derived, described
from perturbox.defaults import ATTACK as DEFAULT
from perturbox.defaults import EPS, STEPS
from perturbox.model.victim import Victim
from perturbox.types import InputError, Volume

__all__ = [
    "DEFAULT",
    "FAMILIES",
    "Built",
    "OwnBudget",
    "Param",
    "Recipe",
    "derived",
    "discover",
    "get",
    "offered",
    "recipe",
]

# What a recipe says of its settings {name: value}, among them eps (infinite for no limit), norm and steps.
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class OwnBudget:
    """The budget a recipe has in place of eps: which of its parameters limits the change, and in what sense. zero: the
    value at which nothing changes, None if there is no such value. If the user also gives eps, it is an extra cap;
    results are never ranked beside those at an eps."""

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
    infinite if nothing but the recipe's own budget limits the change.

    own: that budget. use: what to choose it for, in plain words, for the few that one starts with; empty for the
    others. steps: its own default, with which it can reach its limit. notes: what was measured of it that one should
    know before choosing it. check(victim, scan, settings): refuses, with an InputError, what it can't work with.
    crafted_on: the parameter that names files other than the case, for a universal attack: scans, or what
    make_scans(victim, scan, what was read, generator, settings) makes scans of. resolve(settings): those that are
    recorded in another form than the user's.
    """

    name: str
    title: str
    paper: str
    function: Callable[..., Attack]
    norms: tuple[str, ...]
    space: str
    dims: tuple[int, ...]
    targeted: bool
    cost: str
    deviations: tuple[str, ...]
    family: Family = "gradient"
    own: OwnBudget | None = None
    use: str = ""
    steps: int = STEPS
    notes: tuple[str, ...] = ()
    check: Callable[[Victim, Volume, Settings], None] | None = None
    crafted_on: str = ""
    make_scans: Callable[[Victim, Volume, Sequence[Volume], torch.Generator, Settings], Sequence[Volume]] | None = None
    resolve: Callable[[Settings], Settings] | None = None

    @property
    def default(self) -> bool:
        """Whether it is the attack that is taken where none is named."""
        return self.name == DEFAULT

    @property
    def margin_steps(self) -> int:
        """Steps of each attack of a search for the margin, most of which start where another one ended."""
        return -(-self.steps // 2)

    @cached_property
    def access(self) -> Literal["white", "black"]:
        """Whether it needs the model's gradient, or its predictions alone: its solver says so."""
        return "white" if self.build(0.0, self.norms[0], None, {}, local=True).attack.uses_gradient else "black"

    @property
    def parameters(self) -> list[dict[str, Any]]:
        """One entry per keyword parameter: name, type, unit, default, minimum, maximum, choices, help, local."""
        return [described(name, annotation, default) for name, (annotation, default) in self._declared().items()]

    def _declared(self) -> dict[str, tuple[Any, Any]]:
        """(annotation, default) of the keyword parameters by name."""
        hints = get_type_hints(self.function, include_extras=True)
        signature = inspect.signature(self.function).parameters.values()
        own = [parameter for parameter in signature if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
        return {parameter.name: (hints[parameter.name], parameter.default) for parameter in own}

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

    def limit(self, eps: float | None) -> float | None:
        """The largest change, in the scan's unit: what the user gave; else the usual limit, or None, no limit at all,
        where a budget of its own limits the change."""
        return eps if eps is not None or self.own is not None else EPS

    def build(
        self, eps: float | None, norm: str, steps: int | None, settings: Mapping[str, Any], local: bool = False
    ) -> "Built":
        """Compose the attack; eps, steps None: not given; settings are values or the user's strings; local: settings
        may name files of this machine. Raises InputError for anything it doesn't take."""
        eps = self.limit(eps)
        if norm not in self.norms:
            raise InputError(f"{self.name} works with norm {' or '.join(self.norms)}, not '{norm}'.")
        steps = self.steps if steps is None else steps
        if steps < 1:
            raise InputError(f"steps must be at least 1, not {steps}.")
        if not local and not self.remote:
            raise InputError(
                f"{self.name} needs files of the machine it runs on ({', '.join(self.needed_files)}); run "
                "it there with `perturbox attack`."
            )
        known = {entry["name"]: entry for entry in self.parameters}
        given = {name: checked(name, value, known, self.name) for name, value in settings.items()}
        for name, value in given.items():
            if known[name]["local"] and not local and value != known[name]["default"]:
                raise InputError(f"The setting '{name}' names files of this machine and can't be set from another.")
        common = {"eps": math.inf if eps is None else eps, "norm": norm, "steps": steps}
        values: dict[str, Any] = {}
        for name, (_, default) in self._declared().items():
            value = given.get(name, default)
            rule = default.rule if isinstance(default, Derived) and value in (None, default) else None
            values[name] = value if rule is None else rule(common | values)
        if self.resolve is not None:
            values |= self.resolve(common | values)
        attack = self.function(*common.values(), **values)
        taken = attack.steps if isinstance(attack, Climb) else steps
        return Built(self, attack, values | {"eps": attack.limit, "norm": attack.norm, "steps": taken})

    @property
    def remote(self) -> bool:
        """Whether it can be asked for from another machine: it needs no files of the one it runs on."""
        return not self.needed_files

    @property
    def needed_files(self) -> list[str]:
        """The parameters that name files it can't do without."""
        return [name for name, param in self.local.items() if param.required]

    @property
    def local(self) -> dict[str, Param]:
        """The parameters that name files of the machine it runs on."""
        hints = get_type_hints(self.function, include_extras=True)
        told = {name: get_args(hint)[1] for name, hint in hints.items() if get_origin(hint) is Annotated}
        return {name: param for name, param in told.items() if isinstance(param, Param) and param.local}


@dataclass(frozen=True, eq=False)
class Built:
    """A recipe with its settings, ready to run. parameters: everything a replay needs, eps None for no limit."""

    recipe: Recipe
    attack: Attack
    parameters: dict[str, Any]

    def check(self, victim: Victim, image: Volume) -> None:
        """Raises InputError for victims and scans it can't work with."""
        if self.recipe.check is not None:
            self.recipe.check(victim, image, self.parameters)

    @property
    def crafted_on(self) -> tuple[str, ...]:
        """Files other than the case that a universal attack is crafted on."""
        return listed(self.parameters[self.recipe.crafted_on]) if self.recipe.crafted_on else ()


def listed(paths: str) -> tuple[str, ...]:
    """The paths in a list joined by the system's separator, as in PATH."""
    return tuple(path for path in paths.split(os.pathsep) if path)


def recipe(
    *,
    title: str,
    paper: str,
    norms: Sequence[str],
    cost: str,
    space: str = "additive",
    dims: Sequence[int] = (2, 3),
    targeted: bool = True,
    deviations: Sequence[str] = (),
    notes: Sequence[str] = (),
    **said: Any,
):
    """Mark a function (eps, norm, steps, *, …) -> Attack as a recipe; its name in kebab case is the attack's name.
    said: other fields of `Recipe`."""

    def mark(function: Callable[..., Attack]) -> Callable[..., Attack]:
        name = function.__name__.replace("_", "-")
        texts = {"deviations": tuple(deviations), "notes": tuple(notes)}
        known = (name, title, paper, function, tuple(norms), space, tuple(dims), targeted, cost)
        function.recipe = Recipe(*known, **texts, **said)  # type: ignore[attr-defined]
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
