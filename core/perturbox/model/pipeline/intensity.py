"""Steps that change values: ranges, z-scores, min-max, percentiles, truncation.

Statistics are differentiated: a z-score's gradient is that of the mean and the standard deviation too. Where another
implementation sums in another order, `with_value` takes its number with the derivative of ours.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from perturbox.model.pipeline.step import Bound, Frame, Pointwise, Step

_FROZEN: ContextVar[bool] = ContextVar("frozen", default=False)


@contextmanager
def frozen_statistics() -> Iterator[None]:
    """Inside, statistics count as constants, which tells how much of a gradient passes through them."""
    token = _FROZEN.set(True)
    try:
        yield
    finally:
        _FROZEN.reset(token)


def statistic(value: Tensor) -> Tensor:
    """A number taken from the values, differentiable unless statistics are frozen."""
    return value.detach() if _FROZEN.get() else value


def with_value(derived: Tensor, value: float) -> Tensor:
    """The derivative of one tensor with another implementation's value."""
    return derived - derived.detach() + torch.as_tensor(value, dtype=derived.dtype, device=derived.device)


def each(x: Tensor, per_channel: bool, function: Callable[[Tensor], Tensor]) -> Tensor:
    """A function of one image "c *s", or of one channel "*s", for every one of "b c *s"."""
    if per_channel:
        return torch.stack([torch.stack([function(channel) for channel in image]) for image in x])
    return torch.stack([function(image) for image in x])


@dataclass(frozen=True)
class Range(Step):
    """[low, high] of the scan's unit -> `to`, values beyond it clipped unless `clip` is false."""

    low: float
    high: float
    to: tuple[float, float] = (0.0, 1.0)
    clip: bool = True
    name: ClassVar[str] = "range"

    def plan(self, frame: Frame, x: Tensor | None) -> Bound:
        start, stop = self.to
        words = f"{self.low:g} … {self.high:g} becomes {start:g} … {stop:g}" + (", clipped" if self.clip else "")
        return Pointwise(frame, "clip" if self.clip else "affine", words, self.scaled)

    def scaled(self, x: Tensor) -> Tensor:
        start, stop = self.to
        out = (x - self.low) / (self.high - self.low) * (stop - start) + start
        return out.clamp(min(self.to), max(self.to)) if self.clip else out

    @property
    def visible(self) -> tuple[float, float] | None:
        return (self.low, self.high) if self.clip else None


@dataclass(frozen=True)
class Affine(Step):
    """(value - subtract) / divide, for one number or one per channel."""

    subtract: float | tuple[float, ...] = 0.0
    divide: float | tuple[float, ...] = 1.0
    name: ClassVar[str] = "affine"

    def plan(self, frame: Frame, x: Tensor | None) -> Bound:
        def per_channel(value: float | tuple[float, ...], like: Tensor) -> Tensor | float:
            if not isinstance(value, tuple):
                return value
            return torch.tensor(value).to(like).view(1, -1, *[1] * (like.dim() - 2))

        def function(x: Tensor) -> Tensor:
            return (x - per_channel(self.subtract, x)) / per_channel(self.divide, x)

        return Pointwise(frame, "affine", f"{self.subtract} is subtracted, then divided by {self.divide}", function)


@dataclass(frozen=True)
class Clip(Step):
    """Values below `low` and above `high` become those."""

    low: float
    high: float
    name: ClassVar[str] = "clip"

    def plan(self, frame: Frame, x: Tensor | None) -> Bound:
        words = f"clipped to {self.low:g} … {self.high:g}"
        return Pointwise(frame, "clip", words, lambda v: v.clamp(self.low, self.high))

    @property
    def visible(self) -> tuple[float, float] | None:
        return self.low, self.high


