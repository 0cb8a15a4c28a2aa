"""Separable Gaussian smoothing and, made of it, a structural similarity with a gradient. Shapes are "b c *s"."""

import torch
import torch.nn.functional as F
from torch import Tensor


def gaussian_kernel(size: int, reach: float) -> Tensor:
    """`size` samples of a Gaussian that ends at `reach` standard deviations; they sum to 1."""
    places = torch.linspace(-reach, reach, size, dtype=torch.float64) if size > 1 else torch.zeros(1)
    kernel = torch.exp(-places.square() / 2)
    return kernel / kernel.sum()


def smooth(x: Tensor, kernels: list[Tensor] | Tensor) -> Tensor:
    """x convolved along every spatial axis with a kernel of odd size, one for all or one per axis; zeros beyond the
    border."""
    for axis in range(2, x.dim()):
        kernel = kernels if isinstance(kernels, Tensor) else kernels[axis - 2]
        moved = x.movedim(axis, -1)
        rows = F.conv1d(moved.reshape(-1, 1, moved.shape[-1]), kernel.to(x).view(1, 1, -1), padding=len(kernel) // 2)
        x = rows.view(moved.shape).movedim(-1, axis)
    return x.contiguous()


def gaussian_mm(sigma_mm: float, spacing: tuple[float, ...]) -> list[Tensor]:
    """One kernel per axis for a Gaussian of that standard deviation in mm, out to 3 of them."""
    kernels = []
    for step in spacing:
        radius = max(0, round(3 * sigma_mm / step))
        kernels.append(gaussian_kernel(2 * radius + 1, radius * step / sigma_mm) if radius else torch.ones(1))
    return kernels


def ssim(x: Tensor, y: Tensor, span: float) -> Tensor:
    """Mean structural similarity over all voxels, with gradient; see `ssim_map`."""
    return ssim_map(x, y, span).mean()


def ssim_map(x: Tensor, y: Tensor, span: float) -> Tensor:
    """Structural similarity at every voxel, "b c *s"; span: the range of values.

    Gaussian of 11 voxels, SD 1.5, renormalised at the border. Wang et al. 2004, doi 10.1109/TIP.2003.819861.
    """
    kernel = gaussian_kernel(11, 5 / 1.5)
    total = smooth(torch.ones_like(x[:1, :1]), kernel)

    def mean(values: Tensor) -> Tensor:
        return smooth(values, kernel) / total

    # Shifted, so that squares of Hounsfield units far from 0 don't lose their differences in float32.
    shift = x.detach().mean()
    x, y = (x - shift) / span, (y - shift) / span
    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    mx, my = mx + shift / span, my + shift / span
    c1, c2 = 0.01**2, 0.03**2
    return (2 * mx * my + c1) * (2 * vxy + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
