"""The section of docs/benchmarks.md on the attacks: one table per norm, one of those that seek the smallest change, one
of those with a budget of their own, never one beside the other."""

from collections.abc import Callable, Sequence
from typing import Any

import pages

Rows = dict[str, dict[str, Any]]
FLOOR = "noise"
COST = ("forwards", "backwards", "CPU s (phantom)", "CPU s (CT)")


def section(found: dict[str, Any], effort: Callable[[str], int] = lambda name: 0) -> str:
    """Markdown of what benchmarks.json holds of the attacks: {command, machine, versions, rows}; effort: the steps that
    a recipe needs, without which a row isn't shown, as it would mislead."""
    rows = list(found.get("rows", {}).values())
    short = sorted({row["recipe"] for row in rows if row["steps"] < effort(row["recipe"])})
    rows = [row for row in rows if row["recipe"] not in short]
    done = [row for row in rows if "refused" not in row]
    dates = sorted({row["date"] for row in rows})
    machine = found["machine"]
    own = [row for row in done if row["eps"] is None]
    smallest = [row for row in done if row["eps"] is not None and row["keep"] == "smallest"]
    ball = [row for row in done if row["eps"] is not None and row["keep"] != "smallest"]
    lines = [
        pages.ATTACKS,
        "",
        f"{' to '.join(dict.fromkeys([dates[0], dates[-1]]))} · {machine['cpu']}, one thread per attack "
        f"(load {machine['load']:.1f} at the end) · "
        + ", ".join(f"{name} {version}" for name, version in found["versions"].items())
        + f" · `{found['command']}`",
        "",
        "`ct-organs`, one seed. Attacks that follow a gradient within a ball take equally many steps; those that only "
        "ask, or creep to the smallest change, take what they need. Where *loss* names one, the attack could choose "
        "and climbs that; rows without climb their own default, and compare losses as much as attacks. "
        "*phantom*: 64 slices of the demo's case; *CT*: a real abdominal CT (TotalSegmentator test data, Apache-2.0). "
        "Numbers are mean Dice over the structures, of the prediction on the saved file against the clean prediction; "
        "cost is that of the attack alone. So few steps show what an attack does with little effort, on one model and "
        "two scans: this is no ranking, and says nothing of what more steps find (see above). "
        "*Control* is the lower of white noise of the same RMS and of the perturbation "
        "rolled to another place, at the largest limit on the CT (or the phantom, where there is none). What an attack "
        "may claim must lie clearly below it.",
        "",
    ]
    for norm in ("linf", "l2", "l0"):
        if found_here := [row for row in ball if row["norm"] == norm]:
            lines += [f"### Within eps, {norm}", "", *_ball(found_here, norm), ""]
    if smallest:
        lines += ["### The smallest change that halves mean Dice", "", *_smallest(smallest), ""]
    if own:
        lines += ["### Budgets of their own", "", *_own(own), ""]
    if short:
        lines += [f"Not run yet with the steps that they need: {', '.join(short)}.", ""]
    if refused := {row["recipe"]: row["refused"] for row in rows if "refused" in row}:
        lines += ["Not run:", "", *(f"- {name}: {reason}" for name, reason in refused.items()), ""]
    return "\n".join(lines).rstrip() + "\n"


def _ball(rows: Sequence[dict[str, Any]], norm: str) -> list[str]:
    columns = sorted({(row["case"] == "ct", row["eps"]) for row in rows})
    said = {eps: f"{100 * eps:g} % of the voxels" if norm == "l0" else f"{eps:g} HU" for _, eps in columns}
    titles = [f"{'CT' if ct else 'phantom'}, {said[eps]}" for ct, eps in columns]
    lines = _head(["attack", "steps", "loss", *titles, "control", *COST])
    for name in sorted({row["recipe"] for row in rows}, key=lambda name: (name != FLOOR, name)):
        here = {(row["case"] == "ct", row["eps"]): row for row in rows if row["recipe"] == name}
        dices = [f"{here[column]['dice']:.3f}" if column in here else "" for column in columns]
        label = f"**{name}** (floor)" if name == FLOOR else name
        last = here[max(here)]["control"]
        said = [f"{max(row['steps'] for row in here.values())}", *_loss(list(here.values()))]
        lines.append(_line([label, *said, *dices, _dice(last), *_cost(list(here.values()))]))
    return lines


def _smallest(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = ["Sizes are comparable, Dice isn't: each stops where half is reached. eps is a cap.", ""]
    lines += _head(
        ["attack", "scan", "norm", "cap, HU", "reached", "mean Dice", "control", "largest change", "RMS", "CPU s"]
    )
    for row in sorted(rows, key=lambda row: (row["case"] == "ct", row["norm"], row["recipe"])):
        reached = "yes" if row["reached"] else "no"
        sizes = [f"{row['eps']:g}", reached, f"{row['dice']:.3f}", _dice(row["control"]), *_sizes(row)]
        lines.append(_line([row["recipe"], _scan(row), row["norm"], *sizes, f"{row['cpu_s']:.0f}"]))
    return lines


def _own(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        "Each has a budget in its own sense, so rows aren't comparable with each other nor with those above. Control "
        "is the lowest of three random draws in the attack's own space, as large as its budget allows.",
        "",
    ]
    lines += _head(["attack", "budget", "scan", "mean Dice", "control", "largest change", "RMS", "CPU s"])
    for row in sorted(rows, key=lambda row: (row["recipe"], row["case"] == "ct")):
        own = row["own"]
        budget = f"`{own['parameter']}` = {own['value']:g} {own['unit']}".rstrip()
        sizes = [f"{row['dice']:.3f}", _dice(row["control"]), *_sizes(row), f"{row['cpu_s']:.0f}"]
        lines.append(_line([row["recipe"], budget, _scan(row), *sizes]))
    return lines


def _dice(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _loss(rows: Sequence[dict[str, Any]]) -> list[str]:
    return [", ".join(sorted({row.get("loss") or "" for row in rows}))]


def _cost(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Forwards and backwards of the dearest run, CPU seconds on each scan."""
    seconds = {case: [row["cpu_s"] for row in rows if row["case"] == case] for case in ("phantom", "ct")}
    counted = [f"{max(row[key] for row in rows):.0f}" for key in ("forwards", "backwards")]
    return [*counted, *(f"{max(spent):.0f}" if spent else "" for spent in seconds.values())]


def _sizes(row: dict[str, Any]) -> list[str]:
    unit = "HU" if row["unit"] == "HU" else "grey values"
    return [f"{row['linf']:.{0 if row['linf'] >= 10 else 1}f} {unit}", f"{row['rms']:.1f} {unit}"]


def _scan(row: dict[str, Any]) -> str:
    return "CT" if row["case"] == "ct" else row["case"]


def _head(titles: Sequence[str]) -> list[str]:
    return [_line(titles), "|" + "|".join(["---", *["--:"] * (len(titles) - 1)]) + "|"]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
