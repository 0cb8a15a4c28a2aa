"""Sentences built from numbers: the verdict, its headline, warnings. Plain texts; `*…*` marks what the page prints
bold."""

from dataclasses import dataclass
from typing import Any

from perturbox.report.findings import LIMITS, Finding
from perturbox.report.load import Result

CONTROL_STEADY = 0.05  # a control that lowers no Dice by more than this "changed almost nothing"
NO_PROOF = "An attack shows that a model can fail; not failing is no proof of safety."


@dataclass(frozen=True)
class Units:
    """What the scan's values and the structures' sizes are counted in."""

    value: str
    size: str

    @classmethod
    def of(cls, result: Result) -> "Units":
        unit = result.record["budget"]["unit"]
        return cls(value="HU" if unit == "HU" else "units", size="cm²" if result.flat else "ml")


def number(value: float | None, digits: int = 3) -> str:
    """At most `digits` significant digits, no exponent, a true minus sign; "–" for no value."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - int(f"{abs(value):e}".split("e")[1]))
    text = f"{value:.{decimals}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return text.replace("-", "−")


def fixed(value: float | None, decimals: int) -> str:
    return "–" if value is None else f"{value:.{decimals}f}".replace("-", "−")


def signed(value: float, decimals: int = 1) -> str:
    """With its sign, unless it rounds to zero."""
    rounded = round(value, decimals)
    return fixed(abs(rounded), decimals) if rounded == 0 else ("+" if rounded > 0 else "") + fixed(rounded, decimals)


def size(value: float) -> str:
    """Millilitres as one reads them: whole above 10, one decimal below."""
    return fixed(value, 0 if abs(value) >= 10 else 1)


def limit_phrase(result: Result, units: Units) -> str:
    """The budget in words: "at most 10 HU", an RMS or a share of voxels for the other norms."""
    budget = result.record["budget"]
    eps, largest = budget["eps"], budget["measured"]["linf"]
    if budget["norm"] == "l2":
        return f"{number(eps)} {units.value} RMS (largest {number(largest)} {units.value})"
    if budget["norm"] == "l0":
        return f"{number(100 * eps)} % of the voxels (largest {number(largest)} {units.value})"
    return f"{number(eps)} {units.value}"


def headline(result: Result, findings: list[Finding], units: Units) -> str:
    broken = [f for f in findings if f.broken]
    limit = limit_phrase(result, units)
    if not broken:
        return f"Stress test: nothing broke within {limit}"
    names = [f.title.lower() for f in broken[:2]]
    more = f" and {len(broken) - 2} more" if len(broken) > 2 else ""
    joined = f"{names[0]}, {names[1]}{more}" if more else " and ".join(names)
    return f"Stress test: {joined} changed within {limit}"


def verdict(result: Result, findings: list[Finding], units: Units) -> str:
    """What was changed, against the scan's own noise; what it did; what random noise of the same size did."""
    return f"{_change(result, units)} {_effect(findings, units)}. {_control(result, findings)}"


def _change(result: Result, units: Units) -> str:
    noise, norm = result.record["noise"], result.record["budget"]["norm"]
    factor = noise.get("eps_over_sigma") if norm == "linf" else noise.get("rms_over_sigma")
    text = f"A change of at most *{limit_phrase(result, units)}*"
    if noise.get("sigma") and factor is not None:
        kind = "" if norm == "linf" else "in RMS "
        return (
            f"{text} – {kind}*{number(factor, 2)} ×* this scan’s own noise (σ {number(noise['sigma'])} {units.value}) –"
        )
    return f"{text} (this scan’s own noise could not be measured)"


