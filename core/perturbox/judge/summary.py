"""A result in words, from the content of result.json alone: the sentence that every face shows, and its parts.

It is kept in result.json (`summary`), so that readers without this package print it instead of working it out again.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from perturbox.judge.verdicts import BACKGROUND, BROKEN

CLEARLY = 0.9  # of the limit: a change below that names its own size
STEADY = 0.05  # chance that lowers no Dice by more than this did nothing
SPECK = 0.001  # of what moved in the structure of which most did: as little as that isn't what a result is about
TOLD = 0.05  # of what moved: a part as small as that is told as the rest
NSD_NOTE = "The NSD tolerance"  # how what is said of that metric alone begins
NAMED = 6  # as many broken structures are named one by one


# ---------------------------------------------------------------- numbers as one reads them


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
    """That many decimals, a true minus sign; "–" for no value."""
    return "–" if value is None else f"{value:.{decimals}f}".replace("-", "−")


def at_least(value: float, decimals: int = 2) -> str:
    """For "… or above": rounded down, for 0.996 isn't 1.00 or above."""
    return fixed(math.floor(value * 10**decimals + 1e-9) / 10**decimals, decimals)


def at_most(value: float, decimals: int = 2) -> str:
    """For "by at most …": rounded up."""
    return fixed(math.ceil(value * 10**decimals - 1e-9) / 10**decimals, decimals)


def size(value: float, sizes: str = "ml") -> str:
    """A volume or area as one reads it: whole above 10, one decimal below; pixels are counted."""
    return counted(value) if sizes == "pixels" else fixed(value, 0 if abs(value) >= 10 else 1)


def counted(value: float) -> str:
    """A whole number with a comma between thousands, a true minus sign."""
    return f"{value:,.0f}".replace("-", "−")


def listed(names: Sequence[str]) -> str:
    """Names as one says them: "liver, spleen and kidney"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


# ---------------------------------------------------------------- what a structure's numbers are


def outlined(record: Mapping[str, Any], name: str) -> bool:
    """Whether a structure's agreement is with the reference of the result; only what an expert left out has none."""
    return record["outlined"] is None or name in record["outlined"]


