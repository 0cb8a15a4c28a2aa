"""Sentences of the panel, built from numbers."""

import math

from slicer.i18n import tr as _

from .palette import readable

LONGEST = 26  # characters of what a folded section says of itself; the panel must not grow with a scan's name


def section(title: str, state: str) -> str:
    """A section's title with what was chosen in it, so that it can be folded."""
    short = state if len(state) <= LONGEST else f"{state[: LONGEST - 1]}…"
    return f"{title}  ● {short}" if state else title


def duration(seconds: float) -> str:
    """Seconds as one says them: "25 s", "1 min 45 s", "1 h 10 min"."""
    seconds = 5 * math.ceil(max(0.0, seconds) / 5)
    if seconds < 60:
        return f"{seconds} s"
    minutes, rest = divmod(seconds, 60)
    if minutes < 60:
        return (
            _("{minutes} min {rest} s").format(minutes=minutes, rest=rest)
            if rest and minutes < 10
            else _("{minutes} min").format(minutes=minutes)
        )
    hours, minutes = divmod(minutes, 60)
    return _("{hours} h {minutes} min").format(hours=hours, minutes=minutes) if minutes else f"{hours} h"


def progress(job: dict) -> str:
    """One line on how a job goes, for the bar."""
    state, at = job["state"], job["progress"]
    if state == "queued":
        position = job.get("queue_position")
        ahead = (position or 1) - 1
        return _("waiting, {ahead} ahead").format(ahead=ahead) if ahead else _("waiting for a worker")
    parts = []
    if at.get("steps") and at.get("step") is not None and job["kind"] == "attack":
        parts.append(_("step {step} of {steps}").format(step=at["step"], steps=at["steps"]))
    elif at.get("steps") and at.get("step") is not None and job["kind"] == "certify":
        parts.append(_("{phase} {step} of {steps}").format(phase=at["phase"], step=at["step"], steps=at["steps"]))
    else:
        parts.append(at["phase"] or "starting")
    if at.get("eta_s"):
        parts.append(_("about {duration} left").format(duration=duration(at["eta_s"])))
    return " · ".join(parts)


def live(trace: list, limit: float) -> str:
    """The structure that is lowest now and when it first fell below the limit; empty before the first step."""
    scores = {name: dice for name, dice in (trace[-1]["dice"] if trace else {}).items() if dice is not None}
    if not scores:
        return ""
    name = min(scores, key=scores.get)
    first = next((row["step"] for row in trace if falls(row["dice"].get(name), limit)), None)
    since = (
        _(" – first below {limit:.2f} at step {first}").format(limit=limit, first=first) if first is not None else ""
    )
    return _("{structure} {dice:.2f}{since}. Stop keeps the best result so far.").format(
        structure=readable(name), dice=scores[name], since=since
    )


def several(job: dict) -> bool:
    """Whether a job is of several attacks, one after another, as before a model behind a defence."""
    return bool((job.get("request") or {}).get("defense"))


def latest(trace: list) -> list:
    """The steps of the attack that runs now, where one follows another in a trace: from its first step on."""
    places = [(row.get("restart") or 0, row["step"]) for row in trace]
    begun = [n for n in range(1, len(places)) if places[n] <= places[n - 1]]
    return trace[begun[-1] :] if begun else trace


def falls(dice, limit: float) -> bool:
    """Whether a Dice lies below the limit; one that isn't defined doesn't."""
    return dice is not None and dice < limit
