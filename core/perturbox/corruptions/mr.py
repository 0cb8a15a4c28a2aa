"""What happens to MR while it is taken: motion, ghosts, an uneven coil, noise.

By TorchIO's deterministic transforms and MONAI; what is random in them is drawn here, from the seed.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from perturbox.corruptions.geometry import stacked
from perturbox.types import Volume

ORDER = 3  # of the coil's polynomial
COEFFICIENTS = 20  # of three variables up to that order
UNEVEN = 0.3  # of the time between two movements, by which each may come earlier or later
Values = Mapping[str, float]
Change = Callable[[Values], np.ndarray]


def motion(image: Volume, seed: int, sigma: float | None) -> Change:
    """Values "c *s" of a scan whose lines of k-space were read while the patient moved `times` times, by up to
    `degrees` and `mm` along each axis (Shaw et al. 2019)."""

    def change(values: Values) -> np.ndarray:
        from torchio.transforms import Motion

        times, rng = int(values["times"]), np.random.default_rng(seed)
        degrees, mm = (rng.uniform(-values[name], values[name], (times, 3)) for name in ("degrees", "mm"))
        if image.dims == 2:
            degrees[:, :2], mm[:, 2] = 0, 0  # in its own plane only
        step = 1 / (times + 1)
        when = step * (np.arange(1, times + 1) + rng.uniform(-UNEVEN, UNEVEN, times))
        return _by(Motion(degrees, mm, when, "linear"), image)

    return change


def ghosting(image: Volume, seed: int, sigma: float | None) -> Change:
    """Values "c *s" with `ghosts` ghosts of an `intensity` along the phase direction: the longer of a slice's axes, for
    a drawn one would make grades cross."""
    lengths = [
        n * mm if axis != stacked(image) else 0
        for axis, (n, mm) in enumerate(zip(image.shape, image.spacing, strict=True))
    ]
    phase = int(np.argmax(lengths))

    def change(values: Values) -> np.ndarray:
        from torchio.transforms import Ghosting

        return _by(Ghosting(int(values["ghosts"]), phase, values["intensity"], None), image)

    return change


def bias_field(image: Volume, seed: int, sigma: float | None) -> Change:
    """Values "c *s" times the exponential of a polynomial of third order with coefficients of up to `largest`; grades
    differ in size, not in shape."""
    drawn = np.random.default_rng(seed).uniform(-1, 1, COEFFICIENTS)

    def change(values: Values) -> np.ndarray:
        from torchio.transforms import BiasField

        return _by(BiasField((values["largest"] * drawn).tolist(), ORDER), image)

    return change


def rician(image: Volume, seed: int, sigma: float | None) -> Change:
    """Magnitudes "c *s" of complex noise whose SD is a `share` of the scan's; values count from the scan's lowest."""

    def change(values: Values) -> np.ndarray:
        from monai.transforms.intensity.array import RandRicianNoise

        noise = RandRicianNoise(prob=1.0, std=values["share"], relative=True, sample_std=False)
        noise.set_random_state(seed)
        lowest = image.data.min()
        return np.asarray(noise((image.data - lowest).astype(np.float32))).astype(np.float64) + lowest

    return change


def _by(transform: Any, image: Volume) -> np.ndarray:
    """A TorchIO transform's answer; it takes a flat image as one slice."""
    import torchio

    data = image.data.astype(np.float32)
    made = transform(torchio.ScalarImage(tensor=data[..., None] if image.dims == 2 else data, affine=image.affine))
    return made.data.numpy().reshape(image.data.shape).astype(np.float64)
