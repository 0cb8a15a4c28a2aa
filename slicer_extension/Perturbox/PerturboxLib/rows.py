"""One structure's row of a result, and the verdicts' shapes and words. Needs numpy only."""

from dataclasses import dataclass

from .numbers import fixed, signed

# A shape and a word each, so that no verdict needs its colour; in the order of the table.
VERDICTS = {
    "vanished": ("✕", "vanished"),
    "appeared": ("✚", "appeared"),
    "dice": ("▼", "Dice"),
    "volume": ("▼", "size"),
    "distance": ("▲", "far"),
    "local": ("◐", "local"),
    "benign": ("●", "as benign"),
    "held": ("●", "held"),
    "not-outlined": ("○", "not outlined"),
    "not-tested": ("?", "not tested"),
    "absent": ("–", "absent"),
}
BROKEN = tuple(VERDICTS)[:6]


@dataclass(frozen=True)
class Row:
    """One structure. Volumes in `Result.size`; scores against the record's reference; None = no value.

    outlined: whether the scores have a reference; what an expert left out has none. agreement: Dice of the prediction
    after with the one before, movedMm: HD95 of them (None where an old record doesn't say). failed: slices with Dice <
    0.8, of `present` that hold the structure, along the axis where they are most. breaksAt, inSigma: "≤ 2", "> 4" or
    "–". reason: a key of VERDICTS. look: plane, first and last slice (0-based) where it shows best. further: the
    cells of `Result.further`.
    """

    name: str
    title: str
    value: int
    colour: str
    outlined: bool
    dice: float | None
    diceBefore: float | None
    agreement: float | None
    beforeMl: float
    afterMl: float
    lostMl: float
    gainedMl: float
    hd95Mm: float | None
    movedMm: float | None
    failed: int
    present: int
    breaksAt: str
    inSigma: str
    randomDice: float | None
    reason: str
    look: tuple[str, int, int]
    further: tuple[str, ...] = ()

    @property
    def deltaMl(self) -> float:
        return self.afterMl - self.beforeMl

    @property
    def deltaPercent(self) -> float | None:
        return 100 * self.deltaMl / self.beforeMl if self.beforeMl else None

    @property
    def broken(self) -> bool:
        return self.reason in BROKEN

    @property
    def verdict(self) -> str:
        unsaid = "" if self.outlined or self.reason == "not-outlined" else ", not outlined"
        return " ".join(VERDICTS[self.reason]) + unsaid

    @property
    def deltaText(self) -> str:
        percent = "" if self.deltaPercent is None else f" ({signed(self.deltaPercent, 0)} %)"
        return signed(self.deltaMl, 0 if abs(self.deltaMl) >= 10 else 1) + percent

    @property
    def diceText(self) -> str:
        """Dice after, in brackets if it compares with the clean prediction because the expert outlined nothing."""
        return fixed(self.dice, 3) if self.outlined else f"({fixed(self.agreement, 3)})"

    def cells(self, withExpert: bool = False) -> list[str]:
        """The row as texts under `Result.headers`."""
        dice = [fixed(self.diceBefore, 3), fixed(self.dice, 3)] if withExpert else [fixed(self.dice, 3)]
        if not self.outlined:
            dice = ["not outlined", self.diceText]
        far = self.hd95Mm if self.outlined else self.movedMm
        slices = f"{self.failed} of {self.present}"
        numbers = [self.deltaText, fixed(far, 1), slices, self.breaksAt, self.inSigma, fixed(self.randomDice, 3)]
        return [self.title, *dice, *numbers, *self.further, self.verdict]
