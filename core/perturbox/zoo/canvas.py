"""Paper and brushes of an anatomy: a material map in millimetres, ellipsoids, tubes and smooth curves.

Axes are RAS (+x right, +y anterior, +z superior) with z = 0 between T12 and L1. Shapes are painted in order, later ones
over earlier ones, unless `within` (a mask) or `over` (materials) holds the brush back.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicSpline

from perturbox.zoo.materials import Material

SHAPE = (168, 104, 216)
SPACING = 3.0
BOTTOM = -330.0

Mask = NDArray[np.bool_]
Floats = NDArray[np.float32]


class Shape(NamedTuple):
    """A mask on a box of the grid."""

    box: tuple[slice, slice, slice]
    mask: Mask


def smooth_noise(rng: np.random.Generator, shape: Sequence[int], period: float) -> Floats:
    """Smooth field of about unit variance: white noise on a grid `period` voxels wide, interpolated linearly."""
    coarse = [max(2, round(side / period)) for side in shape]
    field = torch.from_numpy(rng.standard_normal(coarse).astype(np.float32))[None, None]
    field = F.interpolate(field, tuple(shape), mode="trilinear", align_corners=True)[0, 0].numpy()
    return field / (field.std() + 1e-6)


def curve(points: ArrayLike, count: int = 40) -> NDArray[np.float64]:
    """`count` points of the cubic spline through `points` (n, 3)."""
    points = np.asarray(points, float)
    knots = np.r_[0, np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1) + 1e-3)]
    return CubicSpline(knots / knots[-1], points)(np.linspace(0, 1, count))


def beads(points: ArrayLike, radii: ArrayLike, step: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centres and radii of the balls, `step` radii apart, that make a tube along a polyline."""
    points = np.asarray(points, float)
    radii = np.broadcast_to(np.asarray(radii, float), len(points))
    length = np.linalg.norm(np.diff(points, axis=0), axis=1)
    thin = np.maximum(np.minimum(radii[:-1], radii[1:]), 2.5)
    pieces = np.maximum(1, (length / (step * thin)).astype(int))
    position = np.concatenate([*(i + np.arange(n) / n for i, n in enumerate(pieces)), [len(pieces)]])
    index = np.arange(len(points))
    centres = np.stack([np.interp(position, index, points[:, axis]) for axis in range(3)], axis=1)
    return centres, np.interp(position, index, radii)


class Canvas:
    """A material map with its coordinates (mm) and three fields of boundary noise, coarse to fine."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.map = np.zeros(SHAPE, np.uint8)
        self.axes = [((np.arange(n) - (n - 1) / 2) * SPACING).astype(np.float32) for n in SHAPE[:2]] + [
            (BOTTOM + np.arange(SHAPE[2]) * SPACING).astype(np.float32)
        ]
        self.x, self.y, self.z = np.ix_(*self.axes)
        self.noise = [smooth_noise(rng, SHAPE, period) for period in (26, 13, 6)]

    def box(self, low: ArrayLike, high: ArrayLike) -> tuple[slice, slice, slice]:
        """Slices of the grid between two corners in mm."""
        ends = [
            np.searchsorted(axis, [a, b])
            for axis, a, b in zip(self.axes, np.asarray(low), np.asarray(high), strict=True)
        ]
        x, y, z = (slice(int(a), int(max(a, b))) for a, b in ends)
        return x, y, z

    def coordinates(self, box: tuple[slice, slice, slice]) -> tuple[Floats, Floats, Floats]:
        """Open grids x, y, z (mm) of a box."""
        x, y, z = np.ix_(*[axis[part] for axis, part in zip(self.axes, box, strict=True)])
        return x, y, z

    def is_any(self, *materials: Material) -> Mask:
        """Where the map holds one of the materials."""
        return np.asarray(np.isin(self.map, materials))

    def ellipsoid(
        self,
        centre: ArrayLike,
        radii: ArrayLike,
        *,
        power: float = 2.0,
        spin: float = 0.0,
        tilt: float = 0.0,
        rough: float = 0.0,
        grain: int = 1,
    ) -> Shape:
        """Superellipsoid turned by `spin` about z and `tilt` about y (rad), its edge moved by `rough` times noise."""
        centre, radii = np.asarray(centre, float), np.asarray(radii, float)
        reach = (np.full(3, radii.max()) if spin or tilt else radii) * (1.05 + rough)
        box = self.box(centre - reach, centre + reach)
        x, y, z = (axis - np.float32(c) for axis, c in zip(self.coordinates(box), centre, strict=True))
        if spin:
            cos, sin = np.float32(np.cos(spin)), np.float32(np.sin(spin))
            x, y = x * cos + y * sin, y * cos - x * sin
        if tilt:
            cos, sin = np.float32(np.cos(tilt)), np.float32(np.sin(tilt))
            x, z = x * cos + z * sin, z * cos - x * sin
        scaled = [axis / np.float32(r) for axis, r in zip((x, y, z), radii, strict=True)]
        a, b, c = (s * s for s in scaled) if power == 2 else (np.abs(s) ** np.float32(power) for s in scaled)
        distance = a + b + c
        if rough:
            distance = distance + np.float32(rough) * self.noise[grain][box]
        return Shape(box, distance < 1)

    def paint(
        self, shape: Shape, material: Material, within: Mask | None = None, over: Collection[Material] | None = None
    ) -> None:
        """Fill a shape with a material."""
        part, mask = self.map[shape.box], shape.mask
        if within is not None:
            mask = mask & within[shape.box]
        if over is not None:
            mask = mask & np.isin(part, list(over))
        part[mask] = material

    def tube_shape(self, points: ArrayLike, radii: ArrayLike, *, stretch: float = 1.0, step: float = 0.5) -> Shape:
        """Union of balls along a polyline (n, 3), one radius or one per point; `stretch` lengthens them along z."""
        centres, radii = beads(points, radii, step)
        radii = np.maximum(radii[:, None] * [1.0, 1.0, stretch], 1.8)
        box = self.box((centres - 1.05 * radii).min(0), (centres + 1.05 * radii).max(0))
        union = np.zeros([part.stop - part.start for part in box], bool)
        for centre, radius in zip(centres, radii, strict=True):
            ball = self.ellipsoid(centre, radius)
            x, y, z = (slice(b.start - a.start, b.stop - a.start) for a, b in zip(box, ball.box, strict=True))
            union[x, y, z] |= ball.mask
        return Shape(box, union)

    def tube(
        self,
        points: ArrayLike,
        radii: ArrayLike,
        material: Material,
        within: Mask | None = None,
        over: Collection[Material] | None = None,
        step: float = 0.5,
    ) -> None:
        """Paint a tube along a polyline (n, 3)."""
        self.paint(self.tube_shape(points, radii, step=step), material, within, over)
