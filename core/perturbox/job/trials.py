"""One trial of a search for the margin, and how its finds are told."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from perturbox.attacks.budget import Budget
from perturbox.attacks.recipes import Built
from perturbox.judge import checks, metrics
from perturbox.types import Case, Volume

WITHOUT = "without"  # the folder in which the margin of a defended model's plain one lies
MEANING = (
    "breaks_at is an upper bound, measured on a saved file that breaks the limit; null means that nothing up to "
    "`above` was found, which is no proof of safety"
)


@dataclass(frozen=True, eq=False)
class Trial:
    """One judged attack: the limit it was given, what it measured on the saved file, and each structure's verdict.
    untested: of each structure that held, why that was no test, None where it was one; notes: see `Outcome`. dice,
    noise_dice: agreement of each structure with the clean prediction, and what white noise of that change's RMS leaves
    of it; None where the structure is in neither. stand_in: what the attack's gradient passed in place of the model's
    defences, None of a model without any; cost: forward and backward passes of the whole scan."""

    eps: float
    aimed: tuple[int, ...]
    linf: float
    verdicts: dict[str, str]
    untested: dict[str, str | None]
    notes: dict[str, str]
    dice: dict[str, float | None]
    noise_dice: dict[str, float | None]
    stand_in: str | None = None
    cost: tuple[float, float] = (0.0, 0.0)

    def breaks(self, name: str) -> bool:
        return self.verdicts[name] in metrics.BROKEN

    def like(self, other: "Trial") -> bool:
        """Whether it is of the same limit and aimed at the same; only the stand-in may be another."""
        return (self.eps, self.aimed) == (other.eps, other.aimed)

    def left(self, names: Mapping[int, str]) -> tuple[int, float]:
        """How much is left of what it aimed at, lower is worse for the model: how many held, and their mean Dice."""
        aimed = [names[value] for value in self.aimed]
        known = [dice for name in aimed if (dice := self.dice[name]) is not None]
        return sum(not self.breaks(name) for name in aimed), sum(known) / len(known) if known else 0.0

    def met(self, names: Mapping[int, str], draws: int) -> dict[str, Any]:
        """How it met a model's defences, see `outcome.Facing`; draws: per pass."""
        forwards, backwards = self.cost
        cost = {"forwards": forwards, "backwards": backwards, "draws": draws}
        return {"stand_in": self.stand_in, "score": self.left(names)[1], **cost}

    def describe(self, names: Mapping[int, str]) -> dict[str, Any]:
        """A row of "trials" in margin.json."""
        return {
            "eps": self.eps,
            "aimed": [names[value] for value in self.aimed],
            "linf": self.linf,
            "broken": {name: metrics.limit_of(word) for name, word in self.verdicts.items()},
            "dice": self.dice,
            "noise_dice": self.noise_dice,
            **({} if self.stand_in is None else {"stand_in": self.stand_in}),
        }


def row_of_break(trial: Trial, name: str, held: float, folder: str, sigma: float | None) -> dict[str, Any]:
    """A structure's row of margin.json: its smallest break, the largest limit below that held, the folder that proves
    it."""
    return {
        "verdict": trial.verdicts[name],
        "reason": None,
        "breaks_at": trial.linf,
        "above": held,
        "used": trial.linf,
        "limit": metrics.limit_of(trial.verdicts[name]),
        "witness": folder,
        "in_sigma": trial.linf / sigma if sigma else None,
    }


def row_of_none(trials: Sequence[Trial], name: str, value: int, reason: str | None) -> dict[str, Any]:
    """A structure's row of margin.json where nothing broke it; reason: why that was no test, None where it was one."""
    tests = [t for t in trials if not t.untested[name]]
    words = [t.verdicts[name] for t in tests]
    return {
        "verdict": "not-tested" if reason else min(words, key=metrics.VERDICTS.index),
        "reason": reason,
        "breaks_at": None,
        "above": None if reason else max(t.eps for t in tests),
        "used": max((t.linf for t in tests if value in t.aimed), default=None),
        "limit": None,
        "witness": None,
        "in_sigma": None,
    }


def noisy(image: Volume, delta: np.ndarray, roi: np.ndarray | None, seed: int) -> Volume:
    """The scan with white noise in place of a change "c *s": the same voxels, the same RMS. One pattern for all sizes,
    so that a search's noise differs by its size alone."""
    budget = Budget.of(Case(image, roi=roi), 1.0, "linf")  # of which only the region and the range count
    region = budget.region[0, 0].numpy()
    noise = checks.white_noise(delta, image.data, region, *budget.span(), image.steps, np.random.default_rng(seed))
    return image.with_data((image.data + noise).astype(image.data.dtype))


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
