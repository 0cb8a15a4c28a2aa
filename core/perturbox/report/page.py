"""The page: a story put into the template. Texts are escaped where they meet HTML: here, in `tables`, in `facts`."""

from html import escape
from typing import Any

import numpy as np

from perturbox.report import colours, defended, display, flows, words
from perturbox.report.charts import MANY
from perturbox.report.edition import FOLDER, file_names
from perturbox.report.encode import text
from perturbox.report.facts import model_facts, provenance
from perturbox.report.findings import WORST
from perturbox.report.frame import fill, folded, page, rich
from perturbox.report.plates import appendix, first_picture, window_options, windows
from perturbox.report.story import Plane, Story
from perturbox.report.tables import (
    control_table,
    legend,
    members_section,
    slice_section,
    structure_table,
    trace_section,
)
from perturbox.report.viewer import DRAWN_ALONG, colour_key, plane_buttons
from perturbox.report.words import fixed, number, size

PLANES_BUTTON = '<button type="button" data-mode="planes" aria-pressed="false">Planes<kbd>6</kbd></button>'
AROUND = 300  # pixels of the first screen above and below the picture


def build(story: Story) -> str:
    """The whole report as one HTML text."""
    flat = story.result.flat
    body = fill(
        "report.html",
        verdict=escape(story.result.record["summary"]["headline"]),
        tiles="".join(tile(*texts) for texts in tiles(story)),
        warnings=warnings(story),
        shown=escape(shown(story)),
        plane_buttons=plane_buttons(story, story.opening.axis),
        windows=window_options(story),
        planes_button=PLANES_BUTTON if len(story.planes) == 3 else "",
        key=colour_key([(f.number, f.title) for f in story.present]),
        first=first_picture(story),
        flow=flows.section(story),
        filter=filter_box(story),
        stacked=" hidden" if flat else "",
        and_jump="" if flat else " and jump to its most changed slice",
        legend=chart_legend(story),
        charts="".join(slice_section(story, plane) for plane in story.planes),
        structures=structure_table(story) + defended.section(story),
        controls=control_table(story),
        trace=trace_section(story),
        members=members_section(story),
        provenance=provenance(story),
        model=model_facts(story.result.record["victim"]),
        appendix=appendix(story),
        influence_option="" if story.copy.influence is None else '<option value="influence">Influence</option>',
        beside="".join(beside(*place, streams) for place, streams in story.beside.items()),
    )
    return page(
        body,
        title=words.headline(story.result, story.findings),
        subtitle=subtitle(story),
        footer=words.NO_PROOF,
        structures=len(story.result.structures),
        scripts=("unpack", "edition", "slices", "lens", "viewer"),
        meta=viewer_meta(story),
        streams=story.streams,
        local=story.edition,
    )


def beside(axis: int, position: int, streams: dict[str, bytes]) -> str:
    """A slice that the page holds apart from its volumes."""
    return f'<script type="text/plain" id="slice-{axis}-{position}">{" ".join(map(text, streams.values()))}</script>\n'


# ---- what the viewer needs beside the voxels ----


