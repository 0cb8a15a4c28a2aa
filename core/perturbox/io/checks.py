"""What makes an image usable: a sound grid, finite values, numbers that survive computing, and CT that is in HU."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from perturbox.types import InputError, Volume

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
    )
    if (slope != 1 or intercept != 0) and not np.array_equal(volume.stored(), values):
        raise InputError(
            f"{path} stores values whose slope {slope:g} and intercept {intercept:g} lose digits; "
            "save it with its final values as floating-point numbers."
        )
    return volume


def different_grid(path: Path, volume: Volume, like: Volume) -> str:
    """The refusal for a label map that doesn't lie on the scan's voxels."""
    mine, other = ("×".join(map(str, v.shape)) for v in (volume, like))
    what = (
        f"{mine} voxels instead of {other}" if mine != other else "the same size at another place, spacing or direction"
    )
    return f"{path} lies on another grid than the scan ({what}); resample it to the scan by nearest neighbour."


def check_labels(path: Path, values: np.ndarray, known: set[int] | None) -> np.ndarray:
    """The values as int32; raises InputError for fractions, negative values and values not in `known`."""
    found = np.unique(values)
    if (found != np.rint(found)).any():
        raise InputError(
            f"{path} holds fractions such as {found[found != np.rint(found)][0]:g}; a label map has whole numbers."
        )
    if found[0] < 0 or found[-1] > np.iinfo(np.int32).max:
        extreme = found[0] if found[0] < 0 else found[-1]
        raise InputError(f"{path} holds the label {extreme:g}; labels run from 0 up, so renumber them.")
    unknown = [] if known is None else [int(v) for v in found if int(v) not in known]
    if unknown:
        shown = ", ".join(map(str, unknown[:5])) + (", …" if len(unknown) > 5 else "")
        values_known = ", ".join(map(str, sorted(known or ())))
        raise InputError(
            f"{path} holds labels the victim doesn't know ({shown}; known: {values_known}); map them with --label-map."
        )
    return values.astype(np.int32)


def check_hu(volume: Volume, force: bool = False) -> list[str]:
    """Warnings about a CT's values; raises InputError if they can't be Hounsfield units, with `force` only warns of it.

    CT shows air (below -500 HU) or, in a crop inside the body, fat (-200 to -50 HU), either in at least 0.1 % of the
    voxels. MR, 8-bit pictures, and CT without its rescale intercept or already normalised show neither.
    """
    lowest, highest = float(volume.data.min()), float(volume.data.max())
    warnings = []
    if volume.unit != "HU" or not _shows_air_or_fat(volume.data):
        problem = (
            f"Values run from {lowest:g} to {highest:g}. This is not CT in Hounsfield units, "
            "so a limit in HU means nothing. Load the original CT or pass --force."
        )
        if not force:
            raise InputError(problem)
        return [problem]
    if lowest < -1500:
        warnings.append(
            f"Values go down to {lowest:g} HU, below air: padding around the scan, which an attack leaves alone."
        )
    if highest > 4095:
        warnings.append(f"Values go up to {highest:g} HU, above bone: metal, or a scan on an extended scale.")
    return warnings


def _shows_air_or_fat(data: np.ndarray) -> bool:
    air = np.count_nonzero(data < -500)
    fat = np.count_nonzero((data >= -200) & (data <= -50))
    return bool(max(air, fat) >= 1e-3 * data.size)
