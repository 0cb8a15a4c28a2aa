"""The section of docs/benchmarks.md on strength: a table per scene, attacks down, steps across."""

from collections.abc import Mapping, Sequence
from typing import Any

import pages

Row = Mapping[str, Any]
SCORES = {
    "change": "mean Dice",
    "vanish": "volume left of its own",
    "grow": "own volume over what it grew to",
}


def section(found: Mapping[str, Any], scenes: Mapping[str, Any], arms: Sequence[str]) -> str:
    """Markdown of what benchmarks.json holds of strength; scenes, arms: in the order of the page."""
    rows = list(found.get("rows", {}).values())
    if not rows:
        return pages.STRENGTH + "\n"
    dates = sorted({row["date"] for row in rows})
    machine = found["machine"]
    lines = [
        pages.STRENGTH,
        "",
        f"{' to '.join(dict.fromkeys([dates[0], dates[-1]]))} · {machine['cpu']}, one thread per attack · "
        + ", ".join(f"{name} {version}" for name, version in found["versions"].items())
        + " · `make bench-strength` (`python -m benchmarks strength --help`)",
        "",
        "What each attack leaves after so many steps, each of one gradient, from one start, within one limit; lower is "
        "stronger. Judged by ordinary inference on the file that was written. *default* is what is taken where no "
        "attack is named. Arms that name a loss climb that one; “pgd, step …” climbs soft Dice + cross-entropy, PGD's "
        "own; so only rows of one loss compare ways to climb. Published recipes stand at their own settings.",
        "",
        "It can't show: what more starts or a set of attacks find, other models than these (the hippocampus nets are "
        "small, trained in minutes on 70 scans), or more than one seed. Empty cells were not run.",
        "",
    ]
    for name, scene in scenes.items():
        here = [row for row in rows if row["scene"] == name and row["arm"] in arms]
        if here:
            lines += [f"### {said_of(scene)}", "", *_table(here, arms), ""]
    return "\n".join(lines).rstrip() + "\n"


def said_of(scene: Any) -> str:
    """A scene in words."""
    kind = scene.scans[0].partition("-")[0]
    what = {
        "patient": f"held-out hippocampus scans of {len(scene.scans)} patients",
        "phantom": f"64 slices of {len(scene.scans)} phantom(s)",
        "ct": "the real CT",
        "slab": "64 slices of the real CT",
        "slices": "4 slices of the real CT",
    }[kind]
    unit = "% of range" if kind == "patient" else "HU"
    size = f"{scene.eps:g} {unit}{' RMS' if scene.norm == 'l2' else ''}"
    goal = "" if scene.goal == "change" else f"{', '.join(scene.target)} to {scene.goal}: "
    return f"{goal}`{scene.victim}` on {what}, {size}: {SCORES[scene.goal]}"


def _table(rows: Sequence[Row], arms: Sequence[str]) -> list[str]:
    steps = sorted({row["steps"] for row in rows})
    cells = {(arm, n): [row for row in rows if (row["arm"], row["steps"]) == (arm, n)] for arm in arms for n in steps}
    found = {place: _mean(chosen, rows) for place, chosen in cells.items()}
    lowest = {n: min((v for (_, m), v in found.items() if m == n and v is not None), default=None) for n in steps}
    lines = [f"| attack | {' | '.join(f'{n} steps' for n in steps)} |", f"|---|{'--:|' * len(steps)}"]
    for arm in arms:
        values = [found[arm, n] for n in steps]
        if any(value is not None for value in values):
            said = ["" if v is None else _bold(f"{v:.3f}", v == lowest[n]) for v, n in zip(values, steps, strict=True)]
            lines.append(f"| {_bold(arm, arm == 'default')} | {' | '.join(said)} |")
    return lines


def _mean(chosen: Sequence[Row], rows: Sequence[Row]) -> float | None:
    """Over the scans of a scene; None unless all that any arm was run on are there."""
    scans = {row["scan"] for row in rows}
    return sum(row["score"] for row in chosen) / len(chosen) if {row["scan"] for row in chosen} == scans else None


def _bold(text: str, wanted: bool) -> str:
    return f"**{text}**" if wanted else text
