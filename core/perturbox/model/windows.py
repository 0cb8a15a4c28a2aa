"""The geometry of a sliding window: where windows lie, how they are padded and how their predictions blend.

A scan larger than the network's window is predicted window by window; where windows overlap, predictions are averaged
with a weight that (for gaussian blending) trusts the middle of a window more than its rim. Geometry, weights and
padding are those of MONAI's `sliding_window_inference`, so that a model behaves here as it does in the clinic.

Along an axis where the scan is smaller than the window there is a single window that covers it whole. Padding the patch
on its way into the network and cropping the prediction on its way out is then the same as padding the scan, and no
padded volume ever exists.
"""

import math
from dataclasses import dataclass
from itertools import product
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from perturbox.types import InputError

Blend = Literal["gaussian", "constant", "nnunet"]
Placing = Literal["fixed", "even"]
Padding = Literal["constant", "replicate", "reflect"]


@dataclass(frozen=True)
class Window:
    """How a network walks over a volume larger than itself.

    size: voxels per spatial axis. overlap: fraction of a window shared with the next, in [0, 1). blend: weight of a
    window's voxels, "constant", "gaussian" with a standard deviation of sigma_scale * size, or "nnunet": nnU-Net's own,
    which peaks beside the middle of even sizes and is rounded to half precision. batch: windows per network call (1 is
    several times slower on a CPU). padding, padding_value: what surrounds a volume smaller than the window. placing:
    "fixed" steps with the last window shifted back, as MONAI's, or "even" spread, as nnU-Net's. sums: the precision in
    which the judge adds windows up, "float32" or, as nnU-Net ships, "float16"; gradients always take the first. Raises
    InputError for values outside these ranges.
    """

    size: tuple[int, ...]
    overlap: float = 0.5
    blend: Blend = "gaussian"
    sigma_scale: float = 0.125
    batch: int = 4
    padding: Padding = "constant"
    padding_value: float = 0.0
    placing: Placing = "fixed"
    sums: Literal["float32", "float16"] = "float32"

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", tuple(int(n) for n in self.size))
        if len(self.size) not in (2, 3) or min(self.size) < 1:
            raise InputError(f"The window size {self.size} is unusable; give 2 or 3 positive numbers of voxels.")
        if not 0 <= self.overlap < 1:
            raise InputError(
                f"The window overlap is {self.overlap}; choose a fraction from 0 up to, but not including, 1."
            )
        if self.blend not in ("gaussian", "constant", "nnunet"):
            raise InputError(f"Blending {self.blend!r} is unknown; choose 'gaussian', 'constant' or 'nnunet'.")
        if self.placing not in ("fixed", "even"):
            raise InputError(f"Placing {self.placing!r} is unknown; choose 'fixed' or 'even'.")
        if self.sums not in ("float32", "float16"):
            raise InputError(f"Sums in {self.sums!r} are unknown; choose 'float32' or 'float16'.")
        if self.sigma_scale <= 0:
            raise InputError(
                f"sigma_scale is {self.sigma_scale}; choose a positive fraction of the window, e.g. 0.125."
            )
        if self.batch < 1:
            raise InputError(f"The window batch is {self.batch}; choose at least 1 window per network call.")
        if self.padding not in ("constant", "replicate", "reflect"):
            raise InputError(f"Padding {self.padding!r} is unknown; choose 'constant', 'replicate' or 'reflect'.")


class Place(NamedTuple):
    """Where one window lies: an image of the batch and a box of its voxels."""

    image: int
    box: tuple[slice, ...]

    def of(self, volume: Tensor) -> Tensor:
        """The view "1 c *s" of a volume "b c *s" under this window."""
        return volume[(slice(self.image, self.image + 1), slice(None), *self.box)]


