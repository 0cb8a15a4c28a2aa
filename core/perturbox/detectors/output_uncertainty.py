"""Output uncertainty: how sure the model is of its answer, by three ways of telling what is usual.

Maag & Fischer 2023, https://arxiv.org/abs/2305.12825.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from perturbox.detectors.method import FLOOR, MACHINE, Layout, Method, Parts, kernel_sum, learner, machine
from perturbox.detectors.seen import TINY, Sample
from perturbox.types import InputError

PAPER = "Maag & Fischer 2023, arXiv 2305.12825"
ALL = (
    "means over all voxels of the model's own answer; the paper leaves out those whose label is to be ignored",
    "fitted on clean scans alone; sign and threshold aren't chosen on the scans it is tried on",
)


class Entropy(Method):
    """A threshold on the mean entropy."""

    title = "Mean entropy of the answer"
    paper = PAPER
    deviations = (*ALL, "both ways: an answer surer than those on clean scans is as odd as one less sure")
    sees = "outputs"

    def fit(self, clean: Sequence[Sample], attacked: Sequence[Sample]) -> dict[str, Tensor]:
        return {}

    def raw(self, parts: Parts, sample: Sample) -> Tensor:
        return values_of(sample)[0].clamp_min(TINY).log()

    def shapes(self, layout: Layout) -> dict[str, tuple[int | str, ...]]:
        return {}


class Envelope(Method):
    """The distance from the middle of clean scans' values, by a robust covariance (scikit-learn's EllipticEnvelope)."""

    title = "Elliptic envelope of the answer's uncertainty"
    paper = PAPER
    deviations = (
        *ALL,
        "values that are the same on all clean scans are left out, and a millionth of the mean variance is added",
        "both ways: a scan nearer to the middle than clean ones are is as odd as one further off",
    )
    sees = "outputs"

    def fit(self, clean: Sequence[Sample], attacked: Sequence[Sample]) -> dict[str, Tensor]:
        values = torch.stack([values_of(one) for one in clean]).cpu()
        middle, scale = values.mean(0), values.std(0, correction=0)
        kept = scale > 1e-9
        if len(values) < 2 * int(kept.sum()) or not kept.any():
            least = 2 * max(1, int(kept.sum()))
            raise InputError(
                f"The envelope needs at least {least} clean scans beside those held out, not {len(values)}; give more, "
                "or choose entropy or one-class."
            )
        scale = torch.where(kept, scale, torch.ones_like(scale))
        x = ((values - middle) / scale)[:, kept].numpy()
        rng = torch.Generator().manual_seed(0)
        x = x + FLOOR**0.5 * torch.randn(x.shape, generator=rng, dtype=torch.float64).numpy()
        fitted = learner("covariance", "EllipticEnvelope")(random_state=0).fit(x)
        location, factor = torch.zeros_like(middle), torch.zeros(len(middle), len(middle), dtype=torch.float64)
        location[kept] = torch.from_numpy(fitted.location_)
        inside = torch.nonzero(kept).flatten()
        factor[inside[:, None], inside] = torch.linalg.cholesky(torch.from_numpy(fitted.precision_))
        return {"middle": middle, "scale": scale, "location": location, "factor": factor}

    def raw(self, parts: Parts, sample: Sample) -> Tensor:
        away = (values_of(sample) - parts["middle"]) / parts["scale"] - parts["location"]
        return (away @ parts["factor"]).square().sum().clamp_min(TINY).log()

    def shapes(self, layout: Layout) -> dict[str, tuple[int | str, ...]]:
        size = layout.outputs
        return {"middle": (size,), "scale": (size,), "location": (size,), "factor": (size, size)}

    def require(self, parts: Parts) -> None:
        if not (parts["scale"] > 0).all():
            raise ValueError


class OneClass(Method):
    """A one-class support vector machine of clean scans' values (scikit-learn's OneClassSVM)."""

    title = "One-class machine of the answer's uncertainty"
    paper = PAPER
    deviations = (*ALL, "values are standardised; a tenth of the clean scans may lie outside")
    sees, two_sided = "outputs", False

    def fit(self, clean: Sequence[Sample], attacked: Sequence[Sample]) -> dict[str, Tensor]:
        values = torch.stack([values_of(one) for one in clean]).cpu()
        middle, scale = values.mean(0), values.std(0, correction=0)
        scale = torch.where(scale > 1e-9, scale, torch.ones_like(scale))
        fitted = learner("svm", "OneClassSVM")(nu=0.1).fit(((values - middle) / scale).numpy())
        return {"middle": middle, "scale": scale, **machine(fitted)}

    def raw(self, parts: Parts, sample: Sample) -> Tensor:
        return -kernel_sum((values_of(sample) - parts["middle"]) / parts["scale"], parts)

    def shapes(self, layout: Layout) -> dict[str, tuple[int | str, ...]]:
        size = layout.outputs
        return {"middle": (size,), "scale": (size,), **MACHINE, "vectors": ("vectors", size)}

    def require(self, parts: Parts) -> None:
        if not (parts["scale"] > 0).all() or not parts["gamma"] > 0:
            raise ValueError


def values_of(sample: Sample) -> Tensor:
    """What a sample says of the answer, see `seen.sureness`."""
    assert sample.outputs is not None
    return sample.outputs
