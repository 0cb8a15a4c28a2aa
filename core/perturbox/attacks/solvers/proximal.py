"""Proximal gradient descent in a metric that follows the gradient: a step along the gradient of what must be reached,
then one that shrinks the norm itself.

    r <- prox(r - rate / H * gradient),   prox(d) = argmin over the box of rate * weight * |r| + 1/2 sum H (r - d)^2

r is the change in units of the victim's intensity window, H the root of a running mean of the squared gradient: the
variable metric of Rony et al. 2023, arXiv 2206.07179, and the proximal Adam of Matyasko & Chau 2021, arXiv 2106.01538.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from perturbox.attacks.budget import Budget, Norm
from perturbox.attacks.oracle import Oracle
from perturbox.attacks.solvers import Solver

BISECTIONS = 40
FLAT = 1e-8  # the least a metric may be
RATIO = "ratio"  # Task.memory: what the norm weighs beside the constraints, 1 where an objective doesn't say


def prox_linf(d: Tensor, weight: float, metric: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """argmin of weight * max |r| + 1/2 sum metric (r - d)^2 over low <= r <= high; low <= 0 <= high."""
    inside, size = torch.minimum(torch.maximum(d, low), high), d.abs()

    def rises(limit: float) -> bool:
        """Whether a larger limit than this one on |r| would cost more than it gains."""
        pull = torch.where(inside.abs() > limit, metric * (size - limit), 0)
        return weight >= float(pull.sum(dtype=torch.float64))

    limit = _bisected(rises, float(inside.abs().max()))
    return inside.clamp(-limit, limit)


def prox_l2(d: Tensor, weight: float, metric: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """argmin of weight * |r| (Euclidean) + 1/2 sum metric (r - d)^2 over low <= r <= high; low <= 0 <= high."""

    def at(length: float) -> Tensor:
        """Where |r| is replaced by (r^2 / length + length) / 2, which is never less."""
        return torch.minimum(torch.maximum(d * (metric * length / (metric * length + weight)), low), high)

    def shorter(length: float) -> bool:
        return float(at(length).square().sum(dtype=torch.float64).sqrt()) <= length

    inside = torch.minimum(torch.maximum(d, low), high)
    if weight <= 0:
        return inside
    return at(_bisected(shorter, float(inside.square().sum(dtype=torch.float64).sqrt())))


def _bisected(enough: Callable[[float], bool], most: float) -> float:
    """The smallest number up to `most` that is enough, to within most / 2^40; 0 where anything is."""
    if most == 0 or enough(most * 1e-12):
        return 0.0
    least = 0.0
    for _ in range(BISECTIONS):
        middle = (least + most) / 2
        least, most = (least, middle) if enough(middle) else (middle, most)
    return most


PROX = {"linf": prox_linf, "l2": prox_l2}


@dataclass(frozen=True, eq=False)
class State:
    """k: the step; mean, square: running means of the gradient and of its square; found: the first step that reached
    the goal."""

    width: float
    mean: Tensor
    square: Tensor
    k: int = 0
    found: int | None = None


@dataclass(frozen=True)
class Proximal(Solver):
    """rate(k, found): the step size at step k, found the first step that reached the goal, if any. beta1, beta2: decay
    of the running means. The objective is minus what is to fall; it may leave in its memory, as "ratio", what the norm
    weighs beside it."""

    norm: Norm
    rate: Callable[[int, int | None], float]
    beta1: float
    beta2: float

    def init(self, z: Tensor, budget: Budget, generator: torch.Generator) -> State:
        return State(budget.width, torch.zeros_like(z), torch.zeros_like(z))

    def step(self, oracle: Oracle, z: Tensor, state: State) -> tuple[Tensor, State]:
        _, grad = oracle.gradient(z)
        k, width = state.k + 1, state.width
        found = state.k if state.found is None and oracle.succeeded() else state.found
        gradient, rate = -width * grad, self.rate(state.k, found)
        mean = self.beta1 * state.mean + (1 - self.beta1) * gradient
        square = self.beta2 * state.square + (1 - self.beta2) * gradient.square()
        metric = (square / (1 - self.beta2**k)).sqrt().clamp_min(FLAT)
        ahead = z / width - rate / (1 - self.beta1**k) * mean / metric
        ratios = [memory.get(RATIO, 1.0) for memory in oracle.memories()]
        weight = rate * sum(ratios) / max(1, len(ratios))
        low, high = self._box(oracle, z)
        following = PROX[self.norm](ahead, weight, metric, low / width, high / width)
        return following * width, replace(state, mean=mean, square=square, k=k, found=found)

    def _box(self, oracle: Oracle, z: Tensor) -> tuple[Tensor, Tensor]:
        """What may be changed at most. A limit on the length is no box; then the runner projects afterwards."""
        far = torch.full_like(z, torch.inf)
        return (oracle.project(-far), oracle.project(far)) if self.norm == "linf" else (-far, far)
