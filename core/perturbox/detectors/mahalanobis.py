"""Mahalanobis: how far the pooled features of each class lie from that class's mean on clean scans, layer by layer."""

from collections.abc import Sequence

import torch
from torch import Tensor

from perturbox.detectors.method import Layout, Method, Parts, centred, judged, known_groups, learner, shown, table
from perturbox.detectors.seen import TINY, Sample


class Mahalanobis(Method):
    """Distance from the mean of each class under one covariance for all. Lee et al. 2018, arXiv 1807.03888."""

    title = "Mahalanobis distance"
    paper = "Lee et al. 2018, arXiv 1807.03888"
    deviations = (
        "features are pooled inside the voxels of each class the model finds; the distance is to that class's own mean",
        "the covariance is shrunk after Ledoit and Wolf, because there are fewer scans than channels",
        "layers count alike, each distance by its number of channels, instead of being weighed by a regression that "
        "needs attacked scans; the logarithm of the mean is the score",
        "without the step against the score that the paper takes first",
        "both ways: a scan nearer to the means than clean ones are is as odd as one further off",
    )

    def fit(self, clean: Sequence[Sample], attacked: Sequence[Sample]) -> dict[str, Tensor]:
        there = shown(clean)
        known = known_groups(there)
        parts = {"known": known.double()}
        for layer in clean[0].features:
            means, left = centred(table(clean, layer), there & known)
            fitted = learner("covariance", "LedoitWolf")(assume_centered=True).fit(left.cpu().numpy())
            parts[f"{layer}|means"] = means
            parts[f"{layer}|factor"] = torch.linalg.cholesky(torch.from_numpy(fitted.precision_))
        return parts

    def raw(self, parts: Parts, sample: Sample) -> Tensor:
        groups = judged(parts["known"], sample)
        each = [
            ((features - parts[f"{layer}|means"])[groups] @ parts[f"{layer}|factor"]).square().mean()
            for layer, features in sample.features.items()
        ]
        return torch.stack(each).mean().clamp_min(TINY).log()

    def shapes(self, layout: Layout) -> dict[str, tuple[int | str, ...]]:
        shapes: dict[str, tuple[int | str, ...]] = {"known": (layout.groups,)}
        for layer, channels in layout.layers.items():
            shapes |= {f"{layer}|means": (layout.groups, channels), f"{layer}|factor": (channels, channels)}
        return shapes
