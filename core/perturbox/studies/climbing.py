"""Pieces of a study of detectors: an attack with ever larger limits until the answer has fallen, what detectors see of
it and of what is none, and what attacks need of clean scans."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from perturbox import io
from perturbox.attacks.fitting import fit_features
from perturbox.detectors.fitting import fit_detector
from perturbox.jobs.worker import load_cached
from perturbox.studies import pieces, sights
from perturbox.studies.design import FEATURES
from perturbox.studies.detected import SLACK
from perturbox.studies.looking import Entry, Seen, entry_of, look, whole
from perturbox.studies.plan import PASSES, fit_file
from perturbox.types import InputError, Volume

CLEAN, ATTACKED = "clean", "attacked"


def fit(task: Mapping[str, Any], asked: Mapping[str, Any]) -> Entry:
    """Fit what an attack needs of clean scans: a model's features to hide among, or the detector that is to be
    passed."""
    victim = load_cached(asked["spec"], task["device"])
    scans = [io.read_scan(path, unit=victim.unit, channels=victim.channels) for path in asked["scans"]]
    what, passes = asked["what"], PASSES if asked["what"] == FEATURES else 1
    with whole(Path(asked["place"])) as draft:
        if what == FEATURES:
            found = fit_features(victim, scans, passes=passes)
        else:
            found = fit_detector(victim, what, [lambda scan=scan: scan for scan in scans])
        found.write(draft / fit_file(what))
    return {"forwards": len(scans) * passes}


def _sight(task: Mapping[str, Any], asked: Mapping[str, Any], scans: Callable[[Seen], Mapping[str, Volume]]) -> Entry:
    """What the detectors see of some scans, kept in a file."""
    seen = look(task, asked)
    with whole(Path(asked["place"])) as draft:
        sights.write(draft, sights.see(seen.victim, scans(seen), asked["detectors"]))
    return {}


def clean_sight(task: Mapping[str, Any], asked: Mapping[str, Any]) -> Entry:
    """Of the scan as it is."""
    return _sight(task, asked, lambda seen: {CLEAN: seen.image})


def climb(task: Mapping[str, Any], asked: Mapping[str, Any]) -> list[Entry]:
    """Entries of the crafts and judgements that weren't there, one limit after another up to the first at which the
    mean Dice of the saved scan with the model's own answer is `success` or lower, and of the ladder itself: which
    crafts it took, and which one the answer fell by, None if it held; with what the detectors see of that one, of
    noise as large and of the same change rolled elsewhere."""
    made: list[Entry] = []
    tried, fell, failed = [], None, []
    for rung in asked["rungs"] if asked["failed"] is None else ():
        craft, judge = rung["craft"], rung["judge"]
        found = craft["entry"] or entry_of(craft["key"], "craft", lambda c=craft: pieces.craft(task, c))
        made += [] if craft["entry"] else [found]
        judged = judge["entry"] if craft["entry"] else None
        if judged is None:
            judged = (
                entry_of(judge["key"], "judge", lambda c=craft, j=judge: pieces.judge(task, c, j))
                if found["status"] == "ok"
                else {"key": judge["key"], "kind": "judge", **pieces.without_craft(found)}
            )
            made.append(judged)
        tried.append(craft["key"])
        failed += [entry for entry in (judged,) if entry["status"] != "ok"]
        if judged["status"] == "ok" and fallen(look(task, asked), judged, asked):
            fell = craft
            break

    def finish() -> Entry:
        if asked["failed"] is not None or len(failed) == len(asked["rungs"]):
            raise InputError(asked["failed"] or failed[0]["reason"])
        if fell is None:
            return {"rungs": tried, "fell": None}
        craft: Mapping[str, Any] = fell
        return {"rungs": tried, "fell": craft["key"], **_sight(task, asked, lambda seen: _attacked(task, craft, seen))}

    return [*made, entry_of(asked["key"], "ladder", finish)]


def fallen(seen: Seen, judged: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Whether the mean Dice with the model's own answer, over the structures aimed at that it finds, has fallen."""
    dice = [
        judged["structures"][name]["against_clean"]["dice"]
        for name, value in seen.victim.structures.items()
        if name in (asked["target"] or seen.victim.structures) and (seen.prediction == value).any()
    ]
    return bool(dice) and float(np.mean(dice)) <= asked["success"] + SLACK


def _attacked(task: Mapping[str, Any], craft: Mapping[str, Any], seen: Seen) -> dict[str, Volume]:
    saved = pieces.saved_scan(task, craft, seen.image)
    return {ATTACKED: saved, **pieces.control_scans(seen.image, saved, craft["job"])}


def corrupted_sight(task: Mapping[str, Any], changed: Mapping[str, Any], asked: Mapping[str, Any]) -> Entry:
    """What the detectors see of the scan under an ordinary change."""
    return _sight(task, asked, lambda seen: {"corruption": pieces.changed(task, changed, seen)[0]})
