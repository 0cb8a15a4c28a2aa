"""Medical Aegis' Shield: whether what the model says of each class still follows from its own first layers.

    z^ = w . phi(v) + b        phi(v): the first layers' features at voxel v; w, b of each class, by ridge regression
    score = log mean over classes of   mean (z - z^)^2 over the class's voxels / the same on clean scans

z is the model's logit of the class where it finds the class. Of a scan the sums of products of features and logits say
all of that: the fit and the mean square of what is left are quadratic in them. So nothing is trained in a loop, folds
are refitted in no time, and the gradient of the score with respect to the scan is exact.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from perturbox.detectors.method import Layout, Method, Parts, judged, known_groups, shown, table
from perturbox.detectors.seen import JOINT, TINY, Sample

RIDGE = 1e-3  # of each feature's own variance


class Shield(Method):
    """How far the logits of each class lie from what shallow features predict. Yao et al. 2021, arXiv 2111.10969."""

    title = "Medical Aegis' Shield"
    paper = "after Yao et al. 2021, arXiv 2111.10969 (abstract)"
    deviations = (
        "only the paper's abstract was read: a network for each class predicts the protected model's logits from "
        "shallow layers, and a large deviation is an attack; which network, layers and measure aren't in it",
        "a linear prediction by ridge regression in closed form in place of a trained network",
        "from the first three convolutions, of coarser ones the nearest value",
        "the root mean square of the deviation where the model finds the class, in multiples of that on clean scans; "
        "the logarithm of the mean square over classes is the score",
        "both ways: logits that follow from shallow features better than on clean scans are as odd as worse ones",
    )
    sees, first = "joint", 3

    def fit(self, clean: Sequence[Sample], attacked: Sequence[Sample]) -> dict[str, Tensor]:
        there = shown(clean)
        known = known_groups(there)
        count = (there & known).double().sum(0)
        means = (table(clean, JOINT) * there[..., None]).sum(0) / count.clamp_min(1)[:, None]
        weights = torch.stack([ridge(square(one)) for one in means])
        left = torch.stack([deviation(w, square(one)) for w, one in zip(weights, means, strict=True)])
        scale = torch.where(known, left, torch.ones_like(left)).clamp_min(TINY)
        return {"known": known.double(), "weights": weights * known[:, None], "scale": scale}

    def raw(self, parts: Parts, sample: Sample) -> Tensor:
        each = [
            deviation(parts["weights"][group], square(sample.features[JOINT][group])) / parts["scale"][group]
            for group in judged(parts["known"], sample).tolist()
        ]
        return torch.stack(each).mean().clamp_min(TINY).log()

    def shapes(self, layout: Layout) -> dict[str, tuple[int | str, ...]]:
        groups = layout.groups
        return {"known": (groups,), "weights": (groups, sum(layout.layers.values()) + 1), "scale": (groups,)}

    def require(self, parts: Parts) -> None:
        if not (parts["scale"] > 0).all():
            raise ValueError


def square(products: Tensor) -> Tensor:
    """Mean products of (1, features, logit), "d*d" -> "d d"."""
    size = round(products.shape[-1] ** 0.5)
    return products.unflatten(-1, (size, size))


def ridge(m: Tensor) -> Tensor:
    """(b, w) "d" with the least mean of (z - b - w . phi)^2 + RIDGE * sum of (w_i std_i)^2, of mean products "d+1 d+1";
    a feature that never varies counts for nothing."""
    means, z = m[0, 1:-1], m[0, -1]
    covariance = m[1:-1, 1:-1] - means[:, None] * means
    with_z = m[1:-1, -1] - means * z
    variance = covariance.diagonal().clamp_min(0)
    scale = (variance + 1e-9 * (variance.mean() + TINY)).sqrt()
    alike = covariance / (scale[:, None] * scale)
    w = torch.linalg.solve(alike + RIDGE * torch.eye(len(alike)).to(alike), with_z / scale) / scale
    return torch.cat([(z - w @ means)[None], w])


def deviation(weights: Tensor, m: Tensor) -> Tensor:
    """Mean of (z - b - w . phi)^2 of mean products."""
    away = torch.cat([-weights, weights.new_ones(1)])
    return (away @ m @ away).clamp_min(0)
