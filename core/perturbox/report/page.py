"""The page: a story put into the template. Every text is escaped here, once."""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np

from perturbox.report import charts, colours, display, words
from perturbox.report.encode import text
from perturbox.report.findings import DICE_LIMIT, VERDICTS, Finding
from perturbox.report.pictures import triptych, worst_positions
from perturbox.report.story import Plane, Story
from perturbox.report.words import fixed, number, signed, size

HU_WINDOWS = (("Soft tissue", 400, 40), ("Liver", 150, 60), ("Lung", 1500, -600), ("Bone", 2000, 300))
MARKS = ((2, 1, 1), (2, 0, -1), (1, 0, -1))  # per plane: axis of columns, axis of rows, +1 when rows run along the axis


def resource(name: str) -> str:
    return files("perturbox.report").joinpath("resources", name).read_text(encoding="utf-8")


def build(story: Story) -> str:
    """The whole report as one HTML text."""
    style = resource("style.css") + colours.style_rules(len(story.result.structures))
    script = resource("viewer.js")
    title = words.headline(story.result, story.findings, story.units)
    meta = json.dumps(viewer_meta(story), ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return Template(resource("report.html")).substitute(
        title=escape(title),
        notice=escape(story.result.record["notice"]),
        style=style,
        style_hash=content_hash(style),
        script=script,
        script_hash=content_hash(script),
        subtitle=subtitle(story),
        verdict=rich(words.verdict(story.result, story.findings, story.units)),
        tiles=tiles(story),
        warnings="".join(f'<p class="warn">▲ {rich(w)}</p>' for w in warnings(story)),
        shown=escape(shown(story)),
        plane_buttons=plane_buttons(story),
        windows="".join(f"<option>{escape(name)} {number(w)}/{number(c)}</option>" for name, w, c in windows(story)),
        legend=legend(story.present),
        charts="".join(slice_section(story, plane, plane is story.lead) for plane in story.planes),
        structures=structure_table(story),
        controls=control_table(story),
        trace=trace_section(story),
        provenance=provenance(story),
        model=model_facts(story.result.record["victim"]),
        appendix=appendix(story),
        footer=escape(words.NO_PROOF),
        meta=meta,
        **{f"data_{name}": text(stream) for name, stream in story.streams.items()},
    )


def content_hash(content: str) -> str:
    """A Content-Security-Policy source that admits exactly this inline content."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def rich(sentence: str) -> str:
    """Escape a text; `*bold*` becomes bold."""
    return re.sub(r"\*(.+?)\*", r"<b>\1</b>", escape(sentence))


def viewer_meta(story: Story) -> dict[str, Any]:
    """What viewer.js needs to know beside the voxels; every list of slices is over the kept ones, in display order."""
    copy, record = story.copy, story.result.record
    largest = record["budget"]["measured"]["linf"] or 1.0
    return {
        "sha256": story.result.sha256,
        "shape": list(copy.scan.shape),
        "scale": copy.scale,
        "offset": copy.offset,
        "whole": copy.scale == 1.0,
        "step": copy.step,
        "unit": story.units.value,
        "size_unit": story.units.size,
        "largest": largest,
        "heat_from": round(min(0.5, largest / 8), 3),
        "inferno": [colours.rgb(c) for c in colours.INFERNO],
        "axes": [{"file": a.file, "kept": a.kept.tolist(), "mm": a.spacing} for a in copy.axes],
        "planes": [_plane_meta(story, plane) for plane in story.planes],
        "structures": [
            {"name": f.name, "title": f.title, "rgb": colours.rgb(colours.structure(f.number))}
            for f in sorted(story.findings, key=lambda f: f.number)
        ],
        "first": next((f.number for f in story.findings), 0),
        "windows": [{"width": w, "centre": c} for _, w, c in windows(story)],
    }


def _plane_meta(story: Story, plane: Plane) -> dict[str, Any]:
    axis = story.copy.axes[plane.axis]
    kept, s = axis.kept, plane.slices
    moved = (s.lost + s.gained)[kept]
    columns, rows, direction = MARKS[plane.axis]
    left, right = story.copy.axes[columns].ends
    top, bottom = story.copy.axes[rows].ends[::direction]
    return {
        "axis": plane.axis,
        "name": plane.name,
        "title": plane.name.capitalize(),
        "total": axis.length,
        "numbers": (kept + 1).tolist(),
        "marks": [left, right, top, bottom],
        "ml": np.round(s.differ[kept] * story.voxel, 2).tolist(),
        "ml_of": np.round(moved.T * story.voxel, 2).tolist(),
        "changed": [np.flatnonzero(c).tolist() for c in (plane.changed[kept], *plane.changed_of[kept].T)],
        "worst": [int(m.argmax()) for m in (s.differ[kept], *_with_area(moved, s.before[kept] + s.after[kept]).T)],
    }


def _with_area(moved: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Rank by what moved; where nothing did, by how much of the structure is there, so that no jump lands on nothing."""
    return moved * (area.max(initial=0) + 1.0) + area


def windows(story: Story) -> Sequence[tuple[str, float, float]]:
    """Window presets (name, width, centre) in the scan's unit."""
    if story.units.value == "HU":
        return HU_WINDOWS
    values = story.copy.scan.astype(np.float64) * story.copy.scale + story.copy.offset
    presets = []
    for name, share in (("Middle 98 %", 1.0), ("Full range", 0.0)):
        low, high = np.percentile(values, [share, 100 - share])
        presets.append((name, float(high - low) or 1.0, float(high + low) / 2))
    return presets


# ---- top of the page ----


def subtitle(story: Story) -> str:
    record = story.result.record
    source, victim, attack = record["source"], record["victim"], record["attack"]
    kind = "2D image" if story.result.flat else "CT" if source["unit"] == "HU" else "scan"
    grid = " × ".join(str(n) for n in source["shape"])
    spacing = " × ".join(number(s) for s in source["spacing_mm"])
    against = "expert outline" if record["reference"] == "label" else "the model’s own clean prediction"
    parts = [
        f"{kind} {grid} voxels of {spacing} mm" if kind != "2D image" else f"{kind} {grid} pixels",
        f"model “{victim.get('title') or victim['name']}”",
        f"attack {attack.get('title') or attack['name']}, limit ±{words.limit_phrase(story.result, story.units)}",
        f"Dice against {against}",
    ]
    return escape(" · ".join(parts))


def tiles(story: Story) -> str:
    lead, worst = story.lead, next((f for f in story.findings if f.agreement is not None), None)
    position = int(lead.slices.differ.argmax())
    most = float(lead.slices.differ.max(initial=0)) * story.voxel
    unit = story.units.size
    cards = []
    if worst:
        cards.append(("Most affected", f"{worst.title} {fixed(worst.agreement, 3)}", "Dice after against before"))
    if story.result.flat:
        cards.append(("Area changed", f"{size(most)} {unit}", "carries another label"))
    else:
        total = len(lead.changed)
        cards.append(
            (
                f"Worst {lead.name} slice",
                f"{position + 1} of {total}" if most else "none",
                f"{size(most)} {unit} differ",
            )
        )
        cards.append(("Slices changed", f"{int(lead.changed.sum())} of {total}", f"over 0.5 {unit} differs"))
    return "".join(
        f'<div class="card"><h2>{escape(a)}</h2><p class="big">{escape(b)}</p><p>{escape(c)}</p></div>'
        for a, b, c in cards
    )


def warnings(story: Story) -> list[str]:
    lead, where = story.lead, {}
    for f in story.findings:
        hit = np.flatnonzero(lead.changed_of[:, f.number - 1])
        if hit.size:
            where[f.name] = f"{lead.name} slices {hit[0] + 1}–{hit[-1] + 1}"
    found = words.warnings(story.result, story.findings, where, story.units)
    if not story.result.flat:
        tilt = display.tilt_degrees(story.result.affine)
        if tilt > 2:
            found.append(
                f"*Tilted scan:* its axes lie {tilt:.0f}° off the anatomical ones; views follow the scan’s own slices."
            )
    return found


def shown(story: Story) -> str:
    """What of the scan the page carries."""
    axes, z = story.copy.axes, display.slice_axis(story.copy.axes)
    plane = [a for a in range(3) if a != z]
    kept = " × ".join(str(axes[a].kept.size) for a in reversed(plane))
    whole = " × ".join(str(axes[a].length) for a in reversed(plane))
    slices = "" if story.result.flat else f", {axes[z].kept.size} of {axes[z].length} slices"
    return f"Display copy: {kept} of {whole} voxels in plane{slices}. All numbers come from the full resolution."


def plane_buttons(story: Story) -> str:
    if len(story.planes) == 1:
        return ""
    return "".join(
        f'<button type="button" data-plane="{p.axis}" aria-pressed="{str(p is story.lead).lower()}">{p.name.capitalize()}</button>'
        for p in story.planes
    )


# ---- charts and tables ----


def legend(findings: Iterable[Finding]) -> str:
    items = "".join(f"<li>{charts.swatch(f.number)}{escape(f.title)}</li>" for f in findings)
    return f'<ul class="legend">{items}</ul>'


def slice_section(story: Story, plane: Plane, first: bool) -> str:
    """One plane's chart with the same figures as a table; a 2D image has neither."""
    if story.result.flat:
        return ""
    hidden = "" if first else " hidden"
    axis = story.copy.axes[plane.axis]
    low, high = sorted((int(axis.kept[0]), int(axis.kept[-1])))
    order = np.arange(low, high + 1)[:: -1 if axis.flipped else 1]
    dice, differ = plane.slices.dice[order], plane.slices.differ[order] * story.voxel
    names = [(f.number, f.title) for f in story.present]
    chart = charts.slice_chart(plane.name.capitalize(), order, dice, differ, names, axis.ends, story.units.size)
    rows = [
        [str(k + 1), *(fixed(_none(dice[i, n - 1]), 3) for n, _ in names), fixed(float(differ[i]), 1)]
        for i, k in enumerate(order.tolist())
        if differ[i] > 0
    ]
    head = [f"{plane.name.capitalize()} slice", *(t for _, t in names), f"differs, {story.units.size}"]
    twin = table(
        head, rows, f"Dice before against after, {plane.name} slices; slices in which nothing differs are left out"
    )
    return (
        f'<div data-chart="{plane.name}"{hidden}><div class="scroll">{chart}</div>'
        f"<details><summary>The same as a table</summary>{twin}</details></div>"
    )


def _none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """A plain table of texts; the first column names the row."""
    top = "".join(f'<th scope="col">{escape(h)}</th>' for h in head)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>' + "".join(f"<td>{escape(c)}</td>" for c in row[1:]) + "</tr>"
        for row in rows
    )
    about = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<div class="table"><table>{about}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def structure_table(story: Story) -> str:
    """One row per structure, worst first; columns of the margin only when one was measured."""
    record, unit = story.result.record, story.units
    expert, margin = record["reference"] == "label", record.get("margin") or {}
    sigma = record["noise"].get("sigma")
    noise = (record["control"].get("noise") or {}).get("dice") or {}
    head = ["Structure"]
    head += ["Dice with expert<br><small>before → after</small>"] if expert else []
    head += ["Agreement<br><small>Dice with own clean prediction</small>"]
    head += [
        f"{'Area' if story.result.flat else 'Volume'} {unit.size}<br><small>before → after</small>",
        f"Δ {unit.size}",
    ]
    head += ["HD95 mm"]
    head += [] if story.result.flat else ["Slices<br><small>Dice &lt; 0.8</small>"]
    if margin:
        head += [f"Breaks at<br><small>{unit.value}, upper bound</small>"]
        head += [f"in noise σ<br><small>tick = 1 σ = {number(sigma)} {unit.value}</small>"] if sigma else []
    head += ["Random noise<br><small>same size, Dice</small>", "Verdict"]
    rows = "".join(_structure_row(story, f, expert, margin, sigma, noise) for f in story.present)
    absent = [f.title for f in story.findings if f.reason == "absent"]
    notes = [words.LIMITS]
    if any(f.reason == "benign" for f in story.findings):
        notes.append(
            "“As under benign changes”: no worse than saving again, half a voxel of shift or the scan’s own noise."
        )
    if margin:
        notes.append(
            "“> 10” means that this attack, with this effort, found nothing up to there – not that nothing exists."
        )
    if absent:
        notes.append(f"Not found in this scan, before or after: {', '.join(absent)}.")
    return (
        f'<div class="table"><table><thead><tr>{"".join(f"<th scope=col>{h}</th>" for h in head)}</tr></thead>'
        f'<tbody>{rows}</tbody></table></div><p class="sub">{escape(" ".join(notes))}</p>'
    )


