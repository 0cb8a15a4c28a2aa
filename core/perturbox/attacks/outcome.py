"""What a run tells: each step as it is taken, and in the end the best, whole or member by member."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Step:
    """One step as seen from outside; dice and score are live values on the network's grid, before clean-up. restart:
    which round this is; member: of a composed attack, whose. loss, score: None where they are no finite numbers."""

    step: int
    steps: int
    restart: int
    loss: float | None
    score: float | None
    dice: dict[int, float | None]
    linf: float
    seconds: float
    member: str | None = None

    def describe(self, names: Mapping[int, str]) -> dict[str, Any]:
        """The entry of a trace: plain JSON, structures by name."""
        return {
            "step": self.step,
            "restart": self.restart,
            "member": self.member,
            "loss": self.loss,
            "score": self.score,
            "dice": {names[value]: dice for value, dice in self.dice.items()},
            "linf": self.linf,
        }


# What is better is greater: (reached the goal, minus its size where the smallest is sought, minus its score).
Rank = tuple[bool, float, float]


@dataclass
class Member:
    """What one member of a composed attack found: its best step, the size of that change in the attack's norm, and the
    lowest live Dice of each structure, which may come from different points."""

    name: str
    best: Step
    rank: Rank
    size: float
    lowest: dict[int, float] = field(default_factory=dict)

    def note(self, now: Step, rank: Rank, size: float) -> None:
        """One more step of this member's."""
        higher = rank == self.rank and self.best.linf > 0 and (now.loss or 0.0) > (self.best.loss or 0.0)
        if rank > self.rank or higher:
            self.best, self.rank, self.size = now, rank, size
        for value, dice in now.dice.items():
            if dice is not None:
                self.lowest[value] = min(dice, self.lowest.get(value, 1.0))

    def describe(self, names: Mapping[int, str]) -> dict[str, Any]:
        """The entry of result.json: plain JSON, structures by name."""
        return {
            "name": self.name,
            "step": self.best.step,
            "restart": self.best.restart,
            "score": self.best.score,
            "succeeded": self.rank[0],
            "size": self.size,
            "lowest_dice": {names[value]: dice for value, dice in self.lowest.items()},
        }


@dataclass(frozen=True, eq=False)
class Outcome:
    """x_adv: "c *s", what the file will hold, in the source's dtype; delta: its difference from the source.

    influence: float32 "c *s", see the module of that name; None where the attack takes no gradient on this scan, or
    nothing changed.
    had_gradient: bool "*s", voxels that ever had a gradient (None where the attack asks for none, or its variables
    aren't voxels). stopped: the step at which the user stopped it, None if it ran to its end. members: of a composed
    attack. untested: why structures that held were not tested, None where they were; notes: what else couldn't be used,
    by kind. facing: of an attack on a defended model, how it met the defences.
    """

    x_adv: np.ndarray
    delta: np.ndarray
    trace: list[Step]
    best: Step
    had_gradient: np.ndarray | None
    stopped: int | None
    members: list[Member] = field(default_factory=list)
    influence: np.ndarray | None = None
    untested: str | None = None
    notes: dict[str, str] = field(default_factory=dict)
    facing: "Facing | None" = None


@dataclass(frozen=True, eq=False)
class Facing:
    """How an attack met a model's defences: through which stand-in it found its worst, all that were tried ({stand_in,
    score on the saved file, forwards, backwards, draws per pass}), and what it found without knowing of them."""

    stand_in: str
    tried: list[dict[str, Any]]
    oblivious: Outcome
