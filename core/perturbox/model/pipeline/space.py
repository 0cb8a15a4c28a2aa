"""Steps that change the grid: orientation, axes, spacing, size, crops."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from perturbox.model.pipeline import matrices
from perturbox.model.pipeline.matrices import Separable
from perturbox.model.pipeline.step import Bound, Frame, Step, box_of
from perturbox.model.regrid import linear_matrix, nearest_index
from perturbox.types import InputError, points


class Turned(Bound):
    """Axes permuted, then some of them reversed."""

    def __init__(self, before: Frame, sentence: str, order: Sequence[int], flips: Sequence[bool]):
        shape = tuple(before.shape[a] for a in order)
        move = np.zeros((4, 4))  # index after -> index before
        move[3, 3] = 1
        for k, (axis, flip) in enumerate(zip(order, flips, strict=True)):
            move[axis, k] = -1 if flip else 1
            move[axis, 3] = shape[k] - 1 if flip else 0
        for axis in range(len(order), 3):
            move[axis, axis] = 1
        mask = None if before.mask is None else _turned(before.mask, order, flips, 0)
        super().__init__(before, Frame(shape, before.affine @ move, mask), "linear", sentence)
        self.order, self.flips = tuple(order), tuple(flips)

    def forward(self, x: Tensor) -> Tensor:
        return _turned(x, self.order, self.flips, 2)

    def back(self, scores: Tensor) -> Tensor:
        reversed_axes = [axis + 1 for axis, flip in enumerate(self.flips) if flip]
        scores = scores.flip(reversed_axes) if reversed_axes else scores
        return scores.permute(0, *(int(a) + 1 for a in np.argsort(self.order)))

    def back_labels(self, labels: Tensor) -> Tensor:
        return self.back(labels)

    def nearest(self, labels: Tensor) -> Tensor:
        return _turned(labels, self.order, self.flips, 0)

    def reach(self, used: Tensor) -> Tensor:
        return self.back(used[None])[0]


def _turned(x: Tensor, order: Sequence[int], flips: Sequence[bool], first: int) -> Tensor:
    x = x.permute(*range(first), *(a + first for a in order))
    reversed_axes = [axis + first for axis, flip in enumerate(flips) if flip]
    return x.flip(reversed_axes) if reversed_axes else x


@dataclass(frozen=True)
class Orient(Step):
    """Axes turned to the closest of these codes, such as "RAS"; a 2D image stays as it is."""

    to: str
    name: ClassVar[str] = "orient"

    def plan(self, frame: Frame, x: Tensor | None) -> Bound:
        dims = len(frame.shape)
        order, flips = tuple(range(dims)), (False,) * dims
        if dims == 3:
            here = nib.orientations.io_orientation(frame.affine)
            move = nib.orientations.ornt_transform(here, nib.orientations.axcodes2ornt(tuple(self.to)))
            order = tuple(int(np.flatnonzero(move[:, 0] == k)[0]) for k in range(3))
            flips = tuple(bool(move[order[k], 1] < 0) for k in range(3))
        return Turned(frame, f"axes turned to {self.to}", order, flips)

    @property
    def keeps_values(self) -> bool:
        return True


@dataclass(frozen=True)
class Permute(Step):
    """Axis k is axis order[k] of what comes in."""

    order: tuple[int, ...]
    name: ClassVar[str] = "permute"

    def plan(self, frame: Frame, x: Tensor | None) -> Bound:
        if sorted(self.order) != list(range(len(frame.shape))):
            raise InputError(
                f"The step 'permute' orders the axes {self.order}, the scan has {len(frame.shape)}; name each once."
            )
        return Turned(frame, f"axes in the order {', '.join(map(str, self.order))}", self.order, [False] * 3)

    @property
    def keeps_values(self) -> bool:
        return True


@dataclass(frozen=True)
class Spacing(Step):
    """Linear resampling to these mm per axis (None keeps an axis) on MONAI's grid: that of its Spacing transform, whose
    shape and offset are asked of MONAI itself. Sheared grids are resampled by MONAI's own function. The judge takes
    MONAI's bits, the attack one matrix per axis (1e-6 apart)."""

    mm: tuple[float | None, ...]
    name: ClassVar[str] = "spacing"

    def plan(self, frame: Frame, x: Tensor | None) -> Bound:
        from monai.data.utils import compute_shape_offset, zoom_affine

        dims = len(frame.shape)
        wanted = [frame.spacing[a] if s is None else s for a, s in enumerate(_sized(self.mm, dims, self.name))]
        here = _square(frame.affine, dims)
        new = zoom_affine(here, np.array(wanted), diagonal=False)
        shape, offset = compute_shape_offset(frame.shape, here, new, False)
        new[:dims, -1] = offset[:dims]
        shape = tuple(int(n) for n in shape)
        move = np.linalg.solve(here, new)
        affine = np.array(frame.affine, dtype=float)
        affine[:dims, :dims], affine[:dims, 3] = new[:dims, :dims], new[:dims, -1]
        after = Frame(shape, affine)
        size = f"{' × '.join(map(str, shape))} {points(len(shape))}"
        words = f"resampled to {' × '.join(f'{s:g}' for s in wanted)} mm, {size}"
        off = np.abs(move[:dims, :dims] - np.diag(np.diag(move)[:dims])).max()
        if off > 1e-4:
            return ByMonai(frame, after, here, new, f"{words} (sheared grid, by MONAI's own function)")
        steps, shift = np.diag(move)[:dims], move[:dims, -1]
        rules = list(zip(frame.shape, shape, steps, shift, strict=True))
        same = [n == m and abs(s - 1) < 1e-12 and abs(o) < 1e-9 for n, m, s, o in rules]
        there = [np.arange(m) * s + o for _, m, s, o in rules]
        again = [(np.arange(n) - o) / s for n, _, s, o in rules]
        return ByMonai(
            frame,
            after,
            here,
            new,
            words,
            [None if k else matrices.linear_at(p, n) for k, p, n in zip(same, there, frame.shape, strict=True)],
            [None if k else matrices.linear_at(p, m) for k, p, m in zip(same, again, shape, strict=True)],
            [None if k else matrices.nearest_at(p, n) for k, p, n in zip(same, there, frame.shape, strict=True)],
            [None if k else matrices.nearest_at(p, m) for k, p, m in zip(same, again, shape, strict=True)],
        )

    @property
    def keeps_values(self) -> bool:
        return True


