"""Six colour victims in 2D that need no training, three that look for red and three that look for blue: for studies.

Each mixes the channels, smooths, and calls "spot" what is above 100: `tests/core/mixes.py:red1` … `blue3`. `answer`
says the same in NumPy.
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from spots import LABELS, LIMIT, Bright

from perturbox.model.sliding import Window
from perturbox.model.victim import Victim

SHAPE = (40, 32)  # width, height
# No round numbers, for a pixel whose mean is the limit itself would hang on the order of a sum.
MIXES = {
    "red1": (1.2013, 0.2007, -0.402), "red2": (1.1517, 0.2011, -0.3528), "red3": (1.1023, 0.2989, -0.4012),
    "blue1": (-0.4003, 0.2017, 1.1986), "blue2": (-0.3509, 0.2003, 1.1506), "blue3": (-0.4019, 0.2993, 1.1026),
}  # fmt: skip


def victim(device: torch.device, name: str) -> Victim:
    network = Bright(2, 3)
    network.mix = torch.tensor(MIXES[name])
    window = Window((48, 48), batch=1, padding="replicate")
    return Victim(name, network, LABELS, window, unit="intensity", dims=2, channels=3, device=device)


red1, red2, red3, blue1, blue2, blue3 = (partial(victim, name=name) for name in MIXES)


def answer(picture: NDArray[np.uint8], name: str) -> NDArray[np.bool_]:
    """Where that victim sees a spot in a picture "y x c"."""
    grey = picture.astype(np.float64) @ np.array(MIXES[name], np.float32).astype(np.float64)
    return ndimage.uniform_filter(grey, 3, mode="nearest") > LIMIT


def draw(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A photograph "y x c" of a bright spot on dark ground, and the spot, which lies elsewhere in each."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in reversed(SHAPE)), indexing="ij")
    shift = rng.uniform(-0.2, 0.2, 2)
    spot = (y - shift[0]) ** 2 + (x - shift[1]) ** 2 < rng.uniform(0.3, 0.6)
    levels = np.where(spot[..., None], (104, 105, 106), (70, 60, 50))
    return (levels + rng.integers(-6, 7, levels.shape)).astype(np.uint8), spot


def write(folder, count: int, suffix: str = ".png") -> None:
    """Photographs eye1…, and their masks as drawing programs save them, white on black."""
    for number in range(1, count + 1):
        picture, spot = draw(number)
        Image.fromarray(picture).save(Path(folder) / f"eye{number}{suffix}", quality=95)
        Image.fromarray((255 * spot).astype(np.uint8)).save(Path(folder) / f"eye{number}_mask.png")
