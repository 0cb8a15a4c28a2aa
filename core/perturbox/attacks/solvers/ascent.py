"""Gradient ascent by chained rules, in the manner of optax: each rule transforms the gradient, the sum is added to z.

`chain(l1_normalise(), momentum(1.0), sign(), scale(alpha))` *is* MI-FGSM; `chain(sign(), scale(alpha))` is BIM and PGD.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from perturbox.attacks.budget import Budget
from perturbox.attacks.oracle import Oracle
from perturbox.attacks.smoothing import gaussian_kernel, smooth
from perturbox.attacks.solvers import Solver


@dataclass(frozen=True)
class Rule:
    """init(z, budget) -> state; apply(gradient, state) -> (update, state)."""

    init: Callable[[Tensor, Budget], Any]
    apply: Callable[[Tensor, Any], tuple[Tensor, Any]]


def stateless(function: Callable[[Tensor], Tensor]) -> Rule:
    """A rule that only looks at the gradient it is given."""
    return Rule(lambda z, budget: None, lambda gradient, state: (function(gradient), state))


def sign() -> Rule:
    """The gradient's sign, voxel by voxel."""
    return stateless(torch.sign)


def scale(factor: float) -> Rule:
    """The gradient times a factor: the step size."""
    return stateless(lambda gradient: gradient * factor)


def cosine(first: float, steps: int) -> Rule:
    """The gradient times a step size that falls along a half cosine, from `first` towards 0 after `steps` of them."""

    def apply(gradient: Tensor, k: int) -> tuple[Tensor, int]:
        return gradient * (first * (1 + math.cos(math.pi * k / steps)) / 2), k + 1

    return Rule(lambda z, budget: 0, apply)


def _per_case(gradient: Tensor, norm: Tensor) -> Tensor:
    return gradient / norm.clamp_min(1e-30).view(-1, *[1] * (gradient.dim() - 1))


def l1_normalise() -> Rule:
    """Divide by the mean absolute value over everything but the batch (peers forget the depth axis in 3D)."""
    return stateless(lambda gradient: _per_case(gradient, gradient.flatten(1).abs().mean(1)))


def rms_normalise() -> Rule:
    """Divide by the root mean square over the budget's region, case by case, so that the update measures 1 in its
    l2."""

    def apply(gradient: Tensor, count: int) -> tuple[Tensor, int]:
        flat = gradient.flatten(1)
        # Scaled first: gradients of mean losses over millions of voxels underflow when squared in float32.
        unit = flat / flat.abs().amax(1, keepdim=True).clamp_min(1e-30)
        rms = (unit.double().square().sum(1) / count).sqrt().to(flat)
        return _per_case(unit.view_as(gradient), rms), count

    return Rule(lambda z, budget: budget.count * z.shape[1], apply)


def momentum(decay: float) -> Rule:
    """g <- decay * g + gradient."""

    def apply(gradient: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = decay * state + gradient
        return state, state

    return Rule(lambda z, budget: torch.zeros_like(z), apply)


def gaussian(size: int, reach: float) -> Rule:
    """Convolve with a separable Gaussian of `size` voxels along every spatial axis that ends at `reach` standard
    deviations."""
    kernel = gaussian_kernel(size, reach)
    return stateless(lambda gradient: smooth(gradient, kernel))


def chain(*rules: Rule) -> Rule:
    """Apply rules one after another."""

    def apply(gradient: Tensor, states: tuple) -> tuple[Tensor, tuple]:
        following = []
        for rule, state in zip(rules, states, strict=True):
            gradient, state = rule.apply(gradient, state)
            following.append(state)
        return gradient, tuple(following)

    return Rule(lambda z, budget: tuple(rule.init(z, budget) for rule in rules), apply)


@dataclass(frozen=True)
class Ascent(Solver):
    """z <- z + rule(gradient)."""

    rule: Rule

    def init(self, z: Tensor, budget: Budget, generator: torch.Generator) -> Any:
        return self.rule.init(z, budget)

    def step(self, oracle: Oracle, z: Tensor, state: Any) -> tuple[Tensor, Any]:
        _, gradient = oracle.gradient(z)
        update, state = self.rule.apply(gradient, state)
        return z + update, state
