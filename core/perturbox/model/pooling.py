"""What a network's layers say of a class: its features averaged inside the masks of a prediction.

A group of voxels is a class (of networks that choose one) or an answer of a channel, no or yes (of multi-label ones).
Windows are cut into cells, and a layer's features are averaged over a group's voxels cell by cell.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.conv import _ConvNd

from perturbox.model.victim import Victim
from perturbox.model.windows import Place
from perturbox.types import InputError

LEAST_VOXELS = 8.0  # of a group in a cell: what fewer say is noise
WIDEST = 512  # layers of more channels are left out, as HFC does


def group_names(victim: Victim) -> tuple[str, ...]:
    """The victim's classes in order of their channels, or "NAME no" of each channel and then "NAME yes"."""
    names = {value: name for name, value in victim.labels.items()}
    if victim.regions is None:
        return tuple(names.get(value, str(value)) for value in range(max(names) + 1))
    channels = [names.get(region[0], str(region[0])) for region in victim.regions]
    return tuple(f"{name} {answer}" for answer in ("no", "yes") for name in channels)


def convolutions(victim: Victim) -> tuple[str, ...]:
    """The names of the network's convolutions up to 512 channels wide."""
    named = victim.network.named_modules()
    return tuple(name for name, module in named if isinstance(module, _ConvNd) and module.out_channels <= WIDEST)


def groups_of(answers: Tensor, channels: int) -> Tensor:
    """Masks "n g *p" (float) of chosen classes "n *p" (int64; g = channels), or of yes-or-no answers "n k *p" (bool;
    g = 2 k, first every channel's no)."""
    if answers.dtype == torch.bool:
        return torch.cat([~answers, answers], 1).float()
    return F.one_hot(answers, channels).movedim(-1, 1).float()


def own_groups(prediction: Tensor, multi_label: bool) -> Tensor:
    """The groups "n g *p" that logits "n k *p" themselves make."""
    answers = prediction > 0 if multi_label else prediction.argmax(1)
    return groups_of(answers, prediction.shape[1])


def cut(grid_map: Tensor, places: Sequence[Place]) -> Tensor:
    """What of a map "b a *g" of the network's grid lies in windows at these places, "n a *p"; slice by slice, a place
    names its slice as the image."""
    if grid_map.dim() - 2 > len(places[0].box):
        grid_map = grid_map.movedim(-1, 1).flatten(0, 1)
    return torch.cat([place.of(grid_map) for place in places])


@dataclass(eq=False)
class Pool:
    """Averages features over masks "n g *p" in each cell of their windows. Where the scan is smaller than the window,
    what was padded isn't counted.

    window: voxels along each axis; cells: into how many these are cut.
    """

    masks: Tensor
    window: Sequence[int]
    cells: int
    weights: dict[torch.Size, Tensor] = field(default_factory=dict)

    def __call__(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Means "n g m c" of features "n c *q" in m cells, and the voxels "n g m" of the masks they are of."""
        shape = features.shape[2:]
        if shape not in self.weights:
            self.weights[shape] = self._on(shape)
        weights = self.weights[shape].to(features)
        ends = [[round(n * i / self.cells) for i in range(self.cells + 1)] for n in shape]
        means, counts = [], []
        for corner in product(range(self.cells), repeat=len(shape)):
            box = tuple(slice(end[i], end[i + 1]) for end, i in zip(ends, corner, strict=True))
            weight = weights[(..., *box)].flatten(2)
            count = weight.sum(2)
            means.append(weight @ features[(..., *box)].flatten(2).mT / count.clamp_min(1e-12)[..., None])
            counts.append(count)
        return torch.stack(means, 2), torch.stack(counts, 2)

    def _on(self, shape: torch.Size) -> Tensor:
        """Voxels of the masks in each voxel of a layer, "n g *q"."""
        pads: list[int] = []
        for size, n in zip(self.window, self.masks.shape[2:], strict=True):
            pads = [(size - n) // 2, size - n - (size - n) // 2, *pads]
        pool = {2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}[len(shape)]
        return pool(F.pad(self.masks, pads), shape) * float(np.prod(self.window) / np.prod(shape))


def require_maps(features: dict[str, Tensor], prediction: Tensor) -> None:
    """Raise InputError where a layer's output isn't "n c *q" with the windows' axes."""
    for name, made in features.items():
        if made.dim() != prediction.dim() or made.shape[0] != prediction.shape[0]:
            raise InputError(
                f"The layer '{name}' gives {tuple(made.shape)}, no feature map of its windows; choose another layer."
            )
