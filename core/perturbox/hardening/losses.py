"""Losses that adversarial training adds: of two predictions, and guided complement entropy."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from perturbox.types import InputError

TINY = 1e-10


def divergence(before: Tensor, after: Tensor) -> Tensor:
    """KL( before || after ) of log-probabilities "b k *s", the mean over voxels: a sum would grow with the volume."""
    return (before.exp() * (before - after)).sum(1).mean()


def guided_complement_entropy(logits: Tensor, target: Tensor, alpha: float = 1 / 3) -> Tensor:
    """The mean over voxels of  p_g^alpha / ln K * sum over j != g of q_j ln q_j,   q_j = p_j / (1 - p_g).

    logits "b k *s", target "b *s" int64 with the right class g. Its gradient vanishes as p_g goes to 0, so training
    begins with cross-entropy. Chen et al. 2019, ICCV, arXiv 1903.09799, as released. It is 0 whatever the
    prediction for two classes, and for a sigmoid's channels: InputError.
    """
    classes = logits.shape[1]
    if classes < 3:
        raise InputError(
            f"Guided complement entropy needs at least 3 classes, not {classes}: with two it is 0 whatever the model "
            "says; use cross-entropy."
        )
    p = logits.softmax(1)
    right = F.one_hot(target, classes).movedim(-1, 1).bool()
    guide = (p * right).sum(1)
    q = (p / (1 - guide + TINY)[:, None]).masked_fill(right, 0.0)
    entropy = torch.where(q > 0, q * (q + TINY).log(), torch.zeros_like(q)).sum(1)
    return (guide**alpha * entropy).mean() / math.log(classes)
