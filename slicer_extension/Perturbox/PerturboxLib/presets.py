"""How hard to try, in a radiologist's words: each effort fills several fields of the attack's form."""

from dataclasses import dataclass, field

from slicer.i18n import tr as _

from . import words

CUSTOM = "custom"


@dataclass(frozen=True)
class Effort:
    """times: how often the attack's own number of steps is taken, 0 for what the user sets; fields: what else it sets
    where the attack's form has such a field, and leaves alone where it hasn't."""

    name: str
    title: str
    tip: str
    times: float = 0.0
    fields: dict = field(default_factory=dict)


EFFORTS = (
    Effort("quick", _("Quick look"), _("Enough to see whether anything moves"), 0.5),
    Effort("standard", _("Standard"), _("As many steps as the method needs"), 1.0),
    Effort("thorough", _("Thorough"), _("For a claim: many steps, and a second start"), 5.0, {"restarts": 2}),
    Effort(CUSTOM, _("Custom"), _("The values under Advanced")),
)


def find(name: str) -> Effort:
    """The effort of that name, Custom for any other."""
    return next((effort for effort in EFFORTS if effort.name == name), EFFORTS[-1])


def values(effort: Effort, own: int) -> dict:
    """What an effort sets in the form of an attack that takes `own` steps by itself."""
    return {"steps": max(1, round(effort.times * own)), **effort.fields} if effort.times else {}


def title(effort: Effort, own: int, secondsPerStep: float) -> str:
    """The effort with its steps for an attack that takes `own` by itself (0: not known) and, where the pace is known,
    its time."""
    if not effort.times or not own:
        return effort.title
    total = values(effort, own)["steps"] * effort.fields.get("restarts", 1)
    time = _(", about {duration}").format(duration=words.duration(total * secondsPerStep)) if secondsPerStep else ""
    return _("{title} – {total} steps{time}").format(title=effort.title, total=total, time=time)
