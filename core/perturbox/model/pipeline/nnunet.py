"""The steps of nnU-Net v2 that nothing else has: its normalisations and its two ways of resampling.

Written after its code (Isensee et al. 2021, doi 10.1038/s41592-020-01008-z) so that the network's input has the same
bits: normalisation before resampling, NumPy's sums, splines in double precision clipped to the range of their input,
and a separate rule for the axis of thick slices.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from perturbox.model.pipeline import matrices
from perturbox.model.pipeline.intensity import statistic, with_value
from perturbox.model.pipeline.matrices import Separable
from perturbox.model.pipeline.step import Bound, Frame, Kind, Pointwise, Step
from perturbox.types import InputError, points

_zoom: Any = ndimage.zoom
TORCH = "resample_torch_fornnunet"
SPLINE = "resample_data_or_seg_to_shape"
SCHEMES = {
    "CTNormalization": "clipped to the training set's 0.5 and 99.5 % percentiles, then its mean and deviation",
    "ZScoreNormalization": "the scan's own mean and standard deviation",
    "RescaleTo01Normalization": "the scan's smallest … largest value becomes 0 … 1",
    "RGBTo01Normalization": "divided by 255",
    "NoNormalization": "as it is",
}


@dataclass(frozen=True)
class Normalise(Step):
    """nnU-Net's normalisation, channel by channel: {"scheme": NAME, "masked": bool, "properties": {…}} each."""

    channels: tuple[Mapping[str, Any], ...]
    name: ClassVar[str] = "nnunet-normalise"

    def __post_init__(self) -> None:
        for channel in self.channels:
            if channel.get("scheme") not in SCHEMES:
                raise InputError(
                    f"The normalisation '{channel.get('scheme')}' isn't nnU-Net's own; there are {', '.join(SCHEMES)}."
                )

    def plan(self, frame: Frame, x: Tensor | None) -> Bound:
        names = dict.fromkeys(channel["scheme"] for channel in self.channels)
        own = {"ZScoreNormalization", "RescaleTo01Normalization"} & set(names)
        kind: Kind = "statistic" if own else "clip" if "CTNormalization" in names else "affine"

        def function(x: Tensor) -> Tensor:
            parts = [[self._one(c, image[i], frame.mask) for i, c in enumerate(self.channels)] for image in x]
            return torch.stack([torch.stack(image) for image in parts])

        return Pointwise(frame, kind, "; ".join(SCHEMES[name] for name in names), function)

    @staticmethod
    def _one(channel: Mapping[str, Any], v: Tensor, mask: Tensor | None) -> Tensor:
        scheme, known = channel["scheme"], channel.get("properties") or {}
        if scheme == "CTNormalization":
            clipped = v.clamp(known["percentile_00_5"], known["percentile_99_5"])
            return (clipped - known["mean"]) / max(known["std"], 1e-8)
        if scheme == "ZScoreNormalization":
            masked = channel.get("masked") and mask is not None
            seen = v[mask] if masked else v.flatten()
            # NumPy's sums run in another order than torch's: its number, torch's derivative.
            array = v.detach().cpu().numpy()
            array = array[mask.cpu().numpy()] if masked and mask is not None else array
            mean = with_value(statistic(seen.mean()), float(array.mean()))
            sd = with_value(statistic(seen.std(correction=0).clamp(min=1e-8)), max(float(array.std()), 1e-8))
            scaled = (v - mean) / sd
            return torch.where(mask, scaled, v) if masked and mask is not None else scaled
        if scheme == "RescaleTo01Normalization":
            low, high = statistic(v.amin()), statistic(v.amax())
            return (v - low) / (high - low).clamp(min=1e-8)
        return v / 255 if scheme == "RGBTo01Normalization" else v

    @property
    def visible(self) -> tuple[float, float] | None:
        if any(channel["scheme"] != "CTNormalization" for channel in self.channels):
            return None
        known = [channel["properties"] for channel in self.channels]
        return min(float(p["percentile_00_5"]) for p in known), max(float(p["percentile_99_5"]) for p in known)


@dataclass(frozen=True)
class Resample(Step):
    """nnU-Net's resampling to `mm` along the axes as they are then; data and scores each by one of its functions."""

    mm: tuple[float, ...]
    data: str
    data_options: Mapping[str, Any]
    scores: str
    scores_options: Mapping[str, Any]
    name: ClassVar[str] = "nnunet-resample"

    def __post_init__(self) -> None:
        for function, options in ((self.data, self.data_options), (self.scores, self.scores_options)):
            if function not in (TORCH, SPLINE):
                raise InputError(f"The resampling function '{function}' isn't nnU-Net's own; it has {SPLINE}, {TORCH}.")
            if function == SPLINE and options.get("order_z", 0) != 0:
                raise InputError(
                    f"The plans resample thick slices by order {options['order_z']}; only order 0 is known here."
                )

    def plan(self, frame: Frame, x: Tensor | None) -> Bound:
        here = tuple(round(s, 6) for s in frame.spacing)
        there = self.mm if len(self.mm) == len(frame.shape) else (here[0], *self.mm)
        shape = tuple(max(1, round(old / new * n)) for old, new, n in zip(here, there, frame.shape, strict=True))
        affine = np.array(frame.affine, dtype=float)
        for axis, (n, m) in enumerate(zip(frame.shape, shape, strict=True)):
            affine[:3, 3] += affine[:3, axis] * (n / m - 1) / 2
            affine[:3, axis] *= n / m
        after = Frame(shape, affine)
        words = (
            f"resampled to {' × '.join(f'{s:g}' for s in there)} mm, {' × '.join(map(str, shape))} {points(len(shape))}"
        )
        return Resampled(self, frame, after, here, there, words)


