"""`check.html`: what `perturbox victim check` found, for a reader with a browser; all of it stands in check.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perturbox.judge.victim import told
from perturbox.report.facts import facts, model_facts
from perturbox.report.frame import RESEARCH, fill, page
from perturbox.report.tables import table
from perturbox.report.words import fixed
from perturbox.types import points


def write_check(folder: Path, found: Mapping[str, Any]) -> Path:
    """Write check.html beside check.json and return its path."""
    path = folder / "check.html"
    path.write_text(build_check(found), encoding="utf-8")
    return path


def build_check(found: Mapping[str, Any]) -> str:
    """The page of a check.json as one text, without file names and paths."""
    victim, scan = found["victim"], found["scan"]
    steps = [(f"{step['name']} ({step['kind']})", step["sentence"]) for step in found["steps"]]
    shape, spacing = (" × ".join(f"{n:g}" for n in scan[key]) for key in ("shape", "spacing_mm"))
    body = fill(
        "check.html",
        facts=facts(pair for pair in told(found) if pair[0] != "Labels"),
        steps=facts(steps),
        labels=table(*_labels(found)),
        model=model_facts(dict(victim)),
    )
    return page(
        body,
        title=f"{victim['title']}: what it does to a scan",
        subtitle=f"A scan of {shape} {points(len(scan['shape']))} of {spacing} mm, in {scan['unit']}",
        footer="All of it stands in check.json beside this page.",
        structures=0,
        notice=RESEARCH.capitalize(),
    )


def _labels(found: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of labels; with another run beside it, where they differ."""
    head, against = ["Structure", "Label", f"Size {found['sizes']}"], found["against"]
    if against:
        head += ["Dice", "Voxels that differ"]
    rows = []
    for name, size in found["volumes"].items():
        row = [name.replace("_", " "), str(found["labels"][name]), fixed(size, 1) if size else "not found"]
        if against:
            here = against["structures"][name]
            row += ["–" if here["dice"] is None else f"{here['dice']:.4f}", f"{here['differ']:,}"]
        rows.append(row)
    return head, rows
