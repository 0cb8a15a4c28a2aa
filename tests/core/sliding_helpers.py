"""Tiny networks, scans and an objective for the tests of sliding windows."""

import pytest
import torch
from torch import nn


@pytest.fixture(autouse=True)
def one_thread():
    """Tensors this small only wait for their threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class TinyNet(nn.Module):
    """Two convolutions around a downsampling: not shift-invariant, not linear, with batch norm and dropout."""

    def __init__(self, dims: int, end: nn.Module | None = None, channels: int = 2, classes: int = 3):
        super().__init__()
        conv = (nn.Conv2d, nn.Conv3d)[dims - 2]
        norm = (nn.BatchNorm2d, nn.BatchNorm3d)[dims - 2]
        self.down = nn.Sequential(conv(channels, 4, 3, padding=1, stride=2), norm(4), nn.ELU(), nn.Dropout(0.5))
        self.up = nn.Upsample(scale_factor=2)
        self.out = conv(4 + channels, classes, 3, padding=1)
        self.end = end or nn.Identity()

    def forward(self, x):
        return self.end(self.out(torch.cat([self.up(self.down(x)), x.sin()], 1)))


def network(dims: int, dtype=torch.float32, end: nn.Module | None = None) -> TinyNet:
    torch.manual_seed(dims)
    net = TinyNet(dims, end).to(dtype).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    return net


def scan(*shape: int, dtype=torch.float32, seed=0) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def objective(prediction: torch.Tensor) -> torch.Tensor:
    """Couples all voxels and classes, so that a window's gradient depends on its neighbours'."""
    return (prediction.softmax(1)[:, 1] ** 2).sum() + prediction.square().mean().log()


def value_and_gradient(predict, x, loss=objective):
    x = x.clone().requires_grad_()
    prediction = predict(x)
    (gradient,) = torch.autograd.grad(loss(prediction), x)
    return prediction.detach(), gradient