def scores(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A structure's row after the attack: with the reference, or with the clean prediction if it wasn't outlined."""
    rows = record["metrics"]["adversarial" if outlined(record, name) else "against_clean"]
    return (rows or record["metrics"]["adversarial"])[name]


def worst_first(record: Mapping[str, Any]) -> list[str]:
    """The structures that are there before or after, by what is left of the clean prediction, as their verdicts are."""
    against, rows = record["metrics"]["against_clean"] or {}, record["metrics"]["adversarial"]
    dice = {name: (against.get(name) or row)["dice"] for name, row in rows.items()}
    present = [name for name in rows if record["verdicts"][name] != "absent"]
    return sorted(present, key=lambda name: 1.0 if dice[name] is None else dice[name])


def broken(record: Mapping[str, Any]) -> list[str]:
    """The structures that broke, worst first."""
    return [name for name in worst_first(record) if record["verdicts"][name] in BROKEN]


def lead(record: Mapping[str, Any]) -> str | None:
    """The structure that the result is about, which every face shows first: of those that broke the worst of which
    more than a speck moved; of those that held the one with the lowest Dice; None if the model found none."""
    names, there = broken(record), worst_first(record)
    if not names or not record["flow"]:
        return (names or there or [None])[0]
    moved = {name: sum(row["ml"] for row in record["flow"] if name in (row["from"], row["to"])) for name in names}
    return next(name for name in names if moved[name] >= SPECK * max(moved.values()))


def mean_dice(record: Mapping[str, Any], which: str) -> float | None:
    """With the reference, "clean" or "adversarial": over the targets, or over every structure if none was named."""
    rows = record["metrics"][which]
    chosen = record["attack"]["parameters"]["target"] or list(rows)
    known = [rows[name]["dice"] for name in chosen if rows[name]["dice"] is not None]
    return sum(known) / len(known) if known else None


def defense_means(record: Mapping[str, Any]) -> dict[str, float | None]:
    """Mean Dice over the targets, or over every structure with a reference, of each row of a defended result's
    "dice"."""
    rows = record["defense"]["dice"]
    named = record["attack"]["parameters"]["target"] or list(rows["clean"])
    chosen = [name for name in named if outlined(record, name)]
    known = {which: [row[name] for name in chosen if row[name] is not None] for which, row in rows.items()}
    return {which: sum(dice) / len(dice) if dice else None for which, dice in known.items()}


def behind(record: Mapping[str, Any]) -> str | None:
    """What the defences of a model were worth, in a sentence; None of a model without any."""
    if "defense" not in record:
        return None
    mean = {which: fixed(dice, 2) for which, dice in defense_means(record).items()}
    names = listed([one["spec"] for one in record["victim"]["defense"]])
    until = ", as far as it came before it was stopped" if record["stopped_early"] else ""
    return (
        f"Behind {names} mean Dice is {mean['clean']} without an attack, {mean['oblivious']} after one that doesn't "
        f"know of it and {mean['adaptive']} after one that does{until} (stand-in: {record['defense']['stand_in']}); "
        f"without it {mean['undefended']}."
    )


# ---------------------------------------------------------------- the change


def unit_named(unit: str) -> str:
    """What a scan's values and changes are counted in, as sentences say it."""
    # Channels that are files of their own may each count in its own noise or range.
    named = {"HU": "HU", "sigma": "σ of each channel", "percent": "% of each channel's range"}
    return named.get(unit, "intensity units")


def amount(budget: Mapping[str, Any], size: float) -> str:
    """A size in the budget's norm and unit."""
    unit = unit_named(budget["unit"])
    if budget["norm"] == "l2":
        return f"{number(size)} {unit} RMS"
    if budget["norm"] == "l0":
        return f"{number(100 * size)} % of the voxels"
    return amount_of(size, unit)


def size_used(budget: Mapping[str, Any]) -> float:
    """The size that a headline may credit: the limit, or the change itself where it stayed clearly below."""
    eps, used = budget["eps"], budget["measured"][budget["norm"]]
    return used if used < CLEARLY * eps else eps


def change(record: Mapping[str, Any]) -> str:
    """The size that was used and its limit, what the attack's own budget is, and how often the scan's own noise."""
    budget, sigma = record["budget"], record["noise"]["sigma"]
    size = size_used(budget)
    text, about = amount(budget, size), []
    if size < budget["eps"]:
        about.append(f"limit {amount(budget, budget['eps'])}")
    own = record["attack"].get("own_budget")
    if own is not None and record["attack"]["parameters"]["eps"] is None:
        about.append(f"{own['parameter']} {number(own['value'])}{' ' + own['unit'] if own['unit'] else ''}")
    if budget.get("unit_asked") == "percent" != budget["unit"]:
        about.append(f"{number(budget['eps_asked'] * size / budget['eps'])} % of this scan's range")
    if sigma and budget["norm"] == "linf" and budget["unit"] != "sigma":
        about.append(f"{number(size / sigma, 2)} × this scan's own noise")
    return text + (f" ({'; '.join(about)})" if about else "")


def effect(record: Mapping[str, Any]) -> str:
    """What broke, by name; of what the expert didn't outline, that it is compared with the clean prediction."""
    names = broken(record)
    if not names:
        untested = [name for name, word in record["verdicts"].items() if word == "not-tested"]
        proof = f"but {listed(untested)} could not be tested" if untested else "which is no proof of safety"
        return f"broke no structure, {proof}"
    if len(names) > NAMED:
        return f"broke {len(names)} of {len(worst_first(record))} structures, worst {listed(names[:3])}"
    with_expert = [name for name in names if outlined(record, name)]
    rest = [name for name in names if not outlined(record, name)]
    parts = [listed(with_expert)] if with_expert else []
    if rest:
        parts.append(f"{listed(rest)} (not outlined: compared with the model's own clean prediction)")
    return f"broke {' and '.join(parts)}"


def became(record: Mapping[str, Any], name: str | None = None) -> str | None:
    """What a structure, or the one that the result is about, is called now, and what is newly called so; never the
    difference of its volumes, in which the two cancel. None if it didn't break or the flow isn't known."""
    name, flow = name or lead(record), record["flow"]
    if not flow or name not in broken(record):
        return None
    sizes = record["source"]["sizes"]
    lost = {row["to"]: row["ml"] for row in flow if row["from"] == name}
    new = {row["from"]: row["ml"] for row in flow if row["to"] == name}
    gone, come = sum(lost.values()), sum(new.values())
    parts = []
    if gone > TOLD * come:
        whole = f"{size(record['metrics']['clean'][name]['volume_ml'], sizes)} {sizes} {name}"
        ends = _parts(lost, gone, sizes, "now called ", "elsewhere")
        parts.append(
            f"all {whole} are lost ({ends})"
            if record["verdicts"][name] == "vanished"
            else f"of {whole} {size(gone, sizes)} are lost ({ends})"
        )
    if come > TOLD * gone:
        parts.append(f"{size(come, sizes)} {sizes} are newly called {name} ({_parts(new, come, sizes, 'before: ')})")
    return " and ".join(parts)


def _parts(rows: Mapping[str, float], whole: float, sizes: str, head: str, others: str = "others") -> str:
    """The larger parts of what was lost or is new by name: "now called liver 78, nothing 55, elsewhere 6"."""
    told = {name: ml for name, ml in rows.items() if ml > max(TOLD * whole, 0.05)}  # less than that reads "0.0"
    if len(rows) == 1:
        return head + plain(next(iter(rows)))
    rest = whole - sum(told.values())
    texts = [f"{plain(name)} {size(ml, sizes)}" for name, ml in told.items()]
    return head + ", ".join(texts + [f"{others} {size(rest, sizes)}"] * (rest >= 0.05))


def plain(name: str) -> str:
    """A structure's name in a flow: the background is nothing."""
    return "nothing" if name == BACKGROUND else name


def flows_told(record: Mapping[str, Any], most: int = 6) -> list[str]:
    """The largest flows in words, "gut → kidney 190 ml"; none where the flow isn't known or nothing changed."""
    rows = record["flow"] or []
    return [f"{plain(row['from'])} → {plain(row['to'])} {sized(record, row['ml'])}" for row in rows[:most]]


def sized(record: Mapping[str, Any], value: float) -> str:
    """A size with what it is told in."""
    sizes = record["source"]["sizes"]
    return f"{size(value, sizes)} {sizes}"


def chance(record: Mapping[str, Any]) -> tuple[str, str, Mapping[str, float | None]]:
    """What chance alone does, in short and in words, and the Dice it leaves: random draws from the attack's own space,
    or, where the voxels are its variables, random noise."""
    if own := record["control"].get("own"):
        return "Draw", "random draws of the same kind", own["dice"]
    return "Noise", "random noise of the same size", (record["control"].get("noise") or {}).get("dice") or {}


def chance_did(record: Mapping[str, Any]) -> str | None:
    """What chance alone did to the agreement with the reference; None if that isn't known."""
    _, said, dices = chance(record)
    clean = record["metrics"]["clean"]
    left = {name: dice for name, dice in dices.items() if dice is not None and outlined(record, name)}
    if not left:
        return None
    # What chance alone makes appear has lost all agreement with the nothing that was there.
    falls = {name: (1.0 if clean[name]["dice"] is None else clean[name]["dice"]) - dice for name, dice in left.items()}
    worst = max(falls, key=lambda name: falls[name])
    if falls[worst] > STEADY:
        return f"{said} alone took {worst} to {fixed(left[worst], 2)}"
    if record["reference"] == "clean_prediction":
        return f"{said} left every Dice at {at_least(min(left.values()))} or above"
    return f"{said} lowered no Dice by more than {at_most(max(falls[worst], 0.0))}"


def headline(record: Mapping[str, Any]) -> str:
    """The result in one sentence: the change, against the scan's own noise, what it broke, what became of the worst of
    these, what chance alone did; of a defended model a second one says what its defences were worth."""
    return " ".join(filter(None, (_headline(record), behind(record))))


def _headline(record: Mapping[str, Any]) -> str:
    budget, stopped = record["budget"], record["stopped_early"]
    if isinstance(record["untested"], str) and not stopped and not broken(record):
        return f"Not tested: {record['untested']}"
    if not budget["measured"]["linf"]:
        if stopped:
            return f"The attack was {stopped}, before anything was found: the saved scan is the original."
        return (
            f"No change within {amount(budget, budget['eps'])} was found: the saved scan is the original, which is no "
            "proof of safety."
        )
    before, after = mean_dice(record, "clean"), mean_dice(record, "adversarial")
    dice = None if None in (before, after) else f"mean Dice {fixed(before, 2)} → {fixed(after, 2)}"
    said = "; ".join(part for part in (became(record), dice, chance_did(record)) if part)
    sentence = f"A change of at most {change(record)} {effect(record)}" + (f": {said}" if said else "")
    if stopped:
        sentence += f". The attack was {stopped}; this is the best change until then"
    return sentence + "."


def notes(record: Mapping[str, Any]) -> list[str]:
    """The warnings for faces that show no NSD: what is said of it alone stays beside its values, in result.json."""
    return [text for text in record["warnings"] if not text.startswith(NSD_NOTE)]


def upper_bound(bound: Mapping[str, Any], unit: str = "") -> str:
    """A row of margin.json as "≤ 2 HU", "> 32 HU", or "–" if nothing was tried; a limit that the search could not use
    up says so."""
    unit = f" {unit}" if unit else ""
    if bound.get("verdict") == "not-tested":
        return "not tested"
    if bound.get("breaks_at") is not None:
        return f"≤ {number(bound['breaks_at'])}{unit}"
    above, used = bound.get("above"), bound.get("used")
    if above is None:
        return "–"
    text = f"> {number(above)}{unit}"
    return f"{text} (changes of at most {number(used)}{unit})" if used is not None and used < CLEARLY * above else text


# ---------------------------------------------------------------- a search for the margin


def soonest_first(margin: Mapping[str, Any]) -> list[str]:
    """The structures of margin.json: what breaks soonest, then what held, last what wasn't tested."""

    def place(name: str) -> tuple[bool, float]:
        row = margin["structures"][name]
        return row["verdict"] == "not-tested", float("inf") if row["breaks_at"] is None else row["breaks_at"]

    return sorted(margin["structures"], key=place)


def margin_unit(margin: Mapping[str, Any]) -> str:
    """What the sizes of a margin.json are in, as one reads it."""
    return "HU" if margin["unit"] == "HU" else "intensity units"


def undefended(margin: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The rows of the same model without its defences; None of a model without any."""
    return margin["undefended"]["structures"] if "undefended" in margin else None


def margin_headline(margin: Mapping[str, Any]) -> str:
    """A search for the margin in one sentence: what breaks at which change, what held, what wasn't tested; of a model
    behind defences a second one says where it breaks without them."""
    return " ".join(filter(None, (_margin_headline(margin), _margin_without(margin))))


def _margin_without(margin: Mapping[str, Any]) -> str | None:
    if (rows := undefended(margin)) is None:
        return None
    unit = margin_unit(margin)
    parts = [f"{name} {upper_bound(rows[name], unit)}" for name in soonest_first(margin)[:NAMED]]
    names = listed([one["spec"] for one in margin["victim"]["defense"]])
    return f"That is behind {names}, by attacks that know of it; without it: {', '.join(parts)}."


def _margin_headline(margin: Mapping[str, Any]) -> str:
    rows, sigma, unit = margin["structures"], margin["noise"]["sigma"], margin_unit(margin)
    names = soonest_first(margin)
    broke = [name for name in names if rows[name]["breaks_at"] is not None]
    untested = [name for name in names if rows[name]["verdict"] == "not-tested"]
    held = [name for name in names if name not in broke and name not in untested]
    parts = []
    if broke:
        size = rows[broke[0]]["breaks_at"]
        noise = f" ({number(size / sigma, 2)} × this scan's own noise)" if sigma else ""
        more = [f"{name} at {number(rows[name]['breaks_at'])}" for name in broke[1:NAMED]]
        more += [f"{len(broke) - NAMED} more by {number(rows[broke[-1]]['breaks_at'])}"] if len(broke) > NAMED else []
        rest = f"; {listed(more)}" if more else ""
        parts.append(f"A change of {amount_of(size, unit)}{noise} breaks {broke[0]}{rest}")
    if held:
        said = listed(held) if len(held) <= NAMED else f"{len(held)} structures"
        most = max(rows[name]["above"] or 0.0 for name in held)
        text = f"{said} held up to {amount_of(most, unit)}, which is no proof of safety"
        parts.append(text if broke else text[:1].upper() + text[1:])
    if untested:
        said = listed(untested) if len(untested) <= NAMED else f"{len(untested)} structures"
        why = rows[untested[0]]["reason"].rstrip(".")
        parts.append(f"{said} could not be tested" if parts else f"Not tested: {why}")
    return "; ".join(parts) + "."


def amount_of(size: float, unit: str) -> str:
    """A size with its unit."""
    return f"{number(size)} {unit}"
