"""Charts with their table twins, the table of structures, the controls and the attack's progress, as HTML."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np

from perturbox.judge.summary import counted, upper_bound
from perturbox.judge.verdicts import said
from perturbox.report import charts, words
from perturbox.report.findings import LIMITS, Finding
from perturbox.report.story import Plane, Story
from perturbox.report.words import fixed, number, signed, size

CONTROLS = (
    ("noise", "Random noise", "white noise of the same RMS at the same places (worst of the seeds)."),
    ("rolled", "Rolled", "this very perturbation moved to another place: the same size, nearly the same spectrum."),
    ("own", "Random draw", "a random point of the attack’s own space, as far out as its budget allows, not aimed."),
    (
        "benign",
        "Benign",
        "saving again, a shift of half a grid step, noise of the scan’s own σ: what a model should shrug off.",
    ),
)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """A plain table of texts; the first column names the row."""
    top = "".join(f'<th scope="col">{escape(h)}</th>' for h in head)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>' + "".join(f"<td>{escape(c)}</td>" for c in cells) + "</tr>"
        for first, *cells in rows
    )
    about = f"<caption>{escape(caption)}</caption>" if caption else ""
    inside = f"{about}<thead><tr>{top}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="table" tabindex="0"><table>{inside}</table></div>'


def legend(findings: Iterable[Finding]) -> str:
    ordered = sorted(findings, key=lambda f: f.number)
    items = "".join(f"<li>{charts.swatch(f.number)}{escape(f.title)}</li>" for f in ordered)
    return f'<ul class="legend">{items}</ul>'


def slice_section(story: Story, plane: Plane) -> str:
    """One plane's chart with the same figures as a table; a 2D image has neither."""
    if story.result.flat:
        return ""
    axis, unit = story.whole.axes[plane.axis], story.units.size
    low, high = sorted((int(axis.kept[0]), int(axis.kept[-1])))
    order = np.arange(low, high + 1)[:: -1 if axis.flipped else 1]
    dice, differ = plane.slices.dice[order], plane.slices.differ[order] * story.voxel
    names = [(f.number, f.title) for f in story.present]
    title = plane.name.capitalize()
    chart = charts.slice_chart(title, order, dice, differ, names, axis.ends, unit)
    rows = [
        [
            str(k + 1),
            *(fixed(None if np.isnan(dice[i, n - 1]) else dice[i, n - 1], 3) for n, _ in names),
            fixed(differ[i], 1),
        ]
        for i, k in enumerate(order.tolist())
        if differ[i] > 0
    ]
    head = [f"{title} slice", *(name for _, name in names), f"differs, {unit}"]
    twin = table(
        head, rows, f"Dice after against before, {plane.name} slices; slices in which nothing differs are left out."
    )
    hidden = "" if plane is story.opening else " hidden"
    return (
        f'<div data-chart="{plane.name}"{hidden}><div class="scroll">{chart}</div>'
        f"<details><summary>The same as a table</summary>{twin}</details></div>"
    )


