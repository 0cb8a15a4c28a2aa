"""Another reconstruction kernel of CT: each axial slice's spectrum times the ratio of two transfer functions.

The soft one is a Gaussian, H(f) = exp(-2 π² σ² f²); the sharp one is unsharp masking, 1 + a (1 - H(f)), as x + a (x -
G_σ x). In the cosine transform, which mirrors a slice at its border; a Gaussian sampled at voxels would be the identity
for σ below a third of a voxel.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy import fft

from perturbox.corruptions.geometry import plane
from perturbox.types import Volume

Values = Mapping[str, float]


def smooth(image: Volume, seed: int, sigma: float | None) -> Callable[[Values], np.ndarray]:
    """Values "c *s" under a Gaussian of SD `mm` in each axial slice."""
    return _filtered(image, lambda values, low: low)


def sharpen(image: Volume, seed: int, sigma: float | None) -> Callable[[Values], np.ndarray]:
    """Values "c *s" sharpened by `amount` of what a Gaussian of SD `mm` takes away in each axial slice."""
    return _filtered(image, lambda values, low: 1 + values["amount"] * (1 - low))


def _filtered(image: Volume, gain: Callable[[Values, np.ndarray], np.ndarray]) -> Callable[[Values], np.ndarray]:
    axes = plane(image)
    inside = [1 + axis for axis in axes]
    squares = _squares(image.data.shape, inside, [image.spacing[axis] for axis in axes])

    def change(values: Values) -> np.ndarray:
        low = np.exp(-2 * np.pi**2 * values["mm"] ** 2 * squares)
        waves = np.asarray(fft.dctn(image.data.astype(np.float64), axes=inside, norm="ortho"))
        return np.asarray(fft.idctn(waves * gain(values, low), axes=inside, norm="ortho"))

    return change


def _squares(shape: Sequence[int], axes: Sequence[int], spacing: Sequence[float]) -> np.ndarray:
    """Squared frequency in 1/mm² of each coefficient of a cosine transform along `axes`."""
    total = np.zeros([1] * len(shape))
    for axis, mm in zip(axes, spacing, strict=True):
        one = np.arange(shape[axis]) / (2 * shape[axis] * mm)
        total = total + (one**2).reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return total