def _effect(findings: list[Finding], units: Units) -> str:
    broken = [f for f in findings if f.broken]
    if not broken:
        present = [f for f in findings if f.agreement is not None]
        if not present:
            return "was tried, but the model found none of its structures before or after"
        lowest = min(present, key=lambda f: f.agreement or 0)
        return (
            f"pushed no structure over a limit (lowest Dice *{fixed(lowest.agreement, 3)}*, {lowest.title.lower()}); "
            "that is no proof of safety"
        )
    parts = []
    gone = [f for f in broken if f.reason == "vanished"]
    if gone:
        parts.append(
            "made *" + ", ".join(f"{f.title.lower()} ({size(f.before)} {units.size})" for f in gone) + "* vanish"
        )
    # Shares of the structure, not millilitres: 200 ml of a kidney weigh more than 600 ml of bowel.
    rest = [f for f in broken if f.reason != "vanished"]
    lost = max((f for f in rest if f.lost >= 0.5), key=lambda f: f.lost / f.before, default=None)
    others = [f for f in rest if f.gained >= 0.5 and f is not lost] or [f for f in rest if f.gained >= 0.5]
    gained = max(others, key=lambda f: f.gained / max(f.before, 1.0), default=None)
    changes = []
    if lost:
        changes.append(f"lose *{size(lost.lost)} {units.size} of {lost.title.lower()}* ({_from_to(lost, units)})")
    if gained:
        both = f" ({_from_to(gained, units)})" if gained is not lost and gained.after > gained.before else ""
        changes.append(
            f"add *{size(gained.gained)} {units.size} of “{gained.title.lower()}”*{both} that was not there before"
        )
    if changes:
        parts.append("made the model " + " and ".join(changes))
    if not parts:
        parts.append("moved *" + ", ".join(f.title.lower() for f in broken) + "* over a limit")
    return " and ".join(parts)


def _from_to(f: Finding, units: Units) -> str:
    return f"{size(f.before)} → {size(f.after)} {units.size}"


def _control(result: Result, findings: list[Finding]) -> str:
    control = result.record["control"]
    kind = "A random draw of the same kind" if control.get("own") else "Random noise of the same size"
    scores = (control.get("own") or control.get("noise") or {}).get("dice") or {}
    falls = [
        (f.dice_before - scores[f.name], f)
        for f in findings
        if f.dice_before is not None and scores.get(f.name) is not None
    ]
    if not falls:
        return "No random-noise control was run."
    fall, worst = max(falls, key=lambda item: item[0])
    left = fixed(scores[worst.name], 3)
    if fall <= CONTROL_STEADY:
        known = f"Dice ≥ *{left}*" if result.own_reference else f"Dice fell by at most *{fixed(max(fall, 0), 3)}*"
        return f"{kind} changed almost nothing ({known})."
    return f"{kind} alone already lowered Dice to *{left}* ({worst.title.lower()}): part of the damage needs no attack."


def hidden_failures(findings: list[Finding], units: Units) -> list[str]:
    """Failures that a good Dice hides, and where to look."""
    found = []
    for f in findings:
        plane, first, last = f.look
        where = "" if units.size == "cm²" else f" Look at {plane} slices {first + 1}–{last + 1}."
        if f.reason == "distance":
            amount, kind = (f.gained, "added") if f.gained >= f.lost else (f.lost, "lost")
            found.append(
                f"*{f.title}:* Dice {fixed(f.agreement, 3)} looks good, but {size(amount)} {units.size} was {kind} and "
                f"the outlines lie up to {number(f.hd95_mm)} mm apart (HD95, limit {number(LIMITS.hd95_mm)} mm).{where}"
            )
        if f.reason == "local":
            found.append(
                f"*{f.title}:* Dice {fixed(f.agreement, 3)} hides {f.failed} of {f.present} {plane} slices with Dice "
                f"below {number(LIMITS.slice_dice)}.{where}"
            )
    return found


def caveats(result: Result, findings: list[Finding], units: Units) -> list[str]:
    """What limits the result's meaning: the record's warnings, with their first words bold."""
    found = []
    told = result.record.get("warnings") or []
    if not any(f.broken for f in findings) and not any("proof of safety" in text for text in told):
        limit = limit_phrase(result, units)
        found.append(f"*No break up to {limit} with this effort:* that is not proof of safety; raise effort or limit.")
    for text in told:
        head, colon, rest = text.partition(":")
        found.append(f"*{head}:*{rest}" if colon and len(head) < 60 else text)
    return found


def success(record: dict[str, Any]) -> str:
    rule = record.get("success") or {}
    if rule.get("value") is None:
        return "not stated"
    met = "met" if rule.get("succeeded") else "not met"
    limit = f", limit {number(rule['threshold'])}" if rule.get("threshold") is not None else ""
    return f"{rule.get('rule', '')}: {number(rule['value'])}{limit} – {met}"


def limits(flat: bool) -> str:
    local = "" if flat else f"; “locally”: over {LIMITS.failed_slices} slices with Dice < {number(LIMITS.slice_dice)}"
    return (
        f"Limits: Dice < {LIMITS.dice:.2f}, {'area' if flat else 'volume'} change > {LIMITS.volume_change:.0%}, "
        f"HD95 > {LIMITS.hd95_mm:.0f} mm, vanished or appeared{local}."
    )
