"""Results, certificates and studies on this computer, opened from their folders without a server.

A result's folder keeps no copy of the scan it was made of: that is the perturbed scan without the change. Nor does a
certificate's, which is shown on a scan of the scene that lies on its voxels.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import slicer
from slicer.i18n import tr as _

from . import certificates, geometry, nrrd, scene, tasks
from .numbers import number
from .trouble import Trouble, trouble
from .volumes import isOurs, isSynthetic

RESULT, STUDY, LEDGER, MARGIN, REPORT = "result.json", "study.json", "ledger.jsonl", "margin.json", "report.html"
CERTIFIED = "certify"  # the kind of a certificate, as the job API has it
CERTIFICATE = tasks.RECORDS[CERTIFIED]
KEPT = re.compile(r"worst/[0-9a-f]{8,64}")
UNITS = {"native": "", "sigma": " σ", "percent": " %"}


@dataclass(frozen=True)
class Case:
    """A result in a folder, or a certificate. title: what a study calls it; scan: the name of its scan."""

    title: str
    folder: Path
    scan: str
    kind: str = "attack"


def cases(folder: str) -> list[Case]:
    """The result or certificate of a folder, or the worst cases that a study kept, as its page orders them. Raises
    Trouble for a folder that holds none of these."""
    place = Path(folder)
    if (place / RESULT).is_file():
        return [Case(place.name, place, place.name)]
    if (place / CERTIFICATE).is_file():
        return [Case(place.name, place, "", CERTIFIED)]
    if (place / STUDY).is_file():
        return _ofStudy(place)
    if (place / LEDGER).is_file():
        raise Trouble(
            "no-study", _("The study in this folder isn't finished."), _("Run the same command again, which goes on.")
        )
    raise Trouble(
        "no-result",
        _("This folder holds no result, no certificate and no study."),
        _("Choose one that holds {result}, {certificate} or {study}.").format(
            result=RESULT, certificate=CERTIFICATE, study=STUDY
        ),
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


def load(case: Case, chosen=None):
    """Bring a result and its scan into the scene, or a certificate onto its scan there; returns the result node.
    chosen: the scan that is meant where several fit. Raises Trouble where files are missing or don't fit together, and
    where no scan fits a certificate; nothing of them is then left in the scene."""
    *_steps, node = scene.allOrNothing(_loading(case) if case.kind != CERTIFIED else _certifying(case, chosen))
    return node


def isSure(node) -> bool:
    """Whether a certificate in the scene is known to be shown on the very scan it is of, by that scan's file."""
    found = certificates.Certificate(node)
    return _isOf(found.nodes.original, found.record["source"]["sha256"])


def _certifying(case: Case, chosen) -> Iterator:
    """The steps of `load` for a certificate."""
    record = _record(case.folder / CERTIFICATE)
    known = {name: {} for name in sorted(os.listdir(case.folder))}
    roles = {role: tasks.fileOf(known, stem) for role, stem in tasks.IMAGES[CERTIFIED].items()}
    images = {role: _image(case.folder / name) for role, name in roles.items()}
    page = case.folder / tasks.PAGES[CERTIFIED]
    text = page.read_text(encoding="utf-8", errors="replace") if page.is_file() else ""
    bundle = tasks.Bundle(CERTIFIED, "", record, images, text)
    try:
        scan = _scanOf(record["source"]["sha256"], images["certified"], chosen)
        yield from certificates.addCertificate(bundle, scan)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise trouble("bad-file", f"{CERTIFICATE}: {type(error).__name__} {error}") from None


def _scanOf(sha256, image: nrrd.Image, chosen):
    """The scan of the scene that lies on an image's voxels: by its hash, else the chosen one, else the first."""
    there = [node for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") if _liesOn(node, image)]
    for node in there:
        if _isOf(node, sha256):
            return node
    fitting = [node for node in there if not (isOurs(node) or isSynthetic(node))]
    if not fitting:
        raise Trouble(
            "no-scan-of-it",
            _("The scan of this certificate isn't in the scene, and its folder holds no scan."),
            _("Load the scan that was certified, then open the folder again."),
        )
    return chosen if chosen in fitting else fitting[0]


def _liesOn(node, image: nrrd.Image) -> bool:
    """Whether a volume is a scan on an image's voxels."""
    if node.GetClassName() != "vtkMRMLScalarVolumeNode":
        return False
    try:
        grid = geometry.worldGrid(node)
    except Trouble:
        return False
    shape = node.GetImageData().GetDimensions()[::-1]
    return geometry.sameGrid(shape, grid, image.array.shape, image.ijkToRas)


def _isOf(node, sha256) -> bool:
    """Whether a volume was loaded from the file with this hash."""
    kept = node.GetStorageNode()
    path = Path((kept.GetFileName() if kept else None) or "")
    try:
        return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    except OSError:
        return False


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
