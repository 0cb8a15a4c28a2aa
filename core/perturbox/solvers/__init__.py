"""How to climb: frozen settings, explicit state, `init` and `step`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from perturbox.budget import Budget


@dataclass(frozen=True)
class Oracle:
    """What a solver may ask about a point z: its objective with gradient, or its objective alone."""

    gradient: Callable[[Tensor], tuple[float, Tensor]]
    value: Callable[[Tensor], float]


class Solver(Protocol):
    """init(z, budget, generator) -> state; step(oracle, z, state) -> (z, state). The runner projects z after every
    step."""

    def init(self, z: Tensor, budget: Budget, generator: torch.Generator) -> Any: ...

    def step(self, oracle: Oracle, z: Tensor, state: Any) -> tuple[Tensor, Any]: ...
