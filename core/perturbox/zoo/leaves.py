"""Dead leaves: pictures that have the edges and the spectrum of photographs, and nothing of anatomy.

Balls of random place and shade hide one another; how many there are falls with a power of their radius, so that no size
is special. Lee, Mumford & Huang 2001, doi 10.1023/A:1011109015675.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

SMALLEST = 3.0  # voxels; finer leaves would be noise
COVERED = 2.0  # how often the leaves cover the picture, on average


def dead_leaves(shape: Sequence[int], channels: int, generator: torch.Generator) -> Tensor:
    """A picture or volume "c *s" with values in [0, 1], the same for the same state of the generator."""
    dims, largest = len(shape), max(max(shape) / 2, SMALLEST + 1)
    picture = torch.rand(channels, *[1] * dims, generator=generator).expand(channels, *shape).clone()
    # Radii of density r^-(d + 1): every octave covers the same share of the picture.
    most, least = SMALLEST**-dims, largest**-dims
    ball = math.pi if dims == 2 else 4 / 3 * math.pi
    mean_size = ball * dims * math.log(largest / SMALLEST) / (most - least)
    leaves = math.ceil(COVERED * math.prod(shape) / mean_size)
    radii = (most + (least - most) * torch.rand(leaves, generator=generator)) ** (-1 / dims)
    centres = torch.rand(leaves, dims, generator=generator) * torch.tensor(shape)
    shades = torch.rand(leaves, channels, generator=generator)
    for radius, centre, shade in zip(radii.tolist(), centres.tolist(), shades, strict=True):
        distance, box = torch.zeros(()), []
        for axis, (middle, n) in enumerate(zip(centre, shape, strict=True)):
            first, last = max(0, int(middle - radius)), min(n, int(middle + radius) + 1)
            along = (torch.arange(first, last) + 0.5 - middle).square()
            distance = distance + along.view([-1 if a == axis else 1 for a in range(dims)])
            box.append(slice(first, last))
        picture[(slice(None), *box)][:, distance < radius**2] = shade[:, None]
    return picture
