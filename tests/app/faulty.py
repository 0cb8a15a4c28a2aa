"""Models that break while they compute, each in its own way; otherwise like the tiny one: `faulty.py:hungry` …"""

import dataclasses
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from perturbox.model.victim import Victim

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "core"))
import tiny


class Hungry(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.empty(2**50)


class Stuck(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        while True:
            time.sleep(3600)


def hungry(device: torch.device) -> Victim:
    """Asks for more memory than any machine has."""
    return dataclasses.replace(tiny.volume(device), name="hungry", network=Hungry())


def stuck(device: torch.device) -> Victim:
    """Never comes back from its first window, and hears no wish to stop."""
    return dataclasses.replace(tiny.volume(device), name="stuck", network=Stuck())
