"""The page of several results on one scan: their slices side by side, moved together, and what differs."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from perturbox.judge import columns, comparison
from perturbox.judge.comparison import LETTERS
from perturbox.judge.look import most
from perturbox.judge.record import is_margin, read_record
from perturbox.judge.verdicts import BROKEN, said
from perturbox.report import charts, colours, display, words
from perturbox.report.facts import facts
from perturbox.report.findings import changed_slices, count_slices, readable
from perturbox.report.flows import called
from perturbox.report.frame import fill, page
from perturbox.report.load import Result, load
from perturbox.report.plates import picture, window_options, windows
from perturbox.report.story import Plane, Story, plane_name, plane_order, voxel_size
from perturbox.report.tables import table
from perturbox.report.viewer import DRAWN_ALONG, colour_key, plane_buttons
from perturbox.report.words import Units, fixed, size
from perturbox.types import InputError, points

AROUND = 330  # pixels of the first screen above and below the pictures


def compare_folders(folders: Sequence[Path], names: Sequence[str] = ()) -> tuple[dict[str, Any], str]:
    """(comparison.json, its page) of two to six result folders; names: what refusals call them, their paths if not
    given.

    Raises InputError where one isn't a result, or is of another scan or grid than the first.
    """
    results = _open(folders, names or [str(folder) for folder in folders])
    document = comparison.compare([result.record for result in results], [result.sha256 for result in results])
    return document, _page(results, document)


def _open(folders: Sequence[Path], names: Sequence[str]) -> list[Result]:
    """The results, whose records know what became what."""
    if not 2 <= len(folders) <= len(LETTERS):
        raise InputError(f"A comparison takes two to {len(LETTERS)} result folders, not {len(folders)}.")
    for folder, name in zip(folders, names, strict=True):
        if is_margin(folder):
            raise InputError(f"'{name}' holds a search for the margin; give one of the result folders in it.")
        read_record(folder)
    results = [load(folder) for folder in folders]
    for result, name in zip(results[1:], names[1:], strict=True):
        if why := _unlike(results[0], result):
            raise InputError(f"'{name}' is of another scan than '{names[0]}': {why}; compare results on one scan.")
    return results


def _unlike(first: Result, other: Result) -> str | None:
    """Why two results aren't of one scan on one grid."""
    shapes = [" × ".join(str(n) for n in result.record["source"]["shape"]) for result in (other, first)]
    if shapes[0] != shapes[1]:
        return f"its grid is {shapes[0]}, not {shapes[1]}"
    if not np.allclose(first.affine, other.affine, atol=1e-3):
        return "its grid lies elsewhere (spacing, direction or origin)"
    units = [result.record["source"]["unit"] for result in (other, first)]
    if units[0] != units[1]:
        return f"its values are in {units[0]}, not in {units[1]}"
    differ = int(np.count_nonzero(np.abs(_original(first) - _original(other)) > 1e-3))
    return f"{differ:,} {points(2 if first.flat else 3)} of the original differ" if differ else None


def _original(result: Result) -> np.ndarray:
    return result.perturbed().astype(np.float64) - result.change()


def _page(results: list[Result], document: dict[str, Any]) -> str:
    named = {name: None for result in results for name in result.structures}
    names = list(named)
    stories, streams, parts = _stories(results, names)
    worst = _differ_most(stories)
    opening, axis = _opening(document, stories, names, worst)
    meta = _meta(stories, names, worst, parts, (opening, axis))
    present = [(names.index(row["structure"]) + 1, readable(row["structure"])) for row in document["structures"]]
    first = stories[0]
    body = fill(
        "compare.html",
        plane_buttons=plane_buttons(first, axis),
        windows=window_options(first),
        panes=_panes(len(stories)),
        key=colour_key(present),
        stacked=" hidden" if first.result.flat else "",
        shown=escape(_shown(first)),
        said="".join(f"<li>{escape(sentence)}</li>" for sentence in document["said"]),
        made=_made(document),
        pictures=_pictures(stories, worst, opening, axis, names),
        verdicts=_verdicts(document, names),
        sizes=document["sizes"],
        flow=_flows(document),
        headlines=_headlines(document),
    )
    return page(
        body,
        title=_title(document),
        subtitle=" · ".join(f"{r['letter']}: {r['model']}, {r['attack']}, {r['limit']}" for r in document["results"]),
        footer=words.NO_PROOF,
        structures=len(names),
        scripts=("unpack", "slices", "lens", "compare"),
        meta=meta,
        streams=streams,
    )


