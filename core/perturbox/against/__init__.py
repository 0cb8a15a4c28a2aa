"""What a model's own framework makes of a scan, run beside perturbox in a Python of its own.

The scripts in this folder know nothing of perturbox: each runs in the interpreter that has the framework, and leaves
the labels as a file and the network's input and scores as arrays.
"""

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from perturbox import io
from perturbox.load.spec import Spec
from perturbox.types import InputError, Volume

# Of each kind of model: the framework's name, and the script that runs it.
SCRIPTS = {"nnunet": ("nnU-Net", "run_nnunet.py"), "bundle": ("MONAI", "run_bundle.py")}
ABSENT = 3  # the scripts' exit status where their package is missing; the last line of stderr names it


@dataclass(frozen=True, eq=False)
class Theirs:
    """framework: its name and version; labels "*s" on the scan's grid; input "c *g", scores "k *g" on the network's, or
    None where the framework doesn't show them; seconds: of its run."""

    framework: str
    labels: np.ndarray
    input: np.ndarray | None = None
    scores: np.ndarray | None = None
    seconds: float | None = None


def run_framework(spec: Spec, scan: Volume, file: Path, python: str, trust: bool = False) -> Theirs:
    """The framework's own run on the scan, which `file` holds. python: the interpreter that has it.

    Raises InputError for models without a framework, for one that isn't installed there, and for a bundle without
    trust, whose configuration MONAI executes.
    """
    if spec.kind not in SCRIPTS:
        raise InputError(f"'{spec}' has no framework of its own that could be run; give --against a label map instead.")
    name, script = SCRIPTS[spec.kind]
    if spec.kind == "bundle" and not trust:
        raise InputError("MONAI's own run executes what the bundle's configuration holds; add --trust if you trust it.")
    if not spec.path.is_dir():
        raise InputError(f"MONAI runs a bundle from its folder; unpack '{spec.path}' and name that.")
    with tempfile.TemporaryDirectory(prefix="perturbox-against-") as place:
        folder = Path(place)
        asked = {"model": str(spec.path.resolve()), "folds": spec.options.get("folds"), "out": place}
        asked["files"] = [str(path) for path in _files(scan, file, folder)]
        (folder / "asked.json").write_text(json.dumps(asked))
        _run(python, Path(__file__).parent / script, folder, name)
        told = json.loads((folder / "told.json").read_text())
        labels = io.read_labels(str(folder / told["labels"]), scan)
        arrays = [np.load(path) if (path := folder / f"{key}.npy").is_file() else None for key in ("input", "scores")]
        return Theirs(f"{name} {told['version']}", labels, *arrays, seconds=told["seconds"])


def _files(scan: Volume, file: Path, folder: Path) -> list[Path]:
    """The scan as its framework reads it: the file itself, or one written for each channel and for DICOM folders."""
    if scan.data.shape[0] == 1 and file.is_file():
        return [file.resolve()]
    written = [folder / f"scan_{channel:04d}.nii.gz" for channel in range(scan.data.shape[0])]
    for channel, path in enumerate(written):
        file_of = scan.files[channel] if scan.files else scan
        how = {"dtype": file_of.dtype, "slope": file_of.slope, "intercept": file_of.intercept}
        io.write_volume(path, Volume(scan.data[channel : channel + 1], scan.affine, scan.unit, **how))
    return written


def _run(python: str, script: Path, folder: Path, name: str) -> None:
    settings = {key: str(folder) for key in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    settings["OMP_NUM_THREADS"] = str(torch.get_num_threads())  # sums of another number of threads differ in last bits
    try:
        done = subprocess.run(
            [python, "-I", str(script), str(folder / "asked.json")],
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
            env={**os.environ, **settings},
        )
    except OSError as error:
        raise InputError(
            f"'{python}' can't be run ({error.strerror}); give --framework-python a Python that has {name}."
        ) from None
    last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    if done.returncode == ABSENT:
        raise InputError(
            f"{name} isn't complete in {python} (it lacks {last}); install it there, or name another Python "
            "that has it by --framework-python."
        )
    if done.returncode:
        raise InputError(f"{name}'s own run failed ({last}); try the model with its framework first.")
