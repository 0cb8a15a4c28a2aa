"""Victims for MR, whose intensities have no unit, with weights of their own. `load_victim` finds the functions (device)
-> Victim."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perturbox import io
from perturbox.model.pipeline import Pipeline
from perturbox.model.pipeline.intensity import ZScore
from perturbox.model.sliding import Window
from perturbox.model.victim import Victim
from perturbox.model.wrappers import Mirrored
from perturbox.types import Volume


class Smooth(nn.Module):
    """The mean of each voxel's neighbourhood."""

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool3d(x, 3, stride=1, padding=1, count_include_pad=False)


class Above(nn.Module):
    """Two labels: whether a voxel is brighter than a limit."""

    def __init__(self, limit: float):
        super().__init__()
        self.register_buffer("limit", torch.tensor(limit))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(x), 0.02 * (x - self.limit)], 1)


def tissue(device: torch.device) -> Victim:
    """Tissue is what is brighter than 100 in its neighbourhood, of one channel."""
    return Victim(
        "tissue",
        nn.Sequential(Smooth(), Above(100.0)),
        {"background": 0, "tissue": 1},
        Window((48, 48, 20), overlap=0.25),
        unit="intensity",
        licence="none",
        device=device,
    )


class Weighed(nn.Module):
    """Two structures of four channels: weighted sums of each voxel's z-scores, smoothed over its neighbours."""

    def __init__(self):
        super().__init__()
        self.smooth = Smooth()
        self.register_buffer("weights", torch.tensor([[0.8, 0.5, -0.3, 0.4], [-0.4, 0.9, 0.7, -0.5]]))

    def forward(self, x: Tensor) -> Tensor:
        core, rim = torch.einsum("kc,bc...->kb...", self.weights.to(x), self.smooth(x))
        return torch.stack([torch.zeros_like(core), 6 * (core - 2.55), 4 * (rim - 0.75)], 1)


def four(device: torch.device) -> Victim:
    """Four channels, each z-scored over the whole scan, two structures."""
    return Victim(
        "four",
        Weighed(),
        {"background": 0, "core": 1, "rim": 2},
        Window((16, 16, 16), overlap=0.25),
        unit="intensity",
        channels=4,
        channel_names=("T1", "T1 with contrast", "T2", "FLAIR"),
        pipeline=Pipeline((ZScore(per_channel=True),)),
        licence="none",
        device=device,
    )


def zscored(device: torch.device) -> Victim:
    """One channel, z-scored, mirrored along every axis, with regions one inside the other."""
    return Victim(
        "zscored",
        Mirrored(Nested(), (0, 1, 2)),
        {"background": 0, "whole": 1, "core": 2},
        Window((16, 16, 16), overlap=0.25),
        regions=((1, 2), (2,)),
        unit="intensity",
        pipeline=Pipeline((ZScore(per_channel=True),)),
        licence="none",
        device=device,
    )


class Nested(nn.Module):
    """Whole is above 0.3 standard deviations in a voxel's neighbourhood, core above 1; answers are yes or no."""

    def __init__(self):
        super().__init__()
        self.smooth = Smooth()

    def forward(self, x: Tensor) -> Tensor:
        smooth = self.smooth(x)
        return 6 * torch.cat([smooth - 0.3, smooth - 1.0], 1)


def sequences(shape: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    """Four "sequences" of one phantom: a body with a ring and a core, whose brightness each sequence sees otherwise;
    uint8, int16, int16 and float32, in ranges that lie far apart."""
    rng = np.random.default_rng(seed)
    places = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    around = np.sqrt(sum(p**2 for p in places))
    parts = [around < 0.95, around < 0.7, around < 0.45]  # body, ring, core
    seen = [(40, 20, 60), (300, 250, 100), (900, -300, 700), (2.0, 1.5, -1.0)]
    kinds = [np.uint8, np.int16, np.int16, np.float32]
    made = []
    for levels, kind in zip(seen, kinds, strict=True):
        value = sum(level * part for level, part in zip(levels, parts, strict=True))
        value = value + rng.normal(0, 0.03 * abs(levels[0]) + 0.02, shape) + 2 * abs(levels[0])
        made.append(np.rint(value).astype(kind) if kind is not np.float32 else value.astype(kind))
    return made


def of_t1(t1: np.ndarray, seed: int = 0) -> list[np.ndarray]:
    """Four sequences made of a real T1 of bytes, as no public case is at hand: itself, darker with bright vessels, with
    its contrast turned over inside the head, and that suppressed where it is brightest."""
    rng = np.random.default_rng(seed)
    values = t1.astype(np.float64)
    top = np.percentile(values, 99)
    head = values > 0.1 * top
    t2 = np.where(head, 1.4 * top - values, values)
    made = [values, np.where(values > 0.8 * top, 1.3, 1.0) * values, 9 * t2, 4 * np.minimum(t2, 0.8 * top)]
    noisy = [made[0], *(np.where(head, part + rng.normal(0, 0.01 * part.max(), t1.shape), part) for part in made[1:])]
    return [t1, *(np.rint(np.clip(part, 0, 32767)).astype(np.int16) for part in noisy[1:])]


def scan(shape: tuple[int, ...], spacing: float = 2.0) -> Volume:
    """The four sequences as a scan of four files in memory."""
    affine = np.diag([spacing, spacing, spacing, 1.0])
    parts = [Volume(values[None].astype(np.float32), affine, "intensity", values.dtype) for values in sequences(shape)]
    return io.stack(["T1", "T1 with contrast", "T2", "FLAIR"], parts)
