"""What two segmentations of one scan, or two versions of one scan, differ by.

Masks are bool arrays "*s" (2D or 3D), spacing is in millimetres per axis. A number that has no meaning is None, never
NaN: where both masks are empty there is nothing to agree on (no value, not 1); where exactly one is empty the agreement
is 0 and no distance exists. Definitions follow Metrics Reloaded (Maier-Hein et al. 2024, 10.1038/s41592-023-02151-z);
boundaries are voxels of the mask with a face neighbour outside it, as in MONAI.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

from perturbox.judge.verdicts import BROKEN, OVERLAP, VERDICTS, Limits, limit_of  # noqa: F401 — its words, too

TOLERANCE_MM = 2.0
SOFT_TISSUE = (-160.0, 240.0)  # display window W 400 L 40, HU
LOST, GAINED, RELABELLED = 1, 2, 3  # values of `difference_map`

_SSIM_RADIUS = 5  # 11 taps of a Gaussian of 1.5 voxels: Wang et al. 2004 and MONAI's SSIMMetric
_SSIM_SIGMA = 1.5
_SLAB_VOXELS = 4_000_000


# ---------------------------------------------------------------- two masks


def dice(a: np.ndarray, b: np.ndarray) -> float | None:
    """Dice coefficient 2|a∩b| / (|a|+|b|) of two masks "*s"; None if both are empty."""
    total = _count(a) + _count(b)
    return 2.0 * _count(a & b) / total if total else None


def iou(a: np.ndarray, b: np.ndarray) -> float | None:
    """Intersection over union (Jaccard index) of two masks "*s"; None if both are empty."""
    union = _count(a | b)
    return _count(a & b) / union if union else None


def hd95_mm(a: np.ndarray, b: np.ndarray, spacing: Sequence[float]) -> float | None:
    """The larger of the two directed 95th percentiles of boundary distances, mm; None if a mask "*s" is empty.

    Equals MONAI's `compute_hausdorff_distance(percentile=95)`.
    """
    box = _union_box(a, b)
    return _hd95(*_boundary_distances(a[box], b[box], spacing)) if a.any() and b.any() else None


def nsd(a: np.ndarray, b: np.ndarray, spacing: Sequence[float], tolerance_mm: float = TOLERANCE_MM) -> float | None:
    """Normalised surface Dice: fraction of both boundaries within `tolerance_mm` of the other; 0 if only one is empty.

    Nikolov et al. 2018, arXiv 1809.04430, counting boundary voxels instead of their areas, as MONAI's
    `compute_surface_dice` and Seidlitz et al. 2021 (arXiv 2111.05408) do.
    """
    if not (a.any() and b.any()):
        return 0.0 if a.any() or b.any() else None
    box = _union_box(a, b)
    return _nsd(*_boundary_distances(a[box], b[box], spacing), tolerance_mm)


def volume_ml(mask: np.ndarray, voxel_ml: float) -> float:
    """Volume of a mask "*s" in millilitres, given that of one voxel (2D: area in cm²)."""
    return _count(mask) * float(voxel_ml)


# ---------------------------------------------------------------- two label maps


def foreground(labels: Mapping[str, int]) -> dict[str, int]:
    """The structures among a victim's labels: all but the background (value 0)."""
    return {name: value for name, value in labels.items() if value != 0}


def structures(
    prediction: np.ndarray,
    reference: np.ndarray,
    labels: Mapping[str, int],
    spacing: Sequence[float],
    voxel_ml: float,
    tolerance_mm: float = TOLERANCE_MM,
) -> dict[str, dict[str, float | None]]:
    """Per structure: dice, iou, hd95_mm and nsd of two label maps "*s", and the predicted volume_ml."""
    rows = {}
    for name, value in foreground(labels).items():
        a, b = prediction == value, reference == value
        box = _union_box(a, b)
        a, b = a[box], b[box]
        both = a.any() and b.any()
        distances = _boundary_distances(a, b, spacing) if both else None
        rows[name] = {
            "dice": dice(a, b),
            "iou": iou(a, b),
            "hd95_mm": _hd95(*distances) if distances else None,
            "nsd": _nsd(*distances, tolerance_mm) if distances else (0.0 if a.any() or b.any() else None),
            "volume_ml": volume_ml(a, voxel_ml),
        }
    return rows


