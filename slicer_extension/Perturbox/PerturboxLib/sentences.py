"""The sentences of a result. Needs numpy only.

A record brings its headline; only that of the first schema, which had none, is built here.
"""

from .numbers import atLeast, atMost, fixed, number
from .rows import Row

CLEARLY = 0.9  # of a limit: changes that stayed below it name their own size
CONTROL_STEADY = 0.05
SLICE_LIMIT, HD95_LIMIT_MM = 0.80, 20.0
NO_PROOF = "That is not proof of safety: raise effort or limit."


def verdict(result) -> str:
    """What changed, against the scan's own noise; what it did, and how much of what; what chance alone does."""
    if summary := result.record.get("summary"):
        return summary["headline"]
    rows = result.rows()
    return f"{limit(result)} {effect(result, rows)}. {chance(result, rows)}"


def limit(result) -> str:
    """The change, and its limit where that is clearly larger, against the scan's own noise."""
    budget, noise, unit = result.record["budget"], result.record["noise"], result.unit
    eps, norm = budget["eps"], budget["norm"]
    used = budget["measured"][norm]
    used = used if used < CLEARLY * eps else eps

    def said(size: float) -> str:
        return {"l2": f"{number(size)} {unit} RMS", "l0": f"{number(100 * size)} % of the voxels"}.get(
            norm, f"{number(size)} {unit}"
        )

    size = f"≤ {said(used)}" + (f" (limit {said(eps)})" if used < eps else "")
    times = noise.get("rms_over_sigma") if norm != "linf" else noise.get("sigma") and used / noise["sigma"]
    if not noise.get("sigma") or times is None:
        return f"{size} (this scan’s noise is not available)"
    return f"{size} ({'RMS ' if norm == 'l0' else ''}{number(times, 2)} × this scan’s noise)"


def effect(result, rows: list[Row]) -> str:
    if not rows:
        return "was tried, but the model found none of its structures before or after"
    broken = [row for row in rows if row.broken]
    if not broken:
        low = min(rows, key=lambda row: row.agreement or 0)
        return f"changed no structure beyond the limits (lowest Dice {fixed(low.agreement, 3)}, {low.title.lower()})"
    parts = []
    gone = [row for row in broken if row.reason == "vanished"]
    if gone:
        names = ", ".join(f"{row.title.lower()} ({result.ml(row.beforeMl)})" for row in gone)
        parts.append(f"made {names} vanish")
    # By share of the structure: 200 ml of a kidney weigh more than 600 ml of bowel.
    rest = [row for row in broken if row.reason != "vanished"]
    losing = [row for row in rest if row.lostMl >= 0.5]
    lost = max(losing, key=lambda row: row.lostMl / row.beforeMl, default=None)
    gaining = [row for row in rest if row.gainedMl >= 0.5]
    others = [row for row in gaining if row is not lost] or gaining
    gained = max(others, key=lambda row: row.gainedMl / max(row.beforeMl, 1.0), default=None)
    if lost:
        parts.append(f"removed {result.ml(lost.lostMl)} of {lost.title.lower()}")
    if gained:
        parts.append(f"added {result.ml(gained.gainedMl)} of “{gained.title.lower()}”")
    if not parts:
        parts.append("moved " + ", ".join(row.title.lower() for row in broken) + " over a limit")
    return ", ".join(parts[:-1]) + (" and " if parts[1:] else "") + parts[-1]


def chance(result, rows: list[Row]) -> str:
    proof = "" if any(row.broken for row in rows) else f" {NO_PROOF}"
    known = [row for row in rows if row.outlined and row.randomDice is not None and row.diceBefore is not None]
    if not known:
        return f"No random-noise control was run.{proof}"
    said = "A random draw of the same kind" if result.chance == "Random draw" else "Random noise of that size"
    worst = max(known, key=lambda row: row.diceBefore - row.randomDice)
    fall = worst.diceBefore - worst.randomDice
    if fall > CONTROL_STEADY:
        dice = fixed(worst.randomDice, 3)
        return f"{said} alone lowers Dice to {dice} ({worst.title.lower()}).{proof}"
    if result.ownReference:
        return f"{said}: Dice ≥ {atLeast(worst.randomDice, 3)}.{proof}"
    return f"{said}: Dice falls by at most {atMost(max(fall, 0.0), 3)}.{proof}"


def flags(result) -> list[str]:
    """What a good Dice hides, and where to look: a far leak, slices that failed."""
    return [said for said in (flag(result, row) for row in result.rows()) if said]


def flag(result, row: Row) -> str:
    """What the Dice of one structure hides; empty if nothing."""
    plane, first, last = row.look
    where = f"Look at {plane} slice{'' if first == last else 's'} {first + 1}"
    where += "." if first == last else f"–{last + 1}."
    start = f"{row.title}: Dice {fixed(row.agreement, 3)}"
    if row.reason == "distance":
        ml, what = max((row.gainedMl, "was added"), (row.lostMl, "was lost"))
        limit = f"{number(HD95_LIMIT_MM)} {result.length}"
        far = f"up to {number(row.movedMm)} {result.length} from the edge before (HD95, limit {limit})"
        return f"{start} looks good, but {result.ml(ml)} {what} {far}. {where}"
    if row.reason == "local":
        slices = f"{row.failed} of {row.present} {plane} slices with Dice below {SLICE_LIMIT}"
        return f"{start} hides {slices}. {where}"
    return ""


def detail(result, row: Row) -> str:
    """Every number of one structure, for whoever selected its row."""
    parts = [f"{result.ml(row.beforeMl)} before, {result.ml(row.afterMl)} after"]
    parts += [f"{result.ml(row.lostMl)} lost, {result.ml(row.gainedMl)} added"]
    if not result.ownReference and row.outlined:
        parts += [f"Dice with the expert {fixed(row.diceBefore, 3)} before, {fixed(row.dice, 3)} after"]
        parts += [f"with the clean prediction {fixed(row.agreement, 3)}"]
    far = row.hd95Mm if row.outlined else row.movedMm
    if far is not None:
        parts += [f"HD95 {fixed(far, 1)} {result.length}"]
    parts += [f"{row.failed} of {row.present} slices with Dice below {SLICE_LIMIT}"]
    if row.breaksAt != "–":
        sigma = "" if row.inSigma == "–" else f" ({row.inSigma} × the scan’s noise)"
        unit = "" if row.breaksAt == "not tested" else f" {result.unit}"
        parts += [f"breaks at {row.breaksAt}{unit}{sigma}"]
    if row.randomDice is not None:
        parts += [f"{result.chance.lower()} alone: Dice {fixed(row.randomDice, 3)}"]
    parts += [f"{column['title']} {cell}" for column, cell in zip(result.further, row.further, strict=True)]
    return f"{row.title}: {'; '.join(parts)}."
