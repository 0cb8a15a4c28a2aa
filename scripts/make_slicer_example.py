"""Makes the finished example that comes with the Slicer module: a phantom CT, an attack on it, and the margin.

`.venv/bin/python scripts/make_slicer_example.py [FOLDER]` takes some minutes on one core. The files are those that the
server would send, compressed; the script gives the same voxels wherever torch computes the same sums.
"""

import gzip
import io as streams
import json
import sys
import tempfile
from pathlib import Path

import torch

from perturbox import io
from perturbox.job.execute import Job, run_job
from perturbox.job.margins import find_margin
from perturbox.report import write_report
from perturbox.types import Volume
from perturbox.zoo.phantom import phantom_case

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "slicer_extension" / "Perturbox" / "Resources" / "Example"
SEED, SHAPE, SPACING_MM, LEVEL_MM = 22, (112, 88, 30), 3.0, -3.0  # kidneys, spleen, liver and the lungs' lower ends
VICTIM, ATTACK, EPS, STEPS = "ct-organs", "pgd", 7.0, 20  # just below this scan's noise
MARGIN_EPS, MARGIN_STEPS = 16.0, 10
# Key of a result's image in the module → file of a result folder.
IMAGES = {
    "perturbed": "adversarial",
    "perturbation": "perturbation",
    "influence": "influence",
    "clean": "clean_seg",
    "adversarial": "adversarial_seg",
    "difference": "difference_seg",
}


def phantom() -> Volume:
    """The scan; int16 HU like any CT, but no patient's."""
    hu, _, affine = phantom_case(SEED, SHAPE, SPACING_MM, LEVEL_MM)
    return Volume(hu[None].astype("float32"), affine)


def packed(path: Path) -> bytes:
    """An image as the server sends it, NRRD, its voxels compressed without a time of compression."""
    sys.path.insert(0, str(ROOT / "monailabel_app"))
    from lib.api.files import write_nrrd

    raw = streams.BytesIO()
    write_nrrd(path, raw)
    header, voxels = raw.getvalue().split(b"\n\n", 1)
    lines = [b"encoding: gzip" if line == b"encoding: raw" else line for line in header.split(b"\n")]
    return b"\n".join(lines) + b"\n\n" + gzip.compress(voxels, 9, mtime=0)


def attack(scan: Path, result: Path) -> None:
    """A complete result folder, the bounds of a search for the margin in its record and its report."""
    job = Job(image=str(scan), victim=VICTIM, attack=ATTACK, eps=EPS, steps=STEPS)
    record = run_job(job, result)
    search = Job(image=str(scan), victim=VICTIM, attack=ATTACK, steps=MARGIN_STEPS)
    margin = find_margin(search, result.with_name("margin"), max_eps=MARGIN_EPS)
    # The files that prove the bounds aren't part of the example.
    record["margin"] = {name: row | {"witness": None} for name, row in margin["structures"].items()}
    (result / "result.json").write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")
    write_report(result)


def main(folder: Path = EXAMPLE) -> None:
    torch.set_num_threads(1)  # sums in one order
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        scan, result = Path(place) / "phantom_ct.nii.gz", Path(place) / "result"
        io.write_volume(scan, phantom())
        attack(scan, result)
        (folder / "source.nrrd").write_bytes(packed(scan))
        for name, stem in IMAGES.items():
            (folder / f"{name}.nrrd").write_bytes(packed(result / f"{stem}.nii.gz"))
        for name in ("result.json", "report.html"):
            (folder / name).write_bytes((result / name).read_bytes())
    print(f"torch {torch.__version__} with {torch.backends.cpu.get_cpu_capability()}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
