"""A gradient estimate that learns: a coarse prior, improved by every pair of values and carried from step to step.

    u ~ N(0, 1 / d),   q± = blocks of (prior ± exploration u), brought to an RMS of sigma
    g = u (J(x + q+) - J(x + q-)) / the largest such difference so far
    prior <- prior + rate g   (l2),   exponentiated gradients of that rate on [-1, 1]   (linf)

Ilyas, Engstrom & Madry 2019, ICLR, arXiv 1807.07978 (Bandits with a time- and data-dependent prior); d is the number of
values of the prior. There g is the difference over the probes' distance, whose scale is the loss's: here it isn't.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from perturbox.attacks.budget import Budget
from perturbox.attacks.oracle import Oracle, blockwise, coarse_shape


@dataclass(frozen=True, eq=False)
class Known:
    """prior: one value per block and channel; largest: difference of two values so far."""

    prior: Tensor
    budget: Budget
    generator: torch.Generator
    largest: float = 0.0


@dataclass(frozen=True)
class Bandits:
    """sigma: RMS over the region by which a point asked about differs, in the units of z. exploration: length of the
    random change of the prior; rate: of learning it; coarse: edge of the prior's blocks in voxels. exponentiated:
    whether the prior lies in [-1, 1] and is learnt by exponentiated gradients."""

    sigma: float
    exploration: float
    rate: float
    coarse: int
    exponentiated: bool

    @property
    def queries(self) -> int:
        return 2

    def init(self, z: Tensor, budget: Budget, generator: torch.Generator) -> Known:
        return Known(z.new_zeros(coarse_shape(z, self.coarse)), budget, generator)

    def gradient(self, oracle: Oracle, z: Tensor, state: Known) -> tuple[float, Tensor, Known]:
        u = torch.randn(state.prior.shape, generator=state.generator).to(z) / math.sqrt(state.prior.numel())
        ahead = oracle.peek(z + self.sigma * self._unit(state.prior + self.exploration * u, z, state.budget))
        behind = oracle.peek(z + self.sigma * self._unit(state.prior - self.exploration * u, z, state.budget))
        largest = max(state.largest, abs(ahead - behind))
        prior = self._learn(state.prior, u * ((ahead - behind) / largest)) if largest else state.prior
        estimate = self._spread(prior, z, state.budget)
        return (ahead + behind) / 2, estimate, replace(state, prior=prior, largest=largest)

    def _learn(self, prior: Tensor, g: Tensor) -> Tensor:
        if not self.exponentiated:
            return prior + self.rate * g
        share = (prior + 1) / 2
        more, less = share * (self.rate * g).exp(), (1 - share) * (-self.rate * g).exp()
        return 2 * more / (more + less) - 1

    def _spread(self, prior: Tensor, z: Tensor, budget: Budget) -> Tensor:
        return torch.where(budget.region, blockwise(prior, z, self.coarse), 0)

    def _unit(self, prior: Tensor, z: Tensor, budget: Budget) -> Tensor:
        """The prior over all voxels of the region, with an RMS of 1 there."""
        spread = self._spread(prior, z, budget)
        return spread / budget.rms(spread).clamp_min(1e-30)
