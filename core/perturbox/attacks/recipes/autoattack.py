"""AutoAttack for volumes: APGD on cross-entropy, APGD on the difference of logits ratio, FAB and Square, one after
another until one succeeds.

    success: mean Dice <= 1/2 of the clean mean Dice

Croce & Hein 2020, ICML, arXiv 2003.01690; carried over to volumes by Daza, Perez & Arbelaez 2021 (ROG), MICCAI, arXiv
2107.04263.
"""

from typing import Annotated, Literal

from perturbox.attacks import recipes
from perturbox.attacks.attack import Attack, Composed
from perturbox.attacks.budget import Norm
from perturbox.attacks.recipes import Param, Settings, derived, recipe
from perturbox.attacks.settings import Restarts
from perturbox.model.victim import Victim
from perturbox.types import InputError, Volume


def has_a_third_class(victim: Victim, image: Volume, settings: Settings) -> None:
    """Raises InputError where the difference of logits ratio has no third logit."""
    if settings["second"] == "dlr" and victim.regions is None and len(victim.labels) < 3:
        raise InputError(
            f"AutoAttack's loss dlr needs 3 classes and {victim.name} has {len(victim.labels)}; use second=margin."
        )


@recipe(
    title="AutoAttack for volumes",
    paper="Daza et al. 2021, arXiv 2107.04263; Croce & Hein 2020, arXiv 2003.01690",
    norms=("linf",),
    cost="2 x restarts x (steps + 1) + 2 x steps + queries forwards, 2 x (restarts + 1) x steps backwards, at most",
    deviations=(
        "untargeted APGD and FAB, where AutoAttack's FAB and second APGD aim at one class after another",
        "success is the goal's: half of the clean score for the goal 'change'; with go_on, losing everything is FAB's",
        "Square has 5 queries for each step of the others, where AutoAttack has 50",
    ),
    family="combined",
    check=has_a_third_class,
)
def autoattack(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    second: Annotated[Literal["dlr", "margin"], Param("Loss of the second APGD; dlr needs 3 classes")] = "dlr",
    restarts: Restarts = 1,
    queries: Annotated[int, Param("Square's queries; 5 x steps if not given", minimum=1)] = derived(
        lambda s: 5 * s["steps"]
    ),
    go_on: Annotated[bool, Param("Go on after a success and keep the worst")] = False,
) -> Attack:
    """The first success of the four, or the worst of all."""

    def build(name: str, steps: int, **settings: object) -> Attack:
        return recipes.get(name).build(eps, norm, steps, settings).attack

    members = {
        "apgd-ce": build("apgd", steps, loss="ce", restarts=restarts),
        f"apgd-{second}": build("apgd", steps, loss=second, restarts=restarts),
        "fab": build("fab", steps),
        "square": build("square", queries),
    }
    return Composed(members, eps, norm, keep="worst" if go_on else "first")
