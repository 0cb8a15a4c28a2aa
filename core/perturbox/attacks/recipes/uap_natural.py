"""UAP from natural images: a universal perturbation crafted on pictures that show nothing medical.

As `uap`; the scans are random crops of photographs, laid into the victim's intensity window, and their labels what the
victim sees there. Minagi, Hirano & Takemoto 2022, J. Imaging 8:38, doi 10.3390/jimaging8020038.
"""

import os
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from perturbox.attacks.attack import Attack, Climb, ascend
from perturbox.attacks.budget import Norm
from perturbox.attacks.objectives import LOSSES
from perturbox.attacks.recipes import Param, Settings, derived, recipe
from perturbox.attacks.recipes.uap import STEP, Alpha, Fit, Pitch, Side, absolute
from perturbox.attacks.settings import LossName
from perturbox.attacks.solvers.one_by_one import OneByOne
from perturbox.attacks.spaces.shared import Shared
from perturbox.model.regrid import apply_along, linear_matrix
from perturbox.model.victim import Victim
from perturbox.types import InputError, Volume
from perturbox.zoo.leaves import dead_leaves


def photograph(image: Volume, channels: int) -> Tensor:
    """Any 2D image as "c w h" in [0, 1], from its darkest to its brightest value; grey, or colours repeated or averaged
    where the victim has another number of channels. Raises InputError for volumes."""
    if image.dims != 2:
        raise InputError("A natural image must be 2D, such as a photograph; this one is a volume.")
    values = torch.from_numpy(image.data.astype(np.float32))
    values = (values - values.min()) / (values.max() - values.min())
    return values if len(values) == channels else values.mean(0, keepdim=True).expand(channels, -1, -1)


def crop(picture: Tensor, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """A random part of a picture "c w h", at least half as wide as it, on a grid of `shape`; along a third axis the
    view moves and zooms steadily to another such part."""
    # Shrunk first to what can be seen, each voxel from all its pixels.
    keep = max(min(1.0, 2 * n / m) for n, m in zip(shape, picture.shape[1:], strict=False))
    for axis in (1, 2):
        n = picture.shape[axis]
        picture = apply_along(linear_matrix(n, max(1, round(keep * n)), antialias=True), picture, axis)

    def part() -> Tensor:
        """(share, middle of x, middle of y), in the coordinates [-1, 1] of the picture."""
        share = 0.5 + 0.5 * torch.rand(1, generator=generator)
        return torch.cat([share, (1 - share) * (2 * torch.rand(2, generator=generator) - 1)])

    first, last = part(), part()
    slices = []
    for t in torch.linspace(0, 1, shape[2]) if len(shape) == 3 else [0.0]:
        share, x, y = first + t * (last - first)
        # PyTorch's first coordinate runs along the last axis.
        theta = torch.stack([share, share * 0, y, share * 0, share, x]).view(1, 2, 3)
        grid = F.affine_grid(theta, [1, len(picture), shape[0], shape[1]], align_corners=False)
        slices.append(F.grid_sample(picture[None], grid, padding_mode="border", align_corners=False)[0])
    return torch.stack(slices, -1) if len(shape) == 3 else slices[0]


def scenes(
    victim: Victim, image: Volume, photographs: Sequence[Volume], count: int, space: Shared, generator: torch.Generator
) -> list[Volume]:
    """`count` scans as large as the victim's window (larger where the pattern is), on voxels like those of `image`:
    crops of the photographs in turn, or dead leaves where there are none."""
    grid, window = victim.on(image).grid, victim.window.size
    pictures = [photograph(one, victim.channels) for one in photographs]
    low, high = victim.visible or (float(image.data.min()), float(image.data.max()))
    order = np.argsort(grid.order)
    made = []
    for index in range(count):
        # On the network's axes; a victim of slices sees as many as the pattern is deep.
        shape = [*window, space.side][: image.dims]
        whole = crop(pictures[index % len(pictures)], shape, generator) if pictures else None
        whole = dead_leaves(shape, victim.channels, generator) if whole is None else whole
        for k, a in enumerate(grid.order):
            n = max(int(shape[k] * grid.oriented_shape[k] / grid.target[k]), space.period(image.spacing[a]))
            if n != shape[k]:
                whole = apply_along(linear_matrix(shape[k], n, antialias=True), whole, k + 1)
        data = low + (high - low) * whole.permute(0, *(int(k) + 1 for k in order)).numpy()
        made.append(Volume(np.ascontiguousarray(data, np.float32), image.affine, victim.unit, np.dtype(np.float32)))
    return made


def make_scans(
    victim: Victim, image: Volume, read: Sequence[Volume], generator: torch.Generator, settings: Settings
) -> list[Volume]:
    """What it is crafted on in place of scans."""
    space = Shared(settings["side"], settings["pitch"], settings["fit"])
    return scenes(victim, image, read, settings["count"], space, generator)


@recipe(
    title="Universal perturbation from natural images",
    paper="Minagi et al. 2022, doi 10.3390/jimaging8020038",
    norms=("linf", "l2"),
    cost="per crop: steps x 2 + 1 forwards, steps backwards",
    space="shared pattern",
    deviations=(
        "crafted on the photographs that are given, where the paper takes ImageNet; without any, on dead leaves, which "
        "are a model of natural images made by code",
        "in volumes the view moves through a photograph from slice to slice, and leaves are balls",
        "their labels are the victim's own predictions; those in which it sees none of its structures are left out",
        "else as uap: tiled or stretched, inner steps always kept, as many epochs as steps",
    ),
    family="universal",
    steps=50,
    crafted_on="images",
    make_scans=make_scans,
    resolve=lambda s: {"images": absolute(s["images"])},
)
def uap_natural(
    eps: float,
    norm: Norm,
    steps: int,
    *,
    images: Annotated[str, Param(f"Photographs, joined by '{os.pathsep}'; made by code if not given", local=True)] = "",
    count: Annotated[int, Param("Crops it is crafted on", minimum=1, maximum=10000)] = 8,
    loss: LossName = "dice-ce",
    alpha: Alpha = derived(lambda s: STEP * s["eps"]),
    fit: Fit = "tile",
    side: Side = 32,
    pitch: Pitch = None,
) -> Attack:
    """As uap, on crops of pictures that aren't medical."""
    return Climb(ascend(LOSSES[loss]), Shared(side, pitch, fit), OneByOne(alpha), eps, norm, steps)