def slices(clean: np.ndarray, adversarial: np.ndarray, labels: Mapping[str, int]) -> list[dict[str, object]]:
    """Per structure, axis and slice of two label maps "*s": dice and the numbers of voxels lost and gained.

    Only slices that hold the structure in either map are listed. A 2D image is one slice, so its list is empty.
    """
    rows: list[dict[str, object]] = []
    if clean.ndim < 3:
        return rows
    for name, value in foreground(labels).items():
        a, b = clean == value, adversarial == value
        box = _union_box(a, b)
        for axis, before, after, common in _slice_counts(a[box], b[box]):
            for i in np.flatnonzero(before + after):
                rows.append(
                    {
                        "structure": name,
                        "axis": axis,
                        "index": int(i) + box[axis].start,
                        "dice": 2.0 * int(common[i]) / int(before[i] + after[i]),
                        "lost": int(before[i] - common[i]),
                        "gained": int(after[i] - common[i]),
                    }
                )
    return rows


def difference_map(clean: np.ndarray, adversarial: np.ndarray) -> np.ndarray:
    """uint8 "*s": 1 structure became background (lost), 2 background became structure (gained), 3 another structure."""
    before, after = clean != 0, adversarial != 0
    result = np.zeros(clean.shape, np.uint8)
    result[before & ~after] = LOST
    result[~before & after] = GAINED
    result[before & after & (clean != adversarial)] = RELABELLED
    return result


# ---------------------------------------------------------------- verdicts


def broken_by(clean: Mapping, adversarial: Mapping, limits: Limits = Limits()) -> str | None:
    """The first limit one structure violates ("vanished", "dice", "volume" or "hd95"), or None.

    clean, adversarial: the structure's rows of `structures`, both measured against the *clean prediction*. A structure
    that the clean prediction doesn't hold can't be broken.
    """
    if not clean["volume_ml"]:
        return None
    if not adversarial["volume_ml"]:
        return "vanished"
    if adversarial["dice"] < limits.dice:
        return "dice"
    if abs(adversarial["volume_ml"] - clean["volume_ml"]) > limits.volume_change * clean["volume_ml"]:
        return "volume"
    if adversarial["hd95_mm"] > limits.hd95_mm:
        return "hd95"
    return None


def verdict(
    clean: Mapping,
    adversarial: Mapping,
    failed: int = 0,
    floor: float | None = None,
    *,
    outlined: bool = True,
    tested: bool = True,
    limits: Limits = Limits(),
) -> str:
    """One structure's final verdict, one of `VERDICTS`; everyone else translates it.

    clean, adversarial: as for `broken_by`. failed: its `failed_slices`, which a whole-organ Dice can hide. floor: its
    Dice under harmless changes, None if unknown: overlap that is no worse than that is "benign". outlined: whether the
    expert outlined it, if there is an expert; tested: whether the attack could reach it. Both only say what a structure
    that didn't break is: its break would be a finding all the same.
    """
    if adversarial["dice"] is None:
        return "absent"
    broken = broken_by(clean, adversarial, limits) if clean["volume_ml"] else "appeared"
    if broken in OVERLAP and floor is not None and adversarial["dice"] >= floor:
        return "benign"
    if broken:
        return "distance" if broken == "hd95" else broken
    if failed > limits.failed_slices:
        return "local"
    return "not-tested" if not tested else "held" if outlined else "not-outlined"


