"""Samples, scans and detectors for tests: small, seeded, and known exactly."""

import numpy as np
import pytest
import torch
import victims
from torch import nn

from perturbox.detectors.fitting import fit_detector
from perturbox.detectors.seen import Sample
from perturbox.model.victim import Victim
from perturbox.types import Volume

WIDTHS = {"a": 3, "b": 5}
GROUPS, OUTPUTS = 3, 6


def sklearn():
    """scikit-learn; skips where it isn't installed."""
    return pytest.importorskip("sklearn", reason="fitting this detector needs scikit-learn, of the extra 'study'")


def samples(count: int, seed: int = 0, shift: float = 0.0, layers=("a", "b")) -> list[Sample]:
    """Made up ones; the last group is missing from every fourth."""
    rng = np.random.default_rng(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.normal(shift, 1, shape) * (1 + np.arange(shape[-1])))

    found = []
    for number in range(count):
        present = torch.tensor([True, True, number % 4 != 0])
        features = {name: drawn(GROUPS, WIDTHS[name]) * present[:, None] for name in layers}
        voxels = dict.fromkeys(layers, present * 50.0)
        outputs = torch.from_numpy(rng.uniform(0.05, 0.5, OUTPUTS) + 0.2 * shift)
        found.append(Sample(features, voxels, present, outputs, outputs[0] / 10))
    return found


def scans(count: int, shape: tuple[int, ...] = (14, 12)) -> list[Volume]:
    """Random pictures, each of another patient."""
    extra = {"affine": np.eye(4)} if len(shape) == 2 else {}
    return [victims.random_scan(shape, seed=seed, **extra) for seed in range(count)]


def reads(images: list[Volume]):
    return [lambda image=image: image for image in images]


def fitted(detector: str = "kernel-density", count: int = 12, victim: Victim | None = None, **options):
    """(victim, its scans, a detector of it)."""
    victim, images = victim or victims.textured(2), scans(count)
    return victim, images, fit_detector(victim, detector, reads(images), **options)


def with_dropout(dims: int = 2) -> Victim:
    """`victims.textured` with a dropout layer between its two convolutions."""
    first, act, last = victims.conv_net(dims)
    return victims.textured(dims, network=nn.Sequential(first, act, nn.Dropout2d(0.4), last))
