"""Less dose: the noise that fewer photons leave in the projections, reconstructed and added to the scan.

Noise of the line integrals after Yu et al. 2012 (J Comput Assist Tomogr 36:477), for a share a of the dose and N₀
photons at full dose:

    variance = (1 - a) / a · e^p / N₀ · (1 + (1 + a) / a · σ_e² e^p / N₀)

Only the noise is reconstructed, so the scan keeps its own edges and noise. N₀ isn't in any file: it is the one at which
full dose has the scan's own noise inside the body.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np

from perturbox.corruptions.geometry import plane
from perturbox.errors import InputError
from perturbox.types import Volume

WATER = 0.0192  # 1/mm, at 70 keV
BODY = -500.0  # HU: what is denser is the patient
ELECTRONIC = 10.0  # SD of the detector's own noise, in counts
VIEWS = math.sqrt(2)  # times a slice's side: as many as its finest detail needs, nearly
Values = Mapping[str, float]


def dose(image: Volume, seed: int, sigma: float | None) -> Callable[[Values], np.ndarray]:
    """Values "c *s" at a `share` of the scan's dose; sigma: SD of the scan's noise, in HU.

    Parallel beams. Raises InputError where sigma isn't known, voxels of a slice aren't square, or nothing is body.
    """
    axes = plane(image)
    if sigma is None:
        raise InputError("The scan's own noise can't be measured, so there is no dose to lower; leave dose out.")
    if not math.isclose(image.spacing[axes[0]], image.spacing[axes[1]], rel_tol=0.01):
        raise InputError("Voxels of an axial slice aren't square here, which projections need; leave dose out.")
    if not (image.data > BODY).any():
        raise InputError("No voxel is denser than -500 HU, so there is no body to project; leave dose out.")
    sinograms = Sinograms(image, axes, seed)
    quantum = sinograms.image(lambda thick: np.sqrt(thick))  # of one photon
    photons = float(np.square(quantum[image.data > BODY]).mean()) / sigma**2

    def change(values: Values) -> np.ndarray:
        a = values["share"]

        def noise(thick: np.ndarray) -> np.ndarray:
            one = thick / photons
            return np.sqrt((1 - a) / a * one * (1 + (1 + a) / a * ELECTRONIC**2 * one))

        return image.data.astype(np.float64) + sinograms.image(noise)

    return change


class Sinograms:
    """Projections of every axial slice, and one standard normal number for each ray."""

    def __init__(self, image: Volume, axes: tuple[int, int], seed: int):
        from skimage.transform import radon

        self.mm, self.inside = image.spacing[axes[0]], [1 + axis for axis in axes]
        moved = np.moveaxis(image.data.astype(np.float64), self.inside, (-2, -1))
        self.moved, stack = moved.shape, moved.reshape(-1, *moved.shape[-2:])
        self.side = max(stack.shape[1:])
        room = [(0, self.side - n) for n in stack.shape[1:]]
        self.angles = np.linspace(0.0, 180.0, math.ceil(VIEWS * self.side), endpoint=False)
        rng = np.random.default_rng(seed)
        self.thick, self.drawn = [], []
        for piece in stack:
            attenuation = np.pad(WATER * (1 + np.maximum(piece, -1000.0) / 1000), room)
            through = self.mm * radon(attenuation, self.angles, circle=False)
            self.thick.append(np.exp(through).astype(np.float32))
            self.drawn.append(rng.standard_normal(through.shape, dtype=np.float32))

    def image(self, size: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """HU "c *s" of noise whose SD is `size` of e^p, ray by ray."""
        from skimage.transform import iradon

        made = np.empty((len(self.thick), self.side, self.side))
        for n, (thick, drawn) in enumerate(zip(self.thick, self.drawn, strict=True)):
            rays = size(thick.astype(np.float64)) * drawn
            made[n] = iradon(rays, self.angles, output_size=self.side, circle=False)
        rows, columns = self.moved[-2:]
        hu = made[:, :rows, :columns] * 1000 / (WATER * self.mm)
        return np.moveaxis(hu.reshape(self.moved), (-2, -1), self.inside)
