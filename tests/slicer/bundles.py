"""Made-up results of known numbers: label maps "k j i" drawn here, the record worked out from them in plain loops."""

import numpy as np
import scans
from PerturboxLib.nrrd import Image
from PerturboxLib.tasks import Bundle

LABELS = {"background": 0, "liver": 1, "spleen": 2, "kidney_left": 5, "aorta": 7}
SHAPE = (10, 14, 16)  # k j i
EPS, SIGMA = 10.0, 12.5
NOTICE = "ADVERSARIAL - NOT FOR CLINICAL USE"


def maps() -> tuple[np.ndarray, np.ndarray]:
    """Clean and adversarial: the spleen loses voxels to the liver and to background, the liver leaks far away, the left
    kidney vanishes, the aorta is in neither."""
    clean = np.zeros(SHAPE, np.uint8)
    clean[2:8, 2:9, 2:8] = 1
    clean[3:9, 8:13, 9:15] = 2
    clean[4:6, 2:5, 10:13] = 5
    after = clean.copy()
    after[3:5, 8:13, 9:12] = 1
    after[7:9, 8:11, 9:15] = 0
    after[0:2, 11:13, 2:5] = 1
    after[clean == 5] = 0
    return clean, after


def hounsfield(seed: int = 3) -> np.ndarray:
    """int16 HU, different everywhere, so that no flip goes unseen."""
    return np.random.default_rng(seed).integers(-200, 300, SHAPE).astype(np.int16)


def change() -> np.ndarray:
    """int16 within ± EPS, 0 in the first slices."""
    drawn = np.random.default_rng(4).integers(-int(EPS), int(EPS) + 1, SHAPE).astype(np.int16)
    drawn[:2] = 0
    return drawn


def dice(a: np.ndarray, b: np.ndarray) -> float | None:
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else None


def slice_rows(clean: np.ndarray, after: np.ndarray) -> list[dict]:
    """What result.json's "slices" says, voxel by voxel."""
    rows = []
    for name, value in LABELS.items():
        for axis in range(3):
            for index in range(clean.shape[2 - axis]) if value else ():
                a, b = (np.take(m == value, index, axis=2 - axis) for m in (clean, after))
                if a.any() or b.any():
                    lost, gained = int((a & ~b).sum()), int((b & ~a).sum())
                    row = {"structure": name, "axis": axis, "index": index, "dice": dice(a, b)}
                    rows.append({**row, "lost": lost, "gained": gained})
    return rows


def record(affine: np.ndarray, clean: np.ndarray, after: np.ndarray, expert: np.ndarray | None = None) -> dict:
    """A result.json of these label maps."""
    spacing = [float(length) for length in np.linalg.norm(affine[:3, :3], axis=0)]
    ml = float(np.prod(spacing)) / 1000
    names = {name: value for name, value in LABELS.items() if value}
    reference = clean if expert is None else expert
    far = {"liver": 24.25, "spleen": 9.5}

    def metrics(found: np.ndarray, distances: bool) -> dict:
        return {
            name: {
                "dice": dice(found == value, reference == value),
                "iou": None,
                "hd95_mm": (far.get(name) if distances else 0.0) if (found == value).any() else None,
                "nsd": None,
                "volume_ml": int((found == value).sum()) * ml,
            }
            for name, value in names.items()
        }

    verdicts = {"liver": "distance", "spleen": "dice", "kidney_left": "vanished", "aorta": "held"}
    trace = [
        {"step": step, "restart": 0, "loss": 0.1 * step, "score": 1 - 0.1 * step, "linf": EPS}
        | {"dice": {"liver": 1 - 0.04 * step, "spleen": 1 - 0.1 * step, "kidney_left": 0.9, "aorta": None}}
        for step in range(4)
    ]
    return {
        "schema": "perturbox-result/1",
        "notice": NOTICE,
        "attack": {"name": "pgd", "title": "PGD", "parameters": {"eps": EPS, "norm": "linf", "steps": 3, "target": []}},
        "victim": {"name": "made-up", "title": "Made up", "labels": LABELS, "unit": "HU"},
        "source": {
            "format": ".nrrd",
            "dtype": "int16",
            "shape": list(clean.shape[::-1]),
            "spacing_mm": spacing,
            "unit": "HU",
        },
        "reference": "clean_prediction" if expert is None else "label",
        "budget": {"eps": EPS, "unit": "HU", "norm": "linf", "measured": {"linf": EPS, "l2": 5.0, "l0": 0.9}},
        "noise": {"sigma": SIGMA, "region": "liver", "rms_over_sigma": 0.4, "eps_over_sigma": EPS / SIGMA},
        "metrics": {"clean": metrics(clean, False), "adversarial": metrics(after, True)},
        "verdicts": verdicts,
        "success": {"rule": "mean Dice", "value": 0.4, "threshold": 0.5, "succeeded": True},
        "control": {
            "noise": {"dice": {"liver": 0.991, "spleen": 0.988, "kidney_left": 0.995, "aorta": None}},
            "rolled": {"dice": {}},
            "benign": {"dice": {"liver": 0.97, "spleen": 0.96, "kidney_left": 0.95, "aorta": None}},
        },
        "margin": None,
        "slices": slice_rows(clean, after),
        "trace": trace,
        "best": {"step": 3, "restart": 0, "score": 0.7},
        "stopped_early": None,
        "effort": {"forwards": 4.0, "backwards": 3.0, "seconds": 1.0},
        "warnings": ["No expert outline was supplied: every Dice compares the model with itself."],
    }


def bundle(affine: np.ndarray, source: np.ndarray | None = None) -> Bundle:
    """What a job leaves, on a scan of `hounsfield` (or `source`) on this grid."""
    clean, after = maps()
    moved = change()
    scan = hounsfield() if source is None else source
    influence = (moved * np.where(clean == after, -1, 2)).astype(np.float32)
    arrays = {"perturbed": scan + moved, "perturbation": moved, "influence": influence, "clean": clean}
    arrays["adversarial"] = after
    images = {role: Image(array, affine, {}) for role, array in arrays.items()}
    return Bundle("attack", "job-1", record(affine, clean, after), images, "<html>the report – with ≤</html>")


def add(grid: str = "axial", name: str = "CT"):
    """A scan in the scene and its result; returns (result node, scan, bundle)."""
    import slicer
    from PerturboxLib import scene

    affine = scans.GRIDS[grid]
    volume = slicer.util.addVolumeFromArray(hounsfield(), affine, name)
    made = bundle(affine)
    return scene.addResultNow(made, volume), volume, made
