"""What makes an image usable: a sound grid, finite values, numbers that survive computing, and CT that is in HU."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from perturbox.types import Geometry, InputError, Volume

# The cosine between two axes above which a grid is sheared: by 0.3 degrees.
RIGHT_ANGLE = 5e-3
# HU: what is below is air or outside the body; what is below is nothing a scanner measured.
AIR, NO_TISSUE = -500, -1500
FEW = 1e-3  # of the voxels
# Every integer up to these survives in a float of that size.
EXACT_IN_FLOAT32, EXACT_IN_FLOAT64 = 2**24, 2**53


@dataclass(frozen=True, eq=False)
class Stored:
    """What a file holds: raw values "c *s", the affine ijk -> RAS in mm, and how values become units."""

    values: np.ndarray
    affine: np.ndarray
    format: str
    slope: float = 1.0
    intercept: float = 0.0
    header: Mapping[str, object] = field(default_factory=dict)
    geometry: Geometry = "patient"
    notes: tuple[str, ...] = ()


def check_size(path: Path, shape: tuple[int, ...]) -> None:
    """Raises InputError unless these are the sizes of a 2D or 3D image with at least one voxel."""
    sizes = "×".join(map(str, shape))
    if len(shape) > 3:
        raise InputError(f"{path} has {len(shape)} dimensions ({sizes}), like a time series; save one 3D volume of it.")
    if len(shape) < 2:
        raise InputError(f"{path} has {len(shape)} dimension(s); give a 2D or 3D image.")
    if min(shape) < 1:
        raise InputError(f"{path} holds no voxels ({sizes}); export it again.")


def check_spacing(path: Path, spacing: tuple[float, ...]) -> None:
    """Raises InputError unless the distances between voxels, mm, are positive numbers."""
    for axis, distance in enumerate(spacing):
        if not (np.isfinite(distance) and distance > 0):
            raise InputError(
                f"{path} says its voxels are {distance:g} mm apart along axis {'ijk'[axis]}; "
                "correct the spacing or export the scan again."
            )


def check_grid(path: Path, stored: Stored) -> None:
    """Raises InputError unless the affine places every voxel somewhere else."""
    check_size(path, stored.values.shape[1:])
    dims = stored.values.ndim - 1
    if not np.isfinite(stored.affine).all():
        raise InputError(f"{path} has a position or direction that isn't a number; export the scan again.")
    axes = stored.affine[:3, :dims]
    lengths = np.linalg.norm(axes, axis=0)
    check_spacing(path, tuple(lengths))
    if np.linalg.svd(axes / lengths, compute_uv=False)[-1] < 1e-4:
        raise InputError(f"{path} has two axes along the same direction (a singular affine); export the scan again.")
    units = axes / lengths
    leaning = float(np.abs(np.triu(units.T @ units, 1)).max())
    if leaning > RIGHT_ANGLE:
        angle = np.degrees(np.arccos(leaning))
        raise InputError(
            f"{path} has a sheared grid: two of its axes are {angle:.1f} degrees apart instead of 90, as of a tilted "
            "gantry; resample it to axes at right angles."
        )


def check_values(path: Path, values: np.ndarray, allow_constant: bool = False) -> None:
    """Raises InputError for values that are complex, NaN, infinite or all the same."""
    if values.dtype.kind not in "iuf":
        raise InputError(f"{path} holds values that aren't real numbers; save its magnitude or one channel of it.")
    if values.dtype.kind == "f":
        bad = int(values.size - np.isfinite(values).sum())
        if bad:
            kind = "NaN" if np.isnan(values).any() else "infinite"
            raise InputError(f"{path} holds {bad} {kind} value(s); replace them, for example by the value of air.")
    if not allow_constant and values.min() == values.max():
        raise InputError(
            f"{path} has the same value ({values.flat[0]:g}) in every voxel; give a scan that shows something."
        )


def to_volume(path: Path, stored: Stored, unit: str) -> Volume:
    """The values in their unit, in float32 where that holds every one of them exactly, else in float64.

    Raises InputError if not even float64 gives back exactly what is stored.
    """
    values, slope, intercept = stored.values, stored.slope, stored.intercept
    if slope == 1 and intercept == 0:
        if values.dtype.kind == "f":
            data = values.astype(np.float32 if values.dtype.itemsize <= 4 else np.float64)
        else:
            largest = max(abs(int(values.min())), abs(int(values.max())))
            data = values.astype(np.float32 if largest <= EXACT_IN_FLOAT32 else np.float64)
            if largest > EXACT_IN_FLOAT64:
                raise InputError(f"{path} holds integers up to {largest}, too large to compute with; rescale them.")
    else:
        data = slope * values.astype(np.float64) + intercept
        if values.dtype.kind != "f":
            small = data.astype(np.float32)
            data = small if (small == data).all() else data
    volume = Volume(
        data=data,
        affine=stored.affine,
        unit=unit,
        dtype=values.dtype,
        slope=slope,
        intercept=intercept,
        format=stored.format,
        header=stored.header,
        geometry=stored.geometry,
        notes=stored.notes,
    )
    if (slope != 1 or intercept != 0) and not np.array_equal(volume.stored(), values):
        raise InputError(
            f"{path} stores values whose slope {slope:g} and intercept {intercept:g} lose digits; "
            "save it with its final values as floating-point numbers."
        )
    return volume


def check_hu(volume: Volume, force: bool = False) -> list[str]:
    """Warnings about a CT's values; raises InputError if they can't be Hounsfield units, with `force` only warns of it.

    CT shows air (below -500 HU) or, in a crop inside the body, fat (-200 to -50 HU), either in at least 0.1 % of the
    voxels. MR, 8-bit pictures, and CT without its rescale intercept or already normalised show neither.
    """
    data = volume.data
    lowest, highest = float(data.min()), float(data.max())
    air, fat = (np.count_nonzero(where) / data.size for where in (data < AIR, (data >= -200) & (data <= -50)))
    if volume.unit != "HU" or max(air, fat) < FEW:
        problem = (
            f"Values run from {lowest:g} to {highest:g}. This is not CT in Hounsfield units, "
            "so a limit in HU means nothing. Load the original CT or pass --force."
        )
        if not force:
            raise InputError(problem)
        return [problem]
    warnings = []
    if air < FEW:
        warnings += _about_a_scan_without_air(data, fat)
    warnings += _about_clipping(data, lowest, highest)
    if lowest < NO_TISSUE:
        warnings.append(
            f"Values go down to {lowest:g} HU, below air: padding around the scan, which an attack leaves alone."
        )
    if highest > 4095:
        warnings.append(f"Values go up to {highest:g} HU, above bone: metal, or a scan on an extended scale.")
    return warnings


def _about_a_scan_without_air(data: np.ndarray, fat: float) -> list[str]:
    """MR can have the few negative values that resampling makes; CT inside a body is soft tissue with fat."""
    bright = np.count_nonzero(data > 300) / data.size
    if fat >= 0.01 and bright <= 0.3:
        return []
    return [
        f"No voxel shows air, {fat:.1%} show fat (-200 to -50) and {bright:.0%} more than 300: if this is no CT, for "
        "example MR, a limit in HU means nothing."
    ]


def _about_clipping(data: np.ndarray, lowest: float, highest: float) -> list[str]:
    """A window leaves a plateau at either end; scanners themselves end at air or below, and above bone."""
    low, high = np.count_nonzero(data == lowest) / data.size, np.count_nonzero(data == highest) / data.size
    at_top = high >= 5e-4 and highest < 2000
    if low < 5e-3 or not (at_top or lowest > -900):
        return []
    ends = f"{low:.0%} of the voxels are exactly {lowest:g}" + (
        f" and {high:.1%} exactly {highest:g}" if at_top else ""
    )
    return [
        f"{ends}: the scan was clipped to a window before. What lay outside is lost, and no change can leave the "
        "window; load the original CT."
    ]
