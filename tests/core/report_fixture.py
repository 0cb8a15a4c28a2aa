"""A result folder made by hand, for the report's tests: an ellipsoid abdomen whose liver leaks far away, whose
spleen loses a part, whose left kidney fails in a few slices and whose lung holds, as an attack would leave it.

    python tests/core/report_fixture.py FOLDER [--shape 128 112 60] [--axes LPS] [--tilt 12] [--flat] [--repeat 4]
"""

import argparse
import json
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

LABELS = {"background": 0, "liver": 1, "spleen": 2, "kidney_left": 3, "lung": 4, "stomach": 5}
CONTROL = {"noise": 0.991, "rolled": 0.985, "benign": 0.962}
SIGMA = 11.8
NOT_FOR_PRINT = "ZZTOP^PATIENT"


def ellipsoid(shape, centre, radius) -> np.ndarray:
    """Points of a grid inside an ellipsoid given in fractions of the grid; bool "*s"."""
    axes = [(np.arange(n, dtype=np.float32) / n - c) / r for n, c, r in zip(shape, centre, radius, strict=True)]
    grids = np.meshgrid(*axes, indexing="ij", sparse=True)
    return sum(g**2 for g in grids) <= 1


def phantom(shape, rng, eps):
    """CT and change (int16), label maps before and after (uint8), on a grid whose axes run to left, posterior,
    superior."""
    hu = np.full(shape, -1000, np.float32)
    clean = np.zeros(shape, np.uint8)
    parts = [  # centre and radius in fractions of the grid, HU, label
        ((0.50, 0.50, 0.50), (0.46, 0.42, 9.0), -95, 0),
        ((0.50, 0.50, 0.50), (0.41, 0.36, 9.0), 25, 0),
        ((0.50, 0.66, 0.50), (0.08, 0.10, 9.0), 300, 0),
        ((0.60, 0.35, 0.58), (0.10, 0.13, 0.20), 20, 5),
        ((0.30, 0.42, 0.55), (0.17, 0.22, 0.33), 105, 1),
        ((0.75, 0.52, 0.56), (0.09, 0.15, 0.22), 118, 2),
        ((0.65, 0.66, 0.36), (0.06, 0.08, 0.18), 160, 3),
        ((0.70, 0.40, 0.98), (0.15, 0.22, 0.16), -820, 4),
    ]
    for centre, radius, value, label in parts:
        inside = ellipsoid(shape, centre, radius)
        hu[inside] = value
        clean[inside] = label
    adversarial = clean.copy()
    adversarial[ellipsoid(shape, (0.62, 0.32, 0.60), (0.07, 0.08, 0.09))] = 1
    adversarial[ellipsoid(shape, (0.80, 0.56, 0.60), (0.08, 0.12, 0.15)) & (clean == 2)] = 0
    top = np.flatnonzero((clean == 3).any((0, 1)))[-10:-4]
    half = np.arange(shape[1])[None, :, None] < 0.66 * shape[1]
    adversarial[..., top] = np.where((clean == 3)[..., top] & half, 0, adversarial[..., top])

    texture = ndimage.gaussian_filter(rng.standard_normal(shape).astype(np.float32), 0.6)
    ct = np.rint(ndimage.gaussian_filter(hu, 0.6) + texture / texture.std() * SIGMA).astype(np.int16)
    weight = np.exp(-far(adversarial != clean) / 10)
    wave = ndimage.gaussian_filter(rng.standard_normal(shape).astype(np.float32), 1.0)
    change = np.clip(np.rint(wave / wave.std() * eps * weight), -eps, eps).astype(np.int16)
    change[hu < -900] = 0
    return ct, change, clean, adversarial


def far(mask) -> np.ndarray:
    """Distance in voxels to the nearest voxel of a mask."""
    return ndimage.distance_transform_edt(~mask)


def dice(a, b) -> float | None:
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else None


