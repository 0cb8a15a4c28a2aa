"""The scan's own noise: what a perturbation's size is compared with.

σ is the standard deviation inside an organ of one tissue after a smooth trend is taken away, on the scan's own grid.
High-pass filters (differences of neighbours, wavelets) would underestimate it: CT noise is correlated over several
voxels, and most of it would be filtered out with the anatomy.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

ERODE_MM = 5.0  # keeps partial volume and neighbours out
MIN_ML = 5.0  # below this too few independent values are left
PREFERRED = ("liver", "spleen")  # large, of one tissue, in most abdominal scans
# Never used: what lies in them (vessels, marrow, air, streaks of fat) would count as noise. Parts of names.
TEXTURED = ("lung", "airway", "trachea", "bone", "vertebra", "rib", "gut", "bowel", "colon", "stomach", "muscle")
TEXTURED += ("gluteus", "autochthon", "iliopsoas")

_QUADRATIC_ML = 50.0  # in less, ten coefficients would swallow correlated noise; a straight trend is enough there
_VESSEL_MM = 2.0  # SD of the Gaussian under which vessels and lesions stand out of the noise
_CLIP = 3.0
# A standard normal distribution cut off at ±_CLIP keeps this SD.
_CUT = math.sqrt(2 / math.pi) * _CLIP * math.exp(-(_CLIP**2) / 2) / math.erf(_CLIP / math.sqrt(2))
_KEPT_SD = math.sqrt(1 - _CUT)
_MAD_TO_SD = 1.4826


def scan_noise(
    image: np.ndarray,
    segmentation: np.ndarray,
    labels: Mapping[str, int],
    spacing: Sequence[float],
    sizes: str | None = None,
    apart: bool = False,
) -> dict[str, Any]:
    """{"sigma": SD of the noise of `image` ("*s" or "c *s", HU) or None, "region": where it was measured, or why it
    wasn't}. Of a colour picture it is the RMS over its channels, each of which an attack may change.

    segmentation: label map "*s" in the values of `labels`; spacing in mm. The region is the liver, else the spleen,
    else the largest other structure of one tissue, eroded by 5 mm, of which 5 ml (2D: 5 cm²) must be left. sizes: what
    to tell them in, "pixels" of a photograph, where a pixel stands for a millimetre. apart: whether the channels are
    files of their own; "channels" then has the SD of each.
    """
    unit, cubic_mm = ("ml", 1000.0) if segmentation.ndim == 3 else ("cm²", 100.0)
    length, least = "mm", MIN_ML
    if sizes == "pixels":
        unit, length, cubic_mm, least = "pixels", "pixels", 1.0, MIN_ML * cubic_mm
    voxels = np.bincount(segmentation.ravel(), minlength=max(labels.values()) + 1)
    candidates = [name for name, value in labels.items() if value != 0 and not any(w in name.lower() for w in TEXTURED)]
    for name in sorted(candidates, key=lambda name: (_rank(name), -voxels[labels[name]])):
        box, core = _eroded(segmentation == labels[name], spacing)
        size = np.count_nonzero(core) * float(np.prod(spacing)) / cubic_mm
        if size >= least:
            grid = "" if sizes == "pixels" else f", on the {' × '.join(f'{s:.3g}' for s in spacing)} mm grid"
            much = f"{size:,.0f}" if sizes == "pixels" else f"{size:.0f}"
            region = f"{name} eroded {ERODE_MM:.0f} {length}, {much} {unit}{grid}"
            degree = 2 if size >= least * _QUADRATIC_ML / MIN_ML else 1
            channels = image.reshape(-1, *segmentation.shape)
            each = [detrended_sd(channel[box], core, spacing, degree) for channel in channels]
            found = {"sigma": math.hypot(*each) / math.sqrt(len(each)), "region": region}
            return {**found, "channels": each} if apart else found
    reason = f"no structure of one tissue keeps {least:.0f} {unit} when eroded by {ERODE_MM:.0f} {length}"
    missing = {"sigma": None, "region": f"not available: {reason}"}
    return {**missing, "channels": [None] * len(image)} if apart else missing


def detrended_sd(image: np.ndarray, mask: np.ndarray, spacing: Sequence[float], degree: int = 2) -> float:
    """SD of `image` inside `mask` (both "*s") about a polynomial trend of `degree` 1 or 2, without vessels and lesions.

    Outliers are found twice: in the residual smoothed by 2 mm, where vessels stand out of the noise, and beyond 3 SD in
    the residual itself. Corrected for the trend's degrees of freedom, as if voxels were independent, and for what the
    clipping cuts off a normal distribution.
    """
    values = image[mask].astype(np.float64)
    trend = _monomials(mask, degree)
    kernel = [_VESSEL_MM / s for s in spacing]
    coverage = ndimage.gaussian_filter(mask.astype(np.float64), kernel)[mask]
    keep = np.ones(values.size, bool)
    sd = 0.0
    for _ in range(10):  # settles in about five
        if np.count_nonzero(keep) <= trend.shape[1]:
            break
        residual = _residual(values, trend, keep)
        field = np.zeros(mask.shape)
        field[mask] = residual
        smooth = ndimage.gaussian_filter(field, kernel)[mask] / coverage
        tissue = np.abs(smooth - np.median(smooth)) <= _CLIP * _robust_sd(smooth)
        sd = _clipped_sd(residual[tissue], trend.shape[1])
        previous, keep = keep, tissue & (np.abs(residual) <= _CLIP * sd)
        if (keep == previous).all():
            break
    return sd


def _residual(values: np.ndarray, trend: np.ndarray, keep: np.ndarray) -> np.ndarray:
    kept = trend[keep]
    return values - trend @ np.linalg.solve(kept.T @ kept, kept.T @ values[keep])


def _robust_sd(values: np.ndarray) -> float:
    return _MAD_TO_SD * float(np.median(np.abs(values - np.median(values))))


def _clipped_sd(values: np.ndarray, parameters: int) -> float:
    """SD about 0 of what lies within 3 SD, starting from the median absolute deviation."""
    sd = _robust_sd(values)
    for _ in range(10):
        kept = values[np.abs(values) <= _CLIP * sd]
        if kept.size <= parameters:
            break
        previous, sd = sd, math.sqrt(np.square(kept).sum() / (kept.size - parameters)) / _KEPT_SD
        if math.isclose(sd, previous, rel_tol=1e-4):
            break
    return sd


def _rank(name: str) -> int:
    name = name.lower()
    return PREFERRED.index(name) if name in PREFERRED else len(PREFERRED)


def _eroded(mask: np.ndarray, spacing: Sequence[float]) -> tuple[tuple[slice, ...], np.ndarray]:
    """Voxels further than ERODE_MM from any voxel outside the mask, and the box they stand in.

    The scan's border is no border of the organ: nothing is taken off there.
    """
    if not mask.any():
        return (slice(0, 0),) * mask.ndim, np.zeros((0,) * mask.ndim, bool)
    box = tuple(
        slice(max(s.start - 1, 0), min(s.stop + 1, n))
        for s, n in zip(ndimage.find_objects(mask.astype(np.uint8))[0], mask.shape, strict=True)
    )
    inside = mask[box]
    if inside.all():
        return box, inside
    return box, np.asarray(ndimage.distance_transform_edt(inside, sampling=spacing)) > ERODE_MM


def _monomials(mask: np.ndarray, degree: int) -> np.ndarray:
    """Monomials up to `degree` at the mask's voxels, "n p"; coordinates are scaled to [-1, 1]."""
    index = [i for i in np.nonzero(mask) if np.ptp(i) > 0]  # an axis one voxel thick has no trend
    axes = [2.0 * (i - i.min()) / np.ptp(i) - 1.0 for i in index]
    columns = [np.ones(np.count_nonzero(mask)), *axes]
    if degree == 2:
        columns += [a * b for k, a in enumerate(axes) for b in axes[k:] if np.unique(a).size > 2 or a is not b]
    return np.stack(columns, axis=1)
