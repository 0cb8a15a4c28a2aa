"""A random trunk, shoulders to mid thigh, as a material map at 3 mm."""

import numpy as np
from numpy.typing import NDArray

from perturbox.zoo.abdomen import paint_abdomen, paint_pelvis
from perturbox.zoo.bowel import paint_bowel
from perturbox.zoo.canvas import Canvas
from perturbox.zoo.muscles import paint_muscles
from perturbox.zoo.skeleton import paint_skeleton
from perturbox.zoo.surroundings import paint_surroundings
from perturbox.zoo.thorax import paint_thorax
from perturbox.zoo.trunk import make_trunk


def make_anatomy(seed: int) -> NDArray[np.uint8]:
    """Material map (x, y, z) of `canvas.SHAPE` voxels of 3 mm in RAS order; the same seed gives the same patient."""
    canvas = Canvas(np.random.default_rng(seed))
    trunk = make_trunk(canvas)
    paint_thorax(trunk)
    paint_bowel(trunk)
    paint_abdomen(trunk)
    paint_pelvis(trunk)
    paint_muscles(trunk)
    paint_skeleton(trunk)
    paint_surroundings(trunk)
    return canvas.map
