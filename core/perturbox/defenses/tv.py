"""Total variation: the scan nearby that varies least.

    g(x) = argmin over u of 1/2 |u - x|^2 + weight * range * sum over v of |grad u|_v

by Chambolle's dual iteration p <- (p - tau grad d) / (1 + tau |grad d| / w) with u = x + d, d = -div* p. The steps of a
descent on the dual, tau = 1 / (2 dims), are differentiable, so the attack follows all of them.

Chambolle 2004, J Math Imaging Vis 20, doi 10.1023/B:JMIV.0000011325.36760.1e; as a defence Guo et al. 2018, ICLR, arXiv
1711.00117.
"""

from typing import Annotated

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from perturbox.attacks.settings import Param
from perturbox.defenses import High, Low, defense
from perturbox.defenses.filters import gaussian_of
from perturbox.model.defended import Defense, StandIn

TINY = 1e-20  # under the root, which has no gradient at 0


def gradient(u: Tensor, dims: int) -> Tensor:
    """Forward differences "d b c *s", 0 at the last voxel."""
    parts = []
    for axis in range(u.dim() - dims, u.dim()):
        last = u.narrow(axis, u.shape[axis] - 1, 1)
        parts.append(torch.diff(u, dim=axis, append=last))
    return torch.stack(parts)


def divergence(p: Tensor, dims: int) -> Tensor:
    """Minus the transpose of `gradient`: "d b c *s" -> "b c *s"."""
    total = torch.zeros_like(p[0])
    for part, axis in zip(p, range(p.dim() - 1 - dims, p.dim() - 1), strict=True):
        n = part.shape[axis]
        inner = part.narrow(axis, 0, n - 1)  # the last difference is always 0
        zero = torch.zeros_like(part.narrow(axis, 0, 1))
        total = total + torch.diff(torch.cat([zero, inner, zero], axis), dim=axis)
    return total


def energy(u: Tensor, x: Tensor, weight: float) -> Tensor:
    """What the filter makes small."""
    return 0.5 * (u - x).square().sum() + weight * gradient(u, x.dim() - 2).square().sum(0).sqrt().sum()


def chambolle(x: Tensor, weight: float, iterations: int) -> Tensor:
    """The minimiser's approximation after that many iterations; the memory of its gradient is that of its states."""
    dims = x.dim() - 2
    tau = 1 / (2 * dims)

    def step(p: Tensor, x: Tensor) -> Tensor:
        ascent = gradient(x + divergence(p, dims), dims)
        norm = (ascent.square().sum(0) + TINY).sqrt()
        return (p + tau * ascent) / (1 + tau / weight * norm)

    p = x.new_zeros((dims, *x.shape))
    for _ in range(iterations):
        p = checkpoint(step, p, x, use_reentrant=False) if x.requires_grad else step(p, x)  # type: ignore[assignment]
    return x + divergence(p, dims)


@defense(
    title="Total variation",
    paper="Guo et al. 2018, arXiv 1711.00117",
    inverse="unrolled: each iteration twice, and one state of the scan's size and axes kept for each; Gaussian: a "
    "convolution",
    deviations=(
        "deterministic: no voxels are dropped at random, as the paper does before",
        "Chambolle's iteration in place of split Bregman, of a fixed number of steps",
        "3D: the variation along all three axes, in voxels",
    ),
)
def tv(
    weight: Annotated[float, Param("Weight of the variation, for a range of 1", minimum=1e-4, maximum=10)] = 0.03,
    iterations: Annotated[int, Param("Steps of the iteration", minimum=1, maximum=500)] = 20,
    low: Low = None,
    high: High = None,
) -> Defense:
    """Denoises by total variation; the attack follows the iteration itself, or a Gaussian of about its reach."""
    assert low is not None and high is not None
    scaled = weight * (high - low)

    def denoised(x: Tensor, spacing: tuple[float, ...], draws: torch.Generator) -> Tensor:
        return chambolle(x, scaled, iterations)

    return Defense("", denoised, (StandIn("unrolled"), StandIn("Gaussian", gaussian_of(0.7))), states=iterations)
