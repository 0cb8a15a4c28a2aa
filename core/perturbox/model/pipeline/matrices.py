"""Resampling along each axis on its own: one small matrix per axis, built in double precision.

Linear interpolation, splines, areas and nearest neighbours are all linear maps of this kind, whatever rule says where
their samples lie. The transpose of the matrices is the exact adjoint, and nothing has to be saved for it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from perturbox.model.pipeline.step import Bound, Frame, Kind
from perturbox.model.regrid import apply_along

_zoom: Any = ndimage.zoom


def linear_at(positions: np.ndarray, n: int) -> Tensor:
    """(m, n): linear interpolation at these positions (in samples), the edge value going on beyond the border."""
    at = np.clip(positions, 0, n - 1)
    return torch.from_numpy(np.clip(1 - np.abs(np.arange(n)[None] - at[:, None]), 0, None))


def nearest_at(positions: np.ndarray, n: int) -> np.ndarray:
    """The index of the nearest of n samples to each position, ties to the even one as in PyTorch's grid_sample."""
    return np.clip(np.rint(positions), 0, n - 1).astype(np.int64)


def picking(index: np.ndarray, n: int) -> Tensor:
    """(m, n): the matrix that takes these samples."""
    matrix = torch.zeros(len(index), n, dtype=torch.float64)
    matrix[torch.arange(len(index)), torch.from_numpy(index)] = 1
    return matrix


def spline(n: int, m: int, order: int) -> Tensor:
    """(m, n): SciPy's zoom of that order over the same extent (mode nearest, grid_mode), which skimage.resize uses."""
    columns = [_zoom(row, m / n, order=order, mode="nearest", grid_mode=True) for row in np.eye(n)]
    return torch.from_numpy(np.stack(columns, 1))


def corner_zoom(n: int, m: int, order: int) -> Tensor:
    """(m, n): SciPy's zoom of that order whose first and last samples stay where they are (mode nearest)."""
    columns = [_zoom(row, m / n, order=order, mode="nearest") for row in np.eye(n)]
    return torch.from_numpy(np.stack(columns, 1))


def area(n: int, m: int) -> Tensor:
    """(m, n): the mean over each of m equal parts, as in adaptive pooling."""
    edges = [(i * n // m, -((-(i + 1) * n) // m)) for i in range(m)]
    matrix = torch.zeros(m, n, dtype=torch.float64)
    for row, (start, stop) in enumerate(edges):
        matrix[row, start:stop] = 1 / (stop - start)
    return matrix


class Separable(Bound):
    """Resampling by one matrix per axis, None where an axis stays as it is.

    there: (m, n) per axis. again: (n, m) per axis for scores on the way back. picked: per axis the nearest sample there
    of each sample here, for labels; unpicked: the same for the way back. clipped: axes whose joint range of the input
    the output is clipped to, as skimage does; the range is a function of the values. precise: in double precision.
    """

    def __init__(
        self,
        before: Frame,
        after: Frame,
        sentence: str,
        there: Sequence[Tensor | None],
        again: Sequence[Tensor | None],
        picked: Sequence[np.ndarray | None],
        unpicked: Sequence[np.ndarray | None],
        clipped: tuple[int, ...] = (),
        precise: bool = False,
        kind: Kind = "linear",
    ):
        super().__init__(before, after, kind, sentence)
        self.there, self.again, self.picked, self.unpicked = there, again, picked, unpicked
        self.clipped, self.precise = clipped, precise

    def forward(self, x: Tensor) -> Tensor:
        return self._through(x, self.there)

    def back(self, scores: Tensor) -> Tensor:
        return self._through(scores[None], self.again)[0]

    def back_labels(self, labels: Tensor) -> Tensor:
        return _taken(labels, self.unpicked, 1)

    def nearest(self, labels: Tensor) -> Tensor:
        return _taken(labels, self.picked, 0)

    def reach(self, used: Tensor) -> Tensor:
        found = used.double()
        for axis, matrix in enumerate(self.there):
            if matrix is not None:
                found = apply_along((matrix != 0).to(found).T, found, axis)
        return found > 0

    def _through(self, x: Tensor, matrices: Sequence[Tensor | None]) -> Tensor:
        if all(matrix is None for matrix in matrices):
            return x
        out = x.double() if self.precise else x.float() if x.dtype == torch.float16 else x
        if not self.clipped:
            for axis, matrix in enumerate(matrices):
                out = out if matrix is None else apply_along(matrix, out, axis + 2)
            return out.to(x.dtype)
        # Clipped after the axes that are resampled together, as each call of skimage's resize clips to its own input.
        inner = out
        for axis in self.clipped:
            matrix = matrices[axis]
            inner = inner if matrix is None else apply_along(matrix, inner, axis + 2)
        if inner is not out:
            axes = tuple(axis + 2 for axis in self.clipped)
            inner = torch.maximum(torch.minimum(inner, out.amax(axes, keepdim=True)), out.amin(axes, keepdim=True))
        for axis, matrix in enumerate(matrices):
            if axis not in self.clipped and matrix is not None:
                inner = apply_along(matrix, inner, axis + 2)
        return inner.to(x.dtype)


def _taken(values: Tensor, index: Sequence[np.ndarray | None], first: int) -> Tensor:
    for axis, chosen in enumerate(index):
        if chosen is not None:
            values = values.index_select(axis + first, torch.from_numpy(chosen).to(values.device))
    return values
