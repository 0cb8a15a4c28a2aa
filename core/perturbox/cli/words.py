"""What a finished job says on stdout: one sentence with numbers, a table per structure, and where everything lies."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from perturbox.cli.progress import about
from perturbox.metrics import BROKEN
from perturbox.report.words import fixed, number

# Shape and word of each verdict, worst first.
VERDICTS = {
    "vanished": "✕ vanished",
    "appeared": "✚ appeared",
    "dice": "▼ Dice",
    "volume": "▼ volume",
    "distance": "▲ distance",
    "local": "◐ locally",
    "benign": "● as under harmless changes",
    "held": "● held",
    "not-outlined": "○ not outlined",
    "not-tested": "? not tested",
    "absent": "– not in this scan",
}
WIDE = 160
STEADY = 0.9  # below this, chance alone has changed something
NO_PROOF = "Not breaking is no proof of safety: an attack can show that a model fails, never that it is safe."


def show(*things: Any) -> None:
    """Print sentences and tables to stdout; off a terminal, lines keep their full length."""
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else WIDE)
    for thing in things:
        console.print(thing, soft_wrap=isinstance(thing, str))


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> Table:
    """A plain table; the first `words` columns are text, the others are numbers set flush right."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        made.add_column(Text(column), justify="left" if index < words else "right", overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def size_unit(result: Mapping[str, Any]) -> str:
    return "ml" if len(result["source"]["shape"]) == 3 else "cm²"


def estimate_line(estimate: Any, what: str, most: bool = False) -> str:
    """The one line before a job starts."""
    time = ("at most " if most else "") + about(estimate.seconds)
    line = f"{what}: {time} and {gigabytes(estimate.bytes)} of memory on {estimate.device}"
    line += f" ({estimate.windows} window{'s' if estimate.windows != 1 else ''} per prediction)."
    if not estimate.fits:
        line += (
            f" The scan may be too large here: it needs {gigabytes(estimate.least)},"
            f" {gigabytes(estimate.available)} are free; crop it to the organ if this fails."
        )
    return line


def gigabytes(count: int) -> str:
    return f"{max(0.1, count / 1e9):.1f} GB"


# ---------------------------------------------------------------- an attack


def attack_summary(result: Mapping[str, Any], out: Path) -> list[Any]:
    """Everything `perturbox attack` prints at its end."""
    whose = "the expert's outline" if result["reference"] == "label" else "the model's own clean prediction"
    control, said, _ = chance(result)
    lines: list[Any] = [
        verdict(result),
        structures_table(result),
        f"Dice and HD95 are against {whose}; {control} Dice is the worst under {said}.",
    ]
    success = result["success"]
    reached = "reached" if success["succeeded"] else "not reached"
    lines.append(
        f"Goal {result['attack']['parameters']['goal']}: {success['rule']} – {reached} "
        f"({number(success['value'])}, limit {number(success['threshold'])})."
    )
    lines += [f"Note: {warning}" for warning in result["warnings"]]
    report = out / "report.html"
    return [*lines, f"Result: {out}", *([f"Report: {report}"] if report.is_file() else [])]


def verdict(result: Mapping[str, Any]) -> str:
    """One sentence with numbers: the change, against the scan's own noise, what it broke, what random noise did."""
    budget, noise = result["budget"], result["noise"]
    size = limit(budget)
    own = result["attack"].get("own_budget")
    if own is not None and result["attack"]["parameters"]["eps"] is None:
        size += f" ({own['parameter']} {number(own['value'])}{' ' + own['unit'] if own['unit'] else ''})"
    if noise["sigma"] and budget["norm"] == "linf":
        size += f" ({number(noise['eps_over_sigma'], 2)} × this scan's own noise)"
    broken = [name for name in worst_first(result) if result["verdicts"][name] in BROKEN]
    effect = f"broke {listed(broken)}" if broken else "broke no structure, which is no proof of safety"
    before, after = mean_dice(result, "clean"), mean_dice(result, "adversarial")
    sentence = f"A change of at most {size} {effect}: mean Dice {fixed(before, 2)} → {fixed(after, 2)}"
    _, said, dices = chance(result)
    if alone := {name: dice for name, dice in dices.items() if dice is not None}:
        lowest = min(alone, key=lambda name: alone[name])
        steady = alone[lowest] >= STEADY
        left = f"left every Dice at {fixed(alone[lowest], 2)} or above"
        sentence += f"; {said} {left if steady else f'alone took {lowest} to {fixed(alone[lowest], 2)}'}"
    if result["stopped_early"]:
        sentence += f". The attack was {result['stopped_early']}; this is the best change until then"
    return sentence + "."


