"""Sentences built from numbers: the verdict, its headline, warnings. Plain texts; `*…*` marks what the page prints
bold."""

from dataclasses import dataclass
from typing import Any

from perturbox.judge import summary
from perturbox.judge.summary import fixed, number, size
from perturbox.report.findings import LIMITS, Finding
from perturbox.report.load import Result
from perturbox.types import points

NO_PROOF = "An attack shows that a model can fail; not failing is no proof of safety."


@dataclass(frozen=True)
class Units:
    """What the scan's values, the structures' sizes and distances are counted in."""

    value: str
    size: str
    length: str

    @classmethod
    def of(cls, record: dict[str, Any]) -> "Units":
        """Of a result's record, or of what a search for the margin says."""
        unit, sizes = record["unit"] if "unit" in record else record["budget"]["unit"], record["source"]["sizes"]
        values = {"HU": "HU", "sigma": "σ", "percent": "% of range"}
        return cls(values.get(unit, "units"), sizes, "pixels" if sizes == "pixels" else "mm")

    @property
    def points(self) -> str:
        """What the points of the scan's grid are called."""
        return points(3 if self.size == "ml" else 2)


def channels_shown(record: dict[str, Any]) -> str:
    """Which channel the pictures show; empty for a scan of one."""
    count = len(record["source"].get("channels") or ())
    names = record["victim"].get("channel_names") or []
    return f"the first of {count} channels{f' ({names[0]})' if names else ''}" if count else ""


def signed(value: float, decimals: int = 1) -> str:
    """With its sign, unless it rounds to zero."""
    rounded = round(value, decimals)
    return fixed(abs(rounded), decimals) if rounded == 0 else ("+" if rounded > 0 else "") + fixed(rounded, decimals)


def limit_phrase(result: Result) -> str:
    """The budget in words: "10 HU", an RMS or a share of voxels for the other norms."""
    budget = result.record["budget"]
    return summary.amount(budget, budget["eps"])


def headline(result: Result, findings: list[Finding]) -> str:
    """The page's title."""
    broken, budget = [f for f in findings if f.broken], result.record["budget"]
    size = summary.amount(budget, summary.size_used(budget))
    if not broken:
        return f"Stress test: nothing broke within {size}"
    names = [f.title.lower() for f in broken[:2]]
    more = f" and {len(broken) - 2} more" if len(broken) > 2 else ""
    joined = f"{names[0]}, {names[1]}{more}" if more else " and ".join(names)
    return f"Stress test: {joined} changed within {size}"


def hidden_failures(findings: list[Finding], units: Units) -> list[str]:
    """Failures that a good Dice hides, and where to look."""
    found = []
    for f in findings:
        plane, first, last = f.look
        where = "" if units.size != "ml" else f" Look at {plane} slices {first + 1}–{last + 1}."
        verb = "were" if units.size == "pixels" else "was"
        if f.reason == "distance":
            amount, kind = (f.gained, "added") if f.gained >= f.lost else (f.lost, "lost")
            found.append(
                f"*{f.title}:* Dice {fixed(f.agreement, 3)} looks good, but {size(amount, units.size)} "
                f"{units.size} {verb} {kind} and the outlines lie up to {number(f.moved)} {units.length} apart (HD95, "
                f"limit {number(LIMITS.hd95_mm)} {units.length}).{where}"
            )
        if f.reason == "local":
            found.append(
                f"*{f.title}:* Dice {fixed(f.agreement, 3)} hides {f.failed} of {f.present} {plane} slices with Dice "
                f"below {number(LIMITS.slice_dice)}.{where}"
            )
    return found


def caveats(result: Result, findings: list[Finding]) -> list[str]:
    """What limits the result's meaning: the record's warnings, with their first words bold."""
    found = []
    told = summary.notes(result.record)
    if not any(f.broken for f in findings) and not any("proof of safety" in text for text in told):
        size = summary.change(result.record)
        found.append(f"*No break with {size} and this effort:* that is not proof of safety; raise effort or limit.")
    return found + [headed(text) for text in told]


def headed(text: str) -> str:
    """A sentence with its first words bold, where a colon ends them."""
    head, colon, rest = text.partition(":")
    return f"*{head}:*{rest}" if colon and len(head) < 60 else text


def success(record: dict[str, Any]) -> str:
    rule = record.get("success") or {}
    if rule.get("value") is None:
        return "not stated"
    limit = f", limit {number(rule['threshold'])}" if rule.get("threshold") is not None else ""
    met = ""
    if record["attack"]["parameters"].get("goal", "change") != "change":  # otherwise nobody gave a goal
        met = " – met" if rule.get("succeeded") else " – not met"
    return f"{rule.get('rule', '')}: {number(rule['value'])}{limit}{met}"


def limits(units: Units) -> str:
    flat = units.size != "ml"
    local = "" if flat else f"; “locally”: over {LIMITS.failed_slices} slices with Dice < {number(LIMITS.slice_dice)}"
    return (
        f"Limits: Dice < {LIMITS.dice:.2f}, {'area' if flat else 'volume'} change > {LIMITS.volume_change:.0%}, "
        f"HD95 > {LIMITS.hd95_mm:.0f} {units.length}, vanished or appeared{local}."
    )
