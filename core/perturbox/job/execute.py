"""One attack as a document: a `Job` (plain JSON) goes in, a result folder comes out.

Every way to run an attack, or to segment a scan, enters here. The folder is complete in itself: `verify` recomputes
every number and `replay` repeats the attack from it alone, since the clean scan is the adversarial one minus the
perturbation, exactly.
"""

import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import perturbox
from perturbox import io
from perturbox.attacks import recipes
from perturbox.attacks.attack import random_draw
from perturbox.attacks.budget import Budget
from perturbox.attacks.goals import Goal
from perturbox.attacks.outcome import Outcome
from perturbox.io.files import free_room, new_folder, require_new_folder, require_new_label_map
from perturbox.job.craft import craft, perturbed
from perturbox.job.estimate import fitting, require_room_to_predict
from perturbox.job.inputs import Job, Listener, Ready, load_inputs, prepare, present_targets
from perturbox.judge import checks
from perturbox.judge.columns import summarise
from perturbox.judge.measure import Measurement, measure
from perturbox.judge.metrics import difference_map
from perturbox.judge.noise import scan_noise
from perturbox.judge.record import SCHEMA, begin, channel_of, described, finishing, write_json
from perturbox.judge.victim import replanned
from perturbox.model.defended import Defended
from perturbox.model.memory import peak_bytes
from perturbox.model.victim import Victim
from perturbox.plain import to_json
from perturbox.report import write_report
from perturbox.types import ADVERSARIAL_NOTICE, Case, Effort, InputError, Volume

__all__ = ["Job", "Listener", "Ready", "execute", "load_inputs", "prepare", "present_targets", "run_job", "segment"]

SEGMENTATION_SCHEMA = "perturbox-segmentation/1"


def segment(
    job: Job, out: Path, listener: Listener | None = None, image: Volume | None = None, victim: Victim | None = None
) -> dict[str, Any]:
    """Segment the job's scan with its victim, write the label map to `out` (.nii or .nii.gz, must be new) and describe
    it: {schema, victim, volumes_ml {structure: its size}, sizes ("ml", of a 2D image "cm²", of a photograph "pixels"),
    noise {sigma, region}, warnings, versions, seconds}.

    image, victim: as in `prepare`. Raises InputError before anything is written if an input can't be used, or if it
    would not fit in memory and the job doesn't say `force`.
    """
    started = time.perf_counter()
    require_new_label_map(out)
    victim, scan, warnings, _ = load_inputs(job, image, victim)
    if not job.force:
        require_room_to_predict(victim, scan)
    effort = Effort()
    (listener or Listener()).say("Segmenting")
    labels = victim.predict(scan, effort)
    out.parent.mkdir(parents=True, exist_ok=True)
    io.write_labels(out, labels, scan, dict(victim.labels))
    return {
        "schema": SEGMENTATION_SCHEMA,
        "victim": {**victim.describe(), "spec": job.victim, "sha256": victim.sha256},
        "volumes_ml": {
            name: int((labels == value).sum()) * scan.voxel_size for name, value in victim.structures.items()
        },
        "sizes": scan.sizes,
        "noise": scan_noise(scan.data, labels, victim.labels, scan.ruler, scan.sizes, bool(scan.files)),
        "warnings": warnings + effort.notes,
        "versions": versions(),
        "seconds": time.perf_counter() - started,
    }


def run_job(
    job: Job,
    out: Path,
    listener: Listener | None = None,
    image: Volume | None = None,
    victim: Victim | None = None,
    full_report: bool = False,
) -> dict[str, Any]:
    """Carry a job out, leave a whole result folder at `out` (new or empty), return result.json; its warnings say if the
    report failed.

    image, victim: as in `prepare`. full_report: as `full` in `write_report`. Raises InputError before anything is
    written if an input can't be used or the job would not fit in memory (unless it says `force`), Unfinished where
    something fails after the attack: what it found is then kept. A run that `listener.stop` ends leaves a valid result
    that says so.
    """
    require_new_folder(out)
    listener = listener or Listener()
    return execute(fitting(prepare(job, image, victim, listener), listener), out, listener, full_report)


