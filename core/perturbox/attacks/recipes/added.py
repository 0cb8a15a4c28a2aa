"""What recipes share that add a term to another attack's objective."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Generic, TypeVar

from perturbox.attacks import recipes
from perturbox.attacks.attack import Attack, Climb, Composed, Objective
from perturbox.attacks.recipes import Built, Param, Settings
from perturbox.types import InputError

Base = Annotated[str, Param("Attack it is added to: any that climbs a loss by its gradient")]
BaseSettings = Annotated[str, Param("Settings of that attack, as loss=ce,alpha=0.5")]
# Those that add to others themselves, and asma, whose steps read the objective as an overlap.
NEVER = ("asma", "evade", "hfc")

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Fitted(Generic[T]):
    """What the user fitted, by the file that holds it, which is read when it is needed first. path None: the user named
    none; missing: the sentence about that."""

    path: str | None
    read: Callable[[Path], T]
    missing: str

    @cached_property
    def value(self) -> T:
        """Raises InputError where there is no such file or it is damaged."""
        if self.path is None:
            raise InputError(self.missing)
        return self.read(Path(self.path))


def built_base(name: str, settings: Settings) -> Built:
    """The base attack of the recipe of that name. Raises InputError for one that doesn't climb a loss by its gradient
    at the voxels, and for settings it doesn't take."""
    found = recipes.get(settings["base"])
    words = [part.partition("=") for part in settings["base_settings"].split(",") if part.strip()]
    if any(not equals for _, equals, _ in words):
        raise InputError(f"base_settings={settings['base_settings']} isn't understood; write name=value,name=value.")
    if found.own is None and found.name not in NEVER:
        own = {key.strip(): value.strip() for key, _, value in words}
        built = found.build(settings["eps"], settings["norm"], settings["steps"], own)
        leaves = list(built.attack.leaves())
        if all(leaf.uses_gradient and leaf.keep == "worst" and leaf.space.voxelwise for leaf in leaves):
            return built
    raise InputError(
        f"{name} adds to attacks that climb a loss by its gradient, such as pgd or mi-fgsm, not to {found.name}."
    )


def base_words(name: str, settings: Settings) -> str:
    """The base attack's settings with its defaults, as `base_settings` takes them."""
    base = built_base(name, settings).parameters
    own = {key: value for key, value in base.items() if key not in ("eps", "norm", "steps") and value is not None}
    return ",".join(f"{key}={value}" for key, value in own.items())


def absolute(file: str | None) -> str | None:
    """A file by its absolute path."""
    return None if file is None else str(Path(file).absolute())


def with_objectives(attack: Attack, wrap: Callable[[Objective], Objective]) -> Climb | Composed:
    """The same attack, or all it is made of, on other objectives."""
    if isinstance(attack, Climb):
        return replace(attack, objective=wrap(attack.objective))
    assert isinstance(attack, Composed)
    return replace(attack, members={name: with_objectives(one, wrap) for name, one in attack.members.items()})