def viewer_meta(story: Story) -> dict[str, Any]:
    """Geometry, figures per slice and names; every list of slices is over those of `story.axes`, in display
    order. held: which of them the page's volumes have, stops: which can be shown, null for all."""
    copy, axes = story.copy, story.axes
    held = [np.flatnonzero(np.isin(a.kept, b.kept)) for a, b in zip(axes, copy.axes, strict=True)]
    largest = story.result.shown["linf"] or 1.0
    return {
        "sha256": story.result.sha256,
        "shape": list(copy.clean.shape),
        "channels": len(copy.before),
        "coded": {"scale": copy.scale, "offset": copy.offset, "bytes": copy.before.itemsize},
        "whole": copy.scale == 1.0,
        "unit": "HU" if story.result.record["source"]["unit"] == "HU" else "units",
        "size_unit": story.units.size,
        "length_unit": story.units.length,
        "largest": largest,
        "heat_from": round(min(0.5, largest / 8), 3),
        "inferno": [colours.rgb(c) for c in colours.INFERNO],
        "axes": [
            {
                "file": a.file,
                "kept": a.kept.tolist(),
                "mm": a.spacing,
                "held": None if h.size == a.kept.size else h.tolist(),
            }
            for a, h in zip(axes, held, strict=True)
        ],
        "planes": [_plane_meta(story, plane) for plane in story.planes],
        "structures": [
            {"name": f.name, "title": f.title, "rgb": colours.rgb(colours.structure(f.number))}
            for f in sorted(story.findings, key=lambda f: f.number)
        ],
        "first": story.findings[0].number if story.findings else 0,
        "opening": {"plane": story.opening.axis, "structure": story.subject.number if story.subject else 0},
        "influence": None if copy.influence is None else {"top": display.clearly(copy.influence, copy.axes)},
        "around": AROUND,
        "windows": [{"width": w, "centre": c} for _, w, c in windows(story)],
    }


def _plane_meta(story: Story, plane: Plane) -> dict[str, Any]:
    axes, s = story.axes, plane.slices
    kept = axes[plane.axis].kept
    moved = s.moved[kept]
    columns, rows, direction = DRAWN_ALONG[plane.axis]
    stops = story.stops[plane.axis]
    none = np.ones(kept.size, bool)
    none[stops] = False
    return {
        "axis": plane.axis,
        "name": plane.name,
        "title": plane.name.capitalize(),
        "total": axes[plane.axis].length,
        "numbers": (kept + 1).tolist(),
        "marks": [*axes[columns].ends, *axes[rows].ends[::direction]],
        "ml": np.round(s.differ[kept] * story.voxel, 2).tolist(),
        "ml_of": np.round(moved.T * story.voxel, 2).tolist(),
        "stops": None if stops.size == kept.size else stops.tolist(),
        "files": {position: f"{FOLDER}/{name}" for position, name in file_names(story, plane)} if story.edition else {},
        "changed": [np.flatnonzero(c & ~none).tolist() for c in (plane.changed[kept], *plane.changed_of[kept].T)],
        "worst": [plane.worst(number, kept) for number in range(moved.shape[1] + 1)],
    }


# ---- top of the page ----


def subtitle(story: Story) -> str:
    record = story.result.record
    source, victim, attack = record["source"], record["victim"], record["attack"]
    grid = " × ".join(str(n) for n in source["shape"])
    spacing = " × ".join(number(s) for s in source["spacing_mm"])
    kind = "CT" if source["unit"] == "HU" else "Image" if story.result.flat else "Scan"
    against = "the expert outline" if not story.result.own_reference else "the model’s own clean prediction"
    against += " without its defence" if "defense" in record and story.result.own_reference else ""
    parts = [
        f"{kind} of {grid} pixels" if story.result.flat else f"{kind}, {grid} voxels of {spacing} mm",
        f"model “{victim.get('title') or victim['name']}”",
        f"attack {attack.get('title') or attack['name']}, limit {words.limit_phrase(story.result)}",
        f"Dice against {against}",
    ]
    return " · ".join(parts)


def tile(about: str, value: str, meaning: str) -> str:
    return f'<div class="card"><h2>{escape(about)}</h2><p class="big">{escape(value)}</p><p>{escape(meaning)}</p></div>'


