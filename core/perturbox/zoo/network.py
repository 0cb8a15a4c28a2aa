"""The built-in victims' network: a small residual U-Net, one code for 2D slices and 3D volumes.

Residual blocks go down by strided convolution and come up by nearest-neighbour upsampling (a 3-wide convolution
follows, so trilinear would only cost time). Instance normalisation has no running statistics: training and evaluation
compute the same function, and a window's prediction never depends on its neighbours in the batch.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

_CONV = {2: nn.Conv2d, 3: nn.Conv3d}
_NORM = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
_POOL = {2: F.avg_pool2d, 3: F.avg_pool3d}
_SLOPE = 0.01


class ConvNormAct(nn.Module):
    """3-wide convolution, instance normalisation, leaky ReLU."""

    def __init__(self, dims: int, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = _CONV[dims](in_channels, out_channels, 3, padding=1, bias=False)
        self.norm = _NORM[dims](out_channels, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.norm(self.conv(x)), _SLOPE)


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut (He et al. 2016, arXiv:1512.03385); `stride` 2 halves every side."""

    def __init__(self, dims: int, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = _CONV[dims](in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = _NORM[dims](out_channels, affine=True)
        self.conv2 = _CONV[dims](out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = _NORM[dims](out_channels, affine=True)
        same = stride == 1 and in_channels == out_channels
        self.project = nn.Identity() if same else _CONV[dims](in_channels, out_channels, 1, bias=False)
        self._pool, self._stride = _POOL[dims], stride

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.norm1(self.conv1(x)), _SLOPE)
        y = self.norm2(self.conv2(y))
        shortcut = self._pool(x, self._stride) if self._stride > 1 else x
        return F.leaky_relu(y + self.project(shortcut), _SLOPE)


class ResUNet(nn.Module):
    """Residual U-Net (Ronneberger et al. 2015, arXiv:1505.04597) returning class logits on the input's grid.

    Input `(batch, in_channels, *sides)` with `dims` sides, each a multiple of `divisor` (16 for five levels); the
    deepest level needs more than one voxel. Output `(batch, classes, *sides)`. Raises ValueError otherwise.
    Deviations from the paper: residual blocks, instance norm, padded convolutions, nearest upsampling after a 1-wide
    convolution, skips added instead of concatenated and one convolution a side at full resolution, where time goes.
    """

    def __init__(
        self, dims: int, in_channels: int, classes: int, channels: Sequence[int] = (8, 16, 32, 64, 128)
    ) -> None:
        super().__init__()
        if dims not in _CONV:
            raise ValueError(f"dims is {dims}; use 2 or 3")
        if len(channels) < 2:
            raise ValueError("channels needs at least two levels")
        self.dims, self.divisor = dims, 2 ** (len(channels) - 1)
        conv, levels = _CONV[dims], list(channels)
        self.stem = ConvNormAct(dims, in_channels, levels[0])
        self.encoder = nn.ModuleList(ResidualBlock(dims, fine, coarse, stride=2) for fine, coarse in pairwise(levels))
        self.narrow = nn.ModuleList(conv(coarse, fine, 1, bias=False) for fine, coarse in pairwise(levels))
        self.decoder = nn.ModuleList(
            [ConvNormAct(dims, levels[0], levels[0])] + [ResidualBlock(dims, width, width) for width in levels[1:-1]]
        )
        self.head = conv(levels[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != self.dims + 2 or any(side % self.divisor for side in x.shape[2:]):
            raise ValueError(f"input is {tuple(x.shape)}; give {self.dims} sides, each a multiple of {self.divisor}")
        skips = [self.stem(x)]
        for down in self.encoder:
            skips.append(down(skips[-1]))
        y = skips.pop()
        for narrow, merge in zip(reversed(self.narrow), reversed(self.decoder), strict=True):
            y = merge(skips.pop() + F.interpolate(narrow(y), scale_factor=2, mode="nearest"))
        return self.head(y)
