"""A worker's task: pieces of a study that are done together, as entries of its ledger.

Pure functions of files and settings: the same piece gives the same rows wherever it runs, so times are kept apart.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from perturbox.studies import certifying, climbing, pieces
from perturbox.studies.looking import Entry, entry_of

# Pieces that are a task of their own.
ALONE: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any]], Entry]] = {
    "clean": pieces.clean,
    "certificate": certifying.certificate,
    "features": climbing.fit,
    "sight": climbing.clean_sight,
}


def carry_out(task: Mapping[str, Any]) -> list[Entry]:
    """The ledger's entries of a task: {"crafts": folder, "threads": n, "device", "scan": {…}, "clean": {…}} or
    {…, "craft": {…}, "judges": […]} or {…, "corruption": {…}, "looks": […]} or {…, "certificate": {…}} or, of
    detectors, {…, "features": {…}}, {…, "sight": {…}}, {…, "ladder": {…}}. Never raises for what a study can go on
    after: such an entry is "failed" with a reason; "again" says that another try may help."""
    torch.set_num_threads(task["threads"])
    return [_without_paths(entry, task) for entry in _entries(task)]


def _entries(task: Mapping[str, Any]) -> list[Entry]:
    alone = next((kind for kind in ALONE if kind in task), None)
    if alone is not None:
        return [entry_of(task[alone]["key"], alone, lambda: ALONE[alone](task, task[alone]))]
    if "ladder" in task:
        return climbing.climb(task, task["ladder"])
    if "corruption" in task:
        return [entry for look in task["looks"] for entry in _of_look(task, look)]
    craft = task["craft"]
    made = [] if craft["done"] else [entry_of(craft["key"], "craft", lambda: pieces.craft(task, craft))]
    if made and made[0]["status"] == "failed":
        why = pieces.without_craft(made[0])
        return made + [{"key": judge["key"], "kind": "judge", **why} for judge in task["judges"]]
    return made + [
        entry_of(judge["key"], "judge", lambda j=judge: pieces.judge(task, craft, j)) for judge in task["judges"]
    ]


def _of_look(task: Mapping[str, Any], look: Mapping[str, Any]) -> list[Entry]:
    """Of a look at an ordinary change, unless it is there, and of what detectors see of it, where any do."""
    made = [] if look["done"] else [entry_of(look["key"], "corruption", lambda: pieces.corrupted(task, look))]
    sight = look.get("sight")
    if sight is not None:
        made.append(entry_of(sight["key"], "sight", lambda: climbing.corrupted_sight(task, look, sight)))
    return made


def _without_paths(entry: Entry, task: Mapping[str, Any]) -> Entry:
    """A reason names files, not where they lie here: the same study elsewhere gives the same bytes, and tells nobody of
    this machine."""
    if entry["status"] == "failed":
        others = task.get("features", {}).get("scans", ())
        for path in (task["scan"]["image"], task["scan"]["label"], task["crafts"], *others):
            entry["reason"] = entry["reason"].replace(path, Path(path).name) if path else entry["reason"]
    return entry
