"""Whole phantom scans with their labels, by seed: the demo's case and held-out test material."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from perturbox.zoo.acquisition import draw_acquisition
from perturbox.zoo.anatomy import make_anatomy
from perturbox.zoo.appearance import colour, deform
from perturbox.zoo.canvas import BOTTOM, SHAPE, SPACING
from perturbox.zoo.materials import LABEL_OF


def phantom_case(
    seed: int, shape: Sequence[int] = (128, 104, 112), spacing: float = 3.0, level: float = -20.0
) -> tuple[NDArray[np.int16], NDArray[np.uint8], NDArray[np.float64]]:
    """A phantom CT (int16 HU), its class labels (uint8) and its affine (ijk to RAS, mm), the same for the same seed.

    shape (x, y, z) voxels of `spacing` mm; `level` is the z of the middle slice, 0 mm at the junction of T12 and L1
    (the trunk reaches from -330 to 315 mm). Voxels beyond the trunk's ends repeat its end slices.
    """
    rng = np.random.default_rng([seed, 1])
    size = np.array(shape)
    middle = np.array([(SHAPE[0] - 1) / 2, (SHAPE[1] - 1) / 2, (level - BOTTOM) / SPACING], np.float32)
    materials = deform(make_anatomy(seed), rng, shape, middle, np.full(3, spacing / SPACING, np.float32))
    hu = colour(materials, draw_acquisition(rng), rng)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = np.array([0, 0, level]) - spacing * (size - 1) / 2
    return np.rint(hu).astype(np.int16), LABEL_OF[materials], affine