def _title(document: dict[str, Any]) -> str:
    parts = [f"{result['letter']} broke {len(result['broken'])}" for result in document["results"]]
    return f"Comparison: {', '.join(parts)} of {len(document['structures'])} structures"


# ---- slices ----


def _stories(results: list[Result], names: list[str]) -> tuple[list[Story], dict[str, bytes], list[dict[str, str]]]:
    """A story of each result on one selection of voxels, with labels by the names of all; the packed parts of the page,
    and by what names it has each one's volumes."""
    maps = [[_renumbered(result, names, which) for which in ("clean_seg", "adversarial_seg")] for result in results]
    first = results[0]
    grid = display.anatomical_axes(first)
    voxel = voxel_size(first, grid)
    sides: list[tuple[Plane, ...]] = []
    for clean, adversarial in maps:
        counts = {a: count_slices(clean, adversarial, len(names), grid[a].file) for a in plane_order(first, grid)}
        sides.append(tuple(Plane(a, plane_name(grid, a), s, *changed_slices(s, voxel)) for a, s in counts.items()))
    labelled = np.any([labels > 0 for pair in maps for labels in pair], axis=0)
    axes, along = display.crop(grid, labelled), display.slice_axis(grid)
    across = [next((p for p in planes if p.axis == along), planes[0]) for planes in sides]
    changed = np.any([plane.changed for plane in across], axis=0)
    always = np.unique([plane.slices.moved.argmax(axis=0) for plane in across])
    wholes = [display.copy_within(result, axes, *labels) for result, labels in zip(results, maps, strict=True)]
    parts = _parts(wholes)

    def pack(some: display.Axes) -> dict[str, bytes]:
        streams: dict[str, bytes] = {}
        for whole, own in zip(wholes, parts, strict=True):
            new = {part: name for part, name in own.items() if name not in streams}
            packed = whole.keeping(some).streams(new)
            streams |= {name: packed[part] for part, name in new.items()}
        return streams

    kept, streams = display.fit(axes, changed, always, display.TARGET_BYTES, pack)
    copies = [whole.keeping(kept) for whole in wholes]
    units = Units.of(first.record)
    stories = [
        Story(result, units, voxel, planes, [], None, whole, copy, {}, {}, False)
        for result, planes, whole, copy in zip(results, sides, wholes, copies, strict=True)
    ]
    return stories, streams, parts


def _renumbered(result: Result, names: list[str], which: str) -> np.ndarray:
    """A label map whose numbers are places in `names`, from 1."""
    order = np.array([0, *(names.index(name) + 1 for name in result.structures)], np.uint8)
    return order[result.labels(which)]


def _parts(wholes: list[display.Copy]) -> list[dict[str, str]]:
    """By what names the page carries each result's volumes: the original and clean predictions once where they are
    equal, the influence where all have it."""
    carried = display.STREAMS if all(w.influence is not None for w in wholes) else display.STREAMS[:-1]
    coded = [(w.scale, w.offset, w.before.dtype) for w in wholes]
    parts = []
    for index, whole in enumerate(wholes):
        alike = [k for k in range(index + 1) if coded[k] == coded[index]]
        held_by = {
            "before": next(k for k in alike if np.array_equal(wholes[k].before, whole.before)),
            "clean": next(k for k in range(index + 1) if np.array_equal(wholes[k].clean, whole.clean)),
        }
        parts.append({part: f"{part}-{held_by.get(part, index)}" for part in carried})
    return parts


def _differ_most(stories: list[Story]) -> dict[int, np.ndarray]:
    """By plane, how far apart the results are in each slice: "slice 1+structure", voxels, all structures first. Where
    they are equal, how much of it changed in all."""
    apart = {}
    for index, plane in enumerate(stories[0].planes):
        moved = np.array(
            [np.column_stack([s.planes[index].slices.differ, s.planes[index].slices.moved]) for s in stories], float
        )
        apart[plane.axis] = np.ptp(moved, axis=0) + 1e-6 * moved.max(axis=0)
    return apart


