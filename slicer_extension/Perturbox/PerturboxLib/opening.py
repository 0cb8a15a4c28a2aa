"""Results and studies on this computer, opened from their folders without a server.

A result's folder keeps no copy of the scan it was made of: that is the perturbed scan without the change.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import slicer
from slicer.i18n import tr as _

from . import geometry, nrrd, scene, tasks
from .numbers import number
from .trouble import Trouble, trouble

RESULT, STUDY, LEDGER, MARGIN, REPORT = "result.json", "study.json", "ledger.jsonl", "margin.json", "report.html"
KEPT = re.compile(r"worst/[0-9a-f]{8,64}")
UNITS = {"native": "", "sigma": " σ", "percent": " %"}


@dataclass(frozen=True)
class Case:
    """A result in a folder. title: what a study calls it; scan: the name of its scan."""

    title: str
    folder: Path
    scan: str


def cases(folder: str) -> list[Case]:
    """The result of a folder, or the worst cases that a study kept, as its page orders them. Raises Trouble for a
    folder that holds neither."""
    place = Path(folder)
    if (place / RESULT).is_file():
        return [Case(place.name, place, place.name)]
    if (place / STUDY).is_file():
        return _ofStudy(place)
    if (place / LEDGER).is_file():
        raise Trouble(
            "no-study", _("The study in this folder isn't finished."), _("Run the same command again, which goes on.")
        )
    raise Trouble(
        "no-result",
        _("This folder holds no result and no study."),
        _("Choose one that holds {result} or {study}.").format(result=RESULT, study=STUDY),
    )


def _ofStudy(place: Path) -> list[Case]:
    study = _record(place / STUDY)
    try:
        unit = UNITS[study["study"]["eps"]["unit"]]
        found = [
            Case(
                # A study's own words: model, attack, limit, scan
                f"{row['target']} · {row['attack']} · {number(row['eps'])}{unit} · {row['case']}"
                + (_(" · seed {seed}").format(seed=row["seed"]) if len(study["study"]["seeds"]) > 1 else ""),
                place / row["folder"],
                str(row["case"]),
            )
            for row in study["worst"]
            if KEPT.fullmatch(row["folder"]) and (place / row["folder"] / RESULT).is_file()
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise trouble("bad-file", f"{STUDY}: {type(error).__name__} {error}") from None
    if not found:
        raise Trouble(
            "no-cases",
            _("This study kept no case."),
            _("Set keep_worst in its file to 1 or more and run the same command again."),
        )
    return found


def load(case: Case):
    """Bring a result and its scan into the scene; returns the result node. Raises Trouble where files are missing or
    don't fit together; nothing of them is then left in the scene."""
    *_steps, node = scene.allOrNothing(_loading(case))
    return node


def _loading(case: Case) -> Iterator:
    """The steps of `load`; the last value is the result node."""
    record = _record(case.folder / RESULT)
    known = {name: {} for name in sorted(os.listdir(case.folder))}
    roles = {role: tasks.fileOf(known, stem) for role, stem in tasks.IMAGES["attack"].items()}
    roles |= {role: f"{stem}.nii.gz" for role, stem in tasks.OPTIONAL.items() if f"{stem}.nii.gz" in known}
    images = {role: _image(case.folder / name) for role, name in roles.items()}
    report = case.folder / REPORT
    page = report.read_text(encoding="utf-8", errors="replace") if report.is_file() else ""
    detection = tasks.detected(_content(case.folder / tasks.DETECTION)) if tasks.DETECTION in known else {}
    try:
        bundle = tasks.Bundle("attack", "", record, images, page, detection=detection)
        node = scene.addResultNow(bundle, _scan(images, case.scan))
        if (case.folder / MARGIN).is_file():
            scene.addMargin(node, _record(case.folder / MARGIN))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise trouble("bad-file", f"{RESULT}: {type(error).__name__} {error}") from None
    yield node


def _scan(images: dict[str, nrrd.Image], name: str):
    """A volume of the scan as it was: perturbed without the change, in the type of its file."""
    perturbed, change = (images[role] for role in ("perturbed", "perturbation"))
    if perturbed.array.shape != change.array.shape:
        raise trouble("mismatch", f"{perturbed.array.shape} against {change.array.shape}")
    before = perturbed.array.astype(np.float64) - change.array
    if perturbed.array.dtype.kind in "iu":
        before = np.round(before)
    volume = slicer.util.addVolumeFromArray(before.astype(perturbed.array.dtype), perturbed.ijkToRas, name)
    volume.CreateDefaultDisplayNodes()
    return volume


def _image(path: Path) -> nrrd.Image:
    """A file as an array "k j i" with its grid, read by Slicer and taken out of the scene again."""
    try:
        node = slicer.util.loadVolume(str(path), {"show": False, "singleFile": True})
    except RuntimeError as error:
        raise trouble("bad-file", f"{path.name}: {error}") from None
    try:
        array = slicer.util.arrayFromVolume(node)
        if array.ndim != 3:
            raise Trouble(
                "photograph",
                _("'{name}' is no scan of one channel.").format(name=path.name),
                _("Open {report} in a browser instead.").format(report=REPORT),
            )
        return nrrd.Image(array.copy(), geometry.worldGrid(node), {})
    finally:
        scene.discard(node)


def _record(path: Path) -> dict:
    return tasks.document(_content(path), path.name)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise trouble("bad-file", f"{path.name}: {error.strerror or error}") from None
