"""Ensemble: several attacks within the same limit; the worst of what they find is the answer.

    answer = argmin over members k of mean Dice(f(x_k), y);     beside it, for each structure c, min over k of Dice_c

One file answers for the whole volume, so it is the worst by the mean; each structure's own minimum may come from
another member and is listed apart (`members` in result.json). The rule is AutoAttack's worst case (Croce & Hein 2020,
ICML, arXiv 2003.01690) with the mean Dice of a volume in place of an image's correct class.
"""

from dataclasses import replace
from typing import Annotated

from perturbox.attacks import recipes
from perturbox.attacks.attack import Attack, compose
from perturbox.attacks.budget import Norm
from perturbox.attacks.recipes import Param, recipe
from perturbox.types import InputError

DEFAULT = f"{recipes.DEFAULT}+apgd:dice+apgd:ce+segpgd+cospgd"


def member(word: str, eps: float, norm: Norm, steps: int) -> Attack:
    """The attack that "NAME" or "NAME:LOSS" names; raises InputError for what can't be compared at a common limit."""
    name, _, loss = word.strip().partition(":")
    found = recipes.get(name)
    if not found.remote:
        raise InputError(f"{name} needs files of its own and can't be a member; leave it out.")
    if found.own is not None:
        raise InputError(f"{name} has a budget of its own and can't be compared at a common limit; leave it out.")
    if found.name == "ensemble":
        raise InputError("An ensemble can't have itself as a member; leave it out.")
    attack = found.build(eps, norm, steps, {"loss": loss} if loss else {})
    if attack.crafted_on or attack.make_scans:
        raise InputError(f"{name} is crafted on other scans and can't be a member; leave it out.")
    if attack.keep != "worst":
        raise InputError(f"{name} ends where the goal is reached and doesn't seek the worst; leave it out.")
    return replace(attack, name=word.strip())


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
    words = [word for word in members.split("+") if word.strip()]
    if not words:
        raise InputError(f"members names no attack; give some, as in {DEFAULT}.")
    if len({word.strip() for word in words}) < len(words):
        raise InputError(f"members names an attack twice: {members}; name each once.")
    return compose("ensemble", [member(word, eps, norm, steps) for word in words], eps, norm)
