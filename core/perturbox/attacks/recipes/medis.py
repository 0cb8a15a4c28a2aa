"""MedIS: six surrogate losses, each climbed on its own by small signed steps; of those that reach the goal, the one
that changes the scan least is the answer.

    x <- project(x + alpha * sign(grad L_k)),  k = 1...6;     answer: min over k of |delta_k| among the successful

Shukla, Gupta & Gupta 2023, doi 10.1007/s11042-023-15575-8.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from perturbox.attacks.attack import Attack, Climb, Composed, Objective, Task, ascend
from perturbox.attacks.budget import Norm
from perturbox.attacks.objectives import Loss, Voxels, average, dice_plus, dice_sums, mean, soft_dices
from perturbox.attacks.on_scan import BUFFERS as LEAST_BUFFERS
from perturbox.attacks.on_scan import Answered, Costing, Model
from perturbox.attacks.recipes import Param, recipe
from perturbox.attacks.settings import BIM_STEP, BimStep
from perturbox.attacks.solvers.ascent import Ascent, chain, scale, sign
from perturbox.attacks.spaces.additive import Additive

GAMMA = 2.0
MIX = {"weighted": 0.21, "lovasz": 0.18, "log-cosh": 0.20, "dice-bce": 0.15, "exp-log": 0.26}
MEMBERS = (*MIX, "mix")
# Measured with 16 classes: these losses see the whole volume at once and a copy of it for each class.
BUFFERS = {"weighted": 20, "lovasz": 15, "mix": 40}


def _yes_or_no(voxels: Voxels) -> Tensor:
    """-log probability of each (voxel, channel) answer, "b k *g": binary cross-entropy channel by channel."""
    if voxels.regions is not None:
        return voxels.cross_entropy
    z, whole = voxels.logits, voxels.logits.logsumexp(1, keepdim=True)
    first = z.argmax(1, keepdim=True)
    # 1 - p cancels where p is nearly 1, which only the first can be: its complement is what the others sum to.
    others = z.scatter(1, first, -torch.inf).logsumexp(1, keepdim=True) - whole
    log_no = torch.log1p(-(z - whole).exp().scatter(1, first, 0.0)).scatter(1, first, others)
    return -torch.where(voxels.targets > 0, z - whole, log_no)


binary = average("bce", _yes_or_no)
dice_bce = dice_plus("dice-bce", binary)
log_cosh = Loss("log-cosh", dice_sums, lambda sums, chosen: (1 - soft_dices(sums, chosen).mean()).cosh().log())


def _exp_log_sums(voxels: Voxels) -> Tensor:
    return torch.cat([voxels.total((-voxels.labelled).clamp_min(1e-7) ** GAMMA), dice_sums(voxels)])


def _exp_log(sums: Tensor, chosen: tuple[int, ...]) -> Tensor:
    """Half of mean (-ln Dice)^gamma, half of mean (-ln p_y)^gamma (Wong et al. 2018, arXiv 1809.00076)."""
    dices = (-soft_dices(sums[2:], chosen).clamp(1e-7, 1 - 1e-7).log()) ** GAMMA
    return 0.5 * dices.mean() + 0.5 * mean(sums[:2], chosen)


exp_log = Loss("exp-log", _exp_log_sums, _exp_log)


@dataclass(frozen=True)
class Weighted:
    """Weighted BCE + weighted IoU; a voxel weighs 1 + 5 |average of the mask around it - mask|. window_mm: of the
    average."""

    window_mm: float

    def __call__(self, model: Model, x: Tensor, task: Task, progress: float) -> Tensor:
        logits = model(x)
        voxels = Voxels(logits, task.labels, task.weight, task.regions)
        if "edges" not in task.memory:
            task.memory["edges"] = 1 + 5 * (self._around(voxels.targets, task.spacing) - voxels.targets).abs()
        weight = task.memory["edges"] * task.weight[:, None]
        p, y, axes = voxels.probabilities, voxels.targets, (0, *range(2, logits.dim()))
        bce = (_yes_or_no(voxels) * weight).sum() / weight.sum().clamp_min(1)
        inside, union = (p * y * weight).sum(axes), ((p + y - p * y) * weight).sum(axes)
        iou = 1 - ((inside + 1) / (union + 1))[list(task.classes)].mean()
        return -(bce + iou) if task.targeted else bce + iou

    def _around(self, mask: Tensor, spacing: tuple[float, ...]) -> Tensor:
        for axis, step in enumerate(spacing, start=2):
            size = 2 * round(self.window_mm / step / 2) + 1
            rows = mask.movedim(axis, -1)
            flat = F.avg_pool1d(rows.reshape(1, -1, rows.shape[-1]), size, 1, size // 2, count_include_pad=False)
            mask = flat.view(rows.shape).movedim(-1, axis)
        return mask


def lovasz_hinge(model: Model, x: Tensor, task: Task, progress: float) -> Tensor:
    """Lovasz hinge of each chosen channel against the rest, averaged (Berman et al. 2018, arXiv 1705.08790)."""
    voxels = Voxels(model(x), task.labels, task.weight, task.regions)
    counted = task.weight.flatten() > 0
    losses = []
    for channel in task.classes:
        score = voxels.logits[:, channel]
        if voxels.regions is None:  # a class leads by this much over the best other
            score = score - voxels.logits.detach().index_fill(1, torch.tensor([channel]).to(x.device), -torch.inf).amax(
                1
            )
        losses.append(_lovasz_of(score.flatten()[counted], voxels.targets[:, channel].flatten()[counted]))
    value = torch.stack(losses).mean()
    return -value if task.targeted else value


def _lovasz_of(score: Tensor, label: Tensor) -> Tensor:
    """The Lovasz extension of 1 - IoU at the hinge errors of one mask, "n" each."""
    errors, order = (1 - score * (2 * label - 1)).sort(descending=True)
    sorted_label = label[order]
    inside = sorted_label.sum() - sorted_label.cumsum(0)
    union = sorted_label.sum() + (1 - sorted_label).cumsum(0)
    jaccard = 1 - inside / union.clamp_min(1)
    steps = torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])
    return (errors.relu() * steps).sum()


def losses(window_mm: float) -> dict[str, Objective]:
    """The five losses by name, and their fixed mix."""
    five: dict[str, Objective] = {
        "weighted": Weighted(window_mm),
        "lovasz": lovasz_hinge,
        "log-cosh": ascend(log_cosh),
        "dice-bce": ascend(dice_bce),
        "exp-log": ascend(exp_log),
    }

    def mixed(model: Model, x: Tensor, task: Task, progress: float) -> Tensor:
        once = Answered(model, x, model(x))
        return torch.stack([share * five[name](once, x, task, progress) for name, share in MIX.items()]).sum()

    six = {**five, "mix": mixed}
    return {name: Costing(loss, buffers=BUFFERS.get(name, LEAST_BUFFERS)) for name, loss in six.items()}


@recipe(
    title="MedIS",
    paper="Shukla et al. 2023, doi 10.1007/s11042-023-15575-8",
    norms=("linf",),
    cost="(6 + refine) x (steps + 1) forwards and steps backwards, at most",
    deviations=(
        "success is the goal's, live after each step and again on the saved file, where the paper takes mIoU <= 0.5",
        "binary cross-entropy of logits, and an Exp-Log loss that rises with the error",
        "what succeeded with the least change is refined by bisecting its limit",
        "the window of the boundary weights is in mm; steps are eps / steps instead of a grey level",
        "Lovasz's hinge is that of a class's lead over the best other",
        "what is aimed at are the goals (all background is vanish, all foreground grow or become); random masks and "
        "those of other cases are not offered",
    ),
    family="combined",
    use="The smallest change that breaks it",
)
def medis(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    alpha: BimStep = BIM_STEP,
    boundary: Annotated[float, Param("Window of the boundary weights", unit="mm", minimum=1)] = 31.0,
    refine: Annotated[int, Param("Bisections of the limit at the end", minimum=0, maximum=20)] = 4,
) -> Attack:
    """All surrogates one after another, each until it succeeds; the smallest success, then a smaller one if there
    is."""
    solver = Ascent(chain(sign(), scale(alpha)))
    members = {
        name: Climb(objective, Additive(), solver, eps, norm, steps) for name, objective in losses(boundary).items()
    }
    return Composed(members, eps, norm, keep="smallest", refine=refine)
