"""What several defences share: borders that mirror the scan, Gaussian smoothing, and the identity as a stand-in.

Shapes are "b c *s"; every spatial axis is filtered.
"""

import torch
from torch import Tensor

from perturbox.attacks.smoothing import gaussian_kernel
from perturbox.model.defended import Filter, StandIn

IDENTITY = StandIn("identity", lambda x, spacing, draws: x)


def mirrored(x: Tensor, radius: int) -> Tensor:
    """x continued by `radius` voxels on every side as in a mirror at its border, "d c b a | a b c d | d c b a"."""
    for axis in range(2, x.dim()):
        n = x.shape[axis]
        places = torch.arange(-radius, n + radius, device=x.device) % (2 * n)
        x = x.index_select(axis, torch.where(places < n, places, 2 * n - 1 - places))
    return x


def smoothed(x: Tensor, sigma: float) -> Tensor:
    """x convolved with a Gaussian of `sigma` voxels, out to 4 of them."""
    radius = int(4 * sigma + 0.5)
    if radius == 0:
        return x
    kernel = gaussian_kernel(2 * radius + 1, radius / sigma).to(x)
    x = mirrored(x, radius)
    for axis in range(2, x.dim()):
        n = x.shape[axis] - 2 * radius
        x = sum((weight * x.narrow(axis, i, n) for i, weight in enumerate(kernel)), torch.zeros(()).to(x))
    return x


def gaussian_of(sigma: float) -> Filter:
    """The Gaussian as a filter."""
    return lambda x, spacing, draws: smoothed(x, sigma)
