"""Catastrophic overfitting: a network trained against one step that stands that step and nothing else.

Found by Wong et al. 2020 (arXiv 2001.03994), whose training stops when it sets in.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from perturbox.hardening.training import Hardening, Pgd, attacking

FALL = 0.2  # between two looks, or between the training's own attack and many steps


@dataclass(eq=False)
class Overfitting:
    """Looks at a batch that isn't trained on, once an epoch: `if watch(network): go back to the weights kept before`.

    trained: what the loop trains with. score: (what the network returns, y) -> a float from 0 to 1, higher is better.
    True where the score under ten steps has fallen by more than `fall` since the last look, or lies that far below the
    score under the training's own attack. seen: (own attack, ten steps) of each look.
    """

    trained: Hardening
    score: Callable[[Any, Any], float]
    x: Tensor
    y: Any
    steps: int = 10
    fall: float = FALL
    seen: list[tuple[float, float]] = field(default_factory=list)

    def __call__(self, network: nn.Module) -> bool:
        many = Pgd(
            self.trained.loss, self.trained.reach, self.trained.prepare, self.trained.valid, steps=self.steps, seed=1
        )
        found = [self._score(network, one.perturb(network, self.x, self.y)) for one in (self.trained, many)]
        before = self.seen[-1][1] if self.seen else found[1]
        self.seen.append((found[0], found[1]))
        return max(before, found[0]) - found[1] > self.fall

    def _score(self, network: nn.Module, x: Tensor) -> float:
        with torch.no_grad(), attacking(network):
            return self.score(network(self.trained.prepare(x)), self.y)
