"""Ensemble: several attacks within the same limit; the worst of what they find is the answer.

    answer = argmin over members k of mean Dice(f(x_k), y);     beside it, for each structure c, min over k of Dice_c

One file answers for the whole volume, so it is the worst by the mean; each structure's own minimum may come from
another member and is listed apart (`members` in result.json). The rule is AutoAttack's worst case (Croce & Hein 2020,
ICML, arXiv 2003.01690) with the mean Dice of a volume in place of an image's correct class.
"""

from typing import Annotated

from perturbox.attacks import recipes
from perturbox.attacks.attack import Attack, Composed
from perturbox.attacks.budget import Norm
from perturbox.attacks.recipes import Built, Param, Settings, recipe
from perturbox.model.victim import Victim
from perturbox.types import InputError, Volume

DEFAULT = f"{recipes.DEFAULT}+apgd:dice+apgd:ce+segpgd+cospgd"


def member(word: str, eps: float | None, norm: str, steps: int) -> Built:
    """The attack that "NAME" or "NAME:LOSS" names; raises InputError for what can't be compared at a common limit."""
    name, _, loss = word.strip().partition(":")
    found = recipes.get(name)
    if not found.remote:
        raise InputError(f"{name} needs files of its own and can't be a member; leave it out.")
    if found.own is not None:
        raise InputError(f"{name} has a budget of its own and can't be compared at a common limit; leave it out.")
    if found.name == "ensemble":
        raise InputError("An ensemble can't have itself as a member; leave it out.")
    built = found.build(eps, norm, steps, {"loss": loss} if loss else {})
    if found.crafted_on:
        raise InputError(f"{name} is crafted on other scans and can't be a member; leave it out.")
    if built.attack.keep != "worst":
        raise InputError(f"{name} ends where the goal is reached and doesn't seek the worst; leave it out.")
    return built


def all_members(settings: Settings) -> dict[str, Built]:
    """By their words, as given; raises InputError if there are none, or one twice."""
    words = [word.strip() for word in settings["members"].split("+") if word.strip()]
    if not words:
        raise InputError(f"members names no attack; give some, as in {DEFAULT}.")
    if len(set(words)) < len(words):
        raise InputError(f"members names an attack twice: {settings['members']}; name each once.")
    return {word: member(word, settings["eps"], settings["norm"], settings["steps"]) for word in words}


def check(victim: Victim, image: Volume, settings: Settings) -> None:
    """As each member does."""
    for built in all_members(settings).values():
        built.check(victim, image)


@recipe(
    title="Ensemble, the worst case of a set",
    paper="Croce & Hein 2020, arXiv 2003.01690",
    norms=("linf", "l2"),
    cost="the sum of its members: 5 x (steps + 1) forwards and 5 x steps backwards with the default set",
    deviations=(
        "the worst by mean Dice of the volume, live on the network's grid; minima of each structure are listed apart",
        "all members run to their end, each with the same seed as if it were alone",
        "the set is ours: soft Dice must be in it, as no loss wins on every structure size",
    ),
    family="combined",
    check=check,
    use="The worst case, for a claim",
)
def ensemble(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    members: Annotated[str, Param("Attacks joined by +, each NAME or NAME:LOSS")] = DEFAULT,
) -> Attack:
    """Every member in turn; the lowest mean Dice is kept."""
    built = all_members({"members": members, "eps": eps, "norm": norm, "steps": steps})
    return Composed({word: one.attack for word, one in built.items()}, eps, norm)
