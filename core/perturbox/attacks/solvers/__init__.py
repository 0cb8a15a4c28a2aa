"""How to climb: frozen settings, explicit state, `init` and `step`."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from perturbox.attacks.budget import Budget
from perturbox.attacks.oracle import Oracle

__all__ = ["Oracle", "Solver"]


class Solver(ABC):
    """init(z, budget, generator) -> state; step(oracle, z, state) -> (z, state); done(state) -> whether no further step
    would change z.

    A step looks (`oracle.gradient` or `oracle.value`) at least once, first of all at the z it is given. The runner
    projects z after every step, and looks once more when the last one is done.

    uses_gradient: False for one that asks for values alone, which is what makes an attack black-box. queries:
    predictions per step beside the one with its gradient, or the one it looks at.
    """

    uses_gradient: bool = True
    queries: int = 0

    @abstractmethod
    def init(self, z: Tensor, budget: Budget, generator: torch.Generator) -> Any: ...

    @abstractmethod
    def step(self, oracle: Oracle, z: Tensor, state: Any) -> tuple[Tensor, Any]: ...

    def done(self, state: Any) -> bool:
        return False
