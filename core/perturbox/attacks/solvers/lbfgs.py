"""Box-constrained L-BFGS: the two-loop recursion on the variables that aren't held by a limit, and a projected search
along its direction that looks at one point per step.

Liu & Nocedal 1989, doi 10.1007/BF01589116; projection as in Bertsekas 1982, doi 10.1137/0320018.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

DECREASE, HALVINGS, CURVED = 1e-4, 12, 1e-8
PROBE = 1e-3  # how far a variable is pushed to see whether a limit holds it


@dataclass(frozen=True, eq=False)
class State:
    """base, value, grad: the last accepted point; direction, length: of the search from there; pairs: differences of
    points and of gradients, oldest first."""

    base: Tensor | None = None
    value: float = 0.0
    grad: Tensor | None = None
    direction: Tensor | None = None
    length: float = 1.0
    halvings: int = 0
    pairs: tuple[tuple[Tensor, Tensor], ...] = ()


@dataclass(frozen=True)
class Lbfgs:
    """history: pairs that are kept, each as large as two scans; first: the largest change of a step along the gradient,
    taken where nothing is known of the curvature."""

    history: int
    first: float

    def init(self, r: Tensor) -> State:
        return State()

    def step(
        self, r: Tensor, value: float, grad: Tensor, project: Callable[[Tensor], Tensor], state: State
    ) -> tuple[Tensor, State] | None:
        if state.base is None:
            return self._search(r, value, grad, project, ())
        assert state.grad is not None and state.direction is not None
        moved = r - state.base
        if value <= state.value + DECREASE * dot(state.grad, moved):
            turned = grad - state.grad
            pairs = state.pairs
            if dot(moved, turned) > CURVED * dot(turned, turned):
                pairs = (*pairs, (moved, turned))[-self.history :]
            return self._search(r, value, grad, project, pairs)
        if state.halvings < HALVINGS:
            length = state.length / 2
            shorter = replace(state, length=length, halvings=state.halvings + 1)
            return project(state.base + length * state.direction), shorter
        # The known curvature misleads; along the gradient itself there may still be something to gain.
        return self._search(state.base, state.value, state.grad, project, ()) if state.pairs else None

    def _search(
        self, r: Tensor, value: float, grad: Tensor, project: Callable[[Tensor], Tensor], pairs: tuple
    ) -> tuple[Tensor, State] | None:
        free = (project(r - PROBE * grad.sign()) - r).abs() > PROBE / 2
        steepest = torch.where(free, grad, 0)
        direction = -torch.where(free, two_loop(steepest, pairs), 0)
        if not pairs or dot(direction, grad) >= 0:
            pairs, largest = (), float(steepest.abs().max())
            if largest == 0:
                return None
            direction = -self.first / largest * steepest
        return project(r + direction), State(r, value, grad, direction, pairs=pairs)


def two_loop(grad: Tensor, pairs: tuple[tuple[Tensor, Tensor], ...]) -> Tensor:
    """The two-loop recursion: the approximate inverse Hessian times the gradient."""
    if not pairs:
        return grad
    result, shares = grad.clone(), []
    for moved, turned in reversed(pairs):
        shares.append(dot(moved, result) / dot(moved, turned))
        result -= shares[-1] * turned
    moved, turned = pairs[-1]
    result *= dot(moved, turned) / dot(turned, turned)
    for (moved, turned), share in zip(pairs, reversed(shares), strict=True):
        result += (share - dot(turned, result) / dot(moved, turned)) * moved
    return result


def dot(a: Tensor, b: Tensor) -> float:
    """The inner product of two tensors of one shape."""
    return float(torch.sum(a * b, dtype=torch.float64))
