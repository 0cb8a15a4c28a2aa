"""One trial of a search for the margin, and how its finds are told."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from perturbox.attacks.recipes import Built
from perturbox.judge import metrics

SCHEMA = "perturbox-margin/1"
MEANING = (
    "breaks_at is an upper bound, measured on a saved file that breaks the limit; null means that nothing up to "
    "`above` was found, which is no proof of safety"
)


@dataclass(frozen=True, eq=False)
class Trial:
    """One judged attack: the limit it was given, what it measured on the saved file, and each structure's verdict.
    untested: of each structure that held, why that was no test, None where it was one; notes: see `Outcome`."""

    eps: float
    aimed: tuple[int, ...]
    linf: float
    verdicts: dict[str, str]
    untested: dict[str, str | None]
    notes: dict[str, str]

    def breaks(self, name: str) -> bool:
        return self.verdicts[name] in metrics.BROKEN


def folder_name(names: Sequence[str], linf: float) -> str:
    """What broke and at how much, as a name every file system takes."""
    said = names if len(names) <= 8 else [*names[:7], f"{len(names) - 7}-more"]
    return re.sub(r"[^\w.-]+", "-", "-".join(said)[:120]) + f"_{linf:g}"


def about_trials(trials: Sequence[Trial]) -> list[str]:
    """What the attacks of a search couldn't use, each kind once."""
    said = []
    for kind in dict.fromkeys(kind for trial in trials for kind in trial.notes):
        those = [trial for trial in trials if kind in trial.notes]
        last = those[-1]
        said.append(f"{len(those)} of {len(trials)} attacks, the last at {last.eps:g}: {last.notes[kind]}")
    return said


def about_own_budget(built: Built) -> list[str]:
    """What a margin of eps means for an attack that something else limits."""
    own = built.recipe.own_budget(built.parameters)
    if own is None:
        return []
    unit = f" {own['unit']}" if own["unit"] else ""
    return [
        f"{built.recipe.name} is limited by {own['parameter']} {own['value']:g}{unit} as well: this is the "
        "margin of a cap on its largest change, not to be compared with those of attacks at a limit."
    ]
