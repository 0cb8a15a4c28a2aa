"""Victims for MR, whose intensities have no unit, with weights of their own. `load_victim` finds the functions (device)
-> Victim."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from victims import Thresholds

from perturbox.model.sliding import Window
from perturbox.model.victim import Victim


class Smooth(nn.Module):
    """The mean of each voxel's neighbourhood."""

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool3d(x, 3, stride=1, padding=1, count_include_pad=False)


def tissue(device: torch.device) -> Victim:
    """Tissue is what is brighter than 100 in its neighbourhood, of one channel."""
    return Victim(
        "tissue",
        nn.Sequential(Smooth(), Thresholds([100.0], slope=0.02)),
        {"background": 0, "tissue": 1},
        Window((48, 48, 20), overlap=0.25),
        unit="intensity",
        licence="none",
        device=device,
    )
