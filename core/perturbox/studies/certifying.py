"""One certificate of a study, made in a worker by the code of `px.certify`: its folder, and the numbers of its rows."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from perturbox.certificates.smoothed import Certified, Question
from perturbox.job.certify import certified_scan, prepare_certificate
from perturbox.job.inputs import Job
from perturbox.judge import metrics
from perturbox.judge.noise import scan_noise
from perturbox.judge.units import NATIVE, SIGMA, one_of
from perturbox.studies.looking import Entry, Seen, look
from perturbox.types import InputError

TOLD = ("sigma", "n", "tests", "least_votes", "certified_of_structures", "abstained_of_structures", "sizes")
OF_STRUCTURE = {  # columns of results.parquet, by what certificate.json calls them
    "predicted_size": "size",
    "chosen_size": "size_smoothed",
    "certified_size": "size_certified",
    "same": "certified",
    "other": "other",
    "abstained": "abstained",
}


def certificate(task: Mapping[str, Any], asked: Mapping[str, Any]) -> Entry:
    """Certify the task's scan and leave the folder of `perturbox certify`."""
    seen, how, seed = look(task, asked), asked["how"], asked["seed"]
    named = {key: how[key] for key in ("tau", "alpha", "n0", "n", "correction")}
    question = Question(_native(seen, asked["sigma"], how["unit"]), **named, seed=seed)
    job = Job(task["scan"]["image"], victim=asked["spec"], seed=seed, device=task["device"], force=True)
    place = Path(asked["place"])
    if place.is_dir():  # of an earlier run that ended before the ledger was told; it holds the same
        shutil.rmtree(place)
    document, found = certified_scan(prepare_certificate(job, question, seen.image, seen.victim), place)
    return {
        **{name: document[name] for name in TOLD},
        "radius": document["radius"]["l2"],
        "radius_rms": document["radius"]["rms"],
        "values": document["radius"]["values"],
        "structures": {
            name: {**{column: document["structures"][name][key] for key, column in OF_STRUCTURE.items()}, **dice}
            for name, dice in _dice(seen, found).items()
        },
        "forwards": document["effort"]["forwards"],
    }


def _native(seen: Seen, sigma: float, unit: str) -> float:
    """The noise in the scan's own unit."""
    if unit != NATIVE and seen.image.files:
        raise InputError("The noise of several files is in no unit of one of them; give `certify` in native.")
    image, noise = seen.image, None
    if unit == SIGMA:
        noise = scan_noise(image.data, seen.prediction, seen.victim.labels, image.ruler, image.sizes)
    return sigma * one_of(unit, image, noise)


def _dice(seen: Seen, found: Certified) -> dict[str, dict[str, float | None]]:
    """Per structure, with the expert: Dice of the model without noise, of the answers that were tested, which are the
    smoothed model's, and of those that are certified; None without an expert."""
    values = np.append(found.tree.values, -1)  # the last one for UNDECIDED, -1
    maps = {
        "dice_clean": seen.answer,
        "dice_smoothed": found.on_grid(values[found.chosen]),
        "dice": found.on_grid(values[found.answers]),
    }
    return {
        name: {
            key: None if seen.expert is None else metrics.dice(labels == value, seen.expert == value)
            for key, labels in maps.items()
        }
        for name, value in seen.victim.structures.items()
    }
