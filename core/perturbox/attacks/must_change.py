"""What an attack that seeks the smallest change must reach voxel by voxel: a label given up, or (towards a label map)
taken on. Each answer is a constraint `missing <= 0`."""

from collections.abc import Callable

import torch
from torch import Tensor

from perturbox.attacks.objectives import Loss, Voxels
from perturbox.attacks.on_scan import Model, Objective, Task


def sought(voxels: Voxels, classes: tuple[int, ...], targeted: bool) -> Tensor:
    """Weight "b a *g" of the answers that must change: of voxels labelled as one of the classes; towards a label map,
    of all that matter (in the channels of the classes where answers are yes or no)."""
    targets = voxels.targets
    if voxels.regions is not None:
        counted = torch.zeros_like(targets)
        counted[:, list(classes)] = 1.0 if targeted else targets[:, list(classes)]
    else:
        counted = torch.ones_like(targets[:, :1]) if targeted else targets[:, list(classes)].sum(1, keepdim=True)
    return counted * voxels.weight[:, None]


def missing(voxels: Voxels, targeted: bool) -> Tensor:
    """Logits by which each answer is still what it mustn't be, "b a *g"; below 0 where it has changed."""
    return voxels.margin if targeted else -voxels.margin


def descend(name: str, amount: Callable[[Voxels, bool], Tensor]) -> Objective:
    """Objective: minus the sum of amount(voxels, targeted), "b a *g", over the answers that must change."""

    def objective(model: Model, x: Tensor, task: Task, progress: float) -> Tensor:
        def total(voxels: Voxels) -> Tensor:
            return (amount(voxels, task.targeted) * sought(voxels, task.classes, task.targeted)).sum()

        loss = Loss(name, total, lambda sums, _: sums)
        return -loss(model(x), task.labels, task.weight, task.classes, task.targeted, task.regions)

    return objective
