"""What a method of detection is, and what several of them share: tables of samples, scales, kernels."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from perturbox.detectors.seen import JOINT, MASKS, TINY, Sample
from perturbox.types import InputError

Parts = Mapping[str, Tensor]
FLOOR = 1e-6  # of the mean variance, added to every variance
FEWEST = 2  # scans that must show a class before anything is said of it
INSIDE = ("features", "joint")  # what is seen of layers


@dataclass(frozen=True)
class Layout:
    """The sizes of a model's samples: channels by layer, groups (classes), outputs (see `seen.sureness`)."""

    layers: Mapping[str, int]
    groups: int
    outputs: int

    def pooled(self, joint: bool) -> dict[str, int]:
        """Numbers per group by layer, as samples hold them; of `seen.moments` under JOINT alone."""
        return {JOINT: (sum(self.layers.values()) + 2) ** 2} if joint else dict(self.layers)


class Method(ABC):
    """A way to tell attacked scans from clean ones. All it needs to score is in its parts, float64 tensors by name.

    title: empty for what isn't one of the methods. sees: what it looks at; "joint" is how features go with the answer,
    see `seen.moments`. supervised: fitted on attacked scans too. two_sided: a scan that fits too well is as odd as one
    that fits too badly. last_layer: it looks at the last hidden layer alone; first: at so many of the first ones unless
    others are named.
    """

    title: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    deviations: ClassVar[tuple[str, ...]] = ()
    sees: ClassVar[Literal["features", "joint", "outputs", "dropout"]] = "features"
    supervised: ClassVar[bool] = False
    two_sided: ClassVar[bool] = True
    last_layer: ClassVar[bool] = False
    first: ClassVar[int | None] = None

    @property
    def name(self) -> str:
        """The class's name in kebab case."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", type(self).__name__).lower()

    @property
    def queries(self) -> int:
        """Predictions that one score with its gradient takes."""
        return {"features": 2, "joint": 2, "outputs": 1, "dropout": MASKS}[self.sees]

    def describe(self) -> dict[str, Any]:
        """The entry of `perturbox list detectors --json`."""
        return {
            "name": self.name,
            "title": self.title,
            "paper": self.paper,
            "sees": self.sees,
            "supervised": self.supervised,
            "two_sided": self.two_sided,
            "differentiable": True,
            "deviations": list(self.deviations),
        }

    @abstractmethod
    def fit(self, clean: Sequence[Sample], attacked: Sequence[Sample]) -> dict[str, Tensor]:
        """The parts, from samples that are no attacks and samples that are; those that aren't supervised ignore the
        latter. Raises InputError where they say too little."""

    @abstractmethod
    def raw(self, parts: Parts, sample: Sample) -> Tensor:
        """How odd a sample is, a differentiable scalar, float64; higher is odder where it isn't two-sided."""

    @abstractmethod
    def shapes(self, layout: Layout) -> dict[str, tuple[int | str, ...]]:
        """The shape of each part; words are sizes that the parts agree on."""

    def require(self, parts: Parts) -> None:  # noqa: B027  # most methods take any finite numbers
        """Raises ValueError for parts of the right shapes that can't be of this method."""


def learner(module: str, name: str) -> Any:
    """A class of scikit-learn; raises InputError where it isn't installed."""
    try:
        return getattr(import_module(f"sklearn.{module}"), name)
    except ImportError as error:
        raise InputError(
            f"Fitting this detector needs the extra 'study' ({str(error.name).partition('.')[0]} is missing); run `pip "
            "install 'perturbox[study]'`."
        ) from None


# ---------------------------------------------------------------- features of each class


def table(samples: Sequence[Sample], layer: str) -> Tensor:
    """The features of a layer in every sample, "n g c"."""
    return torch.stack([sample.features[layer] for sample in samples])


def shown(samples: Sequence[Sample]) -> Tensor:
    """Which groups each sample shows, bool "n g"."""
    return torch.stack([sample.present for sample in samples])


def known_groups(there: Tensor, least: int = FEWEST) -> Tensor:
    """Which groups enough samples show, bool "g"; raises InputError where there is none."""
    known = there.sum(0) >= least
    if not known.any():
        raise InputError(
            f"The model finds too little in these scans: no class is in {least} of them; give more clean scans of the "
            "right body part."
        )
    return known


def centred(values: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Means "g c" of values "n g c" over the samples that show a group, and what is left of all of these, "m c"."""
    weight = there.double()[..., None]
    means = (values * weight).sum(0) / weight.sum(0).clamp_min(1)
    return means, (values - means)[there]


def judged(known: Tensor, sample: Sample) -> Tensor:
    """Indices of the groups that can be judged; raises InputError where there is none."""
    found = torch.nonzero(sample.present & (known > 0)).flatten()
    if not len(found):
        raise InputError(
            "The model finds no class in this scan that the detector knows; is it the right body part and model?"
        )
    return found


def require_points(parts: Parts, least: int) -> None:
    """Raises ValueError where a known group has fewer points ("there" says which points show it)."""
    if ((parts["there"] > 0).sum(0)[parts["known"] > 0] < least).any():
        raise ValueError


def scale_of(residuals: Tensor) -> Tensor:
    """Standard deviation "c" of residuals "m c" in each channel, with a floor for channels that hardly vary."""
    variance = residuals.square().mean(0)
    return (variance + FLOOR * variance.mean() + TINY).sqrt()


# ---------------------------------------------------------------- one vector per sample


def standard(values: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Means and standard deviations "g c" of values "n g c" over the samples that show a group."""
    weight = there.double()[..., None]
    count = weight.sum(0).clamp_min(1)
    means = (values * weight).sum(0) / count
    variance = ((values - means).square() * weight).sum(0) / count
    return means, (variance + FLOOR * variance.mean() + TINY).sqrt()


def vector(features: Tensor, present: Tensor, means: Tensor, scales: Tensor) -> Tensor:
    """One vector "… g*c" of standardised features "… g c"; groups that aren't there are as the mean."""
    return (((features - means) / scales) * present.to(features)[..., None]).flatten(-2)


def kernel_sum(x: Tensor, parts: Parts) -> Tensor:
    """A support vector machine's decision at x "d": the sum of weights times exp(-gamma |x - vector|^2), and the
    offset."""
    near = torch.exp(-parts["gamma"] * (x - parts["vectors"]).square().sum(1))
    return (parts["weights"] * near).sum() + parts["offset"]


def machine(fitted: Any) -> dict[str, Tensor]:
    """What `kernel_sum` needs of a fitted support vector machine with an RBF kernel."""
    return {
        "vectors": torch.tensor(fitted.support_vectors_).double(),
        "weights": torch.tensor(fitted.dual_coef_[0]).double(),
        "offset": torch.tensor(float(fitted.intercept_[0])).double(),
        "gamma": torch.tensor(float(fitted._gamma)).double(),
    }


MACHINE: dict[str, tuple[int | str, ...]] = {"weights": ("vectors",), "offset": (), "gamma": ()}