class Resampled(Bound):
    """Data one way, scores the other, each by the function the plans name."""

    def __init__(self, step: Resample, before: Frame, after: Frame, here: Sequence[float], there: Sequence[float], words: str):  # fmt: skip  # noqa: E501
        kind: Kind = "linear" if step.data == TORCH or before.shape == after.shape else "clip"
        super().__init__(before, after, kind, words)
        self.data = _way(before, after, step.data, step.data_options, here, there)
        # The same grids the other way round.
        self.scores = _way(after, before, step.scores, step.scores_options, there, here)

    def forward(self, x: Tensor) -> Tensor:
        return self.data(x)

    def back(self, scores: Tensor) -> Tensor:
        return self.scores(scores[None])[0]

    def nearest(self, labels: Tensor) -> Tensor:
        return F.interpolate(labels[None, None].double(), self.after.shape, mode="nearest-exact")[0, 0].to(labels.dtype)

    def back_labels(self, labels: Tensor) -> Tensor:
        return F.interpolate(labels[None].double(), self.before.shape, mode="nearest-exact")[0].to(labels.dtype)

    def reach(self, used: Tensor) -> Tensor:
        return torch.ones(self.before.shape, dtype=torch.bool)  # splines spread each voxel over all


def separate_axis(
    current: Sequence[float], new: Sequence[float], force: bool | None, threshold: float = 3.0
) -> int | None:
    """The axis of thick slices, which nnU-Net resamples on its own; None where there is none."""
    if force is False:
        return None
    for spacing in (current, new):
        if force or max(spacing) / min(spacing) > threshold:
            axes = np.flatnonzero(np.array(spacing) == max(spacing))
            return int(axes[0]) if len(axes) == 1 else None
    return None


def _way(source: Frame, target: Frame, function: str, options: Mapping[str, Any], here: Sequence[float], there: Sequence[float]) -> Any:  # fmt: skip  # noqa: E501
    axis = separate_axis(here, there, options.get("force_separate_z"))
    if source.shape == target.shape:
        return lambda x: x
    if function == TORCH:
        return lambda x: torch.stack([_by_torch(image, target.shape, axis) for image in x])
    order = int(options["order"])
    # nnU-Net leaves out the axis of slices only if there is one; the others are resampled in one call of skimage.
    together = tuple(a for a in range(len(source.shape)) if a != axis)
    rows: list[Tensor | None] = []
    for a, (n, m) in enumerate(zip(source.shape, target.shape, strict=True)):
        if n == m:
            rows.append(None)
        elif a == axis:
            at = (np.arange(m) + 0.5) * (n / m) - 0.5
            rows.append(matrices.picking(np.clip(np.floor(at + 0.5), 0, n - 1).astype(np.int64), n))
        else:
            rows.append(matrices.spline(n, m, order))
    none = [None] * len(rows)
    by_rows = Separable(source, target, "", rows, none, none, none, clipped=together, precise=True).forward

    def way(x: Tensor) -> Tensor:
        exact = x.dtype == torch.float16 and not x.requires_grad
        return _by_scipy(x, target.shape, axis, order, rows) if exact else by_rows(x)

    return way


def _by_scipy(x: Tensor, shape: tuple[int, ...], axis: int | None, order: int, rows: list[Tensor | None]) -> Tensor:
    """Half-precision values as nnU-Net resamples them through skimage: each channel, or each of its thick slices, in
    one call, clipped to its range. They lie on ties that the last bit of a double decides, and its rounding: NumPy
    takes a double to half precision at once, torch by way of single precision."""

    def resized(image: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
        factors = [m / n for n, m in zip(image.shape, size, strict=True)]
        found = _zoom(image, factors, order=order, mode="nearest", grid_mode=True)
        return np.clip(found, image.min(), image.max())

    def whole(image: np.ndarray) -> np.ndarray:
        if axis is None:
            return resized(image, shape).astype(np.float16)
        flat = tuple(n for a, n in enumerate(shape) if a != axis)
        stacked = np.stack([resized(part, flat) for part in np.moveaxis(image, axis, 0)], axis)
        between = rows[axis]
        picked = stacked if between is None else np.take(stacked, between.argmax(1).numpy(), axis)
        return picked.astype(np.float16)

    arrays = x.double().cpu().numpy()
    return torch.from_numpy(np.stack([np.stack([whole(channel) for channel in image]) for image in arrays])).to(
        x.device
    )


def _by_torch(x: Tensor, shape: tuple[int, ...], axis: int | None) -> Tensor:
    """As nnU-Net's resample_torch does: its own calls, because matrices differ by 1e-5."""
    kind = x.dtype
    x = x.float() if kind == torch.float16 else x
    if axis is None:
        return F.interpolate(x[None], shape, mode="trilinear")[0]
    kept = [a for a in range(3) if a != axis]
    flat = x.movedim(axis + 1, 1).flatten(0, 1)
    size = [shape[a] for a in kept]
    if list(flat.shape[1:]) != size:
        flat = F.interpolate(flat[None], size, mode="bilinear")[0]
    x = flat.unflatten(0, (x.shape[0], -1)).movedim(1, axis + 1)
    return x if tuple(x.shape[1:]) == shape else F.interpolate(x[None], shape, mode="nearest-exact")[0]
