"""A study of detectors on ct-organs: slabs of phantoms that no model was trained on, and the study file beside them.

    python benchmarks/ct_detectors.py FOLDER [--cases 30]
    perturbox study FOLDER/detectors.yaml --out out          an hour and a half of CPU time

A slab is 24 slices of 3 mm through liver, spleen and kidneys: a tenth of a scan, so that thirty of them take as long as
three scans.
"""

import argparse
from pathlib import Path

import nibabel as nib
import yaml

from perturbox.zoo.phantom import phantom_case

SHAPE = (128, 104, 24)
OTHERS = 12  # slabs on which what attacks hide from is fitted
SEEDS = 8000  # the first; no demo, no training and no shipped detector has these


def write(folder: Path, seeds: range) -> None:
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        hu, labels, affine = phantom_case(seed, SHAPE)
        for kind, values in (("images", hu), ("labels", labels)):
            image = nib.Nifti1Image(values, affine)
            image.header.set_xyzt_units("mm")
            nib.save(image, folder / kind / f"slab_{seed}.nii.gz")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cases", type=int, default=30)
    given = parser.parse_args()
    last = SEEDS + given.cases
    write(given.folder / "cases", range(SEEDS, last))
    write(given.folder / "others", range(last, last + OTHERS))
    pgd = {"name": "pgd", "steps": 10}
    hides = [
        {"name": "hfc", "steps": 10, "settings": {"feature_weight": weight}, "label": f"hfc {weight:g}"}
        for weight in (0.1, 1.0)
    ]
    study = {
        "schema": "perturbox-study/1",
        "name": "ct-organs detectors",
        "kind": "detectors",
        "models": {"ct-organs": {"victim": "ct-organs"}},
        "cases": {"images": "cases/images/*.nii.gz", "labels": "cases/labels/{name}.nii.gz"},
        "attacks": [pgd, *hides],
        "eps": {"values": [10, 20, 40]},
        "target": ["liver", "spleen"],
        "detectors": ["mahalanobis", "kernel-density", "lid", "svm", "dnn", "entropy", "one-class"],
        "success": 0.7,
        "features_on": "others/images/*.nii.gz",
    }
    (given.folder / "detectors.yaml").write_text(yaml.safe_dump(study, sort_keys=False))


if __name__ == "__main__":
    main()
