"""A victim that needs no training and answers in milliseconds, for tests of everything around a model.

It averages each voxel with its neighbours and tells three ranges of HU apart by linear scores whose upper envelope
changes at 0 and at 150 HU: background below, liver between, bone above. Use as `tests/core/tiny.py:volume` or `…:flat`.
"""

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perturbox.model.sliding import Window
from perturbox.model.victim import IntensityWindow, Victim

LABELS = {"background": 0, "liver": 1, "bone": 2}
LIMITS_HU = (0.0, 150.0)
RANGE_HU = IntensityWindow(-250.0, 350.0)
SHAPE, SPACING = (24, 22, 18), (2.0, 2.0, 3.0)


class Ranges(nn.Module):
    """Scores k * v - b_k of the smoothed value v; neighbours' scores are equal exactly at the limits."""

    def __init__(self, dims: int):
        super().__init__()
        self.pool = F.avg_pool3d if dims == 3 else F.avg_pool2d
        limits = [float(RANGE_HU(torch.tensor(limit))) for limit in LIMITS_HU]
        self.register_buffer("offsets", torch.tensor([0.0, limits[0], sum(limits)]))
        self.register_buffer("slopes", torch.arange(3.0))

    def forward(self, x: Tensor) -> Tensor:
        smooth = self.pool(x, 3, stride=1, padding=1, count_include_pad=False)
        shape = (1, -1, *[1] * (x.dim() - 2))
        return 20 * (smooth * self.slopes.view(shape) - self.offsets.view(shape))


def volume(device: torch.device) -> Victim:
    """The 3D victim, in windows of 16."""
    window = Window((16, 16, 16), overlap=0.25)
    return Victim(
        "tiny", Ranges(3), LABELS, window, normalise=RANGE_HU, orientation="RAS", licence="none", device=device
    )


def flat(device: torch.device) -> Victim:
    """The same in 2D, for pictures and slice by slice."""
    window = Window((16, 16), overlap=0.25)
    return Victim("tiny-2d", Ranges(2), LABELS, window, normalise=RANGE_HU, dims=2, licence="none", device=device)


def scan(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    """int16 HU: a body of fat in air, in it a liver of 8 ± 3 HU, which 10 HU can take away, and a bone of 400 HU."""
    places = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    around = np.sqrt(sum(p**2 for p in places))
    hu = np.full(shape, -1000.0)
    hu[around < 0.95] = -100
    hu[(around < 0.7) & (places[0] < 0.2)] = 8
    hu[(around < 0.8) & (places[0] > 0.45)] = 400
    return np.rint(hu + np.random.default_rng(seed).normal(0, 3, shape)).astype(np.int16)


def write_scan(path, shape: tuple[int, ...] = SHAPE, seed: int = 0):
    """The scan as NIfTI with this module's spacing; returns the path."""
    nib.save(nib.Nifti1Image(scan(shape, seed), np.diag([*SPACING, 1.0])), path)
    return path