@dataclass(frozen=True)
class ZScore(Step):
    """(value - mean) / standard deviation of the image, or of each channel; nonzero: of the voxels that aren't 0, which
    alone are changed (the mask is a constant to the gradient). As MONAI's NormalizeIntensity."""

    nonzero: bool = False
    per_channel: bool = False
    name: ClassVar[str] = "zscore"

    def plan(self, frame: Frame, x: Tensor | None) -> Bound:
        where = "of the values that aren't 0" if self.nonzero else "of the scan itself"
        words = f"mean and standard deviation {where}{', channel by channel' if self.per_channel else ''}"
        return Pointwise(frame, "statistic", words, lambda v: each(v, self.per_channel, self.scored))

    def scored(self, v: Tensor) -> Tensor:
        mask = v != 0
        seen = v[mask] if self.nonzero else v
        if seen.numel() == 0:
            return v
        mean = statistic(seen.mean())
        # The root has no derivative at 0; a constant image is only shifted, as in MONAI.
        constant = bool(seen.detach().std(correction=0) == 0)
        out = v - mean if constant else (v - mean) / statistic(seen.std(correction=0))
        return torch.where(mask, out, v) if self.nonzero else out


@dataclass(frozen=True)
class MinMax(Step):
    """Smallest … largest value of the image, or of each channel -> `to`. As MONAI's ScaleIntensity."""

    to: tuple[float, float] = (0.0, 1.0)
    per_channel: bool = False
    name: ClassVar[str] = "minmax"

    def plan(self, frame: Frame, x: Tensor | None) -> Bound:
        words = f"its smallest … largest value becomes {self.to[0]:g} … {self.to[1]:g}"
        return Pointwise(frame, "statistic", words, lambda v: each(v, self.per_channel, self.scaled))

    def scaled(self, v: Tensor) -> Tensor:
        low, high = statistic(v.min()), statistic(v.max())
        if low == high:
            return v * self.to[0]
        return (v - low) / (high - low) * (self.to[1] - self.to[0]) + self.to[0]


@dataclass(frozen=True)
class Percentiles(Step):
    """The lower … upper percentile of the image, or of each channel -> `to`, clipped if `clip`. As MONAI's
    ScaleIntensityRangePercentiles, whose gradient stops above a million voxels; this one's doesn't."""

    lower: float
    upper: float
    to: tuple[float, float] = (0.0, 1.0)
    clip: bool = False
    per_channel: bool = False
    name: ClassVar[str] = "percentiles"

    def plan(self, frame: Frame, x: Tensor | None) -> Bound:
        words = f"its {self.lower:g} and {self.upper:g} % percentiles become {self.to[0]:g} and {self.to[1]:g}"
        return Pointwise(frame, "statistic", words, lambda v: each(v, self.per_channel, self.scaled))

    def scaled(self, v: Tensor) -> Tensor:
        low, high = (statistic(percentile(v, q)) for q in (self.lower, self.upper))
        if low == high:
            return v - low + self.to[0]
        out = (v - low) / (high - low) * (self.to[1] - self.to[0]) + self.to[0]
        return out.clamp(min(self.to), max(self.to)) if self.clip else out


def percentile(v: Tensor, q: float) -> Tensor:
    """NumPy's linear percentile, differentiable: it lies between two of the values."""
    flat = v.flatten()
    at = q / 100 * (flat.numel() - 1)
    below = int(np.floor(at))
    lower = flat.kthvalue(below + 1).values
    upper = flat.kthvalue(min(below + 2, flat.numel())).values
    return torch.lerp(lower, upper, at - below)


@dataclass(frozen=True)
class Truncate(Step):
    """Cut to whole numbers towards 0. Its derivative is 0 almost everywhere, so that of the identity stands in; the
    judge truncates."""

    name: ClassVar[str] = "truncate"

    def plan(self, frame: Frame, x: Tensor | None) -> Bound:
        words = "cut to whole numbers; the gradient passes as if they weren't"
        return Pointwise(frame, "straight-through", words, lambda v: v + (v.trunc() - v).detach())

    @property
    def keeps_values(self) -> bool:
        return True
