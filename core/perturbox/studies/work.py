"""One piece of a study, done in a worker: a clean look, or a craft and everyone who judges its file.

Pure functions of files and settings: the same piece gives the same rows wherever it runs, so times are kept apart.
"""

import dataclasses
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perturbox import io
from perturbox.attacks.budget import Budget
from perturbox.corruptions.change import Sweep
from perturbox.defenses import defend
from perturbox.job.craft import adaptive
from perturbox.job.execute import craft as attack_scan
from perturbox.job.execute import file_names, read_adversarial, write_adversarial
from perturbox.job.inputs import Job, Listener, prepare, read_expert
from perturbox.jobs.worker import explain, load_cached
from perturbox.judge import checks, metrics
from perturbox.judge.measure import CHANCE, Asking, benign_floor, said_of_undefined
from perturbox.judge.noise import scan_noise
from perturbox.judge.units import NATIVE
from perturbox.model.defended import Defended
from perturbox.model.victim import Victim
from perturbox.types import Case, Effort, InputError, Volume

Entry = dict[str, Any]
REMEMBERED = 2**28  # bytes of scans and predictions that a worker keeps


def carry_out(task: Mapping[str, Any]) -> list[Entry]:
    """The ledger's entries of a task: {"crafts": folder, "threads": n, "device", "scan": {…}, "clean": {…}} or
    {…, "craft": {…}, "judges": […]} or {…, "corruption": {…}, "looks": […]}. Never raises for what a study can go on
    after: such an entry is "failed" with a reason; "again" says that another try may help."""
    torch.set_num_threads(task["threads"])
    return [_without_paths(entry, task) for entry in _entries(task)]


def _entries(task: Mapping[str, Any]) -> list[Entry]:
    if "clean" in task:
        return [_entry(task["clean"]["key"], "clean", lambda: _clean(task, task["clean"]))]
    if "corruption" in task:
        return [_entry(look["key"], "corruption", lambda l=look: _corrupted(task, l)) for look in task["looks"]]
    craft = task["craft"]
    made = [] if craft["done"] else [_entry(craft["key"], "craft", lambda: _craft(task, craft))]
    if made and made[0]["status"] == "failed":
        why = {"status": "failed", "reason": f"its craft failed: {made[0]['reason']}", "again": made[0]["again"]}
        return made + [{"key": judge["key"], "kind": "judge", **why} for judge in task["judges"]]
    return made + [_entry(judge["key"], "judge", lambda j=judge: _judge(task, craft, j)) for judge in task["judges"]]


def _entry(key: str, kind: str, work: Any) -> Entry:
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        found = {"status": "ok", **work()}
    except MemoryError as error:
        found = {"status": "failed", "reason": explain(error).detail, "again": True}
    except Exception as error:
        again = not isinstance(error, InputError)
        found = {"status": "failed", "reason": explain(error).detail, "again": again}
    spent = {
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "threads": torch.get_num_threads(),
    }
    return {"key": key, "kind": kind, "effort": spent, **found}


def _without_paths(entry: Entry, task: Mapping[str, Any]) -> Entry:
    """A reason names files, not where they lie here: the same study elsewhere gives the same bytes, and tells nobody of
    this machine."""
    if entry["status"] == "failed":
        for path in (task["scan"]["image"], task["scan"]["label"], task["crafts"]):
            entry["reason"] = entry["reason"].replace(path, Path(path).name) if path else entry["reason"]
    return entry


@dataclass(frozen=True, eq=False)
class Seen:
    """A scan as a model sees it; expert: its label map, if there is one; answer: the model's own prediction;
    prediction: the same without the model's defences, with which everything is compared."""

    victim: Victim
    image: Volume
    expert: np.ndarray | None
    answer: np.ndarray
    prediction: np.ndarray

    @property
    def reference(self) -> np.ndarray:
        return self.prediction if self.expert is None else self.expert

    @property
    def bytes(self) -> int:
        return self.image.data.nbytes + 3 * self.prediction.nbytes


_seen: dict[tuple[str, tuple[str, ...], str, str], Seen] = {}  # least recently used first


def _look(task: Mapping[str, Any], asked: Mapping[str, Any]) -> Seen:
    """The task's scan through a model; a worker remembers the last ones, for many judge the same scan."""
    key = (asked["spec"], tuple(asked["defense"]), task["device"], task["scan"]["sha256"])
    found = _seen.pop(key, None)
    if found is None:
        found = _first_look(task, asked)
        while _seen and sum(seen.bytes for seen in _seen.values()) + found.bytes > REMEMBERED:
            _seen.pop(next(iter(_seen)))
    _seen[key] = found
    return found


