"""Smallest changes by a trade-off: minimise |r|^2 + c loss(r) for several c, the smallest of which that succeeds gives
the smallest change.

r is the change in units of the victim's intensity window. c grows or falls tenfold until one search failed and one
succeeded, then is the geometric mean of the largest that failed and the smallest that succeeded; each search starts at
the clean scan. Szegedy et al. 2014, arXiv 1312.6199; Carlini & Wagner 2017, arXiv 1608.04644.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from perturbox.attacks.budget import Budget
from perturbox.attacks.oracle import Oracle
from perturbox.attacks.solvers import Solver
from perturbox.attacks.solvers.adam import adam

SHORTEST = 10  # steps of a search, where there are as many


class Minimiser(Protocol):
    """init(r) -> state; step(r, value, grad, project, state) -> (r, state), or None where there is nothing left to
    gain. r is allowed, value and grad are the function's there; project makes another r allowed."""

    def init(self, r: Tensor) -> Any: ...

    def step(
        self, r: Tensor, value: float, grad: Tensor, project: Callable[[Tensor], Tensor], state: Any
    ) -> tuple[Tensor, Any] | None: ...


@dataclass(frozen=True, eq=False)
class Search:
    """c, with the largest that failed and the smallest that succeeded; looks: of this search; reached: whether one in
    its second half reached the goal (on the way to the minimum any c may); inner: the minimiser's."""

    c: float
    width: float
    inner: Any
    failed: float = 0.0
    sufficed: float = math.inf
    looks: int = 0
    reached: bool = False


@dataclass(frozen=True)
class Tradeoff(Solver):
    """steps: how many there will be, shared evenly by at most `searches`; first: the first c. The objective is -loss,
    z = 0 the clean scan."""

    minimiser: Minimiser
    steps: int
    searches: int
    first: float

    @property
    def each(self) -> int:
        """Looks of a search: an equal share of the steps, at least 10."""
        return max(self.steps // self.searches, min(SHORTEST, self.steps))

    def init(self, z: Tensor, budget: Budget, generator: torch.Generator) -> Search:
        return Search(self.first, budget.width, self.minimiser.init(z))

    def step(self, oracle: Oracle, z: Tensor, state: Search) -> tuple[Tensor, Search]:
        value, grad = oracle.gradient(z)
        width, r = state.width, z / state.width
        succeeded, late = oracle.succeeded(), state.looks >= self.each / 2
        state = replace(state, looks=state.looks + 1, reached=state.reached or (late and succeeded))
        total = float(r.double().square().sum()) - state.c * value
        gradient = 2 * r - state.c * width * grad
        found = self.minimiser.step(r, total, gradient, lambda r: oracle.project(r * width) / width, state.inner)
        if found is None or state.looks >= self.each:
            return torch.zeros_like(z), self._next(replace(state, reached=state.reached or succeeded), z)
        return found[0] * width, replace(state, inner=found[1])

    def _next(self, state: Search, z: Tensor) -> Search:
        failed, sufficed = state.failed, state.sufficed
        if state.reached:
            sufficed = min(sufficed, state.c)
            c = math.sqrt(failed * sufficed) if failed else state.c / 10
        else:
            failed = max(failed, state.c)
            c = math.sqrt(failed * sufficed) if math.isfinite(sufficed) else 10 * state.c
        return Search(c, state.width, self.minimiser.init(z), failed, sufficed)


@dataclass(frozen=True)
class Adam:
    """r <- r - rate * `solvers.adam`'s step."""

    rate: float

    def init(self, r: Tensor) -> Any:
        return adam().init(r, None)  # type: ignore[arg-type]  # it asks nothing of a budget

    def step(
        self, r: Tensor, value: float, grad: Tensor, project: Callable[[Tensor], Tensor], state: Any
    ) -> tuple[Tensor, Any]:
        update, state = adam().apply(grad, state)
        return project(r - self.rate * update), state