def structure_table(story: Story) -> str:
    """One row per structure, worst first; columns of the margin only when one was measured."""
    record, unit, flat = story.result.record, story.units, story.result.flat
    margin = record.get("margin") or {}
    sigma = record["noise"].get("sigma")
    head = ["Structure"]
    head += ["Dice with expert<br><small>before → after</small>"] if not story.result.own_reference else []
    head += ["Agreement<br><small>Dice with own clean prediction</small>"]
    head += [
        f"{'Area' if flat else 'Volume'}, {unit.size}<br><small>before → after</small>",
        f"Δ {unit.size}",
        f"HD95, {unit.length}",
    ]
    head += [] if flat else ["Slices<br><small>Dice &lt; 0.8</small>"]
    if margin:
        head += [f"Breaks at, {unit.value}<br><small>upper bound</small>"]
        head += [f"in noise σ<br><small>tick: 1 σ = {number(sigma)} {unit.value}</small>"] if sigma else []
    chance = "Random draw<br><small>same kind" if record["control"].get("own") else "Random noise<br><small>same size"
    head += [f"{chance}, Dice</small>", *(escape(column["title"]) for column in further(story)), "Verdict"]
    notes = [words.limits(unit)]
    if not all(f.outlined for f in story.present):
        notes.append(
            "“Not outlined”: the expert says nothing of it, so it is compared with the clean prediction alone."
        )
    if any(f.reason == "benign" for f in story.findings):
        notes.append(
            "“As under benign changes”: no worse than saving again, a shift of half a grid step or the scan’s noise."
        )
    if margin:
        notes.append(
            "“>” means that this attack, with this effort, found nothing up to there – not that nothing exists."
        )
    absent = [f.title for f in story.findings if f.reason == "absent"]
    if absent:
        notes.append(f"Not found in this scan, before or after: {', '.join(absent).lower()}.")
    rows = "".join(_structure_row(story, f) for f in story.present)
    top = "".join(f'<th scope="col">{h}</th>' for h in head)
    return (
        f'<div class="table" tabindex="0"><table class="numbers"><thead><tr>{top}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
        f'<p class="sub">{escape(" ".join(notes))}</p>'
    )


def _structure_row(story: Story, f: Finding) -> str:
    record = story.result.record
    chance = (record["control"].get("own") or record["control"].get("noise") or {}).get("dice") or {}
    delta, unit = f.after - f.before, story.units.size
    moved = ("+" if delta > 0 else "") + counted(delta) if unit == "pixels" else signed(delta)
    share = f" ({signed(100 * delta / f.before, 0)} %)" if f.before else ""
    with_expert = f"{fixed(f.dice_before, 3)} → {fixed(f.dice_after, 3)}" if f.outlined else "not outlined"
    cells = [] if story.result.own_reference else [with_expert]
    far = f.hd95_mm if f.outlined else f.moved
    cells += [fixed(f.agreement, 3), f"{size(f.before, unit)} → {size(f.after, unit)}", moved + share, fixed(far, 1)]
    cells += [] if story.result.flat else [f"{f.failed} / {f.present}"]
    row = "".join(f"<td>{escape(c)}</td>" for c in cells)
    if record.get("margin"):
        sigma, shown = record["noise"].get("sigma"), [g.name for g in story.present]
        full = noise_scale({name: record["margin"].get(name) or {} for name in shown}, sigma)
        row += margin_cells(record["margin"].get(f.name) or {}, sigma, full)
    flag = f'<span class="flag {"bad" if f.broken else "quiet"}">{escape(said(f.reason, f.outlined))}</span>'
    button = f'<button type="button" class="pick" aria-pressed="false">{escape(f.title)}</button>'
    more = "".join(f"<td>{escape(column['cells'].get(f.name, '–'))}</td>" for column in further(story))
    target = '<span class="sub">target</span>' if f.target else ""
    return (
        f'<tr data-structure="{f.number}"><th scope="row">{charts.square(f.number)}{button}{target}</th>{row}'
        f"<td>{fixed(chance.get(f.name), 3)}</td>{more}<td>{flag}</td></tr>"
    )


def further(story: Story) -> list[dict[str, Any]]:
    """The columns that result.json brings beside those that are drawn here: {key, title, cells by structure}."""
    return story.result.record["summary"].get("columns", [])


def _bound(row: dict[str, Any]) -> tuple[float | None, str]:
    """The size that a row of a margin is about, and whether it is an upper bound ("≤") or nothing broke (">")."""
    breaks = row.get("breaks_at")
    return (row.get("above"), ">") if breaks is None else (breaks, "≤")


def noise_scale(margin: dict[str, dict[str, Any]], sigma: float | None) -> float:
    """How many σ the full length of a bar is in every row of a table: the largest bound, and at least the tick."""
    return max([1.0, *(value / sigma for value, _ in map(_bound, margin.values()) if value)] if sigma else [1.0])


