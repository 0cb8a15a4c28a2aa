"""One attack as a document: a `Job` (plain JSON) goes in, a result folder comes out.

Every way to run an attack, or to segment a scan, enters here. The folder is complete in itself: `verify` recomputes
every number and `replay` repeats the attack from it alone, since the clean scan is the adversarial one minus the
perturbation, exactly.
"""

import json
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import perturbox
from perturbox import checks, io
from perturbox.attack import own_draw
from perturbox.budget import Budget
from perturbox.goals import Goal
from perturbox.io.files import new_folder, require_new_folder, require_new_label_map
from perturbox.measure import Measurement, measure
from perturbox.metrics import difference_map, to_json
from perturbox.noise import scan_noise
from perturbox.ready import Job, Listener, Ready, load_inputs, prepare, present_targets
from perturbox.record import SCHEMA, described
from perturbox.report import write_report
from perturbox.resources import peak_bytes
from perturbox.runner import run
from perturbox.steps import Outcome
from perturbox.summary import summarise
from perturbox.types import ADVERSARIAL_NOTICE, Case, Effort, Volume
from perturbox.victim import Victim

__all__ = ["Job", "Listener", "Ready", "execute", "load_inputs", "prepare", "present_targets", "run_job", "segment"]

SEGMENTATION_SCHEMA = "perturbox-segmentation/1"


def segment(
    job: Job, out: Path, listener: Listener | None = None, image: Volume | None = None, victim: Victim | None = None
) -> dict[str, Any]:
    """Segment the job's scan with its victim, write the label map to `out` (.nii or .nii.gz, must be new) and describe
    it: {schema, victim, volumes_ml {structure: its size}, sizes ("ml", of a 2D image "cm²", of a photograph "pixels"),
    noise {sigma, region}, warnings, versions, seconds}.

    image, victim: as in `prepare`. Raises InputError before anything is written if an input can't be used.
    """
    started = time.perf_counter()
    require_new_label_map(out)
    victim, scan, warnings, _ = load_inputs(job, image, victim)
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
        "noise": scan_noise(scan.data[0], labels, victim.labels, scan.ruler, scan.sizes),
        "warnings": warnings + effort.notes,
        "versions": versions(),
        "seconds": time.perf_counter() - started,
    }


def run_job(
    job: Job, out: Path, listener: Listener | None = None, image: Volume | None = None, victim: Victim | None = None
) -> dict[str, Any]:
    """Carry a job out and leave a complete result folder at `out`, which must be new or empty; returns result.json.

    image, victim: as in `prepare`. Raises InputError before anything is written if an input can't be used. A run that
    `listener.stop` ends leaves a valid result that says so.
    """
    require_new_folder(out)
    return execute(prepare(job, image, victim), out, listener or Listener())