class ByMonai(Separable):
    """Resampling between two affines: by matrices where there are any, else (and for the judge) by MONAI's function."""

    def __init__(self, before: Frame, after: Frame, here: np.ndarray, new: np.ndarray, words: str, *rows: Any):
        there, again, picked, unpicked = rows or ([None] * len(before.shape),) * 4
        super().__init__(before, after, words, there, again, picked, unpicked)
        self.here, self.new, self.separable = here, new, bool(rows)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.separable else self.exact(x)

    def exact(self, x: Tensor) -> Tensor:
        return torch.stack([self._monai(image, self.here, self.new, self.after.shape, "bilinear") for image in x])

    def back(self, scores: Tensor) -> Tensor:
        return self._monai(scores, self.new, self.here, self.before.shape, "bilinear")

    def back_labels(self, labels: Tensor) -> Tensor:
        found = self._monai(labels.float(), self.new, self.here, self.before.shape, "nearest")
        return found.round().to(labels.dtype)

    def nearest(self, labels: Tensor) -> Tensor:
        if self.separable:
            return super().nearest(labels)
        found = self._monai(labels[None].float(), self.here, self.new, self.after.shape, "nearest")[0]
        return found.round().to(labels.dtype)

    def reach(self, used: Tensor) -> Tensor:
        return super().reach(used) if self.separable else torch.ones(self.before.shape, dtype=torch.bool)

    def _monai(self, x: Tensor, source: np.ndarray, target: np.ndarray, shape: tuple[int, ...], mode: str) -> Tensor:
        from monai.data.meta_tensor import MetaTensor
        from monai.transforms.spatial.array import SpatialResample

        resample = SpatialResample(mode=mode, padding_mode="border", align_corners=False)
        given = MetaTensor(x, affine=torch.from_numpy(source))
        return resample(given, dst_affine=torch.from_numpy(target), spatial_size=shape).as_tensor().to(x.dtype)  # type: ignore[union-attr]


@dataclass(frozen=True)
class Resize(Step):
    """To a fixed number of voxels. mode: "linear" (PyTorch's, align_corners false), "area", or PyTorch's "nearest" or
    "nearest-exact", of which only the second takes the voxel in the middle."""

    size: tuple[int, ...]
    mode: Literal["linear", "area", "nearest", "nearest-exact"] = "linear"
    name: ClassVar[str] = "resize"

    def plan(self, frame: Frame, x: Tensor | None) -> Bound:
        size = tuple(int(n) for n in _sized(self.size, len(frame.shape), self.name))
        if self.mode not in ("linear", "area", "nearest", "nearest-exact"):
            raise InputError(
                f"The step 'resize' knows no mode '{self.mode}'; choose linear, area, nearest or nearest-exact."
            )
        pairs = list(zip(frame.shape, size, strict=True))
        after = Frame(size, _stretched(frame, size))

        def made(pairs: list[tuple[int, int]]) -> list[Tensor | None]:
            if self.mode == "nearest":
                index = [np.floor(np.arange(m) * (n / m)).astype(np.int64).clip(0, n - 1) for n, m in pairs]
                return [None if n == m else matrices.picking(i, n) for i, (n, m) in zip(index, pairs, strict=True)]
            if self.mode == "nearest-exact":
                return [None if n == m else matrices.picking(nearest_index(n, m), n) for n, m in pairs]
            make = matrices.area if self.mode == "area" else lambda n, m: linear_matrix(n, m, antialias=False)
            return [None if n == m else make(n, m) for n, m in pairs]

        back = [(m, n) for n, m in pairs]
        return Resized(
            self.mode,
            frame,
            after,
            f"resized to {' × '.join(map(str, size))} {points(len(size))} ({self.mode})",
            made(pairs),
            made(back),
            [None if n == m else nearest_index(n, m) for n, m in pairs],
            [None if n == m else nearest_index(n, m) for n, m in back],
        )

    @property
    def keeps_values(self) -> bool:
        return True


