"""The verdict of one structure: its words, what each looks like, and the limits behind them. Light: it computes nothing
and imports nothing, so that whoever only prints a result need not wait for what measured it."""

from dataclasses import dataclass

# Every word a verdict can be, worst first, with its shape (so that colour is never needed) and how it reads.
SAID = {
    "vanished": ("✕", "vanished"),
    "appeared": ("✚", "appeared"),
    "dice": ("▼", "Dice"),
    "volume": ("▼", "size"),
    "distance": ("▲", "distance"),
    "local": ("◐", "locally"),
    "benign": ("●", "as under harmless changes"),
    "held": ("●", "held"),
    "not-outlined": ("○", "not outlined"),
    "not-tested": ("?", "not tested"),
    "absent": ("–", "not in this scan"),
}
VERDICTS = tuple(SAID)
# Those that are breaks, and those among them that rest on overlap alone.
BROKEN = VERDICTS[:6]
OVERLAP = VERDICTS[:4]
BACKGROUND = "background"  # what value 0 is called if a model doesn't name it


@dataclass(frozen=True)
class Limits:
    """What a structure must keep, against the clean prediction, not to count as broken.

    Lowest Dice, largest relative change of volume, largest HD95 in mm; and, for local failure, how many slices may fall
    below `slice_dice`.
    """

    dice: float = 0.90
    volume_change: float = 0.10
    hd95_mm: float = 20.0
    slice_dice: float = 0.80
    failed_slices: int = 2


def limit_of(verdict: str) -> str | None:
    """The limit that a break violates, as `metrics.broken_by` names it, or "local"; None for no break."""
    return {"distance": "hd95"}.get(verdict, verdict) if verdict in BROKEN else None


def said(verdict: str, outlined: bool = True) -> str:
    """A verdict as every table prints it: shape, words, and whether the expert outlined the structure."""
    unsaid = "" if outlined or verdict == "not-outlined" else ", not outlined"
    return f"{' '.join(SAID[verdict])}{unsaid}"
