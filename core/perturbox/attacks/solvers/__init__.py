"""How to climb: frozen settings, explicit state, `init` and `step`."""

from typing import Any, Protocol

import torch
from torch import Tensor

from perturbox.attacks.budget import Budget
from perturbox.attacks.oracle import Oracle

__all__ = ["Oracle", "Solver"]


class Solver(Protocol):
    """init(z, budget, generator) -> state; step(oracle, z, state) -> (z, state).

    A step looks (`oracle.gradient` or `oracle.value`) at least once, first of all at the z it is given. The runner
    projects z after every step, and looks once more when the last one is done.
    """

    def init(self, z: Tensor, budget: Budget, generator: torch.Generator) -> Any: ...

    def step(self, oracle: Oracle, z: Tensor, state: Any) -> tuple[Tensor, Any]: ...
