"""Towards the smallest change that reaches the goal: steps to a linearised boundary, and back again."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from perturbox.attacks.budget import Budget, Norm
from perturbox.attacks.oracle import Oracle
from perturbox.attacks.solvers import Solver

TINY = 1e-30


@dataclass(frozen=True)
class Boundary(Solver):
    """Newton steps to where an objective -f, f >= 0, becomes 0: the smallest update that does it if f is linear.

    r = f grad(-f) / |grad f|_2^2 (l2), or f sign(grad(-f)) / |grad f|_1 (linf), a little longer by `overshoot`.
    """

    norm: Norm
    overshoot: float

    def init(self, z: Tensor, budget: Budget, generator: torch.Generator) -> None:
        return None

    def step(self, oracle: Oracle, z: Tensor, state: None) -> tuple[Tensor, None]:
        value, grad = oracle.gradient(z)
        largest = float(grad.abs().max())
        if largest < TINY:
            return z, None
        # Scaled first: gradients of means over millions of voxels underflow when squared in float32.
        unit = grad / largest
        length = unit.double().square().sum() if self.norm == "l2" else unit.double().abs().sum()
        step = -value / largest * (1 + self.overshoot) / float(length)
        return z + step * (unit if self.norm == "l2" else unit.sign()), None


@dataclass(frozen=True)
class Back(Solver):
    """Runs a solver until it reaches the goal, then bisects the way back to the clean scan for the smallest part of
    that change that still does. z = 0 is the clean scan."""

    solver: Solver

    def init(self, z: Tensor, budget: Budget, generator: torch.Generator) -> Any:
        return self.solver.init(z, budget, generator), None

    def step(self, oracle: Oracle, z: Tensor, state: Any) -> tuple[Tensor, Any]:
        inner, found = state
        if found is None:
            following, inner = self.solver.step(oracle, z, inner)
            if not oracle.succeeded():
                return following, (inner, None)
            found = (z, 0.0, 1.0)
        else:
            oracle.value(z)
            whole, held, broken = found
            middle = (held + broken) / 2
            found = (whole, held, middle) if oracle.succeeded() else (whole, middle, broken)
        whole, held, broken = found
        return whole * ((held + broken) / 2), (inner, found)
