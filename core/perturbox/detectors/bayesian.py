"""Bayesian uncertainty: how far dropout moves the answer of a network that has dropout layers."""

from collections.abc import Sequence

from torch import Tensor

from perturbox.detectors.method import Layout, Method, Parts
from perturbox.detectors.seen import TINY, Sample


class Bayesian(Method):
    """The variance of the answer over dropout masks. Feinman et al. 2017, arXiv 1703.00410."""

    title = "Bayesian uncertainty by dropout"
    paper = "Feinman et al. 2017, arXiv 1703.00410"
    deviations = (
        "ten masks instead of fifty, fixed, the same in every window and for every scan, so that the same scan always "
        "gets the same score",
        "the mean over voxels and classes of the probabilities' variance; its logarithm is the score",
        "alone, without the regression on attacked scans that the paper joins it with kernel density by",
        "both ways: an answer that dropout moves less than on clean scans is as odd as one that it moves more",
    )
    sees = "dropout"

    def fit(self, clean: Sequence[Sample], attacked: Sequence[Sample]) -> dict[str, Tensor]:
        return {}

    def raw(self, parts: Parts, sample: Sample) -> Tensor:
        assert sample.moved is not None
        return sample.moved.clamp_min(TINY).log()

    def shapes(self, layout: Layout) -> dict[str, tuple[int | str, ...]]:
        return {}