def chance(result: Mapping[str, Any]) -> tuple[str, str, Mapping[str, float | None]]:
    """What chance alone does, in short and in words, and the Dice it leaves: random draws from the attack's own space,
    or, where the voxels are its variables, random noise."""
    if own := result["control"].get("own"):
        return "Draw", "random draws of the same kind", own["dice"]
    return "Noise", "random noise of the same size", result["control"]["noise"]["dice"]


def limit(budget: Mapping[str, Any]) -> str:
    unit = "HU" if budget["unit"] == "HU" else "intensity units"
    if budget["norm"] == "l2":
        return f"{number(budget['eps'])} {unit} RMS"
    if budget["norm"] == "l0":
        return f"{number(100 * budget['eps'])} % of the voxels"
    return f"{number(budget['eps'])} {unit}"


def mean_dice(result: Mapping[str, Any], which: str) -> float | None:
    """Over the targets, or over every structure where none was named."""
    rows = result["metrics"][which]
    chosen = result["attack"]["parameters"]["target"] or list(rows)
    known = [rows[name]["dice"] for name in chosen if rows[name]["dice"] is not None]
    return sum(known) / len(known) if known else None


def worst_first(result: Mapping[str, Any]) -> list[str]:
    rows = result["metrics"]["adversarial"]
    held = [name for name in rows if rows[name]["dice"] is not None]
    return sorted(held, key=lambda name: rows[name]["dice"])


def structures_table(result: Mapping[str, Any]) -> Table:
    """A row per structure found before or after, the worst first."""
    clean, adversarial = result["metrics"]["clean"], result["metrics"]["adversarial"]
    expert = result["reference"] == "label"
    control, _, dices = chance(result)
    rows = []
    for name in worst_first(result):
        before, after = clean[name], adversarial[name]
        dice = f"{fixed(before['dice'], 3)} → {fixed(after['dice'], 3)}" if expert else fixed(after["dice"], 3)
        rows.append(
            [
                name,
                VERDICTS[result["verdicts"][name]],
                dice,
                change(before["volume_ml"], after["volume_ml"]),
                fixed(after["hd95_mm"], 1),
                fixed(dices.get(name), 3),
            ]
        )
    columns = ["Structure", "Verdict", "Dice", f"Δ {size_unit(result)}", "HD95 mm", f"{control} Dice"]
    return table(columns, rows, words=2)


def change(before: float, after: float) -> str:
    """A signed difference, with per cent where there was something before."""
    difference = after - before
    sign = "+" if difference > 0 else "−" if difference < 0 else "±"
    text = f"{sign}{abs(difference):.1f}"
    if not before:
        return text
    share = 100 * abs(difference) / before
    return f"{text} ({sign}{share:.{0 if share >= 1 else 1}f} %)"


def listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


# ---------------------------------------------------------------- a margin


def margin_summary(margin: Mapping[str, Any], out: Path) -> list[Any]:
    """Everything `perturbox margin` prints at its end."""
    unit = "HU" if margin["unit"] == "HU" else margin["unit"]
    sigma = margin["noise"]["sigma"]
    words = {"dice": "Dice", "volume": "volume", "hd95": "HD95", "vanished": "vanished"}
    rows = []
    # First what breaks soonest, last what held.
    for name, row in sorted(margin["structures"].items(), key=lambda item: item[1]["breaks_at"] or float("inf")):
        if row["breaks_at"] is None and row["above"] is None:
            rows.append([name, "not tested", "–", "–"])
        elif row["breaks_at"] is None:
            rows.append([name, f"> {number(row['above'])} {unit}", "–", "nothing found"])
        else:
            in_noise = f"{number(row['breaks_at'] / sigma, 2)} σ" if sigma else "–"
            rows.append([name, f"≤ {number(row['breaks_at'])} {unit}", in_noise, words.get(row["limit"], row["limit"])])
    noise = f"σ {number(sigma)} {unit}, {margin['noise']['region']}" if sigma else margin["noise"]["region"]
    lines: list[Any] = [
        table(["Structure", "Breaks at", "in this scan's noise", "Limit broken"], rows),
        f"Noise: {noise}.",
        f"Each ≤ is an upper bound, proved by a saved file. {NO_PROOF}",
    ]
    if margin["stopped_early"]:
        lines.append("The search was stopped early: the bounds are those found until then.")
    lines += [f"Note: {warning}" for warning in margin["warnings"]]
    return [*lines, f"Result: {out / 'margin.json'}"]