@dataclass(frozen=True, eq=False)
class Grid:
    """All windows of a volume, in MONAI's order, and what blending needs.

    places: windows to compute. count: windows of the whole batch, support or not. pads: voxels added (before, after)
    per spatial axis. weight "1 1 *p": blending weight of a window's voxels inside the volume. total "1 1 *s": sum of
    the weights over all windows; infinite outside the support, which makes the blended prediction and its gradient
    exactly 0 there.
    """

    places: list[Place]
    count: int
    pads: tuple[tuple[int, int], ...]
    weight: Tensor
    total: Tensor

    @classmethod
    def over(cls, x: Tensor, window: Window, support: Tensor | None = None) -> "Grid":
        """The grid for `x` "b c *s"; windows that don't touch `support` (bool "*s") are left out.

        Raises InputError when window, support and x don't fit together.
        """
        shape = tuple(x.shape[2:])
        if len(shape) != len(window.size):
            raise InputError(
                f"A {len(window.size)}D window doesn't fit a volume of shape {tuple(x.shape)}; give it as 'b c *s'."
            )
        if min(x.shape) < 1:
            raise InputError(f"The volume of shape {tuple(x.shape)} is empty; give at least one voxel per axis.")
        missing = [max(size - n, 0) for size, n in zip(window.size, shape, strict=True)]
        pads = tuple((m // 2, m - m // 2) for m in missing)
        if window.padding == "reflect" and any(after >= n for (_, after), n in zip(pads, shape, strict=True)):
            raise InputError(
                f"A volume of {shape} voxels is too small to be reflected into a window of {window.size}; "
                "choose padding 'replicate' or 'constant', or a smaller window."
            )
        extent = tuple(min(size, n) for size, n in zip(window.size, shape, strict=True))
        starts = _starts if window.placing == "fixed" else _even_starts
        axes = [starts(n, size, window.overlap) for n, size in zip(shape, extent, strict=True)]
        boxes = [tuple(slice(s, s + e) for s, e in zip(start, extent, strict=True)) for start in product(*axes)]

        inside = tuple(slice(before, before + e) for (before, _), e in zip(pads, extent, strict=True))
        weight = importance(window, x)[inside]
        total = x.new_zeros(shape)
        for box in boxes:
            total[box] += weight
        count = len(boxes) * x.shape[0]
        if support is not None:
            support = support.to(x.device)
            if support.dtype != torch.bool or tuple(support.shape) != shape:
                raise InputError(
                    f"The support must be a bool mask of shape {shape}, not {support.dtype} {tuple(support.shape)}."
                )
            if not support.any():
                raise InputError("The support is empty; mark at least one voxel.")
            total.masked_fill_(~support, torch.inf)
            touched = torch.stack([support[box].any() for box in boxes]).tolist()
            boxes = [box for box, touches in zip(boxes, touched, strict=True) if touches]
        places = [Place(image, box) for image in range(x.shape[0]) for box in boxes]
        return cls(places, count, pads, weight[None, None], total[None, None])

    def total_in(self, kind: torch.dtype) -> Tensor:
        """`total`, added up in another precision, window by window."""
        total = torch.zeros_like(self.total, dtype=kind)
        for place in self.places:
            if place.image == 0:
                total[(..., *place.box)] += self.weight[0, 0].to(kind)
        return total

    def pad(self, patches: Tensor, window: Window) -> Tensor:
        """Patches "n c *p" from the volume -> windows "n c *w" as the network expects them."""
        if not any(after for _, after in self.pads):
            return patches
        flat = [n for before_after in reversed(self.pads) for n in before_after]
        value = window.padding_value if window.padding == "constant" else None
        return F.pad(patches, flat, mode=window.padding, value=value)

    def crop(self, predictions: Tensor) -> Tensor:
        """Predictions "n k *w" -> the part "n k *p" that lies inside the volume."""
        for axis, (before, after) in enumerate(self.pads):
            if after:
                predictions = predictions.narrow(axis + 2, before, predictions.shape[axis + 2] - before - after)
        return predictions


def importance(window: Window, like: Tensor) -> Tensor:
    """Blending weight "*w" of a window's voxels, in the dtype and on the device of `like`.

    Computed in float32 and bounded below by 1e-3 as MONAI does, so that both blend with the very same numbers.
    """
    if window.blend == "nnunet":
        return _nnunet_importance(window.size).to(like)
    weight = torch.ones((), device=like.device)
    if window.blend == "constant":
        return weight.expand(window.size).to(like.dtype)
    for size in window.size:
        middle = (size - 1) / 2.0
        distance = torch.arange(-middle, middle + 1, dtype=torch.float32, device=like.device)
        weight = weight.unsqueeze(-1) * torch.exp(distance**2 / (-2 * (window.sigma_scale * size) ** 2))
    return weight.clamp(min=max(weight.min().item(), 1e-3)).to(like.dtype)


def _starts(length: int, size: int, overlap: float) -> list[int]:
    """First voxels of the windows along one axis; the last window is shifted back to end with the volume."""
    step = max(int(size * (1 - overlap)), 1)
    starts = list(range(0, length - size, step))
    return [*starts, length - size]


def _even_starts(length: int, size: int, overlap: float) -> list[int]:
    """First voxels of as many windows as nnU-Net takes, spread evenly and rounded."""
    count = math.ceil((length - size) / (size * (1 - overlap))) + 1
    stride = (length - size) / (count - 1) if count > 1 else 0
    return [int(np.round(stride * i)) for i in range(count)]


def _nnunet_importance(size: tuple[int, ...]) -> Tensor:
    """nnU-Net's Gaussian "*w": SciPy's filter of one voxel at size // 2, peak 10, in half precision, never 0."""
    point = np.zeros(size)
    point[tuple(n // 2 for n in size)] = 1
    blurred = ndimage.gaussian_filter(point, [n / 8 for n in size], 0, mode="constant", cval=0)
    weight = torch.from_numpy(blurred / (blurred.max() / 10)).half()
    weight[weight == 0] = weight[weight != 0].min()
    return weight
