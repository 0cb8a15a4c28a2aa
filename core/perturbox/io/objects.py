"""Scans that are in memory already: arrays and the images of nibabel, SimpleITK and MONAI, read as their files would
be."""

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from perturbox.io import itk
from perturbox.io.checks import Stored, check_grid, check_values, to_volume
from perturbox.types import InputError, Volume


def from_object(image: Any, unit: str = "HU") -> Volume:
    """A `Volume` of an array "*s" or (array, affine), a nibabel or SimpleITK image, or a MONAI MetaTensor.

    Arrays have the axes (i, j) or (i, j, k); with four axes the first is the channel, as in MetaTensors of three or
    more. affine: 4x4, ijk -> RAS in mm, the identity if there is none. Integer types stay integer: a change is then in
    whole steps. Raises InputError for anything else, and for values or a geometry that can't be used.
    """
    if isinstance(image, Volume):
        return image
    stored = _stored(image)
    name = Path("The image")  # stands for a file's name in sentences
    check_grid(name, stored)
    check_values(name, stored.values, False)
    return to_volume(name, stored, unit)


def _stored(image: Any) -> Stored:
    if isinstance(image, sitk.Image):
        return Stored(itk.values_of(image), itk.affine_of(image), ".nrrd")
    if hasattr(image, "dataobj") and hasattr(image, "affine"):  # any of nibabel's spatial images
        if image.affine is None:
            raise InputError("The nibabel image has no affine; give (array, affine).")
        return _array(np.asanyarray(image.dataobj), image.affine)
    if hasattr(image, "affine") and hasattr(image, "as_tensor"):  # a MetaTensor, without importing MONAI
        values = image.as_tensor().detach().cpu().numpy()
        return _array(values, image.affine.cpu().numpy(), channel_first=values.ndim > 3 or len(values) in (1, 3))
    if isinstance(image, tuple) and len(image) == 2:
        return _array(np.asanyarray(image[0]), image[1])
    if isinstance(image, np.ndarray) or hasattr(image, "__array__"):
        return _array(np.asanyarray(image), np.eye(4))
    raise InputError(
        f"An image is a path, an array, (array, affine), a nibabel or SimpleITK image or a MetaTensor, "
        f"not a {type(image).__name__}."
    )


def _array(values: np.ndarray, affine: Any, channel_first: bool | None = None) -> Stored:
    affine = np.asarray(affine, float)
    if affine.shape == (3, 3):  # MONAI's affine of a 2D image
        affine = np.block([[affine[:2, :2], np.zeros((2, 1)), affine[:2, 2:]], [np.eye(4)[2:3]], [np.eye(4)[3:4]]])
    if affine.shape != (4, 4):
        raise InputError(f"An affine is 4×4 (ijk to RAS in mm), not {'×'.join(map(str, affine.shape))}.")
    if values.dtype.kind not in "iuf" or values.dtype.itemsize > 8:
        raise InputError(f"The image holds {values.dtype} values; give integers or floating-point numbers.")
    first = values.ndim == 4 if channel_first is None else channel_first
    values = values if first else values[None]
    return Stored(values, affine, ".nii.gz")
