"""What may change: a space decodes variables z into an adversarial scan and keeps z inside the budget."""

from typing import Protocol

import torch
from torch import Tensor

from perturbox.budget import Budget


class Space(Protocol):
    """init(x, budget, generator) -> z; decode(z, x, budget) -> x_adv, differentiable in z; project(z, x, budget) ->
    z."""

    def init(self, x: Tensor, budget: Budget, generator: torch.Generator) -> Tensor: ...

    def decode(self, z: Tensor, x: Tensor, budget: Budget) -> Tensor: ...

    def project(self, z: Tensor, x: Tensor, budget: Budget) -> Tensor: ...
