"""Where a change acts on the model: its gradient times the change, voxel by voxel.

The gradient is the mean of those that a start took in the second half of its steps (of all, where it ended before), as
in integrated gradients over the last part of the way (Sundararajan et al. 2017, arXiv 1703.01365). Positive voxels
push the objective up, towards what the attack is after, negative ones back; their sum estimates by how much it rose.
"""

import numpy as np
import torch
from torch import Tensor


class MeanGradient:
    """The mean gradient "b c *s" of one start; add what is taken at each step."""

    def __init__(self, steps: int):
        self.half, self.since, self.count = steps // 2, 0, 0
        self.total: Tensor | None = None

    def add(self, step: int, grad: Tensor) -> None:
        """One more gradient; what comes before the second half counts as long as nothing comes after."""
        if self.since < self.half <= step:
            self.total, self.count, self.since = None, 0, step
        self.total = grad.clone() if self.total is None else self.total.add_(grad)
        self.count += 1

    def times(self, change: np.ndarray) -> np.ndarray | None:
        """The influence of a change "c *s", float32; None where there was no gradient or nothing has any influence."""
        if self.total is None:
            return None
        mean = (self.total[0] / self.count).to(torch.float32).cpu().numpy()
        influence = mean * change.astype(np.float32)
        return influence if np.isfinite(influence).all() and influence.any() else None