def hd95_mm(a, b, spacing) -> float | None:
    """The larger of the two directed 95th percentiles of boundary distances."""
    if not (a.any() and b.any()):
        return None
    edges = [m & ~ndimage.binary_erosion(m) for m in (a, b)]
    away = [ndimage.distance_transform_edt(~e, sampling=spacing) for e in edges]
    return float(max(np.percentile(away[1][edges[0]], 95), np.percentile(away[0][edges[1]], 95)))


def structures(prediction, reference, spacing, voxel_ml) -> dict:
    scores = {}
    for name, value in list(LABELS.items())[1:]:
        a, b = prediction == value, reference == value
        d = dice(a, b)
        scores[name] = {
            "dice": d,
            "iou": None if d is None else d / (2 - d),
            "hd95_mm": hd95_mm(a, b, spacing),
            "nsd": d,
            "volume_ml": float(a.sum() * voxel_ml),
        }
    return scores


def slice_rows(clean, adversarial) -> list[dict]:
    rows = []
    for name, value in list(LABELS.items())[1:]:
        for axis in range(clean.ndim):
            for index in range(clean.shape[axis]):
                a, b = clean.take(index, axis) == value, adversarial.take(index, axis) == value
                if a.any() or b.any():
                    lost, gained = int((a & ~b).sum()), int((b & ~a).sum())
                    row = {"structure": name, "axis": axis, "index": index, "dice": dice(a, b)}
                    rows.append({**row, "lost": lost, "gained": gained})
    return rows


