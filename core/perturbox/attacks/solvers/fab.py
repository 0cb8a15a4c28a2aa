"""FAB: steps to the linearised boundary that are drawn towards the clean scan, and back again once the goal is reached.

    d1, d2 = nearest(z), nearest(0)   on the plane f(z) + <grad f, . - z> = level, within the range of allowed values
    a = min(|d1| / (|d1| + |d2|), alpha_max)
    z <- clip((1 - a) (z + eta d1) + a eta d2);   z <- beta z first, where z has reached the goal

Croce & Hein 2020, ICML, arXiv 1907.02044. Its boundary is where f = 0. Here the goal may be reached before: level is f
where it last was, 0 before that, and less than f where a point below it isn't.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from perturbox.attacks.budget import Budget, Norm
from perturbox.attacks.oracle import Oracle
from perturbox.attacks.solvers import Solver

TINY = 1e-30
CHUNK = 2**22  # voxels whose sums are held in double precision at a time


def nearest(grad: Tensor, rise: float, low: Tensor, high: Tensor, norm: Norm) -> Tensor:
    """The smallest d in linf or l2 with <grad, d> = rise and low <= d <= high (low <= 0 <= high); as far as the limits
    go where that is out of reach.

    |d_i| = min(length s_i, limit_i) with s = 1 (linf) or |grad| (l2). The length is found by Newton's method on a
    piecewise linear concave function, which ends exactly, as each step takes in another limit.
    """
    largest = float(grad.abs().max())
    if largest < TINY or rise == 0:
        return torch.zeros_like(grad)
    # Scaled first: gradients of means over millions of voxels underflow when squared in float32.
    grad, rise = grad / (largest if rise > 0 else -largest), abs(rise) / largest
    limit, steep = torch.where(grad > 0, high, -low), grad.abs()
    share = torch.ones_like(steep) if norm == "linf" else steep
    length, known = 0.0, -1
    while True:
        at_limit, free, count = 0.0, 0.0, 0
        for one, end, part in _chunks(steep, limit, share):
            stuck = (end <= length * part) & (one > 0)
            at_limit += float((one[stuck].double() * end[stuck]).sum())
            free += float((one[~stuck].double() * part[~stuck]).sum())
            count += int(stuck.sum())
        if count == known:
            break
        known = count
        if free == 0:  # out of reach
            length = torch.inf
            break
        length = max(length, (rise - at_limit) / free)
    moved = torch.where(steep > 0, torch.minimum(length * share.clamp_min(TINY), limit), 0)
    return grad.sign() * moved


def _chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*[tensor.flatten().split(CHUNK) for tensor in tensors], strict=True)


def _dot(a: Tensor, b: Tensor) -> float:
    return sum(float(one.double() @ other.double()) for one, other in _chunks(a, b))


@dataclass(frozen=True, eq=False)
class State:
    """k: steps so far; level: of f at the boundary; smallest: size of a change that reached the goal."""

    budget: Budget
    generator: torch.Generator
    smallest: float
    level: float = 0.0
    k: int = 0


@dataclass(frozen=True)
class Fab(Solver):
    """Climbs an objective -f, f >= 0. alpha_max: the largest weight of the clean scan's own projection; eta: how far
    steps go, 1 being the plane; beta: how much of a change that reached the goal is kept; period: steps after which it
    starts again, from a random point half as far out as the smallest change known. z = 0 is the clean scan."""

    norm: Norm
    alpha_max: float
    eta: float
    beta: float
    period: int

    def init(self, z: Tensor, budget: Budget, generator: torch.Generator) -> State:
        return State(budget, generator, budget.eps)

    def step(self, oracle: Oracle, z: Tensor, state: State) -> tuple[Tensor, State]:
        if state.k and state.k % self.period == 0:
            state = self._told(-oracle.value(z), oracle.succeeded(), z, state)
            z = oracle.project(self._start(z, state))
        value, grad = oracle.gradient(z)
        state = self._told(-value, oracle.succeeded(), z, replace(state, k=state.k + 1))
        if oracle.succeeded():
            z = self.beta * z
            value, grad = oracle.gradient(z)
            state = self._told(-value, oracle.succeeded(), z, state)
            if oracle.succeeded():
                return self.beta * z, state
        return self._towards(z, grad, -value - state.level, *oracle.bounds(z)), state

    def _told(self, f: float, reached: bool, z: Tensor, state: State) -> State:
        if reached:
            return replace(state, level=f, smallest=min(state.smallest, state.budget.size(z)))
        return state if f > state.level else replace(state, level=self.beta * f)

    def _towards(self, z: Tensor, grad: Tensor, rise: float, low: Tensor, high: Tensor) -> Tensor:
        """The next point: grad is that of -f, which is to rise by so much."""
        there = _dot(grad, z)
        d1 = nearest(grad, rise, (low - z).clamp_max(0), (high - z).clamp_min(0), self.norm)
        d2 = nearest(grad, rise + there, low.clamp_max(0), high.clamp_min(0), self.norm)
        a1, a2 = self._size(d1), self._size(d2)
        a = min(a1 / max(a1 + a2, TINY), self.alpha_max)
        following = (1 - a) * (z + self.eta * d1) + a * self.eta * d2
        if self.norm == "linf":
            # Voxels without a gradient are free within that distance: of all points nearest to 0, the one nearest to z.
            following = torch.where(grad == 0, (1 - a) * z + a * z.clamp(-a2, a2), following)
        return torch.minimum(torch.maximum(following, low), high)

    def _size(self, d: Tensor) -> float:
        return float(d.abs().max()) if self.norm == "linf" else _dot(d, d) ** 0.5

    def _start(self, z: Tensor, state: State) -> Tensor:
        draw = torch.rand(z.shape, generator=state.generator) * 2 - 1
        if self.norm == "l2":
            draw = torch.randn(z.shape, generator=state.generator)
        draw = torch.where(state.budget.region, draw.to(z), 0)
        return draw * (state.smallest / 2 / max(state.budget.size(draw), TINY))
