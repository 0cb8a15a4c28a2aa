"""How fine a scan's detail is: a spectrum of the cosine coefficients of its blocks, and its distance from usual ones.

    s_r = mean over blocks and over coefficients k with round(|k|) = r of log|c_k|,    r = 1, 2, …

The blocks have 8 voxels along each axis; what is left beyond whole blocks isn't looked at, and blocks of one value
only, such as the air around a body, don't count.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from perturbox.attacks.spaces.dct import along_blocks, cosine_matrix, to_blocks
from perturbox.types import InputError

BLOCK = 8
FINEST = 1e-3  # of the noise, added to every coefficient: its logarithm is then finite
FLOOR = 1e-6  # of the mean variance, added to every one
FOLDS = 10


def radii(dims: int) -> Tensor:
    """The rounded distance of each coefficient of a block from its mean, int64 "8^dims"; the mean's own is 0."""
    squares = torch.zeros((), dtype=torch.float64)
    for _ in range(dims):
        squares = squares[..., None] + torch.arange(BLOCK, dtype=torch.float64).square()
    return (squares.sqrt() + 0.5).long().flatten()


def length(dims: int) -> int:
    """Of a spectrum."""
    return int(radii(dims).max())


def spectrum(x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Spectra "n m" (float64) of scans x "b c *s", n = b c, each channel on its own, and bool "n" whether a scan has
    one: one of a single value hasn't. sigma: of noise that counts, in the scan's unit. No gradient."""
    dims = x.dim() - 2
    with torch.no_grad():
        for axis in range(2, x.dim()):
            n = x.shape[axis]
            x = x.narrow(axis, 0, n if n < BLOCK else n - n % BLOCK)
        sizes = along_blocks(to_blocks(x, BLOCK), cosine_matrix(BLOCK)).abs().flatten(0, 1)
        split = [side for n in sizes.shape[1:] for side in (n // BLOCK, BLOCK)]
        apart = sizes.reshape(-1, *split).permute(0, *range(1, 2 * dims, 2), *range(2, 2 * dims + 1, 2))
        blocks = apart.reshape(len(sizes), -1, BLOCK**dims)
        counts = (blocks[..., 1:].amax(-1) > FINEST * sigma).double()
        rings = torch.nn.functional.one_hot(radii(dims))[:, 1:].to(blocks)
        means = ((blocks + FINEST * sigma).log() @ (rings / rings.sum(0))).double()
        total = counts.sum(1)
        return (means * counts[..., None]).sum(1) / total.clamp_min(1)[:, None], total > 0


@dataclass(frozen=True, eq=False)
class Usual:
    """Spectra of clean scans: mean "m", covariance "m m", float64, and the distance from which a scan is flagged."""

    mean: Tensor
    covariance: Tensor
    threshold: float

    def distance(self, spectra: Tensor) -> Tensor:
        """Mahalanobis distances "n" of spectra "n m"."""
        away = (spectra - self.mean.to(spectra)).T
        return (away * torch.linalg.solve(self.covariance.to(spectra), away)).sum(0).clamp_min(0).sqrt()


def usual(spectra: Tensor, whose: Sequence[int], rate: float) -> Usual:
    """What is usual of clean spectra "n m"; whose: the patient of each. The threshold is that which a new one passes
    with the wanted rate, by distances from fits without the patient. Raises InputError for too few patients."""
    patients = list(dict.fromkeys(whose))
    if len(patients) < 2 * FOLDS:
        raise InputError(f"{len(patients)} clean scans are too few to learn from; give at least {2 * FOLDS}.")
    place, held = np.asarray([patients.index(one) for one in whose]) % FOLDS, np.zeros(len(spectra))
    for fold in range(FOLDS):
        held[place == fold] = _fit(spectra[place != fold], np.inf).distance(spectra[place == fold]).numpy()
    rank = min(len(held), int(np.ceil((1 - rate) * (len(held) + 1) - 1e-9)))
    return _fit(spectra, float(np.sort(held)[rank - 1]))


def _fit(spectra: Tensor, threshold: float) -> Usual:
    covariance = torch.cov(spectra.T)
    floor = FLOOR * covariance.diagonal().mean() * torch.eye(len(covariance)).to(covariance)
    return Usual(spectra.mean(0), covariance + floor, threshold)
