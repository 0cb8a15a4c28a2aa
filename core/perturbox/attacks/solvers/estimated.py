"""Any solver without gradients: it is given estimates from values instead (see `oracle.Estimator`)."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from perturbox.attacks.budget import Budget
from perturbox.attacks.oracle import Estimator, Oracle
from perturbox.attacks.solvers import Solver


@dataclass(frozen=True)
class Estimated(Solver):
    """solver: asks for gradients; estimator: answers from peeks, each a query of the model."""

    solver: Solver
    estimator: Estimator

    uses_gradient = False

    @property
    def queries(self) -> int:  # type: ignore[override]
        return self.estimator.queries

    def init(self, z: Tensor, budget: Budget, generator: torch.Generator) -> tuple[Any, Any]:
        return self.solver.init(z, budget, generator), self.estimator.init(z, budget, generator)

    def step(self, oracle: Oracle, z: Tensor, state: tuple[Any, Any]) -> tuple[Tensor, tuple[Any, Any]]:
        inner, known = state

        def gradient(z: Tensor) -> tuple[float, Tensor]:
            nonlocal known
            value = oracle.value(z)
            _, estimate, known = self.estimator.gradient(oracle, z, known)
            return value, estimate

        z, inner = self.solver.step(dataclasses.replace(oracle, gradient=gradient), z, inner)
        return z, (inner, known)

    def done(self, state: tuple[Any, Any]) -> bool:
        return self.solver.done(state[0])
