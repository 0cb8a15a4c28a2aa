"""Changes of values and of slices that CT and MR share, by MONAI and TorchIO."""

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch

from perturbox.corruptions.geometry import stacked
from perturbox.errors import InputError
from perturbox.types import Volume

WINDOW = (-160.0, 240.0)  # HU: soft tissue, what contrast and gamma of CT are told in
Values = Mapping[str, float]
Change = Callable[[Values], np.ndarray]


def contrast(image: Volume, seed: int, sigma: float | None) -> Change:
    """Values "c *s" whose distance from the window's middle is `factor` times as large, inside the window."""
    from monai.transforms.intensity.array import ScaleIntensity

    middle = sum(WINDOW) / 2

    def change(values: Values) -> np.ndarray:
        scale = ScaleIntensity(minv=None, maxv=None, factor=values["factor"] - 1, dtype=np.float64)
        return _in_window(image, lambda x: np.clip(np.asarray(scale(x - middle)) + middle, *WINDOW))

    return change


def gamma_of_ct(image: Volume, seed: int, sigma: float | None) -> Change:
    """Values "c *s" inside the window under a power `gamma` of its range."""
    return lambda values: _in_window(image, lambda x: _power(x, values["gamma"]))


def gamma(image: Volume, seed: int, sigma: float | None) -> Change:
    """Values "c *s" of each channel under a power `gamma` of its range."""
    return lambda values: np.stack([_power(channel, values["gamma"]) for channel in image.data.astype(np.float64)])


def offset(image: Volume, seed: int, sigma: float | None) -> Change:
    """Values "c *s" that are all `hu` higher."""
    from monai.transforms.intensity.array import ShiftIntensity

    return lambda values: np.asarray(ShiftIntensity(values["hu"])(image.data.astype(np.float64)))


def slices(image: Volume, seed: int, sigma: float | None) -> Change:
    """Values "c *s" of a scan with `factor` times fewer slices, brought back to its own grid by linear interpolation.

    Slices are left out, not made thicker. Raises InputError of a flat image.
    """
    axis = stacked(image)
    if axis is None:
        raise InputError("A flat image has no slices that could be fewer; leave out the corruption slices.")

    def change(values: Values) -> np.ndarray:
        import torchio
        from torchio.transforms import RandomAnisotropy

        fewer = RandomAnisotropy(axes=(axis,), downsampling=(values["factor"], values["factor"]))
        # Beyond the last slice that is left it would put 0, which is water in CT: the outermost slices are repeated.
        beyond = math.ceil(2 * values["factor"])
        room = [(beyond, beyond) if a == 1 + axis else (0, 0) for a in range(image.data.ndim)]
        affine = image.affine.copy()
        affine[:3, 3] -= beyond * affine[:3, axis]
        wide = np.pad(image.data.astype(np.float32), room, mode="edge")
        with torch.random.fork_rng(devices=[]):  # it draws an axis among one, and a factor between two equal ones
            made = fewer(torchio.ScalarImage(tensor=wide, affine=affine)).data.numpy()
        inside = np.take(made, range(beyond, beyond + image.shape[axis]), axis=1 + axis)
        return inside.astype(np.float64)

    return change


def _in_window(image: Volume, work: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """What `work` makes of the part of the values that lies in the window; what lies beyond it stays as far beyond."""
    data = image.data.astype(np.float64)
    inside = np.clip(data, *WINDOW)
    return data + (work(inside) - inside)


def _power(x: np.ndarray, gamma: float) -> np.ndarray:
    from monai.transforms.intensity.array import AdjustContrast

    return np.asarray(AdjustContrast(gamma)(x))
