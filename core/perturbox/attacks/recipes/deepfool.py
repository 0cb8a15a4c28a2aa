"""DeepFool: step after step to the linearised decision boundary; the answer is the smallest change that reaches the
goal.

    f(x) = sqrt( mean over the targets' voxels of max(lead of the label, 0)^2 ),   r = f / |grad f|^2 * grad(-f)

Moosavi-Dezfooli et al. 2016, CVPR, arXiv 1511.04599. f is 0 exactly where every such voxel has lost its label; on a
linear model that sees no neighbours a single step is the smallest change that does it, voxel by voxel.
"""

from typing import Annotated

import torch
from torch import Tensor

from perturbox.attacks.attack import Attack, Climb, Model, Task
from perturbox.attacks.budget import Norm
from perturbox.attacks.must_change import missing, sought
from perturbox.attacks.objectives import Loss, Voxels
from perturbox.attacks.recipes import Param, recipe
from perturbox.attacks.solvers.deepfool import Back, Boundary
from perturbox.attacks.spaces.additive import Additive


def still_held(classes: tuple[int, ...], targeted: bool) -> Loss:
    """f: the RMS of what is missing in logits, over the voxels labelled as one of the classes (targeted: over all)."""

    def sums(voxels: Voxels) -> Tensor:
        counted = sought(voxels, classes, targeted)
        left = missing(voxels, targeted).clamp_min(0)
        return torch.stack([(left.square() * counted).sum(), counted.sum()])

    return Loss("deepfool", sums, lambda sums, _: (sums[0] / sums[1].clamp_min(1)).clamp_min(1e-30).sqrt())


def distance_left(model: Model, x: Tensor, task: Task, progress: float) -> Tensor:
    """The objective -f."""
    loss = still_held(task.classes, task.targeted)
    return -loss(model(x), task.labels, task.weight, task.classes, task.targeted, task.regions)


@recipe(
    title="DeepFool",
    paper="Moosavi-Dezfooli et al. 2016, arXiv 1511.04599",
    norms=("l2", "linf"),
    cost="steps + 1 forwards, at most steps backwards",
    deviations=(
        "all voxels of the targets are taken at once, by the RMS of how far each leads",
        "the way back to the clean scan is bisected with the steps that are left; eps is a cap",
    ),
    family="minimal",
    steps=50,
)
def deepfool(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    overshoot: Annotated[
        float, Param("How much longer each step is than to the boundary", minimum=0, maximum=1)
    ] = 0.02,
) -> Attack:
    """The smallest change found by steps to the linearised boundary."""
    solver = Back(Boundary(norm, overshoot))
    return Climb(distance_left, Additive(), solver, eps, norm, steps, keep="smallest", stop_on_success=False)
