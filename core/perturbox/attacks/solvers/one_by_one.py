"""Scan after scan: what is crafted on several scans takes a step for each of them in turn, not one for their mean."""

from dataclasses import dataclass

import torch
from torch import Tensor

from perturbox.attacks.budget import Budget
from perturbox.attacks.oracle import Oracle
from perturbox.attacks.solvers import Solver


@dataclass(frozen=True)
class OneByOne(Solver):
    """One step is an epoch: in random order, each scan on which the goal isn't reached moves z by alpha along the sign
    of its own gradient, and z is projected at once."""

    alpha: float
    queries = 1  # an epoch scores every scan before it climbs on each

    def init(self, z: Tensor, budget: Budget, generator: torch.Generator) -> tuple[torch.Generator, bool]:
        return generator, False

    def step(
        self, oracle: Oracle, z: Tensor, state: tuple[torch.Generator, bool]
    ) -> tuple[Tensor, tuple[torch.Generator, bool]]:
        assert oracle.single is not None
        oracle.value(z)
        generator, everywhere = state[0], True
        for index in torch.randperm(oracle.models, generator=generator).tolist():
            _, grad, reached = oracle.single(z, index)
            everywhere = everywhere and reached
            if not reached:
                z = oracle.project(z + self.alpha * grad.sign())
        return z, (generator, everywhere)

    def done(self, state: tuple[torch.Generator, bool]) -> bool:
        """Whether the goal was reached on every scan, so that z rests."""
        return state[1]
