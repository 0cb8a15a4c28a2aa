"""Small victims whose behaviour is known exactly, and scans made for them. `load_victim` finds the functions (device)
-> Victim."""

import numpy as np
import torch
from torch import Tensor, nn

from perturbox.model.sliding import Window
from perturbox.model.victim import IntensityWindow, Victim
from perturbox.types import Volume

CPU = torch.device("cpu")
HU_WINDOW = IntensityWindow(-250.0, 350.0)


class Thresholds(nn.Module):
    """Labels a voxel by the interval its value lies in; the upper envelope of lines makes that differentiable.

    The logits of neighbouring labels are equal at the threshold between them and part by `slope` per unit.
    """

    def __init__(self, thresholds: list[float], slope: float = 0.2):
        super().__init__()
        self.register_buffer("gain", slope * torch.arange(len(thresholds) + 1.0))
        self.register_buffer("offset", -slope * torch.cumsum(torch.tensor([0.0, *thresholds]), 0))

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1, *[1] * (x.dim() - 2))
        return self.gain.view(shape).to(x) * x + self.offset.view(shape).to(x)


class Linear(nn.Module):
    """Two labels, voxel by voxel: logit = weights . channels - bias."""

    def __init__(self, weights: list[float], bias: float):
        super().__init__()
        self.register_buffer("weights", torch.tensor(weights))
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        score = torch.einsum("c,bc...->b...", self.weights.to(x), x) - self.bias
        return torch.stack([torch.zeros_like(score), score], 1)


def conv_net(dims: int, classes: int = 3, seed: int = 0) -> nn.Module:
    """A smooth two-layer network that sees neighbours, seeded."""
    conv = nn.Conv2d if dims == 2 else nn.Conv3d
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(conv(1, 8, 3, padding=1), nn.Tanh(), conv(8, classes, 3, padding=1))


def organ(device: torch.device = CPU) -> Victim:
    """A structure of every voxel above 49.5 HU, in 3D."""
    return organ_of(3, device)


def organ_of(dims: int, device: torch.device = CPU, **changes) -> Victim:
    settings = {
        "name": "organ",
        "network": Thresholds([49.5]),
        "labels": {"background": 0, "organ": 1},
        "window": Window((16,) * dims, overlap=0.5, batch=4, padding="replicate"),
        "dims": dims,
        "device": device,
    }
    return Victim(**(settings | changes))


def layers(device: torch.device = CPU) -> Victim:
    """Soft tissue from 24.5 HU, organ from 74.5 HU, bone from 249.5 HU."""
    return organ_of(
        3,
        device,
        name="layers",
        network=Thresholds([24.5, 74.5, 249.5]),
        labels={"background": 0, "soft": 1, "organ": 2, "bone": 3},
    )


def textured(dims: int = 3, device: torch.device = CPU, **changes) -> Victim:
    """An untrained network of neighbours with three labels; its prediction means nothing but depends on every voxel."""
    settings = {
        "name": "textured",
        "network": conv_net(dims),
        "labels": {"background": 0, "left": 1, "right": 2},
        "window": Window((12,) * dims, overlap=0.5, batch=4, padding="replicate"),
        "normalise": IntensityWindow(-100.0, 100.0),
        "dims": dims,
        "device": device,
    }
    return Victim(**(settings | changes))


def ball(shape: tuple[int, ...], radius: float = 0.35) -> np.ndarray:
    """bool "*s": a ball in the middle, its radius a fraction of the shortest axis."""
    axes = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in shape], indexing="ij")
    return np.sqrt(sum(a**2 for a in axes)) < radius * min(shape)


def organ_scan(shape: tuple[int, ...] = (14, 12, 10), inside: float = 60.0, outside: float = 0.0, **changes) -> Volume:
    """A ball of one value in a body of another, int16 HU, one corner of air and one of bone."""
    data = np.where(ball(shape), inside, outside).astype(np.float32)
    data[(0,) * len(shape)], data[(-1,) * len(shape)] = -1000.0, 1500.0
    return Volume(data[None], **({"affine": np.diag([2.0, 2.0, 3.0, 1.0])} | changes))


def random_scan(shape: tuple[int, ...] = (14, 12, 10), seed: int = 0, scale: float = 60.0, **changes) -> Volume:
    """Noise in whole HU."""
    data = np.rint(np.random.default_rng(seed).normal(0, scale, shape)).astype(np.int16).astype(np.float32)
    return Volume(data[None], **({"affine": np.diag([2.0, 2.0, 3.0, 1.0])} | changes))


def seeded(device: torch.device = CPU) -> Victim:
    """`textured` in 3D, for `load_victim`."""
    return textured(3, device)