# ---------------------------------------------------------------- a segmentation, and lists


def volumes_table(volumes: Mapping[str, float], unit: str) -> Table:
    rows = [[name, fixed(volume, 1) if volume else "not found"] for name, volume in volumes.items()]
    return table(["Structure", f"Volume {unit}"], rows)


def features_summary(features: Any) -> list[Any]:
    """What `perturbox fit-features` fitted: samples per class, and the classes left out."""
    samples = features.facts["samples"]
    missing = [name for name in features.groups if name not in samples]
    lines: list[Any] = [
        f"Fitted {len(features.mixtures)} mixtures in {len(features.layers)} layers of {features.victim}.",
        table(["Class", "Samples"], [[name, str(count)] for name, count in samples.items()]),
    ]
    if missing:
        lines.append(f"Note: Too little of {listed(missing)} to fit; an attack leaves them unconstrained.")
    return lines


def attacks_list(attacks: Sequence[Mapping[str, Any]]) -> list[Any]:
    """First the few that one starts with, then all, family by family."""
    from perturbox.recipes import FAMILIES  # here, as most commands need no attack and it takes a second

    first = [[entry["name"] + " (default)" * entry["default"], entry["use"]] for entry in attacks if entry["use"]]
    starts = table(["Start with", "For"], first, words=2)
    lines: list[Any] = [starts]
    for family, title in FAMILIES.items():
        rows = [
            [entry["name"], entry["title"], limits(entry), entry["access"], entry["paper"]]
            for entry in attacks
            if entry["family"] == family
        ]
        if rows:
            lines += [title, table(["Name", "Attack", "Limit", "Access", "Paper"], rows, words=5)]
    return [*lines, "Settings, costs and deviations of one: perturbox list attacks NAME"]


def limits(entry: Mapping[str, Any]) -> str:
    """The norms of its limit, or the setting that limits it in place of eps."""
    own = entry["own_budget"]
    return ", ".join(entry["norm"]) if own is None else f"own: {own['parameter']}"


def attack_card(entry: Mapping[str, Any]) -> list[Any]:
    """All that is known of one attack."""
    from perturbox.recipes import FAMILIES

    own = entry["own_budget"]
    unit = f" {own['unit']}" if own and own["unit"] else ""
    facts = {
        "Attack": entry["title"],
        "Paper": entry["paper"],
        "Family": FAMILIES[entry["family"]],
        "Choose it for": entry["use"],
        "Access": {"white": "gradients of the model", "black": "predictions of the model only"}[entry["access"]],
        "Limit": "eps, in " + " or ".join(entry["norm"])
        if own is None
        else f"{own['parameter']} (here {own['value']:g}{unit}): {own['meaning']}",
        "Images": " and ".join(f"{dims}D" for dims in entry["dims"]),
        "Steps": f"{entry['steps']} unless given",
        "Costs": entry["cost"],
        "Measured": "\n".join(f"- {text}" for text in entry["notes"]),
        "Deviations": "\n".join(f"- {text}" for text in entry["deviations"]) or "none stated",
        "Settings": "\n".join(setting(parameter) for parameter in entry["parameters"]) or "none",
    }
    return [table([entry["name"], ""], [[key, text] for key, text in facts.items() if text], words=2)]


def setting(parameter: Mapping[str, Any]) -> str:
    """One setting as one would type it, with what it may be."""
    value = parameter["default"]
    text = f"{parameter['name']}={'…' if value is None else str(value).lower() if isinstance(value, bool) else value}"
    if parameter["choices"]:
        text += f" ({', '.join(map(str, parameter['choices']))})"
    unit = f" [{parameter['unit']}]" if parameter["unit"] else ""
    low, high = (parameter[end] for end in ("minimum", "maximum"))
    span = f", {low:g} to {high:g}" if None not in (low, high) else f", at least {low:g}" if low is not None else ""
    return f"{text}{unit}{span}: {parameter['help']}"


def victims_table(victims: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for entry in victims:
        spacing = entry["spacing_mm"]
        grid = " × ".join("own" if s is None else number(s) for s in spacing) + " mm" if spacing else "the scan's own"
        structures = ", ".join(name for name, value in entry["labels"].items() if value != 0)
        rows.append(
            [entry["name"], entry["title"], f"{entry['dims']}D", entry["unit"], grid, structures, entry["licence"]]
        )
    return table(["Name", "Model", "Dims", "Unit", "Grid", "Structures", "Licence"], rows, words=7)