def _first_look(task: Mapping[str, Any], asked: Mapping[str, Any]) -> Seen:
    if asked["defense"]:
        plain = _look(task, {**asked, "defense": ()})
        victim = defend(plain.victim, *asked["defense"])
        return dataclasses.replace(plain, victim=victim, answer=victim.predict(plain.image))
    scan, victim = task["scan"], load_cached(asked["spec"], task["device"])
    image = io.read_scan(scan["image"], unit=victim.unit, channels=victim.channels)
    expert = read_expert(scan["label"], task["label_map"], image, victim) if scan["label"] else None
    prediction = victim.predict(image)
    return Seen(victim, image, expert, prediction, prediction)


def _clean(task: Mapping[str, Any], clean: Mapping[str, Any]) -> Entry:
    """What a model makes of the scan as it is, and under harmless changes; a defended one is compared with the same
    without its defences."""
    seen = _look(task, clean)
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


def craft_folder(crafts: str | Path, key: str) -> Path:
    """Where a craft's perturbed scan lies."""
    return Path(crafts) / key[:2] / key


def _craft(task: Mapping[str, Any], craft: Mapping[str, Any]) -> Entry:
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
    place = craft_folder(task["crafts"], craft["key"])
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{craft['key']}-", dir=place.parent))
    try:
        write_adversarial(draft, ready, outcome)
        os.chmod(draft, 0o755)
        if place.is_dir():  # of an earlier run that ended before the ledger was told; the same content
            shutil.rmtree(place)
        os.replace(draft, place)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    saved = _saved(task, craft, ready.image)
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


def _saved(task: Mapping[str, Any], craft: Mapping[str, Any], image: Volume) -> Volume:
    files = file_names(image, expert=False, roi=False, influence=False)
    return read_adversarial(craft_folder(task["crafts"], craft["key"]), files, image.unit)


def _judge(task: Mapping[str, Any], craft: Mapping[str, Any], judge: Mapping[str, Any]) -> Entry:
    """What a model makes of the saved file; and, if it was made for this model, of noise and of the rolled perturbation
    of the same size."""
    seen = _look(task, judge)
    saved = _saved(task, craft, seen.image)
    found = _measured(seen, saved, "the saved scan")
    if judge["own"]:
        for kind, control in _controls(seen.image, saved, seen.victim, craft["job"]).items():
            for name, value in seen.victim.structures.items():
                dice = None if control is None else metrics.dice(control == value, seen.reference == value)
                found["structures"][name][f"dice_{kind}"] = dice
    return found


def _corrupted(task: Mapping[str, Any], look: Mapping[str, Any]) -> Entry:
    """What a model makes of the scan under an ordinary change, at its grade or as large as an attack."""
    if look["failed"]:
        raise InputError(look["failed"])
    seen, change = _look(task, look), task["corruption"]
    if look["grade"] is None and seen.image.files and change["eps_unit"] != NATIVE:
        raise InputError("The RMS of an attack on several files is in no unit of one of them; give `eps` in native.")
    sweep = _sweep(task["scan"]["sha256"], seen.image, change["name"], change["seed"], change["sigma"])
    scan = sweep.matched(look["rms"]) if look["grade"] is None else sweep.at(look["grade"])
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


def _controls(image: Volume, saved: Volume, victim: Victim, job: Mapping[str, Any]) -> dict[str, np.ndarray | None]:
    """Predictions under white noise of the perturbation's size, and under the perturbation rolled to another place."""
    delta = saved.data.astype(np.float64) - image.data
    budget = Budget.of(Case(image), None, job["norm"])
    region, (low, high) = budget.region[0, 0].numpy(), budget.span()
    rng, ask = np.random.default_rng(job["seed"]), Asking(victim, None)
    noise = checks.white_noise(delta, image.data, region, low, high, image.steps, rng)
    moved = checks.rolled(delta, image.data, low, high, region, rng)
    seen = {
        name: ask(image.with_data((image.data + change).astype(image.data.dtype)), name)
        for name, change in (("noise", noise), ("rolled", moved))
    }
    return {name: predictions[0] if predictions else None for name, predictions in seen.items()}