class Resized(Separable):
    """PyTorch's own interpolation for the judge, its matrices for the gradient."""

    def __init__(self, mode: str, *given: Any):
        super().__init__(*given)
        linear = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(self.before.shape)]
        self.mode = linear if mode == "linear" else mode

    def exact(self, x: Tensor) -> Tensor:
        return F.interpolate(x, self.after.shape, mode=self.mode)


class Cropped(Bound):
    """A box of the grid; outside it scores are 0 on the way back, and so are labels and gradients."""

    def __init__(self, before: Frame, box: tuple[slice, ...], sentence: str, mask: Tensor | None = None):
        affine = np.array(before.affine, dtype=float)
        start = [part.start for part in box] + [0] * (3 - len(box))
        affine[:3, 3] = (before.affine @ [*start, 1])[:3]
        mask = before.mask if mask is None else mask
        frame = Frame(tuple(p.stop - p.start for p in box), affine, None if mask is None else mask[box])
        super().__init__(before, frame, "linear", sentence)
        self.box = box

    def forward(self, x: Tensor) -> Tensor:
        return x[(slice(None), slice(None), *self.box)]

    def back(self, scores: Tensor) -> Tensor:
        whole = scores.new_zeros(len(scores), *self.before.shape)
        whole[(slice(None), *self.box)] = scores
        return whole

    def back_labels(self, labels: Tensor) -> Tensor:
        return self.back(labels)

    def nearest(self, labels: Tensor) -> Tensor:
        return labels[self.box]

    def reach(self, used: Tensor) -> Tensor:
        return self.back(used[None])[0]


@dataclass(frozen=True)
class Crop(Step):
    """The box of the voxels above `above` in any channel, `margin` voxels wider on each side but inside the
    scan, as MONAI's CropForeground. The box is that of the scan as it is planned: a constant to the gradient."""

    above: float = 0.0
    margin: int = 0
    name: ClassVar[str] = "crop"
    needs_values: ClassVar[bool] = True

    def plan(self, frame: Frame, x: Tensor | None) -> Bound:
        assert x is not None
        found = box_of((x[0] > self.above).any(0))
        box = tuple(
            slice(max(part.start - self.margin, 0), min(part.stop + self.margin, n))
            for part, n in zip(found, frame.shape, strict=True)
        )
        return Cropped(frame, box, f"cropped to the {points(len(box))} above {self.above:g}: {_size(box)}")

    @property
    def keeps_values(self) -> bool:
        return True


@dataclass(frozen=True)
class CropNonzero(Step):
    """The box of the voxels that aren't 0 in any channel, holes filled, as nnU-Net crops; the mask is kept for a
    normalisation inside it."""

    name: ClassVar[str] = "crop-nonzero"
    needs_values: ClassVar[bool] = True

    def plan(self, frame: Frame, x: Tensor | None) -> Bound:
        assert x is not None
        mask = ndimage.binary_fill_holes((x[0] != 0).any(0).cpu().numpy())
        assert mask is not None
        kept = torch.from_numpy(np.ascontiguousarray(mask)).to(x.device)
        box = box_of(kept)
        return Cropped(frame, box, f"cropped to what isn't 0: {_size(box)} {points(len(box))}", kept)

    @property
    def keeps_values(self) -> bool:
        return True


def _size(box: tuple[slice, ...]) -> str:
    return " × ".join(str(part.stop - part.start) for part in box)


def _sized(given: Sequence[Any], dims: int, step: str) -> Sequence[Any]:
    if len(given) == dims:
        return given
    if len(given) == 2 and dims == 3:  # a model of slices keeps the scan's third axis
        return [*given, None] if step == "spacing" else given
    raise InputError(f"The step '{step}' names {len(given)} axes, the scan has {dims}; give one number per axis.")


def _square(affine: np.ndarray, dims: int) -> np.ndarray:
    """The affine of the first axes alone."""
    made = np.eye(dims + 1)
    made[:dims, :dims], made[:dims, -1] = affine[:dims, :dims], affine[:dims, 3]
    return made


def _stretched(frame: Frame, size: tuple[int, ...]) -> np.ndarray:
    """The affine of a grid of another size over the same extent."""
    affine = np.array(frame.affine, dtype=float)
    for axis, (n, m) in enumerate(zip(frame.shape, size, strict=True)):
        affine[:3, 3] += affine[:3, axis] * (n / m - 1) / 2
        affine[:3, axis] *= n / m
    return affine
