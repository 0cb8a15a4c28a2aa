"""A small residual U-Net that takes noise out of slices, and a whole scan's way through it in bounded memory.

It has no normalisation, so that a slice's own contrast says how large noise is beside it, and smooth activations, so
that its gradient is exact everywhere.
"""

from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from perturbox.attacks.spaces import slice_axis

WIDTH = 12
REACH = 4.0  # times the noise: what counts as 1 of the network's input
VALUES = 1 << 18  # that go through the network at once; of each it keeps about a hundred for the gradient


class Reformer(nn.Module):
    """What to take from a slice "n 1 h w", in multiples of the noise; 10,969 weights."""

    def __init__(self) -> None:
        super().__init__()
        conv = partial(nn.Conv2d, kernel_size=3, padding=1, padding_mode="replicate")
        self.enter, self.fine = conv(1, WIDTH), conv(WIDTH, WIDTH)
        self.down, self.coarse = conv(WIDTH, 2 * WIDTH, stride=2), conv(2 * WIDTH, 2 * WIDTH)
        self.narrow = nn.Conv2d(2 * WIDTH, WIDTH, 1)
        self.join, self.leave = conv(WIDTH, WIDTH), conv(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = F.silu(self.fine(F.silu(self.enter(x))))
        coarse = F.silu(self.coarse(F.silu(self.down(fine))))
        back = F.interpolate(self.narrow(coarse), size=fine.shape[2:], mode="nearest")
        return self.leave(F.silu(self.join(fine + back)))


def reformed(x: Tensor, spacing: tuple[float, ...], weights: Mapping[str, Tensor], sigma: float) -> Tensor:
    """Scans x "b c *s" without what the network takes for noise of `sigma`, slice by slice across the axis of the
    thickest; differentiable, exactly. spacing: mm along each axis."""
    axis = slice_axis(spacing)
    slices = x if axis is None else x.movedim(axis + 2, 2)
    flat = slices.reshape(-1, 1, *slices.shape[-2:])
    network, placed = _empty(), {name: weight.to(x) for name, weight in weights.items()}

    def step(part: Tensor) -> Tensor:
        return part - sigma * functional_call(network, placed, (part / (REACH * sigma),))

    rows = max(1, VALUES // flat[0].numel())
    grad = torch.is_grad_enabled() and x.requires_grad
    parts = [checkpoint(step, part, use_reentrant=False) if grad else step(part) for part in flat.split(rows)]
    made = torch.cat(parts).reshape(slices.shape)  # type: ignore[arg-type]
    return made if axis is None else made.movedim(2, axis + 2)


def _empty() -> Reformer:
    """The network's form, without memory for weights of its own."""
    with torch.device("meta"):
        return Reformer()