def execute(ready: Ready, out: Path, listener: Listener, full_report: bool = False) -> dict[str, Any]:
    """Attack, save, re-read, measure and report a prepared job, in this order: what fails later loses nothing of what
    is there."""
    started, effort = (time.perf_counter(), time.process_time()), Effort()
    with new_folder(out, bytes=room(ready.image, 1 + isinstance(ready.victim, Defended))) as draft:
        goal, outcome, clean_seg = craft(ready, effort, listener)
        free_room(draft)
        save(draft, ready, outcome)
    with finishing(out):
        result = conclude(ready, goal, outcome, clean_seg, effort, out, listener, started=started)
    return {**result, "warnings": result["warnings"] + reported(out, listener, full_report)}


def room(image: Volume, scans: int = 1) -> int:
    """Bytes of a result's files but the report, uncompressed: perturbed scans, change, influence, four label maps,
    record."""
    voxels = int(np.prod(image.shape))
    each = [
        (scans * part.dtype.itemsize + (2 if part.step == 1.0 else 8) + 2) * len(part.data) for part in image.split()
    ]
    return (sum(each) + 4) * voxels + 2**20


def reported(folder: Path, listener: Listener, full: bool = False) -> list[str]:
    """Write the report of a finished folder; what failed in it, in a sentence: the result is complete without it."""
    listener.say("Writing the report")
    try:
        write_report(folder, full)
    except (Exception, KeyboardInterrupt) as error:
        why = str(error).rstrip(".") if isinstance(error, InputError) else type(error).__name__
        return [
            f"The report could not be written ({why}); the result is complete, `perturbox report {folder}` tries again."
        ]
    return []


