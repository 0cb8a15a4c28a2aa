"""Dice of a victim's saved segmentation against reference labels, with nibabel and numpy alone.

    perturbox segment CT.nii.gz --victim ct-organs --out seg.nii.gz
    python benchmarks/evaluate_victim.py seg.nii.gz REFERENCE.nii.gz NAMES.json

NAMES.json maps the reference's values to TotalSegmentator's class names; the built-in structures gather several of
them. Such labels are themselves a model's output where they come from TotalSegmentator, and the figures say so.
"""

import json
import sys

import nibabel as nib
import numpy as np

STRUCTURES = {"liver": 1, "spleen": 2, "kidney": 3, "bone": 4, "muscle": 5, "gut": 6, "lung": 7}
FLOORS = {"liver": 0.85, "spleen": 0.80, "kidney": 0.70, "bone": 0.80, "muscle": 0.70, "gut": 0.70, "lung": 0.70}
GOALS = {"liver": 0.92, "spleen": 0.90, "kidney": 0.87, "bone": 0.90, "lung": 0.90}
BONES = ("vertebrae", "rib_", "hip_", "femur", "humerus", "scapula", "clavicula", "sacrum", "sternum", "skull")
GUT = ("stomach", "small_bowel", "duodenum", "colon")


def structure(name: str) -> int:
    """The built-in structure that a TotalSegmentator class belongs to, 0 for none."""
    if name in ("liver", "spleen"):
        return STRUCTURES[name]
    if name.startswith("kidney_") and "cyst" not in name:
        return STRUCTURES["kidney"]
    if name.startswith(BONES):
        return STRUCTURES["bone"]
    if name.startswith(("autochthon", "gluteus", "iliopsoas")):
        return STRUCTURES["muscle"]
    if name in GUT:
        return STRUCTURES["gut"]
    return STRUCTURES["lung"] if name.startswith("lung_") else 0


def main() -> None:
    prediction, reference = nib.load(sys.argv[1]), nib.load(sys.argv[2])
    with open(sys.argv[3], encoding="utf-8") as file:
        names = json.load(file)
    assert np.allclose(prediction.affine, reference.affine, atol=1e-3), "the two lie on different grids"
    table = np.zeros(256, np.uint8)
    for value, name in names.items():
        table[int(value)] = structure(name)
    found = np.asanyarray(prediction.dataobj)
    truth = table[np.asanyarray(reference.dataobj).astype(int)]
    print("structure  dice   floor  goal")
    below = []
    for name, value in STRUCTURES.items():
        a, b = found == value, truth == value
        dice = 2 * (a & b).sum() / (a.sum() + b.sum())
        print(f"{name:9s} {dice:6.3f}  {FLOORS[name]:.2f}   {GOALS.get(name, float('nan')):.2f}")
        if dice < FLOORS[name]:
            below.append(name)
    print("all floors hold" if not below else f"below the floor: {', '.join(below)}")


if __name__ == "__main__":
    main()
