"""LID: the local intrinsic dimension of each class's features among those of clean scans, layer by layer."""

from collections.abc import Sequence

import torch
from torch import Tensor

from perturbox.detectors.method import Layout, Method, Parts, judged, known_groups, require_points, shown, table
from perturbox.detectors.seen import TINY, Sample

MOST = 20  # neighbours, as in the paper
FEWEST = 8  # points of a class, so that a quarter of them are two


class Lid(Method):
    """Maximum likelihood estimate of local intrinsic dimension. Ma et al. 2018, arXiv 1801.02613."""

    title = "Local intrinsic dimensionality (LID)"
    paper = "Ma et al. 2018, arXiv 1801.02613"
    deviations = (
        "features are pooled inside the voxels of each class the model finds",
        "neighbours are looked for among fixed clean scans of other patients, not in a minibatch, and only a distance "
        "of exactly 0 is left out: leaving out the nearest by its place drops the scan itself if it is clean, and its "
        "clean twin if it is attacked",
        "20 neighbours, but at most a quarter of the scans that show the class",
        "layers and classes count alike instead of being weighed by a regression on attacked scans",
        "both ways: a dimension below that of clean scans is as odd as one above",
    )

    def fit(self, clean: Sequence[Sample], attacked: Sequence[Sample]) -> dict[str, Tensor]:
        there = shown(clean)
        parts = {"there": there.double(), "known": known_groups(there, FEWEST).double()}
        return parts | {f"{layer}|points": table(clean, layer) for layer in clean[0].features}

    def raw(self, parts: Parts, sample: Sample) -> Tensor:
        each = []
        for group in judged(parts["known"], sample).tolist():
            there = parts["there"][:, group] > 0
            count = min(MOST, int(there.sum()) // 4)
            for layer, features in sample.features.items():
                squares = (features[group] - parts[f"{layer}|points"][there, group]).square().sum(1)
                nearest = squares[squares > 0].sort().values[:count]
                # ln(r_i / r_k) is half of that of the squares.
                mean = 0.5 * (nearest.log() - nearest[-1].log()).mean() if len(nearest) > 1 else squares.sum() * 0
                each.append(-1 / mean.clamp_max(-TINY))
        return torch.stack(each).mean().log()

    def shapes(self, layout: Layout) -> dict[str, tuple[int | str, ...]]:
        shapes: dict[str, tuple[int | str, ...]] = {"there": ("n", layout.groups), "known": (layout.groups,)}
        return shapes | {f"{layer}|points": ("n", layout.groups, count) for layer, count in layout.layers.items()}

    def require(self, parts: Parts) -> None:
        require_points(parts, FEWEST)
