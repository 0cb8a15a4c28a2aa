"""A watermark: a word in every slice, blended in for all to see, or hidden in the scan's wavelet coefficients.

    blend     x_adv = x + s m (ink - window(x)),   m = 1 where the word is, ink: the window's upper end, or lower end
    wavelet   c <- q round((c - b q / 2) / q) + b q / 2,   q = 2 s n w,   b = 1 where the word is

c: the coarsest diagonal detail of Haar wavelets in blocks of n = 2^level pixels; w: the window's width. A coefficient
that is read back says its bit by the lattice it lies on (dither modulation, Chen & Wornell 2001, doi
10.1109/18.923725). Neither moves a voxel by more than s w.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from perturbox.attacks.budget import Budget
from perturbox.attacks.spaces import settle, slice_axis
from perturbox.attacks.spaces.dct import along_blocks, cropped, to_blocks

WORD = (
    "### ### ### ### # # ### ##  ### # #",
    "# # #   # #  #  # # # # # # # # # #",
    "### ##  ##   #  # # ##  ##  # #  # ",
    "#   #   # #  #  # # # # # # # # # #",
    "#   ### # #  #  ### # # ##  ### # #",
)
MARGIN = 2  # dots around the word where it is repeated


def tile() -> Tensor:
    """The word as dots, 1 where there is ink, with a margin: (columns, rows)."""
    dots = torch.tensor([[float(dot == "#") for dot in row] for row in WORD])
    return torch.nn.functional.pad(dots, [MARGIN] * 4).T


def word_at(columns: Tensor, rows: Tensor) -> Tensor:
    """The repeated word at places counted in dots, (columns, rows)."""
    dots = tile().to(columns)
    first, second = (places.floor().long() % n for places, n in zip((columns, rows), dots.shape, strict=True))
    return dots[first][:, second]


def haar_matrix(n: int) -> Tensor:
    """The orthonormal Haar transform of length n, a power of 2, "n n": first the mean, then details from coarse to
    fine."""
    if n == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    half = torch.eye(n // 2, dtype=torch.float64)
    pair = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64) / math.sqrt(2)
    return torch.cat([torch.kron(haar_matrix(n // 2), pair[:1]), torch.kron(half, pair[1:])])


def random_places(count: int, generator: torch.Generator) -> Tensor:
    """Where the word may lie, in words along its columns and rows, "count 2"."""
    return torch.rand((count, 2), generator=generator)


@dataclass(frozen=True)
class Watermark:
    """z: where the word lies, in words along its columns and rows, and how strong it is, "1 3", within [-strength,
    strength] as a share of the victim's window; below 0 the ink is dark, or the bits are inverted. Strength 0 is the
    scan. Not differentiable in z.

    dot_mm: edge of a dot of the word, blended in; hidden, a dot is a block. The word lies in the slices, the same in
    all of them, and is read along the file's axes.
    """

    kind: str
    strength: float
    dot_mm: float
    level: int
    voxelwise: bool = False

    def init(self, x: Tensor, budget: Budget, generator: torch.Generator) -> Tensor:
        return self.draw(x, budget, generator)

    def draw(self, x: Tensor, budget: Budget, generator: torch.Generator) -> Tensor:
        sign = torch.randint(2, (1, 1), generator=generator) * 2 - 1
        return torch.cat([random_places(1, generator), self.strength * sign], 1).to(x)

    def decode(self, z: Tensor, x: Tensor, budget: Budget) -> Tensor:
        column, row, strength = z[0].tolist()
        if strength == 0:
            return settle(torch.zeros_like(x), x, budget)
        across = slice_axis(budget.spacing)
        slices = x if across is None else x[0].movedim(across + 1, 0)
        steps = [step for axis, step in enumerate(budget.spacing) if axis != across]
        change = (self._blended if self.kind == "blend" else self._hidden)(
            slices, (column, row), strength, steps, budget
        )
        return settle(change if across is None else change.movedim(0, across + 1)[None], x, budget)

    def _blended(self, x: Tensor, place: tuple[float, float], strength: float, steps: list[float], budget: Budget):
        """What blending changes of slices "n c i j"."""
        low, high = budget.visible or budget.clip
        places = [
            (torch.arange(n).to(x) + 0.5) * step / self.dot_mm + part * dots
            for n, step, part, dots in zip(x.shape[2:], steps, place, tile().shape, strict=True)
        ]
        ink = high if strength > 0 else low
        return abs(strength) * word_at(*places) * (ink - x.clamp(low, high))

    def _hidden(self, x: Tensor, place: tuple[float, float], strength: float, steps: list[float], budget: Budget):
        """What hiding the bits changes of slices "n c i j"."""
        low, high = budget.visible or budget.clip
        n = 2**self.level
        matrix = haar_matrix(n)
        coefficients = along_blocks(to_blocks(x.clamp(low, high), n), matrix)
        bands = (..., slice(1, None, n), slice(1, None, n))
        detail = coefficients[bands]
        places = [
            torch.arange(m).to(x) + round(part * dots)
            for m, part, dots in zip(detail.shape[2:], place, tile().shape, strict=True)
        ]
        bits = word_at(*places) if strength > 0 else 1 - word_at(*places)
        step = 2 * abs(strength) * n * (high - low)
        offset = bits * step / 2
        change = torch.zeros_like(coefficients)
        change[bands] = ((detail - offset) / step).round() * step + offset - detail
        return cropped(along_blocks(change, matrix.T), x.shape)

    def project(self, z: Tensor, x: Tensor, budget: Budget) -> Tensor:
        return torch.cat([z[:, :2] % 1, z[:, 2:].clamp(-self.strength, self.strength)], 1)