def make_result(
    folder,
    shape=(96, 84, 48),
    spacing=(3.0, 3.0, 5.0),
    axes="LPS",
    tilt=0.0,
    eps=10,
    seed=1,
    flat=False,
    repeat=1,
    influence=False,
) -> Path:
    """Write a result folder.

    axes: the file's voxel axes ("LPS": towards left, posterior, superior); tilt: degrees about the left-right and the
    head-foot axis; flat: one axial slice as a 2D picture (PNG, arbitrary intensities); repeat: a finer grid of
    `repeat` voxels per voxel and axis, all of it changed at random (no per-slice rows: they would take minutes).
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    volumes = phantom(shape, rng, eps)
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    affine[:3, 3] = [140, 120, -300]
    if flat:
        middle = int(0.6 * shape[2])
        volumes = tuple(v[..., middle] for v in volumes)
        affine = np.diag([-spacing[0], -spacing[1], 1.0, 1.0])
    else:
        volumes, affine = turn(volumes, affine, axes, tilt)
    ct, change, clean, adversarial = volumes
    spacing = tuple(float(s) for s in np.linalg.norm(affine[:3, :3], axis=0))[: ct.ndim]
    voxel_ml = float(np.prod(spacing)) / (100 if flat else 1000)
    scores = structures(adversarial, clean, spacing, voxel_ml)
    clean_scores = structures(clean, clean, spacing, voxel_ml)
    rows = slice_rows(clean, adversarial) if repeat == 1 else []
    if flat:
        ct = np.clip(ct // 2 + 100, eps, 255 - eps)
    if repeat > 1:
        ct, clean, adversarial = (np.kron(v, np.ones([repeat] * ct.ndim, v.dtype)) for v in (ct, clean, adversarial))
        ct += rng.integers(-20, 21, ct.shape, np.int16)
        change = rng.integers(-eps, eps + 1, ct.shape, np.int16)
        spacing = tuple(s / repeat for s in spacing)
        affine = affine @ np.diag([1 / repeat] * ct.ndim + [1] * (4 - ct.ndim))

    def save(name, array):
        image = nib.Nifti1Image(array, affine)
        image.header["descrip"] = NOT_FOR_PRINT.encode()
        nib.save(image, folder / name)

    perturbed = (ct + change).astype(np.int16)
    picture = "adversarial.png" if flat else "adversarial.nii.gz"
    if flat:
        import SimpleITK as sitk

        sitk.WriteImage(sitk.GetImageFromArray(perturbed.T.astype(np.uint8)), str(folder / picture))
    else:
        save(picture, perturbed)
    save("perturbation.nii.gz", change)
    if influence:  # all that changed pushes on where labels change, and back elsewhere
        save("influence.nii.gz", np.where(clean == adversarial, -1, 1) * np.abs(change).astype(np.float32))
    save("clean_seg.nii.gz", clean)
    save("adversarial_seg.nii.gz", adversarial)
    difference = np.select([clean == adversarial, adversarial == 0, clean == 0], [0, 1, 2], 3).astype(np.uint8)
    save("difference_seg.nii.gz", difference)

    names = list(LABELS)[1:]
    unit = "intensity" if flat else "HU"
    rms = float(np.sqrt(np.square(change, dtype=np.float32).mean()))
    steps = 20
    result = {
        "schema": "perturbox-result/1",
        "notice": "ADVERSARIAL - NOT FOR CLINICAL USE",
        "attack": {
            "name": "pgd",
            "title": "PGD",
            "parameters": {
                "eps": float(eps), "norm": "linf", "steps": steps, "alpha": eps / 8, "loss": "dice-ce", "restarts": 1,
                "goal": "change", "target": ["liver", "spleen", "kidney_left"],
            },
            "paper": "Madry et al. 2018, arXiv 1706.06083",
            "deviations": ["The change is rounded to the file's storage step inside the loop."],
        },
        "victim": {
            "name": "ct-organs", "title": "Abdominal organs on CT", "sha256": "ab" * 32, "labels": LABELS,
            "spacing_mm": [3.0, 3.0, 3.0], "window": [96, 96, 48], "unit": unit, "licence": "Apache-2.0",
        },
        "source": {
            "format": ".png" if flat else ".nii.gz", "dtype": "uint8" if flat else "int16",
            "shape": list(ct.shape), "spacing_mm": list(spacing), "sha256": "cd" * 32, "unit": unit,
        },
        "reference": "clean_prediction",
        "budget": {
            "eps": float(eps), "unit": unit, "norm": "linf",
            "measured": {"linf": float(np.abs(change).max()), "l2": rms, "l0": float((change != 0).mean())},
        },
        "noise": {
            "sigma": SIGMA, "region": "liver eroded 5 mm, 812 ml",
            "rms_over_sigma": rms / SIGMA, "eps_over_sigma": eps / SIGMA,
        },
        "verdicts": {
            "liver": "distance", "spleen": "dice", "kidney_left": "dice", "lung": "held", "stomach": "dice",
        },
        "metrics": {"clean": clean_scores, "adversarial": scores},
        "image_metrics": {
            "psnr_db": 41.2, "ssim": 0.981, "data_range_hu": 600.0,
            "uninfluential_fraction": 0.31, "energy_above_grid": 0.02,
        },
        "success": {
            "rule": "mean Dice over the targets at most half of the clean mean", "value": 0.83, "threshold": 0.5,
            "succeeded": False,
        },
        "control": {kind: {"dice": dict.fromkeys(names, floor)} for kind, floor in CONTROL.items()},
        "margin": {
            "liver": {"breaks_at": 3.0, "above": 10.0, "limit": "HD95"},
            "spleen": {"breaks_at": 2.0, "above": 10.0, "limit": "Dice"},
            "kidney_left": {"breaks_at": None, "above": 10.0, "limit": None},
        },
        "slices": rows,
        "trace": [
            {
                "step": t, "loss": 0.1 + 0.4 * (1 - np.exp(-t / 6)), "linf": min(eps, 1.25 * t),
                "dice": {n: 1 - (1 - (scores[n]["dice"] or 0)) * (1 - np.exp(-t / 5)) for n in names[:3]},
            }
            for t in range(steps + 1)
        ],
        "effort": {
            "forwards": 41.0, "backwards": 20.0, "seconds": 121.6, "cpu_seconds": 203.1, "peak_bytes": 2_100_000_000,
            "model_calls": 82,
        },
        "versions": {"perturbox": "0.1.0", "torch": "2.13.0+cpu", "monai": "1.6.1", "python": "3.11.9"},
        "device": "cpu", "threads": 2, "window_batch": 1, "seed": 0, "stopped_early": None,
        "warnings": ["No expert outline was supplied: every Dice compares the model with itself."],
        "files": {
            "adversarial": picture, "clean_seg": "clean_seg.nii.gz", "adversarial_seg": "adversarial_seg.nii.gz",
            "difference_seg": "difference_seg.nii.gz", "perturbation": "perturbation.nii.gz",
            "influence": "influence.nii.gz" if influence else None,
            "reference_seg": None, "roi": None,
        },
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result, indent=1))
    return folder


def many_structures(folder, count) -> Path:
    """The same scan with `count` structures, columns side by side; every third one loses half of itself."""
    folder = make_result(folder)
    affine = nib.load(folder / "clean_seg.nii.gz").affine
    i, j, _ = np.indices((96, 84, 48))
    clean = (1 + (i // 8) * -(-count // 12) + j * -(-count // 12) // 84).clip(0, count).astype(np.uint8)
    adversarial = np.where((clean % 3 == 0) & (i % 8 < 4), 0, clean).astype(np.uint8)
    for name, array in {"clean_seg": clean, "adversarial_seg": adversarial}.items():
        nib.save(nib.Nifti1Image(array, affine), folder / f"{name}.nii.gz")
    record = json.loads((folder / "result.json").read_text())
    names = {f"part_{k}": k for k in range(1, count + 1)}
    record["victim"]["labels"] = {"background": 0, **names}
    for key, labels in {"clean": clean, "adversarial": adversarial}.items():
        counts = np.bincount(labels.ravel(), minlength=count + 1)
        record["metrics"][key] = {
            name: {"dice": 1.0 if key == "clean" or k % 3 else 2 / 3, "iou": None, "hd95_mm": 0.0, "nsd": 1.0,
                   "volume_ml": 0.045 * int(counts[k])}
            for name, k in names.items()
        }  # fmt: skip
    record["verdicts"] = {name: "held" if k % 3 else "dice" for name, k in names.items()}
    record["control"] = {kind: {"dice": dict.fromkeys(names, 0.99)} for kind in CONTROL}
    record["attack"]["parameters"]["target"] = []
    (folder / "result.json").write_text(json.dumps(record | {"margin": None, "slices": [], "trace": []}))
    return folder


def turn(volumes, affine, axes, tilt):
    """The same volumes with other voxel axes and a rotated frame: anatomy keeps its place, the file's layout
    changes."""
    start = nib.orientations.io_orientation(affine)
    transform = nib.orientations.ornt_transform(start, nib.orientations.axcodes2ornt(axes))
    affine = affine @ nib.orientations.inv_ornt_aff(transform, volumes[0].shape)
    volumes = tuple(np.ascontiguousarray(nib.orientations.apply_orientation(v, transform)) for v in volumes)
    if tilt:
        c, s = np.cos(np.radians(tilt)), np.sin(np.radians(tilt))
        about_x = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
        about_z = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        affine = np.vstack([(about_x @ about_z) @ affine[:3], affine[3]])
    return volumes, affine


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", type=int, nargs=3, default=(128, 112, 60))
    parser.add_argument("--spacing", type=float, nargs=3, default=(2.5, 2.5, 5.0))
    parser.add_argument("--axes", default="LPS")
    parser.add_argument("--tilt", type=float, default=0.0)
    parser.add_argument("--flat", action="store_true")
    parser.add_argument("--repeat", type=int, default=1)
    options = vars(parser.parse_args())
    print(make_result(options.pop("folder"), **options))
