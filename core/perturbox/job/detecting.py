"""Detectors from files to an answer: which scans one is fitted on, and what it says of a scan."""

import glob
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from perturbox import io
from perturbox.detectors.fitted import Detection, Detector
from perturbox.detectors.fitting import NOISES, RATE, Read
from perturbox.detectors.fitting import fit_detector as fit
from perturbox.detectors.shipped import SUFFIX, find, shipped, told
from perturbox.io.files import new_folder, require_new_folder
from perturbox.io.objects import from_object
from perturbox.job.estimate import require_room_to_predict
from perturbox.job.inputs import Job, Listener, load_inputs
from perturbox.job.recompute import read_scans
from perturbox.judge.record import write_json
from perturbox.load import load_victim
from perturbox.model.victim import Victim
from perturbox.plain import to_json
from perturbox.types import InputError, Volume

JSON, SCHEMA = "detection.json", "perturbox-detection/1"
SHIPPED = "shipped"  # in place of a name: all that is shipped


def detect(
    image: Any, victim: Victim | str, detector: "Detector | str | Path", *, device: str = "cpu", force: bool = False
) -> Detection:
    """What a detector says of a scan: whether it fires, its score, its place among clean scans.

    image: a path or an object in memory. detector: fitted by `fit_detector`, its file, or the name of one that is
    shipped for the victim. force: go on though the values don't look like Hounsfield units. Raises InputError for a
    detector that isn't there or of another model, and for scans that it can't say anything of.
    """
    model = load_victim(victim, device) if isinstance(victim, str) else victim
    found = detector if isinstance(detector, Detector) else find(detector, model)
    found.check(model)
    scan = reader(image, model)()
    if model.unit == "HU":
        io.check_hu(scan, force)
    return found.detect(model, scan)


# ---- several, by name


def name_of(file: Path) -> str:
    """What a detector's file is called where nobody names it."""
    return file.name.removesuffix(SUFFIX)


def named(words: Sequence[str], victims: Sequence[str]) -> dict[str, Path]:
    """Detectors' files by the names that others ask for them by, from words like NAME=FILE or NAME=SHIPPED, a file or a
    folder whose every .safetensors counts under its own name, the name of one that is shipped for one of these victims,
    or "shipped" for all of these, if any. Raises InputError for what is none of this and for a name given twice.
    """
    found: dict[str, Path] = {}
    ours = [pair for victim in victims for pair in shipped(victim).items()]
    for word in words:
        name, equals, file = word.partition("=")
        if (place := Path(word)).is_dir():
            pairs = [(name_of(path), path) for path in sorted(place.glob(f"*{SUFFIX}"))]
            if not pairs:
                raise InputError(f"The folder '{word}' holds no detector, no *{SUFFIX}.")
        elif place.is_file():
            pairs = [(name_of(place), place)]
        elif equals and file:
            known = [] if Path(file).exists() else [path for own, path in ours if own == file]
            pairs = [(name, path) for path in known or [Path(file)]]
        elif not (pairs := [pair for pair in ours if word in (SHIPPED, pair[0])]) and word != SHIPPED:
            raise InputError(
                f"'{word}' isn't understood; write a detector as NAME=FILE, give its file or a folder of them, or name "
                f"a shipped one ({told(victims)})."
            )
        for name, path in pairs:
            if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,99}", name, re.ASCII):
                raise InputError(f"A detector can't be named '{name}'; use letters, digits and dashes.")
            if found.get(name, path.resolve()) != path.resolve():
                raise InputError(f"Two detectors are named '{name}'; rename one.")
            found[name] = path.resolve()
    return found


def detect_scan(
    job: Job, files: Mapping[str, str], out: Path | None, listener: Listener | None = None, victim: Victim | None = None
) -> dict[str, Any]:
    """Ask detectors of the job's scan and leave a new folder with detection.json, none if `out` is None; returns that.

    Of the job only scan, model, device, force and trust count. files: those of the detectors, by name. Raises
    InputError for a detector of another model, for a scan that can't be used or that they can't say anything of, and
    where it would not fit in memory.
    """
    if out is not None:
        require_new_folder(out)
    listener = listener or Listener()
    victim, image, warnings, _ = load_inputs(job, None, victim)
    detectors = read_detectors(files, victim)
    if not job.force:
        require_room_to_predict(victim, image)
    rows = []
    for name, detector in detectors.items():
        listener.say(f"Asking {detector.method.title}")
        rows.append({"scan": "scan", "name": name, **detector.detect(victim, image).to_json()})
    document = _document(rows, victim, warnings)
    if out is not None:
        with new_folder(out) as draft:
            write_json(draft / JSON, document)
    return document


def detect_result(
    folder: Path,
    result: Mapping[str, Any],
    detectors: Mapping[str, Detector],
    victim: Victim,
    listener: Listener | None = None,
) -> dict[str, Any]:
    """Ask detectors of an attack's scan, before and after, and leave detection.json beside result.json; returns it.

    Both scans are those of the folder's files. What a detector can't say anything of gets its sentence, because the
    attack's result stands without it.
    """
    listener = listener or Listener()
    clean, perturbed = read_scans(folder, result)
    rows = []
    for name, detector in detectors.items():
        listener.say(f"Asking {detector.method.title}")
        for which, scan in (("perturbed", perturbed), ("clean", clean)):
            try:
                told = detector.detect(victim, scan).to_json()
            except InputError as error:
                told = {"detector": detector.method.name, "title": detector.method.title, "sentence": str(error)}
            rows.append({"scan": which, "name": name, **told})
    document = _document(rows, victim, [])
    write_json(folder / JSON, document)
    return document


def read_detectors(files: Mapping[str, str], victim: Victim) -> dict[str, Detector]:
    """The detectors in files; raises InputError for one of another model."""
    found = {name: Detector.read(Path(path)) for name, path in files.items()}
    for detector in found.values():
        detector.check(victim)
    return found


def _document(rows: list[dict[str, Any]], victim: Victim, warnings: list[str]) -> dict[str, Any]:
    about = {"name": victim.name, "sha256": victim.sha256}
    return to_json({"schema": SCHEMA, "victim": about, "detections": rows, "warnings": warnings})  # type: ignore[return-value]


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