def _opening(
    document: dict[str, Any], stories: list[Story], names: list[str], worst: dict[int, np.ndarray]
) -> tuple[int, int]:
    """(number of a structure, display axis) to open with: of those that broke in some results only, the one in which
    the results are furthest apart; if there is none, of all."""
    rows = document["structures"]
    mixed = [row for row in rows if len({word in BROKEN for word in row["verdicts"]}) > 1] or rows
    numbers = [names.index(row["structure"]) + 1 for row in mixed]
    number = max(numbers, key=lambda n: float(worst[stories[0].planes[0].axis][:, n].sum()), default=0)
    if len(worst) == 1:
        return number, stories[0].planes[0].axis
    axes = stories[0].whole.axes
    by_file = sorted(worst, key=lambda axis: axes[axis].file)
    moved, spacing = [worst[axis][:, number] for axis in by_file], [axes[axis].spacing for axis in by_file]
    return number, by_file[most(moved, spacing)[0]]


def _meta(
    stories: list[Story],
    names: list[str],
    worst: dict[int, np.ndarray],
    parts: list[dict[str, str]],
    opening: tuple[int, int],
) -> dict[str, Any]:
    """What the script needs beside the voxels."""
    first = stories[0]
    axes = first.copy.axes
    planes = []
    for index, plane in enumerate(first.planes):
        kept = axes[plane.axis].kept
        changed = [
            np.any([s.planes[index].changed[kept] for s in stories], axis=0),
            *np.any([s.planes[index].changed_of[kept] for s in stories], axis=0).T,
        ]
        across, down, direction = DRAWN_ALONG[plane.axis]
        planes.append(
            {
                "axis": plane.axis,
                "name": plane.name,
                "title": plane.name.capitalize(),
                "total": axes[plane.axis].length,
                "numbers": (kept + 1).tolist(),
                "marks": [*axes[across].ends, *axes[down].ends[::direction]],
                "changed": [np.flatnonzero(c).tolist() for c in changed],
                "worst": worst[plane.axis][kept].argmax(axis=0).tolist(),
            }
        )
    results = []
    for letter, story, own in zip(LETTERS, stories, parts, strict=False):
        copy = story.copy
        told: dict[int, Any] = {}
        for plane in story.planes:
            kept = axes[plane.axis].kept
            told[plane.axis] = {
                "ml": np.round(plane.slices.differ[kept] * story.voxel, 2).tolist(),
                "ml_of": np.round(plane.slices.moved[kept].T * story.voxel, 2).tolist(),
            }
        coded = {"scale": copy.scale, "offset": copy.offset, "bytes": copy.before.itemsize}
        pushed = None if copy.influence is None else {"top": display.clearly(copy.influence, copy.axes)}
        results.append(
            {"letter": letter, "parts": list(own.values()), "coded": coded, "influence": pushed, "planes": told}
        )
    largest = max(story.result.shown["linf"] for story in stories) or 1.0
    return {
        "shape": list(first.copy.clean.shape),
        "channels": len(first.copy.before),
        "unit": "HU" if first.result.record["source"]["unit"] == "HU" else "units",
        "size_unit": first.units.size,
        "length_unit": first.units.length,
        "largest": largest,
        "heat_from": round(min(0.5, largest / 8), 3),
        "heat": "influence" if "influence" in parts[0] else "signed",
        "inferno": [colours.rgb(c) for c in colours.INFERNO],
        "axes": [{"file": a.file, "kept": a.kept.tolist(), "mm": a.spacing} for a in axes],
        "planes": planes,
        "structures": [
            {"name": name, "title": readable(name), "rgb": colours.rgb(colours.structure(n))}
            for n, name in enumerate(names, start=1)
        ],
        "opening": {"structure": opening[0], "plane": opening[1]},
        "around": AROUND,
        "windows": [{"width": w, "centre": c} for _, w, c in windows(first)],
        "results": results,
    }