def margin_cells(bound: dict[str, Any], sigma: float | None, full: float) -> str:
    """Where a structure breaks, and how often that is the scan's noise, if that is known; full: of the bars, as
    `noise_scale`."""
    value, sign = _bound(bound)
    if value is None:
        said = "not tested" if bound.get("verdict") == "not-tested" else "–"
        return f"<td>{said}</td>" + "<td>–</td>" * bool(sigma)
    cells = f"<td>{upper_bound(bound)}</td>"
    if sigma:
        bar = charts.noise_bar(value / sigma, full, sign == ">")
        cells += f'<td class="measured">{bar}<span>{sign} {number(value / sigma, 2)} σ</span></td>'
    return cells


def control_table(story: Story) -> str:
    control = story.result.record["control"]
    known = [(key, title, what) for key, title, what in CONTROLS if (control.get(key) or {}).get("dice")]
    if not known:
        return "<p>No controls were run.</p>"
    rows = [
        [
            f.title,
            fixed(f.dice_after if f.outlined else f.agreement, 3),
            *(fixed(control[key]["dice"].get(f.name), 3) for key, _, _ in known),
        ]
        for f in story.present
    ]
    reference = (
        "the clean prediction"
        if story.result.own_reference
        else "the expert outline (benign, and what wasn’t outlined: the clean prediction)"
    )
    reading = (
        f"Dice with {reference}. A break says something about the attack only below the controls: "
        "then the direction of the change breaks the model, not its size."
    )
    about = "".join(f"<dt>{escape(title)}</dt><dd>{escape(what)}</dd>" for _, title, what in known)
    return f"{table(['Structure', 'This attack', *(t for _, t, _ in known)], rows, reading)}<dl>{about}</dl>"


def trace_section(story: Story) -> str:
    trace = story.result.record.get("trace") or []
    seen = {name for row in trace for name, value in (row.get("dice") or {}).items() if value is not None}
    drawn = sorted((f for f in story.findings if f.name in seen), key=lambda f: f.number)
    if len(trace) < 2 or not drawn:
        return "<p>No progress was recorded.</p>"
    rows = [
        [
            str(row["step"]),
            *(fixed((row.get("dice") or {}).get(f.name), 3) for f in drawn),
            number(row.get("loss")),
            number(row.get("linf")),
        ]
        for row in trace
    ]
    head = ["Step", *(f.title for f in drawn), "Loss", f"Largest change, {story.units.value}"]
    chart = charts.trace_chart(trace, [(f.number, f.name, f.title) for f in drawn], LIMITS.dice)
    twin = f"<details><summary>The same as a table</summary>{table(head, rows)}</details>"
    return f"{legend(drawn)}{chart}{twin}"


def members_section(story: Story) -> str:
    """What each member of a composed attack found, live, with each structure's lowest Dice; "" for other attacks."""
    members = story.result.record.get("members") or []
    seen = {name for member in members for name in member["lowest_dice"]}
    drawn = sorted((f for f in story.findings if f.name in seen), key=lambda f: f.number)
    norm, unit = story.result.record["budget"]["norm"], story.units.value
    change = {"linf": f"Change, {unit}", "l2": f"Change, RMS {unit}"}.get(
        norm, f"Change, share of {story.units.points}"
    )
    rows = [
        [
            member["name"],
            fixed(member["score"], 3),
            number(member["size"]),
            "yes" if member["succeeded"] else "no",
            *(fixed(member["lowest_dice"].get(f.name), 3) for f in drawn),
        ]
        for member in members
    ]
    about = (
        "Members of this attack, on the model’s grid while it ran: the score and size of each one’s best, and the "
        "lowest Dice of each structure at any of its steps. One file answers for the whole scan; these minima need not "
        "come from one."
    )
    head = ["Member", "Score", change, "Succeeded", *(f"{f.title}, lowest" for f in drawn)]
    found = f"<section><h2>What each member found</h2>{table(head, rows, about)}</section>"
    return found if members else ""
