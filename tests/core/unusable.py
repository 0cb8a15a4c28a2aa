"""Victims whose scores, losses or gradients can't be used, each in one known way; `load_victim` finds the functions
(device) -> Victim. All have the thresholds of `victims.layers`: soft tissue from 24.5 HU, organ from 74.5, bone from
249.5, voxel by voxel."""

import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn

_spec = importlib.util.spec_from_file_location("perturbox_victims", Path(__file__).with_name("victims.py"))
assert _spec is not None and _spec.loader is not None
victims = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(victims)

LIMITS = [24.5, 74.5, 249.5]


class Layers(nn.Module):
    """Scores of `victims.layers` of what `before` makes of the scan, as `after(scores, scan)` changes them."""

    def __init__(self, before=lambda x: x, after=lambda scores, x: scores):
        super().__init__()
        self.scores, self.before, self.after = victims.Thresholds(LIMITS), before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.scores(self.before(x)), x)


class Regions(Layers):
    """The same as yes-or-no answers: above 24.5, above 74.5, above 249.5 HU."""

    def forward(self, x: Tensor) -> Tensor:
        scores = torch.cat([0.2 * (self.before(x) - limit) for limit in LIMITS], 1)
        return self.after(scores, x)


def middle_is_nan(scores: Tensor, x: Tensor) -> Tensor:
    scores = scores.clone()
    scores[(slice(None), 1, *[n // 2 for n in x.shape[2:]])] = torch.nan
    return scores


def nan_at_1500(scores: Tensor, x: Tensor) -> Tensor:
    return scores.masked_fill(x >= 1500, torch.nan)


def infinite_above_1000(scores: Tensor, x: Tensor) -> Tensor:
    return scores.masked_fill(
        (x > 1000) & (torch.arange(scores.shape[1]).view(1, -1, *[1] * (x.dim() - 2)) == 2), torch.inf
    )


def nan_below_80(scores: Tensor, x: Tensor) -> Tensor:
    """Nothing in `three_tissues` lies between 60 and 80 HU before an attack brings it there."""
    return scores.masked_fill((x > 60) & (x < 80), torch.nan)


def half_precision(scores: Tensor, x: Tensor) -> Tensor:
    """Of the scan's values only 1500 HU overflows: 2 * 65504 / 100 = 1310."""
    return scores + 0 * (50 * x).half().float().nan_to_num(nan=torch.nan, posinf=torch.inf)


def rounding(x: Tensor) -> Tensor:
    return torch.round(x / 0.5) * 0.5


def rounding_but(low: float, high: float):
    """Rounds all values but those between these."""
    return lambda x: torch.where((x > low) & (x < high), x, torch.round(x))


def root(above: float):
    """The gradient of a root is no number where what stands under it is 0: here up to `above`."""
    return lambda scores, x: scores + 1e-6 * torch.sqrt((x > above) * (x - above))


def times_ten_thousand(scores: Tensor, x: Tensor) -> Tensor:
    return 1e4 * scores


def layered(network: nn.Module, dims: int = 3, device: torch.device = victims.CPU, **changes):
    labels = {"background": 0, "soft": 1, "organ": 2, "bone": 3}
    return victims.organ_of(dims, device, **({"name": "layers", "network": network, "labels": labels} | changes))


def nested(network: nn.Module, dims: int = 3):
    return layered(network, dims, regions=((1, 2, 3), (2, 3), (3,)))


def plain(device):
    return layered(Layers(), device=device)


def one_nan(device):
    return layered(Layers(after=middle_is_nan), device=device)


def overflowing(device):
    return layered(Layers(after=nan_below_80), device=device)


def flat(device):
    return layered(Layers(rounding), device=device)


def scaled(device):
    return layered(Layers(after=times_ten_thousand), device=device)
