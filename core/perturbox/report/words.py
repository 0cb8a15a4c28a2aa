"""Sentences built from numbers: the verdict, its headline, warnings. Plain strings; `*text*` marks what the page prints bold."""

from dataclasses import dataclass
from typing import Any

from perturbox.report.findings import DICE_LIMIT, HD95_LIMIT, Finding
from perturbox.report.load import Result

CONTROL_STEADY = 0.95  # a control whose worst Dice stays above this "changed almost nothing"
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
    text = fixed(value, decimals)
    return (
        f"+{text}"
        if value > 0 and float(f"{value:.{decimals}f}")
        else text.lstrip("−")
        if not float(f"{value:.{decimals}f}")
        else text
    )


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
    rest = [f for f in broken if f.reason != "vanished"]
    lost = max(rest, key=lambda f: f.lost, default=None)
    gained = max(rest, key=lambda f: f.gained, default=None)
    changes = []
    if lost and lost.lost >= 0.5:
        changes.append(f"lose *{size(lost.lost)} {units.size} of {lost.title.lower()}* ({_from_to(lost, units)})")
    if gained and gained.gained >= 0.5:
        both = f" ({_from_to(gained, units)})" if gained is not lost else ""
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
    scores = (result.record["control"].get("noise") or {}).get("dice") or {}
    known = {f.title.lower(): scores[f.name] for f in findings if scores.get(f.name) is not None}
    if not known:
        return "No random-noise control was run."
    name, worst = min(known.items(), key=lambda item: item[1])
    if worst >= CONTROL_STEADY:
        return f"Random noise of the same size changed almost nothing (Dice ≥ *{fixed(worst, 3)}*)."
    return (
        f"Random noise of the same size alone already lowered Dice to *{fixed(worst, 3)}* ({name}): "
        "this model is unsteady on this scan even without an attack."
    )


def warnings(result: Result, findings: list[Finding], leaks: dict[str, str], units: Units) -> list[str]:
    """What a reader must know, most urgent first; `leaks` names the slices to look at, per structure."""
    record, found = result.record, []
    if record.get("stopped_early"):
        found.append(f"*Partial result:* {record['stopped_early']}; the best change so far is shown.")
    for f in findings:
        if f.dice_before is not None and record["reference"] == "label" and f.dice_before < 0.5:
            found.append(
                f"*{f.title}:* Dice with the expert outline is only {fixed(f.dice_before, 2)} before any attack. Fix that first."
            )
        where = f" Look at {leaks[f.name]}." if f.name in leaks else ""
        if f.reason == "distance":
            kind = (
                f"{size(f.gained)} {units.size} was added"
                if f.gained >= f.lost
                else f"{size(f.lost)} {units.size} was lost"
            )
            found.append(
                f"*{f.title}:* Dice {fixed(f.agreement, 3)} looks good, but {kind} and the outlines lie up to "
                f"{number(f.hd95_mm)} mm apart (HD95, limit {number(HD95_LIMIT)} mm).{where}"
            )
        if f.reason == "local":
            found.append(
                f"*{f.title}:* Dice {fixed(f.agreement, 3)} hides {f.failed} of {f.present} slices with Dice below 0.8.{where}"
            )
    if not any(f.broken for f in findings):
        eps = limit_phrase(result, units)
        found.append(
            f"*No break up to {eps} with this effort.* That is not proof of safety: raise the effort or the limit."
        )
    for text in record.get("warnings") or []:
        head, colon, rest = text.partition(":")
        found.append(f"*{head}:*{rest}" if colon and len(head) < 60 else text)
    if record["reference"] == "clean_prediction" and not any("expert outline" in w for w in found):
        found.append("*No expert outline was supplied:* every Dice compares the model with itself, not with the truth.")
    return found


def success(record: dict[str, Any]) -> str:
    rule = record.get("success") or {}
    if rule.get("value") is None:
        return "not stated"
    met = "met" if rule.get("succeeded") else "not met"
    limit = f", limit {number(rule['threshold'])}" if rule.get("threshold") is not None else ""
    return f"{rule.get('rule', '')}: {number(rule['value'])}{limit} – {met}"


LIMITS = (
    f"Limits: Dice < {DICE_LIMIT:.2f}, volume change > 10 %, HD95 > {HD95_LIMIT:.0f} mm, vanished or appeared; "
    "“locally”: over 2 slices with Dice < 0.8."
)