def _structure_row(
    story: Story, f: Finding, expert: bool, margin: dict[str, Any], sigma: float | None, noise: dict[str, Any]
) -> str:
    delta = f.after - f.before
    share = f" ({signed(100 * delta / f.before, 0)} %)" if f.before else ""
    cells = [f"{fixed(f.dice_before, 3)} → {fixed(f.dice_after, 3)}"] if expert else []
    cells += [fixed(f.agreement, 3), f"{size(f.before)} → {size(f.after)}", signed(delta) + share, fixed(f.hd95_mm, 1)]
    cells += [] if story.result.flat else [f"{f.failed} / {f.present}"]
    cells = [f"<td>{escape(c)}</td>" for c in cells]
    if margin:
        cells += _margin_cells(margin.get(f.name), sigma)
    shape, word = VERDICTS[f.reason]
    flag = f'<span class="flag {"bad" if f.broken else "quiet"}">{shape} {escape(word)}</span>'
    target = ' <span class="sub">target</span>' if f.target else ""
    square = f'<svg class="square s{f.number}" viewBox="0 0 12 12" aria-hidden="true"><rect width="12" height="12" rx="3"/></svg>'
    return (
        f'<tr data-structure="{f.number}"><th scope="row">{square}<button type="button" class="pick" aria-pressed="false">'
        f"{escape(f.title)}</button>{target}</th>{''.join(cells)}<td>{fixed(noise.get(f.name), 3)}</td><td>{flag}</td></tr>"
    )


