"""Pieces of a study that attacks: a clean look, a craft, everyone who judges its file, a look at an ordinary change."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from perturbox.attacks.budget import Budget
from perturbox.corruptions.change import Sweep
from perturbox.job.craft import adaptive
from perturbox.job.execute import craft as attack_scan
from perturbox.job.execute import file_names, read_adversarial, write_adversarial
from perturbox.job.inputs import Job, Listener, prepare
from perturbox.jobs.worker import load_cached
from perturbox.judge import checks, metrics
from perturbox.judge.measure import CHANCE, Asking, benign_floor, said_of_undefined
from perturbox.judge.noise import scan_noise
from perturbox.judge.units import NATIVE
from perturbox.model.defended import Defended
from perturbox.model.victim import Victim
from perturbox.studies.looking import Entry, Seen, look, whole
from perturbox.studies.plan import kept_in
from perturbox.types import Case, Effort, InputError, Volume


def clean(task: Mapping[str, Any], clean: Mapping[str, Any]) -> Entry:
    """What a model makes of the scan as it is, and under harmless changes; a defended one is compared with the same
    without its defences."""
    seen = look(task, clean)
    victim, image, prediction, reference = seen.victim, seen.image, seen.prediction, seen.reference
    noise = scan_noise(image.data, prediction, victim.labels, image.ruler, image.sizes)
    effort = Effort()
    ask = Asking(victim, effort)
    floor = benign_floor(image, ask, prediction, noise["sigma"], 0)
    repeats = not any(note.startswith(CHANCE) for note in effort.notes)
    if isinstance(victim, Defended):
        repeats = np.array_equal(victim.predict(image), seen.answer)
    low, high = np.percentile(image.data, (1, 99))
    return {
        "structures": {
            name: {
                "dice_clean": metrics.dice(seen.answer == value, reference == value),
                "dice_benign": floor[name],
                "volume_clean": metrics.volume_ml(prediction == value, image.voxel_size),
                "size": float((reference == value).sum() * image.voxel_size),
            }
            for name, value in victim.structures.items()
        },
        "case": {
            "shape": list(image.shape),
            "spacing": list(image.spacing),
            "sizes": image.sizes,
            "unit": image.unit,
            "step": image.step,
            "p1": float(low),
            "p99": float(high),
        },
        "sigma": noise["sigma"],
        "repeats": repeats,
        "notes": ask.notes,
    }


def craft(task: Mapping[str, Any], craft: Mapping[str, Any]) -> Entry:
    """Attack, of a model behind defences with knowledge of them, and keep the perturbed scan in the source's format:
    the folder is there whole or not at all."""
    job = Job(**craft["job"])
    ready = prepare(job, victim=load_cached(job.victim, job.device))
    effort = Effort()
    knowing = {}
    if isinstance(ready.victim, Defended):
        outcome, through = adaptive(ready, effort, Listener())
        gradients = sum(one["backwards"] * one["draws"] for one in through.tried)
        knowing = {"stand_in": through.stand_in, "gradients": gradients}
    else:
        _, outcome, _ = attack_scan(ready, effort, Listener())
    with whole(kept_in(task["crafts"], craft["key"])) as draft:
        write_adversarial(draft, ready, outcome)
    _saved.clear()
    saved = saved_scan(task, craft, ready.image)
    scan = ready.scan
    delta = ready.counted(saved).data.astype(np.float64) - scan.data
    budget = Budget.of(Case(scan), ready.eps, job.norm)  # type: ignore[arg-type]
    size = metrics.perturbation(delta, scan.data, budget.region[0, 0].numpy())
    return {
        "eps_native": ready.eps,
        "linf": size["linf"],
        "rms": size["l2"],
        "changed": size["l0"],
        "untested": outcome.untested,
        "losses": [step.loss for step in outcome.trace],
        "scores": [step.score for step in outcome.trace],
        "forwards": effort.forwards,
        "backwards": effort.backwards,
        **knowing,
    }


def without_craft(made: Entry) -> Entry:
    """What is told of a judgement whose craft failed."""
    return {"status": "failed", "reason": f"its craft failed: {made['reason']}", "again": made.get("again", False)}


_saved: dict[tuple[str, str], Volume] = {}  # the last one, which many judge


def saved_scan(task: Mapping[str, Any], craft: Mapping[str, Any], image: Volume) -> Volume:
    """The perturbed scan as its file holds it."""
    key = (str(kept_in(task["crafts"], craft["key"])), image.unit)
    if key not in _saved:
        files = file_names(image, expert=False, roi=False, influence=False)
        found = read_adversarial(kept_in(task["crafts"], craft["key"]), files, image.unit)
        _saved.clear()
        _saved[key] = found
    return _saved[key]


def judge(task: Mapping[str, Any], craft: Mapping[str, Any], judge: Mapping[str, Any]) -> Entry:
    """What a model makes of the saved file; and, if it was made for this model, of noise and of the rolled perturbation
    of the same size."""
    seen = look(task, judge)
    saved = saved_scan(task, craft, seen.image)
    found = _measured(seen, saved, "the saved scan")
    if judge["own"]:
        for kind, control in _controls(seen.image, saved, seen.victim, craft["job"]).items():
            for name, value in seen.victim.structures.items():
                dice = None if control is None else metrics.dice(control == value, seen.reference == value)
                found["structures"][name][f"dice_{kind}"] = dice
    return found


def changed(task: Mapping[str, Any], asked: Mapping[str, Any], seen: Seen) -> tuple[Volume, Sweep]:
    """The scan under an ordinary change, at its grade or as large as an attack."""
    if asked["failed"]:
        raise InputError(asked["failed"])
    change = task["corruption"]
    if asked["grade"] is None and seen.image.files and change["eps_unit"] != NATIVE:
        raise InputError("The RMS of an attack on several files is in no unit of one of them; give `eps` in native.")
    sweep = _sweep(task["scan"]["sha256"], seen.image, change["name"], change["seed"], change["sigma"])
    return sweep.matched(asked["rms"]) if asked["grade"] is None else sweep.at(asked["grade"]), sweep


def corrupted(task: Mapping[str, Any], asked: Mapping[str, Any]) -> Entry:
    """What a model makes of the scan under an ordinary change."""
    seen = look(task, asked)
    scan, sweep = changed(task, asked, seen)
    size = float(np.abs(scan.data.astype(np.float64) - seen.image.data).max())
    return {**_measured(seen, scan, "the changed scan"), "linf": size, "rms": sweep.rms(scan)}


_sweeps: dict[tuple[Any, ...], Sweep] = {}  # the last one


def _sweep(digest: str, image: Volume, name: str, seed: int, sigma: float | None) -> Sweep:
    key = (digest, image.unit, name, seed, sigma)
    if key not in _sweeps:
        _sweeps.clear()
        _sweeps[key] = Sweep(image, name, seed, sigma)
    return _sweeps[key]


def _measured(seen: Seen, scan: Volume, called: str) -> Entry:
    """What a model makes of a changed scan, structure by structure."""
    victim, image, prediction, reference = seen.victim, seen.image, seen.prediction, seen.reference
    found = victim.look(scan)
    labels, open_values = found.against(prediction)
    notes = [said_of_undefined(called, victim, found.undefined)] if found.undefined else []
    rows = metrics.structures(labels, reference, victim.labels, image.ruler, image.voxel_size)
    against = rows
    if seen.expert is not None:
        against = metrics.structures(labels, prediction, victim.labels, image.ruler, image.voxel_size)
    return {
        "structures": {
            name: {
                "dice": rows[name]["dice"],
                "iou": rows[name]["iou"],
                "hd95_mm": rows[name]["hd95_mm"],
                "nsd": rows[name]["nsd"],
                "volume": rows[name]["volume_ml"],
                "against_clean": against[name],
                "failed_slices": metrics.failed_slices(prediction == value, labels == value, image.voxel_size),
                "tested": value not in open_values,
            }
            for name, value in victim.structures.items()
        },
        "notes": notes,
    }


def control_scans(image: Volume, saved: Volume, job: Mapping[str, Any]) -> dict[str, Volume]:
    """The scan under white noise of the perturbation's size, and under the perturbation rolled to another place."""
    delta = saved.data.astype(np.float64) - image.data
    budget = Budget.of(Case(image), None, job["norm"])
    region, (low, high) = budget.region[0, 0].numpy(), budget.span()
    rng = np.random.default_rng(job["seed"])
    noise = checks.white_noise(delta, image.data, region, low, high, image.steps, rng)
    moved = checks.rolled(delta, image.data, low, high, region, rng)
    changes = {"noise": noise, "rolled": moved}
    return {name: image.with_data((image.data + change).astype(image.data.dtype)) for name, change in changes.items()}


def _controls(image: Volume, saved: Volume, victim: Victim, job: Mapping[str, Any]) -> dict[str, np.ndarray | None]:
    """Predictions of both."""
    ask = Asking(victim, None)
    seen = {name: ask(scan, name) for name, scan in control_scans(image, saved, job).items()}
    return {name: predictions[0] if predictions else None for name, predictions in seen.items()}
