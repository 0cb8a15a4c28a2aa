"""What a finished job says on stdout: one sentence with numbers, a table per structure, and where everything lies."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from perturbox.cli.catalogue import families
from perturbox.cli.progress import about
from perturbox.defaults import UNITS
from perturbox.judge import columns
from perturbox.judge.summary import (
    chance,
    counted,
    fixed,
    flows_told,
    listed,
    margin_headline,
    notes,
    number,
    outlined,
    soonest_first,
    undefended,
    upper_bound,
    worst_first,
)
from perturbox.judge.verdicts import said

WIDE = 160
DEFAULT_GOAL = "change"  # what an attack is after if nobody says otherwise
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


def attack_summary(result: Mapping[str, Any], out: Path, goal_given: bool = False) -> list[Any]:
    """Everything `perturbox attack` prints at its end; of the goal only if the user gave one."""
    lines: list[Any] = [result["summary"]["headline"], structures_table(result), about_table(result)]
    if flows := flows_told(result):
        more = len(result["flow"]) - len(flows)
        lines.append(f"What became what: {'; '.join(flows)}{f'; {more} smaller in result.json' if more else ''}.")
    goal, success = result["attack"]["parameters"]["goal"], result["success"]
    if goal_given or goal != DEFAULT_GOAL:
        reached = "reached" if success["succeeded"] else "not reached"
        lines.append(
            f"Goal {goal}: {success['rule']} – {reached} "
            f"({number(success['value'])}, limit {number(success['threshold'])})."
        )
    lines += [f"Note: {warning}" for warning in notes(result)]
    report = out / "report.html"
    return [*lines, f"Result: {out}", *([f"Report: {report}"] if report.is_file() else [])]


def about_table(result: Mapping[str, Any]) -> str:
    """What the table's numbers compare with."""
    control, by, _ = chance(result)
    whose = "the expert's outline" if result["reference"] == "label" else "the model's own clean prediction"
    if "defense" in result:
        whose += " without the defence"
    text = f"Dice and HD95 are against {whose}; {control} Dice is the worst under {by}."
    if not all(outlined(result, name) for name in worst_first(result)):
        text += " Structures that the expert didn't outline are compared with the model's own clean prediction."
    return text


def structures_table(result: Mapping[str, Any]) -> Table:
    """A row per structure found before or after, the worst first."""
    head, rows = columns.table(result)
    return table(head, rows, words=sum(column.words for column in columns.COLUMNS))


# ---------------------------------------------------------------- a margin


def margin_summary(margin: Mapping[str, Any], out: Path) -> list[Any]:
    """Everything `perturbox margin` prints at its end."""
    own, asked = unit_of(margin["unit"], margin["unit"]), margin.get("asked") or {"unit": UNITS[0], "one": 1.0}
    sigma, unit = margin["noise"]["sigma"], unit_of(asked["unit"], margin["unit"])
    native = asked["unit"] in (UNITS[0], margin["unit"])
    plain, rows = undefended(margin), []
    for name in soonest_first(margin):
        row = margin["structures"][name]
        bounds = [upper_bound(in_unit(row, asked["one"]), unit)] + ([] if native else [upper_bound(row, own)])
        if asked["unit"] != "sigma":
            breaks = row["breaks_at"]
            bounds.append(f"{number(breaks / sigma, 2)} σ" if sigma and breaks is not None else "–")
        if plain is not None:
            bounds.append(upper_bound(in_unit(plain[name], asked["one"]), unit))
        rows.append([name, *bounds, said(row["verdict"])])
    head = ["Structure", "Breaks at", *([] if native else ["that is"])]
    head += ["in this scan's noise"] * (asked["unit"] != "sigma")
    head += ["without the defence"] * (plain is not None)
    noise = f"σ {number(sigma)} {own}, {margin['noise']['region']}" if sigma else margin["noise"]["region"]
    lines: list[Any] = [
        margin_headline(margin),
        table([*head, "Verdict"], rows),
        f"Noise: {noise}.",
        f"Each ≤ is an upper bound, proved by a saved file; > means that nothing was found up to there. {NO_PROOF}",
    ]
    if margin["stopped_early"]:
        lines.append("The search was stopped early: the bounds are those found until then.")
    lines += [f"Note: {warning}" for warning in margin["warnings"]]
    report = out / "report.html"
    return [*lines, f"Result: {out / 'margin.json'}", *([f"Report: {report}"] if report.is_file() else [])]


def unit_of(unit: str, own: str) -> str:
    """A limit's unit, of `defaults.UNITS`, as one reads it; own: the scan's."""
    return {"sigma": "σ", "percent": "% of its range"}.get(unit, "HU" if own == "HU" else "intensity units")


def in_unit(row: Mapping[str, Any], one: float) -> dict[str, Any]:
    """A row of margin.json with its sizes in a unit of which 1 is `one` in the scan's own."""
    sizes = {key: row.get(key) for key in ("breaks_at", "above", "used")}
    return {**row, **{key: size if size is None else size / one for key, size in sizes.items()}}


# ---------------------------------------------------------------- a comparison


def comparison_summary(comparison: Mapping[str, Any], folders: Sequence[Path], out: Path) -> list[Any]:
    """Everything `perturbox compare` prints at its end."""
    lines: list[Any] = [
        f"{result['letter']}: {result['model']}, {result['attack']}, {result['limit']} ({folder})"
        for result, folder in zip(comparison["results"], folders, strict=True)
    ]
    letters = [result["letter"] for result in comparison["results"]]
    head = ["Structure", *(f"{letter}: verdict" for letter in letters), *(f"{letter}: Dice" for letter in letters)]
    rows = [
        [
            row["structure"],
            *("not in this model" if word is None else said(word) for word in row["verdicts"]),
            *(fixed(dice, 3) for dice in row["dice"]),
        ]
        for row in comparison["structures"]
    ]
    lines += [table(head, rows, words=1 + len(letters)), *comparison["said"]]
    return [*lines, f"Result: {out / 'comparison.json'}", f"Report: {out / 'report.html'}"]


