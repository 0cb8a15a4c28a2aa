"""How hard to try, in a radiologist's words: each effort fills several fields of the attack's form."""

from dataclasses import dataclass, field

from . import words

CUSTOM = "custom"


@dataclass(frozen=True)
class Effort:
    """fields: what it sets where the attack's form has such a field, and leaves alone where it hasn't."""

    name: str
    title: str
    tip: str
    fields: dict = field(default_factory=dict)


EFFORTS = (
    Effort("quick", "Quick look", "Enough to see whether anything moves", {"steps": 10}),
    Effort("standard", "Standard", "What most comparisons use", {"steps": 40}),
    Effort("thorough", "Thorough", "For a claim: many steps, and a second start", {"steps": 100, "restarts": 2}),
    Effort(CUSTOM, "Custom", "The values under Advanced"),
)


def find(name: str) -> Effort:
    """The effort of that name, Custom for any other."""
    return next((effort for effort in EFFORTS if effort.name == name), EFFORTS[-1])


def title(effort: Effort, secondsPerStep: float) -> str:
    """The effort with its steps and, where the pace is known, its time."""
    steps = effort.fields.get("steps")
    if steps is None:
        return effort.title
    total = steps * effort.fields.get("restarts", 1)
    time = f", about {words.duration(total * secondsPerStep)}" if secondsPerStep else ""
    return f"{effort.title} – {total} steps{time}"