def failed_slices(
    clean: np.ndarray,
    adversarial: np.ndarray,
    voxel_ml: float,
    slice_dice: float = Limits.slice_dice,
    min_area: float = 0.10,
    min_change_ml: float = 0.5,
) -> int:
    """Slices of a mask "*s" whose Dice is below `slice_dice`, along the axis where they are most; 0 in 2D.

    Small or hardly changed slices don't count: the area in either mask must reach `min_area` of the clean mask's
    largest slice, and more than `min_change_ml` must differ.
    """
    if clean.ndim < 3 or not clean.any():
        return 0
    box = _union_box(clean, adversarial)
    most = 0
    for _, before, after, common in _slice_counts(clean[box], adversarial[box]):
        counted = np.maximum(before, after) >= min_area * before.max()
        counted &= (before + after - 2 * common) * voxel_ml > min_change_ml
        most = max(most, _count(counted & (2 * common < slice_dice * (before + after))))
    return most


# ---------------------------------------------------------------- two images


def perturbation(
    delta: np.ndarray,
    clean: np.ndarray,
    roi: np.ndarray | None = None,
    window: tuple[float, float] = SOFT_TISSUE,
) -> dict[str, float | None]:
    """How large a change `delta` of `clean` is (both "c *s", HU): linf, l2, l0, psnr_db, ssim and data_range_hu.

    l2 is the RMS change over the region of interest `roi` (bool "*s", None for all), l0 the fraction of its voxels that
    changed. PSNR takes the raw change over the roi and, as data range, the width of the display `window` (lower, upper
    HU); it is None without any change. SSIM: see `ssim`.
    """
    inside = np.ones(delta.shape[1:], bool) if roi is None else roi
    size = _count(inside) * delta.shape[0]
    changed = (delta != 0) & inside
    rms = math.sqrt(np.square(delta[changed], dtype=np.float64).sum() / size) if size else 0.0
    data_range = float(window[1] - window[0])
    return {
        "linf": float(np.abs(delta).max(initial=0.0)),
        "l2": rms,
        "l0": _count(changed) / size if size else 0.0,
        "psnr_db": 20.0 * math.log10(data_range / rms) if rms else None,
        "ssim": ssim(clean, clean + delta, window, roi),
        "data_range_hu": data_range,
    }