def _margin_cells(bound: dict[str, Any] | None, sigma: float | None) -> list[str]:
    empty = ["<td>–</td>"] * (2 if sigma else 1)
    if not bound:
        return empty
    breaks, above = bound.get("breaks_at"), bound.get("above")
    value, sign = (breaks, "≤") if breaks is not None else (above, ">")
    if value is None:
        return empty
    cells = [f"<td>{sign} {number(value)}</td>"]
    if sigma:
        cells.append(f"<td>{sign} {number(value / sigma, 2)} σ {charts.noise_bar(value / sigma, breaks is None)}</td>")
    return cells


CONTROLS = (
    ("noise", "Random noise", "white noise of the same RMS on the same voxels (worst of the seeds)"),
    ("rolled", "Rolled", "this very perturbation, moved to another place: same size, nearly the same spectrum"),
    (
        "benign",
        "Benign",
        "saving again, half a voxel of shift, noise of the scan’s own σ: what a model should shrug off",
    ),
)


def control_table(story: Story) -> str:
    control = story.result.record["control"]
    known = [(key, title, what) for key, title, what in CONTROLS if (control.get(key) or {}).get("dice")]
    if not known:
        return "<p>No controls were run.</p>"
    rows = [
        [f.title, fixed(f.agreement, 3), *(fixed(control[key]["dice"].get(f.name), 3) for key, _, _ in known)]
        for f in story.present
    ]
    about = "".join(f"<div><dt>{escape(title)}</dt><dd>{escape(what)}</dd></div>" for _, title, what in known)
    reading = (
        "Dice with the clean prediction. A break means something only where the attack’s Dice lies below the controls’: "
        "then it is the direction of the change that breaks the model, not its size."
    )
    return (
        table(["Structure", "This attack", *(t for _, t, _ in known)], rows, reading) + f'<dl class="sub">{about}</dl>'
    )


