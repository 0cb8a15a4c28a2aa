"""What an attack climbs. Every loss is *higher where the prediction is farther from a label map*; an objective turns a
loss into a goal: away from the reference (`change`), or towards a desired map (`vanish`, `grow`, `become`).

A loss is a sum of voxelwise statistics over slabs followed by a small formula, so that many classes on a large grid
never need a second volume-sized tensor (see `chunked.slabwise_sum`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from perturbox.chunked import slabwise_sum

Statistics = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Loss:
    """statistics(logits "b k *g", labels "b *g", weight "b *g") -> vector of sums; formula(sums, classes) -> scalar.

    descent: the statistics where the labels are to be reached instead of left, if they differ.
    """

    name: str
    statistics: Statistics
    formula: Callable[[Tensor, tuple[int, ...]], Tensor]
    descent: Statistics | None = None

    def __call__(
        self, logits: Tensor, labels: Tensor, weight: Tensor, classes: tuple[int, ...], towards: bool = False
    ) -> Tensor:
        """Scalar loss over the voxels with weight; `classes` are the label values a Dice averages over; towards: the
        labels are to be reached."""
        statistics = self.descent if towards and self.descent is not None else self.statistics
        return self.formula(slabwise_sum(statistics, logits, labels, weight), classes)


def _weighted_cross_entropy(logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    voxelwise = F.cross_entropy(logits, labels, reduction="none")
    return torch.stack([(voxelwise * weight).sum(), weight.sum().to(voxelwise)])


def _mean(sums: Tensor, classes: tuple[int, ...]) -> Tensor:
    return sums[0] / sums[1].clamp_min(1)


def _dice_sums(logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    classes = logits.shape[1]
    probabilities = logits.softmax(1) * weight[:, None]
    onehot = F.one_hot(labels, classes).movedim(-1, 1) * weight[:, None]
    axes = (0, *range(2, logits.dim()))
    return torch.cat([(probabilities * onehot).sum(axes), probabilities.sum(axes), onehot.sum(axes).to(probabilities)])


def _one_minus_dice(sums: Tensor, classes: tuple[int, ...]) -> Tensor:
    overlap, predicted, labelled = sums.view(3, -1)
    present = [c for c in classes if float(labelled[c].detach()) > 0]
    chosen = torch.tensor(present or list(classes), device=sums.device)
    dice = (2 * overlap[chosen] + 1e-3) / (predicted[chosen] + labelled[chosen] + 1e-3)
    return 1 - dice.mean()


KAPPA = 2.0


def _voxelwise_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Largest wrong logit minus the labelled one, "b *g": above 0 where the prediction isn't the label."""
    labelled = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    return others - labelled


def _margin_sums(logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    voxelwise = _voxelwise_margin(logits, labels).clamp(max=KAPPA)
    return torch.stack([(voxelwise * weight).sum(), weight.sum().to(voxelwise)])


def _margin_descent_sums(logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    voxelwise = _voxelwise_margin(logits, labels).clamp(min=-KAPPA)
    return torch.stack([(voxelwise * weight).sum(), weight.sum().to(voxelwise)])


cross_entropy = Loss("ce", _weighted_cross_entropy, _mean)
soft_dice = Loss("dice", _dice_sums, _one_minus_dice)
# Capped so that voxels long lost (or, towards a label, long won) stop pulling (Carlini & Wagner 2017, arXiv
# 1608.04644).
margin = Loss("margin", _margin_sums, _mean, _margin_descent_sums)


def _dice_ce_sums(logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    return torch.cat([_weighted_cross_entropy(logits, labels, weight), _dice_sums(logits, labels, weight)])


def _dice_plus_ce(sums: Tensor, classes: tuple[int, ...]) -> Tensor:
    return _mean(sums[:2], classes) + _one_minus_dice(sums[2:], classes)


dice_ce = Loss("dice-ce", _dice_ce_sums, _dice_plus_ce)

LOSSES: dict[str, Loss] = {loss.name: loss for loss in (dice_ce, soft_dice, cross_entropy, margin)}
