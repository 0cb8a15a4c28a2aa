"""Along the decision boundary: nothing is asked but whether a point has reached the goal.

From a random change that does, HopSkipJump goes back towards the clean scan until it just does, estimates the normal of
the boundary there from n random probes, leaps along it and goes back again:

    v = mean over probes of (phi(z + delta u) - mean phi) u,   phi = 1 if the goal is reached, else -1
    z <- back(z + xi v / |v|)   (l2),   back(z + xi sign(v))   (linf),   xi = |z| / sqrt(t), halved until it is reached

Chen, Jordan & Wainwright 2020, IEEE S&P, arXiv 1904.02144. Going back scales the change (l2) or clamps it (linf). Here
delta is a share of |z|, and directions are constant over blocks. Each step is one query of what the file would hold:
between two of the file's values a voxel takes either with the odds that keep its mean, by one draw for the whole run,
so that a change may shrink by less than a file's step.
"""

import math
from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from perturbox.attacks.budget import Budget, Norm
from perturbox.attacks.oracle import Oracle, blockwise, coarse_shape
from perturbox.attacks.solvers import Solver

# Yields a point to ask about; is sent that point, as it was made allowed, and whether it reached the goal.
Walk = Generator[Tensor, tuple[Tensor, bool], Tensor]

CLOSE = 1 / 64  # how much of the way back two points may lie apart on either side of the boundary
HALVINGS = 8


@dataclass(frozen=True)
class HopSkipJump(Solver):
    """probes: in the first round, sqrt(t) times as many in the t-th; share: how far they lie away, of the size of the
    change; coarse: edge in voxels of blocks with one direction. z = 0 is the clean scan."""

    norm: Norm
    probes: int
    share: float
    coarse: int

    uses_gradient = False

    def init(self, z: Tensor, budget: Budget, generator: torch.Generator) -> Walk:
        walk = _Walker(self, budget, generator, torch.rand(z.shape, generator=generator).to(z)).walk(z)
        next(walk)
        return walk

    def step(self, oracle: Oracle, z: Tensor, state: Walk) -> tuple[Tensor, Walk | None]:
        oracle.value(z)
        try:
            return state.send((z, oracle.succeeded())), state
        except StopIteration as end:
            return end.value, None

    def done(self, state: Walk | None) -> bool:
        """Whether the clean scan itself reaches the goal."""
        return state is None


@dataclass(frozen=True, eq=False)
class _Walker:
    """dither: in [0, 1), voxel by voxel: from which part of a file's step on a change is rounded up."""

    settings: HopSkipJump
    budget: Budget
    generator: torch.Generator
    dither: Tensor

    def walk(self, z: Tensor) -> Walk:
        z, reached = yield z
        edge = self.settings.coarse
        while not reached:  # blocks that grow until they span the scan, then small ones again
            z, reached = yield self.budget.eps * self._random(z, edge, "sign")
            edge = 2 * edge if edge < max(z.shape[2:]) else self.settings.coarse
        for t in range(1, 2**62):
            z = yield from self.back(z)
            size = self.budget.size(z)
            if size == 0:  # the clean scan reaches it
                return z
            v = yield from self.normal(z, self.settings.share * size, round(self.settings.probes * math.sqrt(t)))
            z = yield from self.leap(z, v, size / math.sqrt(t))
        return z

    def back(self, z: Tensor) -> Walk:
        """The smallest part of a change that still reaches the goal, by bisection."""
        found, held, broken, size = z, 0.0, 1.0, self.budget.size(z)
        while size and broken - held > CLOSE:
            middle = (held + broken) / 2
            part = z * middle if self.settings.norm == "l2" else z.clamp(-size * middle, size * middle)
            point, reached = yield self.on_file(part)
            found, held, broken = (point, held, middle) if reached else (found, middle, broken)
        return found

    def normal(self, z: Tensor, delta: float, probes: int) -> Walk:
        """Towards where the goal is reached, from probes with an RMS of delta around z."""
        kind = "gaussian" if self.settings.norm == "l2" else "uniform"
        moved, signed, balance = torch.zeros_like(z), torch.zeros_like(z), 0
        for _ in range(probes):
            u = self._random(z, self.settings.coarse, kind)
            point, reached = yield self.on_file(z + delta * u / self.budget.rms(u).clamp_min(1e-30))
            u = (point - z) / delta  # what the limits and the file left of it
            phi = 1 if reached else -1
            moved, signed, balance = moved + u, signed + phi * u, balance + phi
        if abs(balance) == probes:  # all on one side
            return signed / probes
        return (signed - balance / probes * moved) / probes

    def leap(self, z: Tensor, v: Tensor, length: float) -> Walk:
        """As far along v as still reaches the goal, of `length` and its halves; z itself if none does."""
        step = v.sign() if self.settings.norm == "linf" else v / self.budget.rms(v).clamp_min(1e-30)
        for halving in range(HALVINGS):
            point, reached = yield self.on_file(z + length / 2**halving * step)
            if reached:
                return point
        return z

    def on_file(self, z: Tensor) -> Tensor:
        """z on the file's steps, up or down with the odds that keep its mean."""
        step = self.budget.step
        return z if step is None else (z.abs() / step + self.dither).floor() * step * z.sign()

    def _random(self, z: Tensor, edge: int, kind: str) -> Tensor:
        """A random direction within the region, constant over blocks."""
        shape = coarse_shape(z, edge)
        if kind == "gaussian":
            draw = torch.randn(shape, generator=self.generator)
        else:
            draw = torch.rand(shape, generator=self.generator) * 2 - 1
        draw = draw.sign() if kind == "sign" else draw
        return torch.where(self.budget.region, blockwise(draw, z, edge), 0)
