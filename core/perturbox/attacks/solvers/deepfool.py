"""Towards the smallest change that reaches the goal: steps to a linearised boundary, and back again."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from perturbox.attacks.budget import Budget, Norm
from perturbox.attacks.oracle import Oracle
from perturbox.attacks.solvers import Solver

TINY = 1e-30
CLOSEST = 2.0**-24  # what float32 tells apart, as a share


@dataclass(frozen=True)
class Boundary(Solver):
    """Newton steps to where an objective -f, f >= 0, becomes 0: the smallest update that does it if f is linear.

    r = f grad(-f) / |grad f|_2^2 (l2), or f sign(grad(-f)) / |grad f|_1 (linf), a little longer by `overshoot`.
    """

    norm: Norm
    overshoot: float

    def init(self, z: Tensor, budget: Budget, generator: torch.Generator) -> bool:
        return False

    def step(self, oracle: Oracle, z: Tensor, state: bool) -> tuple[Tensor, bool]:
        value, grad = oracle.gradient(z)
        largest = float(grad.abs().max())
        if largest < TINY:
            return z, True
        # Scaled first: gradients of means over millions of voxels underflow when squared in float32.
        unit = grad / largest
        length = unit.double().square().sum() if self.norm == "l2" else unit.double().abs().sum()
        step = -value / largest * (1 + self.overshoot) / float(length)
        return z + step * (unit if self.norm == "l2" else unit.sign()), False

    def done(self, state: bool) -> bool:
        """Whether no gradient is left to follow."""
        return state


@dataclass(frozen=True, eq=False)
class Way:
    """inner: the solver's state; whole: the first change that reached the goal; held, broken: the largest known part of
    it that didn't, and the smallest that did."""

    budget: Budget
    inner: Any
    whole: Tensor | None = None
    held: float = 0.0
    broken: float = 1.0


@dataclass(frozen=True)
class Back(Solver):
    """Runs a solver until it reaches the goal, then bisects the way back to the clean scan for the smallest part of
    that change that still does. z = 0 is the clean scan."""

    solver: Solver

    def init(self, z: Tensor, budget: Budget, generator: torch.Generator) -> Way:
        return Way(budget, self.solver.init(z, budget, generator))

    def step(self, oracle: Oracle, z: Tensor, state: Way) -> tuple[Tensor, Way]:
        if state.whole is None:
            following, inner = self.solver.step(oracle, z, state.inner)
            state = replace(state, inner=inner)
            if not oracle.succeeded():
                return following, state
            state = replace(state, whole=z)
        else:
            oracle.value(z)
            middle = (state.held + state.broken) / 2
            state = replace(state, broken=middle) if oracle.succeeded() else replace(state, held=middle)
        assert state.whole is not None
        return state.whole * ((state.held + state.broken) / 2), state

    def done(self, state: Way) -> bool:
        """Whether the file can hold nothing between the two parts: they differ in one value by one step, or by the
        rounding of float32."""
        if state.whole is None:
            return self.solver.done(state.inner)
        if state.broken - state.held <= state.broken * CLOSEST:
            return True
        if state.budget.step is None or state.budget.norm == "l2":
            return False
        held, broken = (state.budget.quantise(state.whole * part) for part in (state.held, state.broken))
        between = (broken - held).abs()
        return int((between > 0).sum()) <= 1 and float(between.max()) < 1.5 * state.budget.step