def trace_section(story: Story) -> str:
    trace = story.result.record.get("trace") or []
    names = [
        (f.number, f.name, f.title)
        for f in story.findings
        if any((row.get("dice") or {}).get(f.name) is not None for row in trace)
    ]
    if len(trace) < 2 or not names:
        return "<p>No progress was recorded.</p>"
    names.sort()
    rows = [
        [
            str(row["step"]),
            *(fixed((row.get("dice") or {}).get(key), 3) for _, key, _ in names),
            number(row.get("loss")),
            number(row.get("linf")),
        ]
        for row in trace
    ]
    head = ["Step", *(title for _, _, title in names), "Loss", f"Largest change, {story.units.value}"]
    chosen = {n for n, _, _ in names}
    return (
        legend(f for f in sorted(story.findings, key=lambda f: f.number) if f.number in chosen)
        + f'<div class="scroll">{charts.trace_chart(trace, names, DICE_LIMIT)}</div>'
        + f"<details><summary>The same as a table</summary>{table(head, rows)}</details>"
    )


# ---- facts ----


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(a)}</dt><dd>{escape(b)}</dd>" for a, b in pairs) + "</dl>"


def provenance(story: Story) -> str:
    r, unit = story.result.record, story.units.value
    effort, measured, image, noise = r["effort"], r["budget"]["measured"], r.get("image_metrics") or {}, r["noise"]
    parameters = ", ".join(
        f"{k} {_setting(v)}" for k, v in r["attack"]["parameters"].items() if v not in (None, [], "")
    )
    sigma = (
        f"{number(noise['sigma'])} {unit} ({noise.get('region') or 'region not stated'})"
        if noise.get("sigma")
        else (f"not available ({noise.get('region') or 'reason not stated'})")
    )
    ratio = ""
    if noise.get("rms_over_sigma") is not None:
        ratio = f"; change {number(noise['rms_over_sigma'], 2)} σ in RMS"
    change = f"largest {number(measured['linf'])} {unit}, RMS {number(measured['l2'])} {unit}, {number(100 * measured['l0'])} % of voxels"
    seen = []
    if image.get("psnr_db") is not None:
        seen.append(f"PSNR {number(image['psnr_db'])} dB")
    if image.get("ssim") is not None:
        seen.append(f"SSIM {fixed(image['ssim'], 3)}")
    if seen and image.get("data_range_hu"):
        seen.append(f"over a range of {number(image['data_range_hu'])} {unit}")
    reach = []
    if image.get("uninfluential_fraction") is not None:
        reach.append(f"{number(100 * image['uninfluential_fraction'], 2)} % of voxels cannot influence the model")
    if image.get("energy_above_grid") is not None:
        reach.append(
            f"{number(100 * image['energy_above_grid'], 2)} % of the change’s energy is finer than the model’s grid"
        )
    passes = f"{number(effort['forwards'])} forward and {number(effort['backwards'])} backward passes of the whole scan"
    cost = [passes, duration(effort["seconds"])]
    if effort.get("peak_bytes"):
        cost.append(f"peak {number(effort['peak_bytes'] / 1e9, 2)} GB")
    machine = f"{r['device']}, {r['threads']} threads, {r['window_batch']} windows at a time"
    pairs = [
        ("Effort", " · ".join(cost)),
        ("Strength of claim", words.NO_PROOF),
        ("Success rule", words.success(r)),
        (
            "Attack",
            f"{r['attack'].get('title') or r['attack']['name']} – {r['attack'].get('paper') or 'paper not stated'}",
        ),
        ("Settings", f"{parameters}, seed {r['seed']}"),
        ("Deviations", " ".join(r["attack"].get("deviations") or []) or "none stated"),
        ("Change, measured on the saved file", change),
        ("Noise σ of the scan", sigma + ratio),
        ("Visibility", ", ".join(seen) or "not measured"),
        ("Reach", "; ".join(reach) or "not measured"),
        ("Machine", machine),
        ("Versions", ", ".join(f"{k} {v}" for k, v in r["versions"].items())),
        ("Input", f"{r['source']['dtype']}, SHA-256 {short_hash(r['source'].get('sha256'))}"),
        (
            "Model",
            f"{r['victim']['name']}, SHA-256 {short_hash(r['victim'].get('sha256'))}, licence {r['victim'].get('licence') or 'not stated'}",
        ),
        ("Result", f"SHA-256 {short_hash(story.result.sha256)}"),
    ]
    return facts(pairs)


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float | int):
        return number(value)
    if isinstance(value, list):
        return "+".join(_setting(v) for v in value)
    return str(value)