def _panes(count: int) -> str:
    marks = "".join(f'<span class="mark {where}"></span>' for where in ("left", "right", "top", "bottom"))
    return (
        '<figure class="pane"><canvas tabindex="0" role="img"></canvas><figcaption class="tag name"></figcaption>'
        f'<span class="tag info"></span>{marks}</figure>'
    ) * count


def _shown(story: Story) -> str:
    along = display.slice_axis(story.copy.axes)
    axis = story.copy.axes[along]
    slices = "" if story.result.flat else f"{axis.kept.size} of {axis.length} {display.PLANES[along]} slices; "
    return f"On this page: {slices}scans and labels are exact; all numbers are from the whole scans."


def _pictures(stories: list[Story], worst: dict[int, np.ndarray], number: int, axis: int, names: list[str]) -> str:
    """Where the results differ most, one after another: for paper and for browsers without scripts."""
    at = int(worst[axis][stories[0].pictured.axes[axis].kept, number].argmax())
    parts = []
    for letter, story in zip(LETTERS, stories, strict=False):
        plane = next(p for p in story.planes if p.axis == axis)
        only = (number, readable(names[number - 1])) if number else None
        parts.append(f"<h3>{letter}</h3>{picture(story, plane, at, only)}")
    return "".join(parts)


# ---- tables ----


def _made(document: dict[str, Any]) -> str:
    """What the results were made with and differ in."""
    letters = [result["letter"] for result in document["results"]]
    pairs = [
        (key, "; ".join(f"{letter}: {said}" for letter, said in zip(letters, told, strict=True)))
        for key, told in document["differ_in"].items()
    ]
    return facts(pairs or [("made", "with the same model, attack and settings")])


def _verdicts(document: dict[str, Any], names: list[str]) -> str:
    letters = [result["letter"] for result in document["results"]]
    sizes = document["sizes"]
    head = '<th scope="col">Structure</th>'
    head += "".join(f'<th scope="col">{a}: verdict</th>' for a in letters)
    head += "".join(f'<th scope="col">{a}: Dice</th>' for a in letters)
    head += "".join(f'<th scope="col">{a}: Δ {sizes}</th>' for a in letters)
    body = []
    for row in document["structures"]:
        n = names.index(row["structure"]) + 1
        differs = len(set(row["verdicts"])) > 1
        flags = "".join(f"<td>{_flag(word)}</td>" for word in row["verdicts"])
        dices = "".join(f"<td>{fixed(dice, 3)}</td>" for dice in row["dice"])
        changes = "".join(
            f"<td>{escape(columns.change(pair[0], pair[1], sizes)) if pair else '–'}</td>" for pair in row["volumes"]
        )
        title = escape(readable(row["structure"]))
        mark = ' <span class="bad">≠</span>' if differs else ""
        named = f'{charts.square(n)}<button type="button" class="pick" aria-pressed="false">{title}</button>{mark}'
        body.append(f'<tr data-structure="{n}"><th scope="row">{named}</th>{flags}{dices}{changes}</tr>')
    return (
        f'<div class="table" tabindex="0"><table class="numbers"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _flag(word: str | None) -> str:
    if word is None:
        return "not in this model"
    return f'<span class="flag {"bad" if word in BROKEN else "quiet"}">{escape(said(word))}</span>'


def _flows(document: dict[str, Any]) -> str:
    if document["flow"] is None:
        return "<p>A result of an earlier version doesn’t say what became what.</p>"
    letters = [result["letter"] for result in document["results"]]
    sizes = document["sizes"]
    rows = [
        [f"{called(row['from'])} → {called(row['to'])}", *(size(ml, sizes) for ml in row["ml"])]
        for row in document["flow"]
    ]
    if not rows:
        return "<p>Nothing has another label after the attack.</p>"
    head = ["Before → after", *(f"{letter}, {sizes}" for letter in letters)]
    rest = rows[12:]
    more = f"<details><summary>{len(rest)} more</summary>{table(head, rest)}</details>" if rest else ""
    return table(head, rows[:12]) + more


def _headlines(document: dict[str, Any]) -> str:
    return "".join(
        f'<dt>{r["letter"]}</dt><dd>{escape(r["headline"])} <span class="sub">SHA-256 {r["sha256"][:8]}…</span></dd>'
        for r in document["results"]
    )
