"""LGS: local gradients smoothing, which fades blocks of the scan that hold steep edges. Made against patches.

    g = |grad x| on the model's range as [0, 1], scaled to [0, 1] over the scan; kept in blocks whose mean is above the
    threshold;    x' = x + (anchor - x) * clip(strength * g, 0, 1)

Naseer, Khan & Porikli 2019, WACV, arXiv 1807.01216, read in a third party's code: strength 2.3, blocks of 15 voxels
that overlap by 5, threshold 0.1.
"""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from perturbox.attacks.settings import Param
from perturbox.defenses import High, Low, defense
from perturbox.defenses.filters import IDENTITY
from perturbox.defenses.tv import TINY, gradient
from perturbox.model.defended import Defense, StandIn


def flagged(steepness: Tensor, block: int, overlap: int, threshold: float) -> Tensor:
    """bool "b c *s": voxels in a block whose mean is above the threshold; the scan is continued by 0 to whole
    blocks."""
    dims, stride = steepness.dim() - 2, block - overlap
    shape = steepness.shape[2:]
    count = [1 + max(0, -(-(n - block) // stride)) for n in shape]
    beyond = [block + stride * (k - 1) - n for n, k in zip(shape, count, strict=True)]
    pads = [side for more in reversed(beyond) for side in (0, more)]
    rows = F.pad(steepness, pads).flatten(0, 1)[:, None]
    pool, spread = (F.avg_pool2d, F.conv_transpose2d) if dims == 2 else (F.avg_pool3d, F.conv_transpose3d)
    fired = (pool(rows, block, stride) > threshold).to(steepness)
    covered = spread(fired, fired.new_ones(1, 1, *[block] * dims), stride=stride) > 0
    covered = covered[(..., *(slice(n) for n in shape))]
    return covered.reshape(steepness.shape)


@defense(
    title="Local gradients smoothing",
    paper="Naseer et al. 2019, arXiv 1807.01216",
    inverse="mask constant: the differences once more; identity: nothing",
    deviations=(
        "fades towards the middle of the range; anchor=low fades to its lower end, as on pictures: bone turns to air",
        "the rim that whole blocks don't cover is padded, where the code we read leaves it out",
        "3D: three differences, and blocks of 15 x 15 x 15",
    ),
)
def lgs(
    strength: Annotated[float, Param("How strongly edges fade", minimum=0, maximum=1e6)] = 2.3,
    block: Annotated[int, Param("Edge of a block", unit="voxels", minimum=2, maximum=64)] = 15,
    overlap: Annotated[int, Param("By how much blocks overlap", unit="voxels", minimum=0, maximum=63)] = 5,
    threshold: Annotated[float, Param("Mean steepness from which a block fades", minimum=0, maximum=1)] = 0.1,
    anchor: Annotated[Literal["middle", "low"], Param("Where to values fade")] = "middle",
    low: Low = None,
    high: High = None,
) -> Defense:
    """Fades steep blocks; which blocks those are is taken as constant by the attack."""
    assert low is not None and high is not None
    start, span, towards = low, high - low, 0.5 if anchor == "middle" else 0.0
    edge = min(overlap, block - 1)

    def faded(x: Tensor, spacing: tuple[float, ...], draws: torch.Generator) -> Tensor:
        grey = ((x - start) / span).clamp(0, 1)
        steep = (gradient(grey, x.dim() - 2).square().sum(0) + TINY).sqrt()
        every = tuple(range(1, x.dim()))
        least, most = steep.amin(every, keepdim=True), steep.amax(every, keepdim=True)
        steep = (steep - least) / (most - least).clamp_min(1e-6)
        with torch.no_grad():
            mask = flagged(steep, block, edge, threshold)
        return x + span * (towards - grey) * (strength * steep * mask).clamp(0, 1)

    return Defense("", faded, (StandIn("mask constant"), IDENTITY))