def tiles(story: Story) -> list[tuple[str, str, str]]:
    plane, unit = story.opening, story.units.size
    worst = next((f for f in story.findings if f.agreement is not None), None)
    cards = (
        [("Most affected", f"{worst.title} {fixed(worst.agreement, 3)}", "Dice after against before")] if worst else []
    )
    if story.result.flat:
        differ = float(plane.slices.differ.sum())
        most, share = differ * story.voxel, 100 * differ / float(np.prod(story.result.shape))
        return [
            *cards,
            ("Area changed", f"{size(most, unit)} {unit}", f"{number(share)} % of the picture has another label"),
        ]
    subject, whose = (story.subject.number, f" of {story.subject.title.lower()}") if story.subject else (0, "")
    kept = story.pictured.axes[plane.axis].kept
    total, at = len(plane.changed), int(kept[plane.worst(subject, kept)])
    most = float(plane.moved(subject)[at]) * story.voxel
    where = f"{at + 1} of {total}" if most else "none"
    changed = f"{int(plane.changed.sum())} of {total}"
    return [
        *cards,
        (f"Worst {plane.name} slice", where, f"{size(most, unit)} {unit}{whose} differ"),
        (f"{plane.name.capitalize()} slices changed", changed, f"over 0.5 {unit} differs"),
    ]


def warnings(story: Story) -> str:
    """Failures that a good Dice hides, one box each, as they change what the verdict means; what else limits it is
    folded to one line with a count."""
    caveats = words.caveats(story.result, story.findings)
    tilt = 0.0 if story.result.flat else display.tilt_degrees(story.result.affine)
    if tilt > 2:
        caveats.append(f"*Tilted scan:* its axes lie {tilt:.0f}° off the body’s; views follow the scan’s own slices.")
    boxes = "".join(f'<p class="warn">▲ {rich(w)}</p>' for w in words.hidden_failures(story.findings, story.units))
    return boxes + folded(caveats)


def chart_legend(story: Story) -> str:
    if len(story.present) <= MANY:
        return legend(story.present)
    rest = f"The worst {WORST}; the other {len(story.present) - WORST} in grey. Choose one to bring it out."
    return f'{legend(story.present[:WORST])}<p class="sub">{rest}</p>'


def filter_box(story: Story) -> str:
    if len(story.present) <= MANY:
        return ""
    return (
        '<p class="live bar"><label>Filter <input type="search" id="filter" placeholder="part of a name or verdict">'
        f'</label><button type="button" id="unfold" aria-pressed="false">All {len(story.present)}</button>'
        f'<span class="sub">worst first; at first the worst {MANY}</span></p>'
    )


def shown(story: Story) -> str:
    """What of the scan the page carries, and where the rest is."""
    copy, whole = story.copy, story.whole
    along = display.slice_axis(whole.axes)
    plane = [a for a in (2, 1, 0) if a != along]
    size_ = " × ".join(str(copy.axes[a].kept.size) for a in plane)
    thinned = "evenly thinned" if display.coarse(copy, whole) else "every one"
    parts = [f"{size_} {'pixels' if story.result.flat else 'voxels'} in plane, {thinned}"]
    across = next((p for p in story.planes if p.axis == along), story.planes[0])
    if not story.result.flat:
        kept = copy.axes[along].kept
        left = np.setdiff1d(whole.axes[along].kept, kept)
        slices = f"{kept.size} of {whole.axes[along].length} {display.PLANES[along]} slices"
        if across.changed[left].any():
            every = max(2, round(across.changed.sum() / max(across.changed[kept].sum(), 1)))
            slices += f": the most changed of each structure and about 1 in {every} of those that changed"
        elif left.size:
            slices += ": all that changed"
        parts.append(slices + ("; left-out ones show their neighbour" if left.size and not story.edition else ""))
        if story.beside:
            parts.append("of the other planes the most changed slice of each structure")
    if shown := words.channels_shown(story.result.record):
        parts.append(shown)
    if any(axis.kept.size < axis.length for axis in whole.axes):
        parts.append("cropped to what is labelled" + (" and 2 cm around it" if story.units.length == "mm" else ""))
    if story.edition:
        parts.append(f"every slice that changed, of every plane, lies in {FOLDER} beside it")
    elif copy.clean.size < whole.clean.size:
        parts.append("`perturbox report FOLDER --full-report` puts every slice that changed beside it")
    exact = "Scans, change and labels are exact" + ("" if copy.influence is None else ", influence is in 255 steps")
    return f"On this page: {'; '.join(parts)}. {exact}; all numbers are from the whole scan."
