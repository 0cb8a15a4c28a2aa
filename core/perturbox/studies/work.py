"""A worker's task: pieces of a study that are done together, as entries of its ledger.

Pure functions of files and settings: the same piece gives the same rows wherever it runs, so times are kept apart.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from perturbox.studies import certifying, pieces
from perturbox.studies.looking import Entry, entry_of


def carry_out(task: Mapping[str, Any]) -> list[Entry]:
    """The ledger's entries of a task: {"crafts": folder, "threads": n, "device", "scan": {…}, "clean": {…}} or
    {…, "craft": {…}, "judges": […]} or {…, "corruption": {…}, "looks": […]} or {…, "certificate": {…}}. Never raises
    for what a study can go on after: such an entry is "failed" with a reason; "again" says that another try may
    help."""
    torch.set_num_threads(task["threads"])
    return [_without_paths(entry, task) for entry in _entries(task)]


def _entries(task: Mapping[str, Any]) -> list[Entry]:
    if "clean" in task:
        return [entry_of(task["clean"]["key"], "clean", lambda: pieces.clean(task, task["clean"]))]
    if "certificate" in task:
        asked = task["certificate"]
        return [entry_of(asked["key"], "certificate", lambda: certifying.certificate(task, asked))]
    if "corruption" in task:
        return [entry_of(look["key"], "corruption", lambda l=look: pieces.corrupted(task, l)) for look in task["looks"]]
    craft = task["craft"]
    made = [] if craft["done"] else [entry_of(craft["key"], "craft", lambda: pieces.craft(task, craft))]
    if made and made[0]["status"] == "failed":
        why = {"status": "failed", "reason": f"its craft failed: {made[0]['reason']}", "again": made[0]["again"]}
        return made + [{"key": judge["key"], "kind": "judge", **why} for judge in task["judges"]]
    return made + [
        entry_of(judge["key"], "judge", lambda j=judge: pieces.judge(task, craft, j)) for judge in task["judges"]
    ]


def _without_paths(entry: Entry, task: Mapping[str, Any]) -> Entry:
    """A reason names files, not where they lie here: the same study elsewhere gives the same bytes, and tells nobody of
    this machine."""
    if entry["status"] == "failed":
        for path in (task["scan"]["image"], task["scan"]["label"], task["crafts"]):
            entry["reason"] = entry["reason"].replace(path, Path(path).name) if path else entry["reason"]
    return entry
