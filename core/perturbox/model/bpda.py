"""The values of one function with the gradient of another, for steps that have none of their own (BPDA).

Athalye, Carlini & Wagner 2018, arXiv 1802.00420.
"""

from typing import Any

import torch
from torch import Tensor


class _Replaced(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, exact: Tensor, smooth: Tensor) -> Tensor:
        return exact.to(smooth).clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[None, Tensor]:
        return None, gradients[0]


def bpda(exact: Tensor, smooth: Tensor) -> Tensor:
    """The values of `exact`, bit for bit, with the gradient of `smooth`, a differentiable approximation of that
    shape."""
    return _Replaced.apply(exact.detach(), smooth)  # type: ignore[return-value]
