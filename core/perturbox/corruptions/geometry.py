"""Which axes of a scan are a slice's own, and which one slices are stacked along."""

import numpy as np

from perturbox.types import Volume

THICK = 1.5  # times the next spacing: such an axis is the one slices are stacked along, wherever it points


def upward(image: Volume) -> int | None:
    """The axis nearest to the patient's length, along which CT stacks its slices; None of a flat image."""
    return (
        int(np.argmax(np.abs(image.affine[2, :3]) / np.linalg.norm(image.affine[:3, :3], axis=0)))
        if image.dims == 3
        else None
    )


def plane(image: Volume) -> tuple[int, int]:
    """The two axes of an axial slice."""
    up = upward(image)
    first, second = (axis for axis in range(image.dims) if axis != up)
    return first, second


def stacked(image: Volume) -> int | None:
    """The axis of the thickest voxels, or, where none stands out, `upward`."""
    if image.dims == 2:
        return None
    order = np.argsort(image.spacing)
    return int(order[-1]) if image.spacing[order[-1]] >= THICK * image.spacing[order[-2]] else upward(image)