def ssim(
    clean: np.ndarray, changed: np.ndarray, window: tuple[float, float] = SOFT_TISSUE, roi: np.ndarray | None = None
) -> float | None:
    """Mean structural similarity (2D or 3D kernel) of two images "c *s" as displayed in `window`, over `roi` (or all).

    Wang et al. 2004, doi 10.1109/TIP.2003.819861, with MONAI's constants (11-tap Gaussian of 1.5 voxels, positions
    where the kernel fits); equals its SSIMMetric. None where an axis has fewer than 11 voxels or no position lies in
    the roi. Computed slab by slab, so memory stays flat.
    """
    r = _SSIM_RADIUS
    shape = clean.shape[1:]
    if min(shape) < 2 * r + 1:
        return None
    positions = tuple(slice(r, n - r) for n in shape)
    weight = np.ones([n - 2 * r for n in shape], bool) if roi is None else roi[positions]
    total = _count(weight)
    if not total:
        return None
    # Everything far from a change is exactly 1, so only the box around the changes is computed.
    differs = (np.clip(clean, *window) != np.clip(changed, *window)).any(axis=0)
    if not differs.any():
        return 1.0
    box = [slice(max(s.start - r, r), min(s.stop + r, n - r)) for s, n in zip(_box(differs), shape, strict=True)]
    if any(s.stop <= s.start for s in box):
        return 1.0
    rows = max(1, _SLAB_VOXELS // int(np.prod([s.stop - s.start + 2 * r for s in box[1:]])))
    deficit = 0.0
    for start in range(box[0].start, box[0].stop, rows):
        slab = (slice(start, min(start + rows, box[0].stop)), *box[1:])
        halo = tuple(slice(s.start - r, s.stop + r) for s in slab)
        inside = weight[tuple(slice(s.start - r, s.stop - r) for s in slab)]
        for a, b in zip(clean, changed, strict=True):
            similarity = _ssim_map(np.clip(a[halo], *window), np.clip(b[halo], *window), float(window[1] - window[0]))
            deficit += float((1.0 - similarity)[inside].sum())
    return 1.0 - deficit / (total * clean.shape[0])


# ---------------------------------------------------------------- how


def _count(mask: np.ndarray) -> int:
    return int(np.count_nonzero(mask))


def _box(mask: np.ndarray) -> tuple[slice, ...]:
    """Bounding box of a mask; empty slices at 0 for an empty one."""
    box = []
    for axis in range(mask.ndim):
        hits = np.flatnonzero(mask.any(axis=tuple(k for k in range(mask.ndim) if k != axis)))
        box.append(slice(int(hits[0]), int(hits[-1]) + 1) if hits.size else slice(0, 0))
    return tuple(box)


def _union_box(a: np.ndarray, b: np.ndarray) -> tuple[slice, ...]:
    """Outside this box both masks are empty: every measure inside it is the measure of the whole, only sooner."""
    return _box(a | b)


def _boundary(mask: np.ndarray) -> np.ndarray:
    """Voxels of the mask with a face neighbour outside it; beyond the array's edge counts as outside."""
    padded = np.pad(mask, 1)
    core = (slice(1, -1),) * mask.ndim
    interior = mask.copy()
    for axis in range(mask.ndim):
        for neighbour in (slice(None, -2), slice(2, None)):
            interior &= padded[(*core[:axis], neighbour, *core[axis + 1 :])]
    return mask & ~interior


def _boundary_distances(a: np.ndarray, b: np.ndarray, spacing: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Distance (mm) of every boundary voxel of `a` to that of `b`, and of `b` to `a`; both must be non-empty."""
    edge_a, edge_b = _boundary(a), _boundary(b)
    return _directed(edge_a, edge_b, spacing), _directed(edge_b, edge_a, spacing)


def _directed(edge: np.ndarray, other: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    # Voxels of both boundaries are at distance 0; only the rest need a search, and its cost follows the surface.
    distances = np.zeros(_count(edge))
    apart = np.argwhere(edge & ~other)
    if len(apart):
        tree = KDTree(np.argwhere(other) * np.asarray(spacing), balanced_tree=False, compact_nodes=False)
        distances[: len(apart)] = tree.query(apart * np.asarray(spacing))[0]
    return distances


def _hd95(ab: np.ndarray, ba: np.ndarray) -> float:
    return float(max(np.percentile(ab, 95), np.percentile(ba, 95)))


def _nsd(ab: np.ndarray, ba: np.ndarray, tolerance_mm: float) -> float:
    # Headers store spacing in float32: a distance equal to the tolerance must not fail for its last digit.
    reach = tolerance_mm * (1.0 + 1e-6)
    return (_count(ab <= reach) + _count(ba <= reach)) / (ab.size + ba.size)


def _slice_counts(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """For each axis: voxels of `a`, of `b` and of both in every slice."""
    common = a & b
    for axis in range(a.ndim):
        others = tuple(k for k in range(a.ndim) if k != axis)
        before, after, both = (np.count_nonzero(m, axis=others) for m in (a, b, common))
        yield axis, before, after, both


def _ssim_map(a: np.ndarray, b: np.ndarray, data_range: float) -> np.ndarray:
    """SSIM at every position where the kernel fits; written in sum and difference, which keeps double precision."""
    taps = np.exp(-0.5 * (np.arange(-_SSIM_RADIUS, _SSIM_RADIUS + 1) / _SSIM_SIGMA) ** 2)
    taps /= taps.sum()
    valid = (slice(_SSIM_RADIUS, -_SSIM_RADIUS),) * a.ndim

    def smooth(image: np.ndarray) -> np.ndarray:
        for axis in range(image.ndim):
            image = ndimage.correlate1d(image, taps, axis=axis)
        return image[valid]

    a, b = a.astype(np.float64), b.astype(np.float64)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean_a, mean_b = smooth(a), smooth(b)
    var = smooth(a * a + b * b) - mean_a**2 - mean_b**2
    cov = smooth(a * b) - mean_a * mean_b
    return (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1) * (2 * cov + c2) / (var + c2)
