"""APGD: projected gradient ascent with momentum that halves its step and returns to the best point where it gets stuck.

    z       = project(x_k + eta * direction(grad f(x_k)))
    x_(k+1) = project(x_k + a (z - x_k) + (1 - a) (x_k - x_(k-1))),   a = 0.75 (1 in the first step)

At checkpoints w_j eta is halved and x set to the best point if fewer than rho of the steps since the last one rose, or
if neither eta nor the best value changed since. Croce & Hein 2020, ICML, arXiv 2003.01690.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from perturbox.attacks.budget import Budget
from perturbox.attacks.oracle import Oracle
from perturbox.attacks.solvers import Solver
from perturbox.attacks.solvers.ascent import Rule

RHO, MOMENTUM = 0.75, 0.75


def checkpoints(steps: int) -> list[int]:
    """The steps w_j = ceil(p_j N) with p = 0, 0.22, then intervals that shrink by 0.03 down to 0.06."""
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    return sorted({math.ceil(share * steps - 1e-9) for share in shares if 0 < share <= 1})


@dataclass(frozen=True, eq=False)
class State:
    """k: the step; before: x_(k-1) and its value; best, grad, value: the best point, its gradient and its value;
    rises: since the last checkpoint; halved: whether eta was halved there; known: the best value there; last: that
    checkpoint."""

    eta: float
    k: int = 0
    before: Tensor | None = None
    value_before: float = -math.inf
    best: Tensor | None = None
    grad: Tensor | None = None
    value: float = -math.inf
    rises: int = 0
    halved: bool = False
    known: float = -math.inf
    last: int = 0
    rule: object = None


@dataclass(frozen=True)
class Apgd(Solver):
    """steps: how many there will be; direction: the step of length 1 in the budget's norm; eta: the first step size, 2
    eps unless given."""

    steps: int
    direction: Rule
    eta: float | None = None

    def init(self, z: Tensor, budget: Budget, generator: torch.Generator) -> State:
        return State(2 * budget.eps if self.eta is None else self.eta, rule=self.direction.init(z, budget))

    def step(self, oracle: Oracle, z: Tensor, state: State) -> tuple[Tensor, State]:
        value, grad = oracle.gradient(z)
        rises = state.rises + (value > state.value_before)
        state = replace(state, rises=rises if state.k else 0, value_before=value)
        if value > state.value:
            state = replace(state, best=z, grad=grad, value=value)
        if state.k == 0:
            state = replace(state, known=value)
        elif state.k in checkpoints(self.steps):
            z, grad, state = self._check(z, grad, state)
        rule = self.direction
        update, following = rule.apply(grad, state.rule)
        ahead = oracle.project(z + state.eta * update)
        if state.before is not None:
            ahead = oracle.project(z + MOMENTUM * (ahead - z) + (1 - MOMENTUM) * (z - state.before))
        return ahead, replace(state, k=state.k + 1, before=z, rule=following)

    def _check(self, z: Tensor, grad: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """Halve the step and return to the best point, or go on; a new interval begins."""
        stuck = state.rises < RHO * (state.k - state.last) or (not state.halved and state.known == state.value)
        state = replace(state, rises=0, last=state.k, halved=stuck, known=state.value)
        if not stuck:
            return z, grad, state
        assert state.best is not None and state.grad is not None
        return state.best, state.grad, replace(state, eta=state.eta / 2, value_before=state.value)
