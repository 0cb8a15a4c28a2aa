"""From a scan's own grid to a network's grid and back, as linear operators with exact adjoints.

A network wants a fixed orientation and spacing. Reorienting permutes and flips axes (the closest anatomical axes, so
oblique scans keep their obliqueness); resampling is one small matrix per axis. Both are linear, so autograd's transpose
*is* the adjoint that brings the gradient back to native voxels, and nothing of the volume has to be saved for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

SLAB_VOXELS = 2**25


def linear_matrix(n_in: int, n_out: int, antialias: bool) -> Tensor:
    """Linear interpolation from n_in to n_out samples over the same extent, as an (n_out, n_in) matrix whose rows sum
    to 1.

    antialias widens the triangle to the output's spacing when it shrinks, so that every input sample counts.
    """
    scale = n_in / n_out
    width = max(1.0, scale) if antialias else 1.0
    centres = (np.arange(n_out) + 0.5) * scale - 0.5
    # Beyond the border the edge value continues: a centre outside the samples sits on the edge itself.
    centres = np.clip(centres, 0, n_in - 1)
    weights = np.clip(1 - np.abs(np.arange(n_in)[None, :] - centres[:, None]) / width, 0, None)
    return torch.from_numpy(weights / weights.sum(1, keepdims=True))


def nearest_index(n_in: int, n_out: int) -> np.ndarray:
    """For each of n_out samples over the same extent, the index of the nearest of n_in samples."""
    return np.clip(np.floor((np.arange(n_out) + 0.5) * n_in / n_out), 0, n_in - 1).astype(np.int64)


def apply_along(matrix: Tensor, x: Tensor, axis: int) -> Tensor:
    """Multiply `matrix` (m, n) into axis `axis` of x."""
    return (x.movedim(axis, -1) @ matrix.to(x).T).movedim(-1, axis)


@dataclass(frozen=True)
class Regrid:
    """The map from one scan's grid to a network's grid.

    shape: the scan's spatial shape; order, flips: network axis k is scan axis order[k], reversed where flips[k];
    target: the network grid's shape; antialias: see `linear_matrix`.
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]
    flips: tuple[bool, ...]
    target: tuple[int, ...]
    antialias: bool = True

    @classmethod
    def plan(
        cls,
        shape: Sequence[int],
        affine: np.ndarray,
        orientation: str | None,
        spacing: Sequence[float | None] | None,
        antialias: bool = True,
    ) -> "Regrid":
        """Plan the map for a scan of `shape` with `affine` (ijk -> RAS, mm).

        orientation: axis codes such as "RAS", or None to keep the scan's; spacing: mm along the network's axes, None
        (whole or per axis) to keep the scan's.
        """
        dims = len(shape)
        order, flips = tuple(range(dims)), (False,) * dims
        if orientation is not None and dims == 3:
            here = nib.orientations.io_orientation(affine)
            there = nib.orientations.axcodes2ornt(tuple(orientation))
            transform = nib.orientations.ornt_transform(here, there)
            order = tuple(int(np.flatnonzero(transform[:, 0] == k)[0]) for k in range(3))
            flips = tuple(bool(transform[order[k], 1] < 0) for k in range(3))
        native = np.linalg.norm(np.asarray(affine)[:3, :3], axis=0)[:dims]
        wanted = tuple(spacing) if spacing is not None else (None,) * dims
        target = tuple(
            shape[a] if s is None else max(1, round(shape[a] * float(native[a]) / s))
            for a, s in zip(order, wanted, strict=True)
        )
        return cls(tuple(shape), order, flips, target, antialias)

    @property
    def oriented_shape(self) -> tuple[int, ...]:
        return tuple(self.shape[a] for a in self.order)

    @property
    def resamples(self) -> bool:
        return self.oriented_shape != self.target

    def spacing(self, native: Sequence[float]) -> tuple[float, ...]:
        """mm between the network's voxels along its own axes; native: along the scan's."""
        sizes = zip((native[axis] for axis in self.order), self.oriented_shape, self.target, strict=True)
        return tuple(spacing * n / m for spacing, n, m in sizes)

    def exact(self, x: Tensor) -> Tensor:
        """What the judge takes: the same."""
        return self.to_network(x)

    def to_network(self, x: Tensor) -> Tensor:
        """ "b c *s" on the scan's grid -> "b c *g" on the network's; linear and differentiable."""
        x = self._orient(x)
        for axis, (n, m) in enumerate(zip(self.oriented_shape, self.target, strict=True)):
            if n != m:
                x = apply_along(linear_matrix(n, m, self.antialias), x, axis + 2)
        return x

    def back(self, scores: Tensor) -> Tensor:
        """Scores "k *g" on the network's grid -> "k *s" on the scan's; linear and differentiable."""
        for axis, (n, m) in enumerate(zip(self.oriented_shape, self.target, strict=True)):
            if n != m:
                scores = apply_along(linear_matrix(m, n, antialias=False), scores, axis + 1)
        reversed_axes = [axis + 1 for axis, flip in enumerate(self.flips) if flip]
        scores = scores.flip(reversed_axes) if reversed_axes else scores
        return scores.permute(0, *(int(a) + 1 for a in np.argsort(self.order)))

    def labels_to_network(self, labels: np.ndarray) -> np.ndarray:
        """Label map or mask "*s" -> "*g" by the nearest voxel."""
        oriented = np.transpose(labels, self.order)
        for axis, flip in enumerate(self.flips):
            oriented = np.flip(oriented, axis) if flip else oriented
        for axis, (n, m) in enumerate(zip(self.oriented_shape, self.target, strict=True)):
            if n != m:
                oriented = np.take(oriented, nearest_index(n, m), axis)
        return np.ascontiguousarray(oriented)

    def argmax_to_native(self, scores: Tensor, painted: Sequence[int] | None = None) -> np.ndarray:
        """Scores "k *g" -> the label of the highest linearly resampled score, uint8 or int16 "*s" on the scan's grid.

        painted: where channels answer yes (above 0) or no instead, the label each paints over those before it. Works
        class by class and slab by slab, so that k volume-sized copies never exist at once.
        """
        classes = scores.shape[0]
        largest = classes - 1 if painted is None else max(painted)
        labels = torch.empty(self.oriented_shape, dtype=torch.uint8 if largest <= 255 else torch.int16)
        first = self.oriented_shape[0]
        rest = float(np.prod(self.oriented_shape[1:]))
        rows = max(1, min(first, int(SLAB_VOXELS / max(rest, 1))))
        matrices = [
            linear_matrix(m, n, antialias=False).to(scores) if n != m else None
            for n, m in zip(self.oriented_shape, self.target, strict=True)
        ]
        for start in range(0, first, rows):
            stop = min(first, start + rows)
            best = None
            winner = torch.zeros((stop - start, *self.oriented_shape[1:]), dtype=labels.dtype)
            for k in range(classes):
                head = matrices[0]
                slab = scores[k, start:stop] if head is None else apply_along(head[start:stop], scores[k], 0)
                for axis, matrix in enumerate(matrices[1:], start=1):
                    slab = slab if matrix is None else apply_along(matrix, slab, axis)
                if painted is not None:
                    winner[(slab > 0).cpu()] = painted[k]
                    continue
                if best is None:
                    best = slab.clone()
                    continue
                better = (slab > best).cpu()
                winner[better] = k
                best = torch.maximum(best, slab)
            labels[start:stop] = winner
        oriented = labels.numpy()
        for axis, flip in enumerate(self.flips):
            oriented = np.flip(oriented, axis) if flip else oriented
        return np.ascontiguousarray(np.transpose(oriented, np.argsort(self.order)))

    @cached_property
    def reach(self) -> np.ndarray:
        """bool "*s": voxels that have any weight in the network's grid (all of them with antialiasing)."""
        hit = np.ones(self.oriented_shape, bool)
        for axis, (n, m) in enumerate(zip(self.oriented_shape, self.target, strict=True)):
            if n != m:
                used = (linear_matrix(n, m, self.antialias).numpy() > 0).any(0)
                hit &= used.reshape([-1 if a == axis else 1 for a in range(hit.ndim)])
        for axis, flip in enumerate(self.flips):
            hit = np.flip(hit, axis) if flip else hit
        return np.transpose(hit, np.argsort(self.order))

    def _orient(self, x: Tensor) -> Tensor:
        x = x.permute(0, 1, *(a + 2 for a in self.order))
        reversed_axes = [axis + 2 for axis, flip in enumerate(self.flips) if flip]
        return x.flip(reversed_axes) if reversed_axes else x
