"""Pictures and volumes, grey and in colour, with victims that need no training: `tests/core/spots.py:colour_flat`.

A victim mixes the channels, smooths, and calls "spot" what is above 100. `kinds` lists what there is.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perturbox import io
from perturbox.model.sliding import Window
from perturbox.model.victim import Victim
from perturbox.types import Volume

LABELS = {"background": 0, "spot": 1}
LIMIT = 100.0
MIX = (0.5, 0.3, 0.2)  # of red, green and blue
SHAPES = {"flat": (40, 32), "slices": (28, 24, 6), "volume": (28, 24, 6)}
KINDS = [(colour, grid) for colour in ("grey", "colour") for grid in SHAPES]


class Bright(nn.Module):
    def __init__(self, dims: int, channels: int):
        super().__init__()
        self.smooth = F.avg_pool3d if dims == 3 else F.avg_pool2d
        self.register_buffer("mix", torch.tensor(MIX if channels == 3 else (1.0,)))

    def forward(self, x: Tensor) -> Tensor:
        grey = torch.einsum("bc...,c->b...", x, self.mix)[:, None]
        score = (self.smooth(grey, 3, stride=1, padding=1, count_include_pad=False) - LIMIT) / 10
        return torch.cat([torch.zeros_like(score), score], 1)


def _victim(name: str, dims: int, channels: int, device: torch.device) -> Victim:
    window = Window((16,) * 2 if dims == 2 else (16, 16, 6), overlap=0.25)
    network = Bright(dims, channels)
    return Victim(name, network, LABELS, window, unit="intensity", dims=dims, channels=channels, device=device)


def grey_flat(device: torch.device) -> Victim:
    return _victim("grey-flat", 2, 1, device)


def grey_slices(device: torch.device) -> Victim:
    return _victim("grey-slices", 2, 1, device)


def grey_volume(device: torch.device) -> Victim:
    return _victim("grey-volume", 3, 1, device)


def colour_flat(device: torch.device) -> Victim:
    return _victim("colour-flat", 2, 3, device)


def colour_slices(device: torch.device) -> Victim:
    return _victim("colour-slices", 2, 3, device)


def colour_volume(device: torch.device) -> Victim:
    return _victim("colour-volume", 3, 3, device)


def drawn(colour: str, grid: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(values "c *s" of a bright spot on dark ground, uint8, channels unlike each other; the spot, uint8 "*s")."""
    shape, rng = SHAPES[grid], np.random.default_rng(seed)
    places = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    spot = sum(place**2 for place in places) < 0.5
    levels = [(130, 60), (110, 70), (90, 40)] if colour == "colour" else [(115, 60)]
    values = [np.where(spot, high, low) + rng.integers(-5, 6, shape) for high, low in levels]
    return np.stack(values).astype(np.uint8), spot.astype(np.uint8)


def write(folder, colour: str, grid: str, format: str | None = None, seed: int = 0):
    """Write such a scan and its expert label map; returns their paths."""
    values, spot = drawn(colour, grid, seed)
    format = format or (".png" if grid == "flat" else ".nii.gz")
    unit = {"unit": "intensity", "dtype": np.dtype(np.uint8), "format": format}
    volume = Volume(values.astype(np.float32), **unit)
    image, label = folder / f"scan{format}", folder / ("label.png" if format == ".png" else "label.nii.gz")
    io.write_volume(image, volume)
    io.write_volume(label, volume.with_data(spot[None].astype(np.float32)))
    return image, label
