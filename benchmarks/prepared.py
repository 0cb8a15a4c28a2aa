"""The scan, the model and the settings with which every recipe is shown (docs/attacks.md) and measured
(docs/benchmarks.md): the demo's case, and what some recipes need beside it."""

import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from perturbox import io
from perturbox.attacks.goals import Goal
from perturbox.attacks.outcome import Outcome
from perturbox.attacks.runner import run
from perturbox.job.demo import SEED, VICTIM
from perturbox.job.inputs import Job, Ready, prepare, present_targets
from perturbox.load import load_victim
from perturbox.model.victim import IntensityWindow, Victim
from perturbox.types import Case, Effort, Volume
from perturbox.zoo.phantom import phantom_case

# One window of the model high, with all of its structures; the whole demo case has 112 slices.
SLICES = slice(30, 94)
OTHERS = (SEED + 1, SEED + 2)
# Recipes for scans that are no CT. The model then reads the same tissues in grey values from 0 to 1000.
GREY = {"kspace": "the same phantom in grey values from 0 to 1000, as an MR scanner might give them"}
WINDOW_HU, GREYS = (-250.0, 350.0), (0.0, 1000.0)


class Attacked(NamedTuple):
    """clean: the prediction on the clean scan, "*s"; goal: any change of what it holds; cpu_seconds: of the attack
    alone."""

    outcome: Outcome
    clean: np.ndarray
    goal: Goal
    cpu_seconds: float


@cache
def phantom(seed: int = SEED) -> Volume:
    """64 slices around the liver of the phantom of that seed; the demo's by default."""
    hu, _, affine = phantom_case(seed)
    affine = affine.copy()
    affine[:3, 3] += affine[:3, 2] * SLICES.start
    return Volume(np.ascontiguousarray(hu[None, ..., SLICES]).astype(np.float32), affine)


def in_greys(scan: Volume) -> Volume:
    """A CT's soft tissue window in whole grey values, of no unit."""
    low, high = WINDOW_HU
    share = (scan.data.clip(low, high) - low) / (high - low)
    return scan.with_data(np.rint(share * GREYS[1]).astype(np.float32), unit="intensity")


@cache
def model(grey: bool = False) -> Victim:
    """The built-in model, or the same network behind a window of grey values."""
    victim = load_victim(VICTIM)
    return dataclasses.replace(victim, unit="intensity", normalise=IntensityWindow(*GREYS)) if grey else victim


def case_of(name: str, scan: Volume | None = None) -> tuple[Volume, Victim]:
    """The scan, the phantom unless another CT is given, and the model that a recipe is run on."""
    scan = scan or phantom()
    return (in_greys(scan), model(grey=True)) if name in GREY else (scan, model())


def other_scans(folder: Path) -> dict[str, Any]:
    """Two other phantoms, to craft a universal perturbation on."""
    paths = []
    for seed in OTHERS:
        path = folder / f"phantom_{seed}.nii.gz"
        if not path.exists():
            io.write_volume(path, phantom(seed))
        paths.append(str(path))
    return {"scans": os.pathsep.join(paths)}


def features_of_clean_scans(folder: Path) -> dict[str, Any]:
    """The model's features on two other phantoms."""
    from perturbox.attacks.fitting import fit_features

    path = folder / "features.safetensors"
    fit_features(model(), [phantom(seed) for seed in OTHERS], passes=2).write(path)
    return {"features": str(path)}


def detector_of_clean_scans(folder: Path) -> dict[str, Any]:
    """A detector fitted on other phantoms, as few as it needs."""
    from perturbox.detectors.fitted import LEAST_CASES
    from perturbox.detectors.fitting import fit_detector

    path, first = folder / "detector.safetensors", OTHERS[-1] + 1
    if not path.exists():
        scans = [lambda seed=seed: phantom(seed) for seed in range(first, first + LEAST_CASES)]
        fit_detector(model(), "entropy", scans).write(path)
    return {"detector": str(path)}


# What a recipe can't do without: settings made in a folder.
NEEDS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "uap": other_scans,
    "hfc": features_of_clean_scans,
    "evade": detector_of_clean_scans,
}


def ready(
    name: str,
    eps: float | None,
    norm: str,
    steps: int,
    folder: Path,
    settings: Mapping[str, Any] | None = None,
    scan: Volume | None = None,
) -> Ready:
    """The recipe on the phantom, or another CT, with its defaults, what it needs made in `folder`, and these settings.

    eps: HU, None where the recipe has a budget of its own. Raises InputError where it refuses the case.
    """
    scan, victim = case_of(name, scan)
    needed = NEEDS[name](folder) if name in NEEDS else {}
    job = Job("", VICTIM, name, norm=norm, steps=steps, settings={**needed, **(settings or {})}, eps=eps)
    return prepare(job, scan, victim)


def attacked(given: Ready, effort: Effort | None = None) -> Attacked:
    """Run it as a job would, without writing a folder."""
    clean = given.victim.predict(given.image)
    goal = present_targets(given.goal, clean, given.victim, ())
    began = time.process_time()
    bound = given.victim.on(given.image, effort)
    outcome = run(given.attack, bound, Case(given.image), clean, goal, others=given.others)
    return Attacked(outcome, clean, goal, time.process_time() - began)