# ---------------------------------------------------------------- a certificate


def certificate_summary(document: Mapping[str, Any], out: Path) -> list[Any]:
    """Everything `perturbox certify` prints at its end."""
    said = document["summary"]
    head, rows = said["table"]["head"], said["table"]["rows"]
    lines: list[Any] = [said["headline"]]
    lines += [table(head, rows)] if rows else []
    lines.append(said["scope"])
    if said["stopped"]:
        lines.append(said["stopped"])
    lines += [f"Note: {warning}" for warning in document["warnings"]]
    return [*lines, f"Result: {out / 'certificate.json'}", f"Report: {out / 'certificate.html'}"]


# ---------------------------------------------------------------- a segmentation, and lists


def volumes_table(volumes: Mapping[str, float], unit: str) -> Table:
    def said(volume: float) -> str:
        return counted(volume) if unit == "pixels" else fixed(volume, 1)

    rows = [[name, said(volume) if volume else "not found"] for name, volume in volumes.items()]
    return table(["Structure", f"{'Volume' if unit == 'ml' else 'Area'} {unit}"], rows)


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
    first = [[entry["name"] + " (default)" * entry["default"], entry["use"]] for entry in attacks if entry["use"]]
    starts = table(["Start with", "For"], first, words=2)
    lines: list[Any] = [starts]
    for family, title in families().items():
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
    own = entry["own_budget"]
    unit = f" {own['unit']}" if own and own["unit"] else ""
    facts = {
        "Attack": entry["title"],
        "Paper": entry["paper"],
        "Family": families()[entry["family"]],
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
    text = typed(parameter)
    if parameter["choices"]:
        text += f" ({', '.join(map(str, parameter['choices']))})"
    unit = f" [{parameter['unit']}]" if parameter["unit"] else ""
    low, high = (parameter[end] for end in ("minimum", "maximum"))
    span = f", {low:g} to {high:g}" if None not in (low, high) else f", at least {low:g}" if low is not None else ""
    return f"{text}{unit}{span}: {parameter['help']}"


def typed(parameter: Mapping[str, Any]) -> str:
    """A setting with its default, as one would type it."""
    value = parameter["default"]
    return f"{parameter['name']}={'…' if value is None else str(value).lower() if isinstance(value, bool) else value}"


def defenses_list(defenses: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Every defence with its settings and what stands in for it when it is attacked."""
    rows = [
        [
            entry["name"],
            entry["title"] + (f", for scans in {entry['unit']}" if entry["unit"] else ""),
            ", ".join(typed(one) for one in entry["parameters"]),
            " or ".join(entry["stand_ins"]),
            "yes" if entry["random"] else "no",
            entry["paper"],
        ]
        for entry in defenses
    ]
    head = ["Name", "Defence", "Settings", "Attacked through", "Random", "Paper"]
    return [
        table(head, rows, words=6),
        "One before a model: perturbox attack SCAN --defense NAME[:key=value] --out DIR",
    ]


def detectors_list(detectors: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Every detector, what it looks at and what it needs."""
    sees = {
        "features": "features of each class",
        "joint": "features beside the answer",
        "outputs": "how sure the answer is",
        "dropout": "what dropout moves",
    }
    rows = [
        [
            entry["name"],
            entry["title"],
            sees[entry["sees"]],
            "clean and attacked scans" if entry["supervised"] else "clean scans",
            "yes" if entry["differentiable"] else "no",
            ", ".join(entry["shipped_for"]),
            entry["paper"],
        ]
        for entry in detectors
    ]
    head = ["Name", "Detector", "Looks at", "Fitted on", "Differentiable", "Shipped for", "Paper"]
    ready = [f"{entry['name']} --victim {entry['shipped_for'][0]}" for entry in detectors if entry["shipped_for"]]
    return [
        table(head, rows, words=7),
        *(f"Ask a shipped one: perturbox detect SCAN --detector {asked}" for asked in ready[:1]),
        "Fit one: perturbox fit-detector --detector NAME --clean 'SCANS' --out FILE",
    ]


def detector_summary(detector: Any) -> list[Any]:
    """What `perturbox fit-detector` fitted, what its threshold is worth, and how well it tells attacks."""
    from perturbox.detectors.evaluation import said as evaluated

    count = detector.facts["clean"]
    lines: list[Any] = [
        f"Fitted {detector.method.title} on {count} clean scans of {detector.facts['patients']} patients by "
        f"{detector.victim}.",
        f"It fires above {detector.threshold:.2f}: about {100 * detector.alarms:.1f} % of clean scans like these do.",
    ]
    if detector.alarms > detector.rate:
        least = round(1 / detector.rate) - 1
        lines.append(
            f"Note: For {100 * detector.rate:g} % it needs {least} clean scans; the threshold is the highest score."
        )
    if "evaluation" in detector.facts:
        lines += evaluated(detector.facts["evaluation"])
    return lines


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


def corruptions_table(corruptions: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for entry in corruptions:
        grades = entry["grades"]
        told = "; ".join(f"{key} {', '.join(f'{grade[key]:g}' for grade in grades)}" for key in grades[0])
        rows.append([entry["name"], entry["physics"].upper(), entry["title"], told, entry["by"]])
    return table(["Name", "Of", "What happens", "Grades 1 to 5", "By"], rows, words=5)
