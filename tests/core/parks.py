"""Weights of the defence `park` for tests, learned in a second from made-up scans."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
import victims

from perturbox.defenses.park import Trained
from perturbox.defenses.training import train
from perturbox.types import Volume


def smooth_scan(seed: int, shape: tuple[int, ...] = (16, 18, 24), sigma: float = 1.0) -> Volume:
    """Waves with a little noise; the affine of a scan of 2 x 2 x 3 mm."""
    rng = np.random.default_rng(seed)
    places = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    waves = sum(30 * np.sin(place * rng.uniform(0.2, 0.4) + rng.uniform(0, 6)) for place in places)
    affine = np.diag([2.0, 2.0, 3.0, 1.0]) if len(shape) == 3 else np.eye(4)
    return Volume((waves + rng.normal(0, sigma, shape))[None].astype(np.float32), affine)


@cache
def trained(unit: str = "HU", dims: int = 3, iterations: int = 5) -> Trained:
    """Learned from 20 of them."""
    torch.set_num_threads(1)
    shape = (16, 18, 24)[:dims]
    scans = [lambda seed=seed: smooth_scan(seed, shape) for seed in range(20)]
    return train(scans, unit, 5.0, iterations=iterations, say=lambda text: None)


def written(folder: Path, unit: str = "HU", dims: int = 3) -> Path:
    """The same as a file."""
    trained(unit, dims).write(folder / f"{unit}.safetensors")
    return folder / f"{unit}.safetensors"


def noisy(scan: Volume, sigma: float = 20.0, seed: int = 9) -> Volume:
    return scan.with_data(scan.data + np.random.default_rng(seed).normal(0, sigma, scan.data.shape).astype(np.float32))


def victim(dims: int = 3, **changes):
    return victims.textured(dims, **changes)