def short_hash(value: str | None) -> str:
    return f"{value[:8]}…{value[-4:]}" if value else "not stated"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{number(seconds, 2)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def model_facts(victim: dict[str, Any]) -> str:
    card = victim.get("card") or {}

    def stated(key: str) -> str:
        return str(card.get(key) or victim.get(key) or "not stated")

    spacing = victim.get("spacing_mm")
    names = [n.replace("_", " ") for n, value in victim["labels"].items() if value]
    return facts(
        [
            ("Model", victim.get("title") or victim["name"]),
            ("Intended use", stated("intended_use")),
            ("Training data", stated("training_data")),
            ("Known limits", stated("limits")),
            ("Structures", ", ".join(names)),
            ("Working grid", " × ".join(number(s) for s in spacing) + " mm" if spacing else "the scan’s own"),
            (
                "Window",
                " × ".join(str(n) for n in victim.get("window") or []) + " voxels"
                if victim.get("window")
                else "not stated",
            ),
            ("Licence", stated("licence")),
        ]
    )


def appendix(story: Story) -> str:
    """The most changed slices as pictures, for paper and for browsers without scripts."""
    plane, copy = story.lead, story.copy
    kept = copy.axes[plane.axis].kept
    differ = plane.slices.differ[kept] * story.voxel
    name, *window = windows(story)[0]
    parts = []
    for position in worst_positions(differ) or [len(kept) // 2]:
        three = triptych(copy, plane.axis, position, (float(window[0]), float(window[1])))
        label = f"{plane.name.capitalize()} slice {kept[position] + 1} of {copy.axes[plane.axis].length}"
        shape = f'width="{round(three.width_mm * 2)}" height="{round(three.height_mm * 2)}"'
        figures = "".join(
            f'<figure><img {shape} alt="{label}, {alt}" src="data:image/png;base64,{text(data)}"><figcaption>{caption}</figcaption></figure>'
            for data, alt, caption in (
                (three.before, "original scan", "BEFORE – original scan"),
                (three.after, "perturbed scan", "AFTER – SYNTHETIC scan; dashed white: before"),
                (
                    three.difference,
                    "difference",
                    "DIFFERENCE – filled blue: lost; hollow orange: added; hatched: another structure",
                ),
            )
        )
        parts.append(
            f'<div class="triptych"><p>{label}: {size(float(differ[position]))} {story.units.size} differ</p>{figures}</div>'
        )
    centre = (
        f"Window {name} {number(window[0])}/{number(window[1])}. Patient’s right is on the left."
        if plane.name != "image"
        else ""
    )
    return "".join(parts) + f'<p class="sub">{escape(centre)}</p>' + legend(story.present)
