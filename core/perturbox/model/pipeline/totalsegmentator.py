"""TotalSegmentator's resampling, which it wraps around nnU-Net (Wasserthal et al. 2023, doi 10.1148/ryai.230024).

SciPy's zoom of order 1 whose first and last voxels stay where they are, then values cut to whole numbers. What is cut
has no derivative, and depends on the last bit: values are SciPy's own, the derivative is that of the zoom's matrices.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from perturbox.model.pipeline import matrices
from perturbox.model.pipeline.matrices import Separable
from perturbox.model.pipeline.step import Bound, Frame, Step
from perturbox.types import InputError

_zoom: Any = ndimage.zoom


@dataclass(frozen=True)
class CornerZoom(Step):
    """Resampled to `mm` along every axis, then cut to whole numbers towards 0."""

    mm: float
    name: ClassVar[str] = "totalsegmentator-zoom"

    def plan(self, frame: Frame, x: Tensor | None) -> Bound:
        if len(frame.shape) != 3:
            raise InputError(f"The step '{self.name}' resamples volumes and the scan is 2D; give a volume.")
        # The header's spacing is in single precision, and SciPy rounds the size.
        factors = [float(np.float32(s)) / self.mm for s in frame.spacing]
        shape = tuple(round(n * f) for n, f in zip(frame.shape, factors, strict=True))
        if min(shape) < 1:
            raise InputError(f"The scan is thinner than a voxel of {self.mm:g} mm; give the whole scan.")
        affine = np.array(frame.affine, dtype=float)
        affine[:3, :3] = affine[:3, :3] / np.array(factors)
        words = (
            f"resampled to {self.mm:g} mm, {' × '.join(map(str, shape))} voxels, the outermost staying in place, and "
            "cut to whole numbers; the gradient passes as if they weren't"
        )
        return Zoomed(frame, Frame(shape, affine), words)

    @property
    def keeps_values(self) -> bool:
        return True


class Zoomed(Separable):
    """Values by SciPy's own zoom, on the CPU; the derivative by matrices."""

    def __init__(self, before: Frame, after: Frame, words: str):
        pairs = list(zip(before.shape, after.shape, strict=True))
        none = [None] * len(pairs)
        super().__init__(
            before,
            after,
            words,
            [None if n == m else matrices.corner_zoom(n, m, 1) for n, m in pairs],
            [None if n == m else matrices.corner_zoom(m, n, 1) for n, m in pairs],
            none,
            none,
            kind="straight-through",
        )

    def forward(self, x: Tensor) -> Tensor:
        derived = super().forward(x)
        return derived + (self.exact(x) - derived).detach()

    def exact(self, x: Tensor) -> Tensor:
        zoomed = self._by_scipy(x.flatten(0, 1), self.after.shape, 1).trunc()
        return zoomed.unflatten(0, x.shape[:2]).to(x)

    def back_labels(self, labels: Tensor) -> Tensor:
        return self._by_scipy(labels, self.before.shape, 0).to(labels)

    def nearest(self, labels: Tensor) -> Tensor:
        return self._by_scipy(labels[None], self.after.shape, 0)[0].to(labels)

    @staticmethod
    def _by_scipy(images: Tensor, shape: tuple[int, ...], order: int) -> Tensor:
        arrays = images.detach().cpu().double().numpy()
        factors = [m / n for n, m in zip(arrays.shape[1:], shape, strict=True)]
        return torch.from_numpy(np.stack([_zoom(a, factors, mode="nearest", order=order) for a in arrays]))
