"""Networks made of networks: mirrored, averaged over folds, in another order, or whose probabilities are taken as
logits."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

from torch import Tensor, nn

from perturbox.model.network import chosen


class Mirrored(nn.Module):
    """The mean of a network's scores over all flips along some spatial axes, each flipped back (test-time mirroring).

    A window's graph then holds 2^axes calls.
    """

    def __init__(self, network: nn.Module, axes: Sequence[int]):
        super().__init__()
        self.network, self.axes = network, tuple(axes)

    def forward(self, x: Tensor) -> Tensor:
        total = chosen(self.network(x), None)
        axes = [axis + 2 for axis in self.axes]
        flips = [some for count in range(len(axes)) for some in combinations(axes, count + 1)]
        for flip in flips:
            total = total + chosen(self.network(x.flip(flip)), None).flip(flip)
        return total / (len(flips) + 1)


class Folds(nn.Module):
    """The mean of several networks' scores; blending windows is linear, so window by window is as good as whole."""

    def __init__(self, members: Sequence[nn.Module]):
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        total: Any = None
        for member in self.members:
            scores = chosen(member(x), None)
            total = scores if total is None else total + scores
        return total / len(self.members)


class Picked(nn.Module):
    """Some of a network's channels, in another order."""

    def __init__(self, network: nn.Module, channels: Sequence[int]):
        super().__init__()
        self.network, self.channels = network, list(channels)

    def forward(self, x: Tensor) -> Tensor:
        return chosen(self.network(x), None)[:, self.channels]


class AsLogits(nn.Module):
    """The logarithm of a network's probabilities, for losses that expect logits."""

    def __init__(self, network: nn.Module, sigmoid: bool = False):
        super().__init__()
        self.network, self.sigmoid = network, sigmoid

    def forward(self, x: Tensor) -> Tensor:
        p = chosen(self.network(x), None).clamp(1e-7, 1 - 1e-7)
        return p.logit() if self.sigmoid else p.log()
