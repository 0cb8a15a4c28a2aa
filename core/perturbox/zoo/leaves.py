"""Dead leaves: pictures that have the edges and the spectrum of photographs, and nothing of anatomy.

Balls of random place and shade hide one another; how many there are falls with a power of their radius, so that no size
is special. Lee, Mumford & Huang 2001, doi 10.1023/A:1011109015675.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

SMALLEST = 2.0  # voxels; finer leaves would be noise
LEAVES = 4000


def dead_leaves(shape: Sequence[int], channels: int, generator: torch.Generator, leaves: int = LEAVES) -> Tensor:
    """A picture or volume "c *s" with values in [0, 1], the same for the same state of the generator."""
    picture = torch.rand(channels, *[1] * len(shape), generator=generator).expand(channels, *shape).clone()
    largest = max(max(shape) / 2, SMALLEST + 1)
    # Radii of density r^-(d + 1): every octave covers the same share of the picture.
    ends = torch.tensor([SMALLEST, largest]) ** -len(shape)
    radii = (ends[0] + (ends[1] - ends[0]) * torch.rand(leaves, generator=generator)) ** (-1 / len(shape))
    centres = torch.rand(leaves, len(shape), generator=generator) * torch.tensor(shape)
    shades = torch.rand(leaves, channels, generator=generator)
    for radius, centre, shade in zip(radii.tolist(), centres.tolist(), shades, strict=True):
        distance, box = torch.zeros(()), []
        for axis, (middle, n) in enumerate(zip(centre, shape, strict=True)):
            first, last = max(0, int(middle - radius)), min(n, int(middle + radius) + 1)
            along = (torch.arange(first, last) + 0.5 - middle).square()
            distance = distance + along.view([-1 if a == axis else 1 for a in range(len(shape))])
            box.append(slice(first, last))
        place = picture[(slice(None), *box)]
        place[:, distance < radius**2] = shade[:, None]
    return picture
