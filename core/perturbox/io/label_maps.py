"""Label maps: whole numbers on the scan's own voxels, in whatever order and type a file stores them."""

from pathlib import Path

import numpy as np

from perturbox.io.checks import Stored
from perturbox.io.formats import PHOTOGRAPHS
from perturbox.types import InputError, Volume

# How far from a whole number a label may be: what single precision and stored slopes do to it.
HAIR = 1e-4
# A stored step up to this is a library's compression of whole numbers into 8 or 16 bits, off by half a step.
FINE_STEP = 0.01
# More values than these, up to white, are soft edges.
HARD_VALUES = 8


def one_channel(path: Path, stored: Stored) -> Stored:
    """The one channel of a label map; raises InputError for colours and for JPEG, which changes values."""
    if stored.format in (".jpg", ".jpeg"):
        raise InputError(
            f"{path} is a JPEG file, which changes the values at every edge, so its labels can't be told; "
            "save the labels as .png."
        )
    values = stored.values
    if values.shape[0] == 3 and (values == values[0]).all():
        values = values[:1]  # grey that was saved as colour
    if values.shape[0] != 1:
        raise InputError(f"{path} is a colour image where a label map is needed; save one value per voxel.")
    return Stored(**{**vars(stored), "values": values})


def on_grid(path: Path, volume: Volume, like: Volume, notes: list[str]) -> Volume:
    """The label map on the scan's voxels, turned exactly where it stores the same ones in another order.

    Raises InputError if it lies on other voxels.
    """
    if volume.dims == 3 and like.dims == 2 and volume.shape[2] == 1:
        volume = volume.with_data(volume.data[..., 0])
    turned = volume if volume.same_grid(like) else _turned(volume, like)
    if turned is None:
        raise InputError(_different_grid(path, volume, like))
    if turned is not volume:
        notes.append("The label map stores the scan's voxels in another order and was turned onto them, exactly.")
    elif "spacing" in (volume.geometry, like.geometry) and not np.allclose(volume.affine, like.affine, atol=1e-2):
        which = "label map" if volume.geometry == "spacing" else "scan"
        notes.append(f"The {which} states no orientation, so scan and label map were matched voxel by voxel.")
    return turned


def whole_numbers(path: Path, volume: Volume, known: set[int] | None, notes: list[str]) -> np.ndarray:
    """The values as int32; raises InputError for fractions, negative values and values not in `known`."""
    values = volume.data[0]
    found = np.unique(values)
    away = np.abs(found - np.rint(found))
    fine = volume.step is not None and volume.step <= FINE_STEP
    allowed = max(HAIR, 0.51 * float(volume.step or 0)) if fine else HAIR
    if away.max() > allowed:
        worst = found[away.argmax()]
        cause = "" if volume.slope == 1 else f" (its slope is {volume.slope:.6g})"
        raise InputError(f"{path} holds fractions such as {worst:.9g}{cause}; a label map has whole numbers.")
    if away.max() > 0:
        worst = found[away.argmax()]
        notes.append(f"The label map stores whole numbers as fractions such as {worst:.9g}; they were rounded.")
        found = np.unique(np.rint(found))
    if volume.format in PHOTOGRAPHS and found[-1] == 255 and len(found) > HARD_VALUES:
        raise InputError(
            f"{path} holds {len(found)} values from {found[0]:g} to 255, as soft edges do, so its labels can't be "
            "told; save one value per label, without smoothing and never through JPEG."
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
    return np.rint(values).astype(np.int32)


def _turned(volume: Volume, like: Volume) -> Volume | None:
    """The same voxels in the order of `like`; None if they aren't the same."""
    if volume.dims != like.dims or sorted(volume.shape) != sorted(like.shape):
        return None
    dims = volume.dims
    to_like = np.linalg.solve(like.affine, volume.affine)[:dims, :dims]  # ijk of the label map -> ijk of the scan
    signs = np.rint(to_like)
    if np.abs(to_like - signs).max() > 1e-2 or not (np.abs(signs).sum(0) == 1).all():
        return None
    if not (np.abs(signs).sum(1) == 1).all():
        return None
    order = [int(np.abs(signs[axis]).argmax()) for axis in range(dims)]  # the label map's axis along each of the scan's
    affine = volume.affine.copy()
    affine[:3, :dims] = volume.affine[:3, order]
    data = volume.data.transpose(0, *(axis + 1 for axis in order))
    for axis in range(dims):
        if signs[axis, order[axis]] < 0:
            affine[:3, 3] += affine[:3, axis] * (data.shape[axis + 1] - 1)
            affine[:3, axis] *= -1
            data = np.flip(data, axis + 1)
    turned = volume.with_data(np.ascontiguousarray(data), affine=affine)
    return turned if turned.same_grid(like) else None


def _different_grid(path: Path, volume: Volume, like: Volume) -> str:
    """The refusal for a label map that doesn't lie on the scan's voxels."""
    mine, other = ("×".join(map(str, v.shape)) for v in (volume, like))
    what = (
        f"{mine} {like.points} instead of {other}"
        if mine != other
        else "the same size at another place, spacing or direction"
    )
    return f"{path} lies on another grid than the scan ({what}); resample it to the scan by nearest neighbour."
