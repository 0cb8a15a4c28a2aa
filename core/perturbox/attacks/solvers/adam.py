"""Adam as a rule: steps scaled voxel by voxel by what the gradient has been like. Kingma & Ba 2015, ICLR, arXiv
1412.6980."""

import torch
from torch import Tensor

from perturbox.attacks.budget import Budget
from perturbox.attacks.solvers.ascent import Rule


def adam(first: float = 0.9, second: float = 0.999, tiny: float = 1e-8) -> Rule:
    """m / (sqrt(v) + tiny), m and v the bias-corrected running means of the gradient and its square.

    Gradients are measured in the largest value of the first one that isn't 0: those of means over millions of voxels
    would vanish beside `tiny`, or underflow when squared.
    """

    def init(z: Tensor, budget: Budget) -> tuple[int, float, Tensor, Tensor]:
        return 0, 0.0, torch.zeros_like(z), torch.zeros_like(z)

    def apply(gradient: Tensor, state: tuple[int, float, Tensor, Tensor]) -> tuple[Tensor, tuple]:
        k, unit, m, v = state
        unit = unit or float(gradient.abs().max())
        if unit == 0:
            return torch.zeros_like(gradient), state
        gradient, k = gradient / unit, k + 1
        m = first * m + (1 - first) * gradient
        v = second * v + (1 - second) * gradient.square()
        update = m / (1 - first**k) / ((v / (1 - second**k)).sqrt() + tiny)
        return update, (k, unit, m, v)

    return Rule(init, apply)
