"""A victim with weights to train: voxel by voxel, the three ranges of HU of tests/core/tiny.py."""

import torch
from torch import nn

from perturbox.model.sliding import Window
from perturbox.model.victim import IntensityWindow, Victim

LABELS = {"background": 0, "liver": 1, "bone": 2}
LIMITS_HU = (0.0, 150.0)
RANGE_HU = IntensityWindow(-250.0, 350.0)


def network() -> nn.Module:
    """Scores 20 (k v - b_k) of the normalised value v, as weights and biases of a convolution of one voxel."""
    layer = nn.Conv3d(1, 3, 1)
    limits = [float(RANGE_HU(torch.tensor(limit))) for limit in LIMITS_HU]
    with torch.no_grad():
        layer.weight.copy_(20 * torch.arange(3.0).view(3, 1, 1, 1, 1))
        layer.bias.copy_(-20 * torch.tensor([0.0, limits[0], sum(limits)]))
    return layer.requires_grad_(False)


def volume(device: torch.device) -> Victim:
    window = Window((16, 16, 16), overlap=0.25)
    return Victim(
        "trainable",
        network(),
        LABELS,
        window,
        normalise=RANGE_HU,
        orientation="RAS",
        title="Three ranges",
        licence="none",
        device=device,
    )
