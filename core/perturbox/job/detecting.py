"""Detectors from files to an answer: which scans one is fitted on, and what it says of a scan."""

import glob
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from perturbox import io
from perturbox.detectors.fitted import Detection, Detector
from perturbox.detectors.fitting import NOISES, RATE, Read
from perturbox.detectors.fitting import fit_detector as fit
from perturbox.io.objects import from_object
from perturbox.load import load_victim
from perturbox.model.victim import Victim
from perturbox.types import InputError, Volume

SUFFIX = ".safetensors"


def detect(
    image: Any, victim: Victim | str, detector: "Detector | str | Path", *, device: str = "cpu", force: bool = False
) -> Detection:
    """What a detector says of a scan: whether it fires, its score, its place among clean scans.

    image: a path or an object in memory. detector: fitted by `fit_detector`, or its file. force: go on though the
    values don't look like Hounsfield units. Raises InputError for a detector of another model, and for scans that it
    can't say anything of.
    """
    model = load_victim(victim, device) if isinstance(victim, str) else victim
    found = detector if isinstance(detector, Detector) else Detector.read(Path(detector))
    found.check(model)
    scan = reader(image, model)()
    if model.unit == "HU":
        io.check_hu(scan, force)
    return found.detect(model, scan)


def fit_detector(
    victim: Victim | str,
    detector: str,
    clean: Sequence[Any],
    attacked: Sequence[Any] = (),
    *,
    noise: str = NOISES[0],
    patients: Sequence[str] = (),
    layers: Sequence[str] = (),
    rate: float = RATE,
    seed: int = 0,
    device: str = "cpu",
    say: Callable[[str], None] = lambda text: None,
    stop: Callable[[], bool] = lambda: False,
) -> Detector:
    """A detector of attacks on a victim, fitted on clean scans; `Detector.write(path)` keeps it.

    detector: a name of `perturbox list detectors`. clean, attacked: paths or objects in memory; attacked ones are
    versions of clean ones. patients: who each clean scan is of; everyone his own if not given. noise: "equal-norm" also
    makes noise as large as each attack, which is none; "none". layers: by their names in the network. rate: of false
    alarms that is wanted. Raises InputError for too few scans, for those the model or the detector can't use, and where
    scikit-learn is missing.
    """
    model = load_victim(victim, device) if isinstance(victim, str) else victim
    calm, hit = ([reader(image, model) for image in images] for images in (clean, attacked))
    how = {"noise": noise, "patients": patients, "layers": layers, "rate": rate, "seed": seed}
    return fit(model, detector, calm, hit, **how, say=say, stop=stop)


def reader(image: Any, victim: Victim) -> Read:
    """How a scan is read when it is needed."""

    def read() -> Volume:
        if isinstance(image, str | Path):
            return io.read_scan(image, unit=victim.unit, channels=victim.channels)
        return from_object(image, victim.unit)

    return read


def matching(patterns: Sequence[str], option: str) -> list[str]:
    """The files that patterns like 'scans/*.nii.gz' match, each once, by name; raises InputError where one matches
    none."""
    found: dict[str, None] = {}
    for pattern in patterns:
        names = sorted(glob.glob(pattern, recursive=True))
        if not names:
            raise InputError(f"{option} '{pattern}' matches no file; check the path, and put patterns into quotes.")
        found |= dict.fromkeys(names)
    return list(found)


def patients_of(paths: Sequence[str], pattern: str | None) -> list[str]:
    """Who each scan is of: what the brackets of a regular expression match in its path; nothing without one."""
    if pattern is None:
        return []
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(
            f"--patient '{pattern}' is no regular expression ({error}); write one as 'case_([0-9]+)'."
        ) from None
    if compiled.groups != 1:
        raise InputError(f"--patient '{pattern}' needs one pair of brackets around what names the patient.")
    matches = [compiled.search(path) for path in paths]
    missed = [path for path, match in zip(paths, matches, strict=True) if match is None]
    if missed:
        raise InputError(f"--patient '{pattern}' matches nothing in {missed[0]}; write one that fits every path.")
    return [match.group(1) or "" for match in matches if match is not None]