def conclude(
    ready: Ready,
    goal: Goal,
    outcome: Outcome,
    clean_seg: np.ndarray,
    effort: Effort,
    folder: Path,
    listener: Listener,
    *,
    started: tuple[float, float] | None = None,
    replayable: bool = True,
    margin: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Read back what `save` wrote of an attack and measure it: a complete result folder but for the report; returns
    result.json.

    started: (wall, CPU) clocks at the start; replayable: False for attacks whose start isn't in the folder; margin: the
    structures of the search for the margin that this attack is a find of.
    """
    job, victim, image = ready.job, ready.victim, ready.image
    files = write_images(folder, ready, outcome)
    saved = read_adversarial(folder, files, image.unit)
    oblivious = read_adversarial(folder, files, image.unit, "oblivious") if "oblivious" in files else None
    case = Case(ready.scan, roi=ready.roi)
    for scan in (saved, oblivious):
        if scan is not None:
            Budget.of(case, ready.eps, job.norm).verify(  # type: ignore[arg-type]
                torch.from_numpy(ready.counted(scan).data)[None], torch.from_numpy(ready.scan.data)[None]
            )
    measured = measure(
        image,
        saved,
        victim,
        goal,
        eps=ready.eps,
        asked=(job.eps, job.eps_unit),
        ones=ready.ones,
        norm=job.norm,
        expert=ready.expert,
        outlined=ready.outlined,
        roi=ready.roi,
        seed=job.seed,
        clean_seg=clean_seg,
        random_draw=random_draw(ready.attack, case, victim),
        untested=untested(outcome),
        oblivious=oblivious,
        effort=effort,
        say=listener.say,
    )
    write_segmentations(folder, image, victim, measured)
    result = describe(ready, outcome, measured)
    result["files"] = described(folder, files)
    result["margin"], result["replayable"] = margin, replayable
    wall, cpu = started or (None, None)
    result["effort"] = {
        "forwards": effort.forwards,
        "backwards": effort.backwards,
        "model_calls": effort.model_calls,
        "seconds": None if wall is None else time.perf_counter() - wall,
        "cpu_seconds": None if cpu is None else time.process_time() - cpu,
        "peak_bytes": peak_bytes(victim.device),
    }
    moved = replanned(victim, image, saved)
    told = [*effort.notes, *outcome.notes.values(), *measured.notes, *([moved] if moved else [])]
    result["warnings"] = list(dict.fromkeys([*ready.warnings, *told, *checks.warnings(result)]))
    result["summary"] = summarise(result)
    result = to_json(result)
    assert isinstance(result, dict)
    write_json(folder / "result.json", result)
    return result


def untested(outcome: Outcome) -> str | None:
    """Why this run says nothing of the model, if it doesn't."""
    if outcome.stopped is not None and not outcome.delta.any():
        return f"The attack was stopped at step {outcome.stopped}, before it found anything."
    return outcome.untested


def save(folder: Path, ready: Ready, outcome: Outcome) -> None:
    """Write what must not be lost: the perturbed scan in the source's format, and how it was made."""
    folder.mkdir(exist_ok=True)
    begin(folder, to_json(history(ready, outcome)))
    write_adversarial(folder, ready, outcome)
    if outcome.facing is not None:
        write_adversarial(folder, ready, outcome.facing.oblivious, "oblivious")


def write_adversarial(folder: Path, ready: Ready, outcome: Outcome, name: str = "adversarial") -> list[Path]:
    """Write the perturbed scan; returns its files, one per channel where the source has as many."""
    names = channel_files(file_names(ready.image, expert=False, roi=False, oblivious=True), name)
    for file, part in zip(names, perturbed(ready, outcome).split(), strict=True):
        io.write_volume(folder / file, part, adversarial=True)
    return [folder / file for file in names]


def write_images(folder: Path, ready: Ready, outcome: Outcome) -> dict[str, str | None]:
    """Write the perturbation, of the scan as saved, its influence, and what a replay needs; returns file names."""
    image, influence, told = ready.image, outcome.influence, outcome.influence is not None
    files = file_names(
        image,
        expert=ready.expert is not None,
        roi=ready.roi is not None,
        influence=told,
        oblivious=outcome.facing is not None,
    )
    saved = read_adversarial(folder, files, image.unit)
    delta = saved.data.astype(np.float64) - image.data.astype(np.float64)
    parts = zip(image.split(), np.split(delta, len(image.files) or 1), strict=True)
    for name, (part, change) in zip(channel_files(files, "perturbation"), parts, strict=True):
        io.write_volume(folder / name, _perturbation(change, part), adversarial=True)
    if influence is not None:
        of_all = influence.sum(0, keepdims=True) if image.files else influence
        step = float(np.abs(of_all).max()) / 32767  # steps enough for a map, at half the size
        volume = Volume(of_all, image.affine, "intensity", np.dtype(np.int16), step)
        io.write_volume(folder / str(files["influence"]), volume, adversarial=True)
    if ready.expert is not None:
        io.write_labels(folder / str(files["reference_seg"]), ready.expert, image, dict(ready.victim.labels))
    if ready.roi is not None:
        io.write_labels(folder / str(files["roi"]), ready.roi.astype(np.uint8), image)
    return files


def file_names(
    image: Volume, *, expert: bool, roi: bool, influence: bool = False, oblivious: bool = False
) -> dict[str, str | None]:
    """The files of a result, beside result.json and report.html, by what they hold."""

    def each(name: str, suffixes: list[str], notice: bool = False) -> dict[str, str]:
        """Of several channels the first bears the name of the whole, for readers that show one."""
        named = {}
        for number, suffix in enumerate(suffixes):
            warned = notice and not io.has_room_for_notice(suffix)
            key = f"{name}_{number:04d}" if number else name
            digits = f"_{number:04d}" if image.files else ""
            named[key] = f"{name}{digits}{'_NOT_FOR_CLINICAL_USE' if warned else ''}{suffix}"
        return named

    suffixes = [io.writable_format(part) for part in image.split()]
    return {
        **each("adversarial", suffixes, notice=True),
        **(each("oblivious", suffixes, notice=True) if oblivious else {}),
        "clean_seg": "clean_seg.nii.gz",
        "adversarial_seg": "adversarial_seg.nii.gz",
        "difference_seg": "difference_seg.nii.gz",
        **each("perturbation", [".nii.gz"] * len(suffixes)),
        "influence": "influence.nii.gz" if influence else None,
        "reference_seg": "reference_seg.nii.gz" if expert else None,
        "roi": "roi.nii.gz" if roi else None,
    }


def _perturbation(delta: np.ndarray, image: Volume) -> Volume:
    """δ in the scan's unit: whole steps as int16 where the source is integer, float64 (exact) otherwise."""
    whole = image.step == 1.0 and np.abs(delta).max(initial=0) < 2**15
    return Volume(delta, image.affine, image.unit, np.dtype(np.int16 if whole else np.float64), format=".nii.gz")


def channel_files(files: Mapping[str, str | None], name: str) -> list[str]:
    """The file of a scan, or those of its channels in order: `name`, `name`_0001, …"""
    keys = [name, *sorted(key for key in files if channel_of(key) == name)]
    return [str(files[key]) for key in keys]


def read_adversarial(folder: Path, files: Mapping[str, str | None], unit: str, name: str = "adversarial") -> Volume:
    """The perturbed scan of a result folder, as its files hold it."""
    return io.read_files([folder / file for file in channel_files(files, name)], unit=unit)


def write_segmentations(folder: Path, image: Volume, victim: Victim, measured: Measurement) -> None:
    """Write the segmentations before and after, and where they differ."""
    labels = dict(victim.labels)
    io.write_labels(folder / "clean_seg.nii.gz", measured.clean_seg, image, labels)
    io.write_labels(folder / "adversarial_seg.nii.gz", measured.adversarial_seg, image, labels)
    difference = difference_map(measured.clean_seg, measured.adversarial_seg)
    io.write_labels(folder / "difference_seg.nii.gz", difference, image, {"lost": 1, "gained": 2, "relabelled": 3})


def describe(ready: Ready, outcome: Outcome, measured: Measurement) -> dict[str, Any]:
    """Everything of result.json but files, effort and warnings."""
    found = settled(ready.job, ready.parameters, ready.victim, ready.image, measured)
    found["source"]["sha256"] = ready.source_sha256 or None
    untouched = None if outcome.had_gradient is None else float(1 - outcome.had_gradient.mean())
    found["image_metrics"]["uninfluential_fraction"] = untouched
    if outcome.facing is not None:
        found["defense"] |= {"stand_in": outcome.facing.stand_in, "candidates": outcome.facing.tried}
    return {**history(ready, outcome), **found, "margin": None, "precision": None}


def history(ready: Ready, outcome: Outcome) -> dict[str, Any]:
    """How a perturbed scan came about: what result.json says that isn't measured on files."""
    names = {value: name for name, value in ready.victim.labels.items()}
    return {
        **identity(ready.job, ready.parameters, ready.victim, ready.image),
        "surrogates": ready.surrogates_told,
        "crafted_on": [{"sha256": digest} for digest in ready.crafted_on_sha256],
        "members": [member.describe(names) for member in outcome.members] or None,
        "trace": [step.describe(names) for step in outcome.trace],
        "best": {"step": outcome.best.step, "restart": outcome.best.restart, "score": outcome.best.score},
        "stopped_early": None
        if outcome.stopped is None
        else f"stopped at step {outcome.stopped} of {ready.parameters['steps']}",
        "versions": versions(),
        "device": str(ready.victim.device),
        "threads": torch.get_num_threads(),
        "seed": ready.job.seed,
        "force": ready.job.force,
    }


def identity(job: Job, parameters: Mapping[str, Any], victim: Victim, image: Volume) -> dict[str, Any]:
    """Which attack, which model, which scan."""
    recipe = recipes.get(job.attack)
    return {
        "notice": ADVERSARIAL_NOTICE,
        "attack": {
            "name": recipe.name,
            "title": recipe.title,
            "parameters": {**parameters, "goal": job.goal, "target": list(job.target)},
            "paper": recipe.paper,
            "deviations": list(recipe.deviations),
            "own_budget": recipe.own_budget(parameters),
        },
        "victim": {**victim.describe(), "spec": job.victim, "sha256": victim.sha256},
        "source": {
            "format": image.format,
            "dtype": str(image.dtype),
            "shape": list(image.shape),
            "spacing_mm": list(image.spacing),
            "sizes": image.sizes,
            "unit": image.unit,
            **({"channels": [{"format": f.format, "dtype": str(f.dtype)} for f in image.files]} if image.files else {}),
        },
    }


def settled(
    job: Job, parameters: Mapping[str, Any], victim: Victim, image: Volume, measured: Measurement
) -> dict[str, Any]:
    """The parts of result.json that its files, the model and the installed recipe determine; `verify` recomputes
    them."""
    return {
        "schema": SCHEMA,
        **identity(job, parameters, victim, image),
        **measured.numbers,
        "image_metrics": {
            **measured.numbers["image_metrics"],
            "unreachable_fraction": float(1 - victim.on(image).grid.reach.mean()),
        },
        "window_batch": victim.window.batch,
    }


def versions() -> dict[str, str]:
    """What computed this: the versions of perturbox, Python and the packages that touch the numbers."""
    from importlib.metadata import version

    packages = {name: version(name) for name in ("torch", "monai", "numpy", "SimpleITK", "nibabel")}
    return {"perturbox": perturbox.__version__, "python": platform.python_version(), **packages}
