"""What an attack climbs. Every loss is *higher where the prediction is farther from a label map*; an objective turns a
loss into a goal: away from the reference (`change`), or towards a desired map (`vanish`, `grow`, `become`).

A loss is a sum of voxelwise statistics over slabs followed by a small formula, so that many classes on a large grid
never need a second volume-sized tensor (see `slabs.slabwise_sum`). The statistics look at a slab through `Voxels`,
which says the same of networks that choose one class and of those that answer yes or no for each channel.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from perturbox.attacks.slabs import slabwise_sum


@dataclass(eq=False)
class Voxels:
    """One slab of a prediction and what is labelled there.

    logits: "b k *g"; labels: "b *g" int64; weight: "b *g". regions: None where the network chooses one class (softmax),
    else bool "values k": whether label value v lies in channel k (sigmoid); each (voxel, channel) is then a yes-or-no
    answer of its own. What is per answer has shape "b a *g", a = 1 (softmax) or k (sigmoid), and is at least 0 wide.
    """

    logits: Tensor
    labels: Tensor
    weight: Tensor
    regions: Tensor | None = None

    @cached_property
    def targets(self) -> Tensor:
        """1 where a channel holds the voxel's label, "b k *g" float."""
        if self.regions is None:
            return F.one_hot(self.labels, self.logits.shape[1]).movedim(-1, 1).to(self.logits)
        return self.regions[self.labels].movedim(-1, 1).to(self.logits)

    @cached_property
    def probabilities(self) -> Tensor:
        """ "b k *g"."""
        return self.logits.softmax(1) if self.regions is None else self.logits.sigmoid()

    @property
    def decided(self) -> Tensor:
        """1 for the class that is chosen, or for each channel that says yes, "b k *g" float; no gradient."""
        if self.regions is None:
            return F.one_hot(self.logits.argmax(1), self.logits.shape[1]).movedim(-1, 1).to(self.logits)
        return (self.logits > 0).to(self.logits)

    @cached_property
    def right(self) -> Tensor:
        """Probability of the right answer, "b a *g"."""
        return self.labelled.exp()

    @cached_property
    def labelled(self) -> Tensor:
        """Log-probability of the right answer, "b a *g"."""
        return -self.cross_entropy

    @cached_property
    def cross_entropy(self) -> Tensor:
        """-log of the probability of the right answer, "b a *g"."""
        if self.regions is None:
            return F.cross_entropy(self.logits, self.labels, reduction="none")[:, None]
        return F.binary_cross_entropy_with_logits(self.logits, self.targets, reduction="none")

    @cached_property
    def margin(self) -> Tensor:
        """How far the best wrong answer leads, in logits, "b a *g": above 0 where the prediction is wrong."""
        if self.regions is None:
            labelled = self.logits.gather(1, self.labels[:, None])
            others = self.logits.scatter(1, self.labels[:, None], -torch.inf).amax(1, keepdim=True)
            return others - labelled
        return -(2 * self.targets - 1) * self.logits

    @property
    def correct(self) -> Tensor:
        """bool "b a *g"; no gradient."""
        return self.margin.detach() < 0

    def total(self, values: Tensor) -> Tensor:
        """The two sums of which a weighted mean of "b a *g" values is made."""
        return torch.stack([(values * self.weight[:, None]).sum(), (self.weight.sum() * values.shape[1]).to(values)])


# (voxels of one slab) -> a vector of sums over them.
Statistics = Callable[[Voxels], Tensor]


@dataclass(frozen=True)
class Loss:
    """statistics(voxels) -> vector of sums over a slab; formula(sums, classes) -> scalar.

    descent: the statistics where the labels are to be reached instead of left, if they differ. of_scores: whether it is
    made of scores, not of probabilities, so that it has a gradient however far they lie apart.
    """

    name: str
    statistics: Statistics
    formula: Callable[[Tensor, tuple[int, ...]], Tensor]
    descent: Statistics | None = None
    of_scores: bool = False

    def __call__(
        self,
        logits: Tensor,
        labels: Tensor,
        weight: Tensor,
        classes: tuple[int, ...],
        targeted: bool = False,
        regions: Tensor | None = None,
    ) -> Tensor:
        """Scalar loss over the voxels with weight; `classes` are the channels a Dice averages over; targeted: the
        labels are to be reached; regions: of a multi-label network, see `Voxels`."""
        statistics = self.descent if targeted and self.descent is not None else self.statistics

        def slab(logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
            return statistics(Voxels(logits, labels, weight, regions))

        return self.formula(slabwise_sum(slab, logits, labels, weight), classes)


def mean(sums: Tensor, classes: tuple[int, ...]) -> Tensor:
    """The weighted mean of what `Voxels.total` summed."""
    return sums[0] / sums[1].clamp_min(1)


def average(name: str, voxelwise: Callable[[Voxels], Tensor], descent: Callable[[Voxels], Tensor] | None = None):
    """The loss that is the weighted mean of a quantity "b a *g" per answer."""
    down = None if descent is None else lambda voxels: voxels.total(descent(voxels))
    return Loss(name, lambda voxels: voxels.total(voxelwise(voxels)), mean, down)


def dice_sums(voxels: Voxels) -> Tensor:
    """Per channel: overlap, what is predicted, what is labelled."""
    return overlap_sums(voxels, voxels.probabilities)


def overlap_sums(voxels: Voxels, predicted: Tensor) -> Tensor:
    """The same of a prediction "b k *g", such as what is decided."""
    weight = voxels.weight[:, None]
    targets = voxels.targets * weight
    axes = (0, *range(2, weight.dim()))
    return torch.cat([(predicted * targets).sum(axes), (predicted * weight).sum(axes), targets.sum(axes)])


def soft_dices(sums: Tensor, classes: tuple[int, ...]) -> Tensor:
    """The soft Dice of every chosen channel that is labelled at all (of all chosen ones where none is)."""
    overlap, predicted, labelled = sums.view(3, -1)
    present = [c for c in classes if float(labelled[c].detach()) > 0]
    chosen = torch.tensor(present or list(classes), device=sums.device)
    return (2 * overlap[chosen] + 1e-3) / (predicted[chosen] + labelled[chosen] + 1e-3)


def one_minus_dice(sums: Tensor, classes: tuple[int, ...]) -> Tensor:
    """1 minus the mean soft Dice of `classes`, from the sums of a whole volume."""
    return 1 - soft_dices(sums, classes).mean()


KAPPA = 2.0

cross_entropy = average("ce", lambda voxels: voxels.cross_entropy)
soft_dice = Loss("dice", dice_sums, one_minus_dice)
# Capped so that voxels long lost (or, towards a label, long won) stop pulling (Carlini & Wagner 2017, arXiv
# 1608.04644).
margin = replace(
    average("margin", lambda v: v.margin.clamp(max=KAPPA), lambda v: v.margin.clamp(min=-KAPPA)), of_scores=True
)


def dice_plus(name: str, other: Loss) -> Loss:
    """1 - soft Dice plus a loss that is a mean."""
    return Loss(
        name,
        lambda voxels: torch.cat([other.statistics(voxels), dice_sums(voxels)]),
        lambda sums, classes: mean(sums[:2], classes) + one_minus_dice(sums[2:], classes),
    )


dice_ce = dice_plus("dice-ce", cross_entropy)

LOSSES: dict[str, Loss] = {loss.name: loss for loss in (dice_ce, soft_dice, cross_entropy, margin)}
