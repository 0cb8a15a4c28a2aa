"""The demo's case: a phantom CT by seed, so that a first look needs nobody's patient and no download."""

from pathlib import Path

import numpy as np

from perturbox import io
from perturbox.job.execute import Job
from perturbox.types import InputError, Volume
from perturbox.zoo.models import MODELS
from perturbox.zoo.phantom import phantom_case

SEED = 20
VICTIM, EPS, STEPS = "ct-organs", 10.0, 8
SCAN, LABELS = "phantom_ct.nii.gz", "phantom_labels.nii.gz"


def write_case(folder: Path, seed: int = SEED) -> Path:
    """Write the phantom CT of that seed and its true labels into `folder`, made if need be; returns the CT's path."""
    folder.mkdir(parents=True, exist_ok=True)
    write_labelled(folder / SCAN, folder / LABELS, seed)
    return folder / SCAN


def write_labelled(file: Path, label: Path, seed: int) -> None:
    """Write the phantom CT of that seed and its true labels."""
    scan, labels = write_scan(file, seed)
    names = {name: value for value, name in enumerate(MODELS[VICTIM].labels)}
    io.write_labels(label, labels, scan, names)


def write_scan(file: Path, seed: int = SEED) -> tuple[Volume, np.ndarray]:
    """Write the phantom CT alone, in the format of the file's name; returns it and its true labels."""
    hu, labels, affine = phantom_case(seed)
    scan = Volume(hu[None].astype("float32"), affine)
    io.write_volume(file, scan, description=f"perturbox phantom {seed}")
    return scan, labels


def demo_job(image: Path) -> Job:
    """The default attack at 10 HU against every structure the built-in model finds; few steps, for about a minute on
    two cores."""
    return Job(image=str(image), victim=VICTIM, eps=EPS, steps=STEPS)


def free_folder(wanted: Path) -> Path:
    """`wanted`, or the first of wanted-2, wanted-3, … that isn't there yet."""
    for number in range(1, 1000):
        place = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        if not place.exists():
            return place
    raise InputError(f"'{wanted}' to '{wanted}-999' exist already; remove some or choose another --out.")
