"""Kernel density: how dense clean scans lie where the features of each class are, in the last hidden layer."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from perturbox.detectors.method import (
    Layout,
    Method,
    Parts,
    centred,
    judged,
    known_groups,
    require_points,
    scale_of,
    shown,
    table,
)
from perturbox.detectors.seen import Sample

BANDWIDTHS = torch.logspace(-1, 1, 41, dtype=torch.float64)  # in standard deviations of a channel


class KernelDensity(Method):
    """Density of each class's features under Gaussian kernels on clean ones. Feinman et al. 2017, arXiv 1703.00410."""

    title = "Kernel density"
    paper = "Feinman et al. 2017, arXiv 1703.00410"
    deviations = (
        "features are pooled inside the voxels of each class the model finds and divided by their channel's standard "
        "deviation within classes; the score is the mean log density over classes",
        "the bandwidth is that under which the clean scans predict each other best, not tuned on attacks",
        "alone, without the regression on attacked scans that the paper joins it with dropout by",
        "both ways: a scan in denser places than clean ones are in is as odd as one in emptier places",
    )
    last_layer = True

    def fit(self, clean: Sequence[Sample], attacked: Sequence[Sample]) -> dict[str, Tensor]:
        (layer,) = clean[0].features
        there, values = shown(clean), table(clean, layer)
        known = known_groups(there)
        scale = scale_of(centred(values, there & known)[1])
        parts = {
            "points": values / scale, "there": there.double(), "known": known.double(), "scale": scale,
            "bandwidth": torch.ones((), dtype=torch.float64, device=values.device),
        }  # fmt: skip
        likely = torch.stack([self._left_out(parts | {"bandwidth": h}) for h in BANDWIDTHS.to(values.device)])
        return parts | {"bandwidth": BANDWIDTHS.to(values.device)[likely.argmax()]}

    def raw(self, parts: Parts, sample: Sample) -> Tensor:
        (features,) = sample.features.values()
        groups = judged(parts["known"], sample)
        return -torch.stack([self._log_density(parts, features[g] / parts["scale"], int(g)) for g in groups]).mean()

    def _log_density(self, parts: Parts, point: Tensor, group: int, without: int | None = None) -> Tensor:
        """log density of a group at a standardised point "c", without one of the points it is made of."""
        there = parts["there"][:, group] > 0
        if without is not None:
            there = there & (torch.arange(len(there), device=there.device) != without)
        points, h = parts["points"][there, group], parts["bandwidth"]
        exponents = -(point - points).square().sum(1) / (2 * h.square())
        normal = math.log(len(points)) + points.shape[1] * (0.5 * math.log(2 * math.pi) + h.log())
        return exponents.logsumexp(0) - normal

    def _left_out(self, parts: Parts) -> Tensor:
        """The sum of log densities of all points, each under the others of its group."""
        total = torch.zeros((), dtype=torch.float64, device=parts["points"].device)
        for n, g in torch.nonzero((parts["there"] > 0) & (parts["known"] > 0)).tolist():
            total = total + self._log_density(parts, parts["points"][n, g], g, without=n)
        return total

    def shapes(self, layout: Layout) -> dict[str, tuple[int | str, ...]]:
        channels = sum(layout.layers.values())
        return {
            "points": ("n", layout.groups, channels),
            "there": ("n", layout.groups),
            "known": (layout.groups,),
            "scale": (channels,),
            "bandwidth": (),
        }

    def require(self, parts: Parts) -> None:
        require_points(parts, 1)
        if not (parts["scale"] > 0).all() or not parts["bandwidth"] > 0:
            raise ValueError