def execute(ready: Ready, out: Path, listener: Listener) -> dict[str, Any]:
    """Attack, save, re-read, measure and report a prepared job."""
    job, victim, image = ready.job, ready.victim, ready.image
    started, cpu_started = time.perf_counter(), time.process_time()
    effort = Effort()
    listener.say("Segmenting the original scan")
    clean_seg = victim.predict(image, effort)
    reference, goal = ready.reference(clean_seg), ready.present_goal(clean_seg)
    listener.say(f"Attacking with {ready.recipe.title}")
    case = Case(image, ready.expert, ready.roi, job.target)
    bound = victim.on(image, effort)
    outcome = run(
        ready.attack,
        bound,
        case,
        reference,
        goal,
        seed=job.seed,
        surrogates=[model.on(image, effort) for model in ready.surrogates],
        others=ready.others,
        on_step=listener.step,
        stop=listener.stop,
    )
    with new_folder(out) as draft:
        return conclude(ready, goal, outcome, clean_seg, effort, draft, listener, started=(started, cpu_started))


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
    """Save what an attack found, read it back, measure it and report it: a complete result folder; returns result.json.

    started: (wall, CPU) clocks at the start; replayable: False for attacks whose start isn't in the folder; margin: the
    structures of the search for the margin that this attack is a find of.
    """
    job, victim, image = ready.job, ready.victim, ready.image
    folder.mkdir(exist_ok=True)
    files = write_images(folder, ready, outcome)
    saved = read_adversarial(folder, files, image.unit)
    case = Case(image, roi=ready.roi)
    Budget.of(case, ready.eps, job.norm).verify(  # type: ignore[arg-type]
        torch.from_numpy(saved.data)[None], torch.from_numpy(image.data)[None]
    )
    measured = measure(
        image,
        saved,
        victim,
        goal,
        eps=ready.eps,
        norm=job.norm,
        expert=ready.expert,
        outlined=ready.outlined,
        roi=ready.roi,
        seed=job.seed,
        clean_seg=clean_seg,
        own_draw=own_draw(ready.attack, case, victim),
        untested=None,
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
    result["warnings"] = ready.warnings + effort.notes + checks.warnings(result)
    result["summary"] = summarise(result)
    result = to_json(result)
    assert isinstance(result, dict)
    (folder / "result.json").write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    listener.say("Writing the report")
    write_report(folder)
    return result


def write_images(folder: Path, ready: Ready, outcome: Outcome) -> dict[str, str | None]:
    """Write the perturbed scan in the source's format, the perturbation and what a replay needs; returns file names."""
    image = ready.image
    suffix = io.writable_format(image)
    name = f"adversarial{suffix}" if io.has_room_for_notice(suffix) else f"adversarial_NOT_FOR_CLINICAL_USE{suffix}"
    adversarial = image.with_data(outcome.x_adv.astype(image.data.dtype))
    io.write_volume(folder / name, adversarial, adversarial=True)
    files: dict[str, str | None] = {
        "adversarial": name,
        "clean_seg": "clean_seg.nii.gz",
        "adversarial_seg": "adversarial_seg.nii.gz",
        "difference_seg": "difference_seg.nii.gz",
        "perturbation": "perturbation.nii.gz",
        "reference_seg": None,
        "roi": None,
    }
    saved = read_adversarial(folder, files, image.unit)
    delta = saved.data.astype(np.float64) - image.data.astype(np.float64)
    io.write_volume(folder / "perturbation.nii.gz", _perturbation(delta, image), adversarial=True)
    if ready.expert is not None:
        io.write_labels(folder / "reference_seg.nii.gz", ready.expert, image, dict(ready.victim.labels))
        files["reference_seg"] = "reference_seg.nii.gz"
    if ready.roi is not None:
        io.write_labels(folder / "roi.nii.gz", ready.roi.astype(np.uint8), image)
        files["roi"] = "roi.nii.gz"
    return files


def _perturbation(delta: np.ndarray, image: Volume) -> Volume:
    """δ in the scan's unit: whole steps as int16 where the source is integer, float64 (exact) otherwise."""
    if image.step == 1.0 and np.abs(delta).max(initial=0) < 2**15:
        return Volume(delta, image.affine, image.unit, np.dtype(np.int16), format=".nii.gz")
    return Volume(delta, image.affine, image.unit, np.dtype(np.float64), format=".nii.gz")


def read_adversarial(folder: Path, files: Mapping[str, str | None], unit: str) -> Volume:
    """The perturbed scan of a result folder, as the file holds it."""
    return io.read_volume(folder / str(files["adversarial"]), unit=unit)


def write_segmentations(folder: Path, image: Volume, victim: Victim, measured: Measurement) -> None:
    """Write the segmentations before and after, and where they differ."""
    labels = dict(victim.labels)
    io.write_labels(folder / "clean_seg.nii.gz", measured.clean_seg, image, labels)
    io.write_labels(folder / "adversarial_seg.nii.gz", measured.adversarial_seg, image, labels)
    difference = difference_map(measured.clean_seg, measured.adversarial_seg)
    io.write_labels(folder / "difference_seg.nii.gz", difference, image, {"lost": 1, "gained": 2, "relabelled": 3})


def describe(ready: Ready, outcome: Outcome, measured: Measurement) -> dict[str, Any]:
    """Everything of result.json but files, effort and warnings."""
    job, victim, image = ready.job, ready.victim, ready.image
    names = {value: name for name, value in victim.labels.items()}
    untouched = None if outcome.touched is None else float(1 - outcome.touched.mean())
    numbers = dict(measured.numbers)
    numbers["image_metrics"] = {
        **numbers["image_metrics"],
        "uninfluential_fraction": untouched,
        "unreachable_fraction": float(1 - victim.on(image).grid.reach.mean()),
    }
    return {
        "schema": SCHEMA,
        "notice": ADVERSARIAL_NOTICE,
        "attack": {
            "name": ready.recipe.name,
            "title": ready.recipe.title,
            "parameters": {**ready.attack.parameters, "goal": job.goal, "target": list(job.target)},
            "paper": ready.recipe.paper,
            "deviations": list(ready.recipe.deviations),
            "own_budget": ready.recipe.own_budget(ready.attack.parameters),
        },
        "victim": {**victim.describe(), "spec": job.victim, "sha256": victim.sha256},
        "surrogates": [
            {"name": model.name, "spec": spec, "sha256": model.sha256}
            for model, spec in zip(ready.surrogates, job.surrogate, strict=True)
        ],
        "crafted_on": [{"sha256": digest} for digest in ready.crafted_on_sha256],
        "source": {
            "format": image.format,
            "dtype": str(image.dtype),
            "shape": list(image.shape),
            "spacing_mm": list(image.spacing),
            "sizes": image.sizes,
            "unit": image.unit,
            "sha256": ready.source_sha256 or None,
        },
        **numbers,
        "margin": None,
        "members": [member.describe(names) for member in outcome.members] or None,
        "trace": [step.describe(names) for step in outcome.trace],
        "best": {"step": outcome.best.step, "restart": outcome.best.restart, "score": outcome.best.score},
        "stopped_early": None
        if outcome.stopped is None
        else f"stopped at step {outcome.stopped} of {ready.attack.steps}",
        "versions": versions(),
        "device": str(victim.device),
        "threads": torch.get_num_threads(),
        "window_batch": victim.window.batch,
        "seed": job.seed,
        "force": job.force,
        "precision": None,
        "untested": None,
    }


def versions() -> dict[str, str]:
    """What computed this: the versions of perturbox, Python and the packages that touch the numbers."""
    from importlib.metadata import version

    packages = {name: version(name) for name in ("torch", "monai", "numpy", "SimpleITK", "nibabel")}
    return {"perturbox": perturbox.__version__, "python": platform.python_version(), **packages}
