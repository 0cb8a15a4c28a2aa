"""Random search: propose a change, keep it if the objective rises. Needs values alone."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from perturbox.attacks.budget import Budget
from perturbox.attacks.oracle import Oracle
from perturbox.attacks.solvers import Solver

# Shares of the steps after which the cubes' volume is halved once more, of 10 000 in the paper.
HALVED_AT = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)


@dataclass(frozen=True, eq=False)
class State:
    """best: the best point, with its value; box: where the region lies, (start, size) per axis; k: looks so far."""

    generator: torch.Generator
    eps: float
    box: tuple[tuple[int, int], ...]
    best: Tensor | None = None
    value: float = -float("inf")
    k: int = 0


@dataclass(frozen=True)
class Cubes(Solver):
    """Square Attack: sets random cubes (squares in 2D) of the change to +eps or -eps, channel by channel.

    The first point is stripes along the first axis. share: volume of the first cubes as a share of the region's box;
    it is halved at fixed shares of `steps`. Andriushchenko et al. 2020, ECCV, arXiv 1912.00049.
    """

    steps: int
    share: float

    uses_gradient = False

    def init(self, z: Tensor, budget: Budget, generator: torch.Generator) -> State:
        where = torch.nonzero(budget.region[0, 0])
        low, high = where.amin(0).tolist(), where.amax(0).tolist()
        box = tuple((a, b - a + 1) for a, b in zip(low, high, strict=True))
        return State(generator, budget.eps, box)

    def step(self, oracle: Oracle, z: Tensor, state: State) -> tuple[Tensor, State]:
        value = oracle.value(z)
        if value > state.value:
            state = replace(state, best=z, value=value)
        state = replace(state, k=state.k + 1)
        assert state.best is not None
        return (self._stripes(z, state) if state.k == 1 else self._cube(state.best, state)), state

    def side(self, k: int, box: tuple[tuple[int, int], ...]) -> int:
        """Edge of the k-th cube, in voxels."""
        share = self.share / 2 ** sum(k > at * self.steps for at in HALVED_AT)
        volume = share
        for _, size in box:
            volume *= size
        return max(1, round(volume ** (1 / len(box))))

    def _stripes(self, z: Tensor, state: State) -> Tensor:
        signs = _signs((*z.shape[:2], 1, *z.shape[3:]), state.generator)
        return (signs * state.eps).to(z).expand_as(z).clone()

    def _cube(self, best: Tensor, state: State) -> Tensor:
        side, place = self.side(state.k, state.box), []
        for start, size in state.box:
            edge = min(side, size)
            first = start + int(torch.randint(size - edge + 1, (), generator=state.generator))
            place.append(slice(first, first + edge))
        proposed = best.clone()
        signs = _signs((*best.shape[:2], *[1] * (best.dim() - 2)), state.generator)
        proposed[(slice(None), slice(None), *place)] = (signs * state.eps).to(best)
        return proposed


def _signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(2, shape, generator=generator) * 2.0 - 1
