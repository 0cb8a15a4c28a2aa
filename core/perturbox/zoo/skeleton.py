"""Bones: pelvis, femora and sacrum, ribs and sternum, shoulder girdle, vertebrae.

All bones are collected in one mask; its rim becomes cortical bone and its core spongy bone.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import binary_erosion

from perturbox.zoo.canvas import SHAPE, Canvas, Mask, Shape, curve
from perturbox.zoo.materials import Material
from perturbox.zoo.muscles import paint_gluteals
from perturbox.zoo.spine import paint_spine
from perturbox.zoo.trunk import Trunk

_SLAB = 3.2
"""Half height of a one-slice slab, mm."""


class Bones:
    """The bone mask under construction."""

    def __init__(self, canvas: Canvas) -> None:
        self.canvas = canvas
        self.mask: Mask = np.zeros(SHAPE, bool)

    def add(self, shape: Shape) -> None:
        self.mask[shape.box] |= shape.mask

    def carve(self, shape: Shape) -> None:
        self.mask[shape.box] &= ~shape.mask

    def ellipsoid(self, centre: ArrayLike, radii: ArrayLike, power: float = 2.0) -> None:
        self.add(self.canvas.ellipsoid(centre, radii, power=power))

    def tube(self, points: ArrayLike, radii: ArrayLike, stretch: float = 1.0) -> None:
        self.add(self.canvas.tube_shape(points, radii, stretch=stretch))


def paint_skeleton(trunk: Trunk) -> None:
    """Paint all bones with the muscles that hang on the pelvis, discs, costal cartilage and the spinal canal."""
    canvas = trunk.canvas
    bones = Bones(canvas)
    width = trunk.width * canvas.rng.uniform(0.92, 1.06)
    crest = canvas.rng.uniform(-132, -112)
    hip_y = trunk.hip_y
    iliacus = canvas.rng.uniform(7, 11)
    for side in (1, -1):
        _add_ilium(trunk, bones, side, hip_y, crest, width, iliacus)
        _add_hip_and_femur(bones, side, hip_y, width)
    _add_sacrum(trunk, bones, width)
    paint_gluteals(trunk, crest, width)
    _add_ribs(trunk, bones)
    _add_sternum(trunk, bones)
    if canvas.rng.random() < 0.9:
        for side in (1, -1):
            _add_shoulder_girdle(trunk, bones, side)
    canal = paint_spine(trunk, bones.mask)
    bones.mask &= trunk.body
    canvas.map[bones.mask] = Material.SPONGY_BONE
    canvas.map[bones.mask & ~np.asarray(binary_erosion(bones.mask), bool)] = Material.CORTICAL_BONE
    canvas.map[canal] = Material.SPINAL_CORD


def _add_ilium(trunk: Trunk, bones: Bones, side: int, hip_y: float, crest: float, width: float, iliacus: float) -> None:
    """The wing as slabs between an inner-rear and an outer-front border, with the iliacus muscle on its inner face."""
    canvas = trunk.canvas
    heights = [-262, -240, -215, -170, crest]
    rear = np.array(
        [
            [70, hip_y - 6],
            [62, hip_y - 22],
            [52, trunk.spine_y(-210) - 10],
            [44, trunk.spine_y(-170) - 22],
            [58, trunk.spine_y(-130) - 14],
        ]
    )
    front = np.array([[98, hip_y + 10], [104, hip_y + 22], [112, hip_y + 32], [122, hip_y + 38], [122, hip_y + 14]])
    thickness = np.array([13, 10, 7.5, 6, 6.5]) * canvas.rng.uniform(0.85, 1.1)
    bow = canvas.rng.uniform(6, 7)
    for z in np.arange(-258, crest + 1, 3.0):
        a, b = (np.array([np.interp(z, heights, border[:, axis]) for axis in (0, 1)]) for border in (rear, front))
        thick = np.interp(z, heights, thickness)
        roundness = np.clip((crest - z) / 45, 0, 1)
        middle, shrink = 0.5 * (a + b), np.sqrt(roundness * (2 - roundness) + 0.02)
        a, b = middle + (a - middle) * shrink, middle + (b - middle) * shrink
        for t in np.linspace(0, 1, 22):
            x, y = a + (b - a) * t
            x += bow * np.sin(np.pi * t)
            thick_here = thick * (1 + 0.35 * (abs(t - 0.5) > 0.4))
            bones.ellipsoid([side * x * width, y, z], [thick_here, thick_here, _SLAB])
            if 0.2 < t < 0.97 and -245 < z < crest - 8:
                radius = iliacus * np.interp(z, [-245, -215, crest], [1.2, 1.2, 0.5])
                centre = [side * (x * width - 0.75 * (thick_here + radius)), y + 0.6 * (thick_here + radius), z]
                canvas.paint(
                    canvas.ellipsoid(centre, [radius, radius, _SLAB]), Material.MUSCLE, within=trunk.inside_fascia
                )


def _add_hip_and_femur(bones: Bones, side: int, hip_y: float, width: float) -> None:
    canvas = bones.canvas
    head = np.array([side * 90 * width, hip_y + 2, -266.0])
    bones.ellipsoid(head + np.array([-side * 6, 0, 3]), [33, 32, 32])
    socket = canvas.ellipsoid(head + np.array([side * 2, 0, -1]), [27.5, 27.5, 27.5])
    bones.carve(socket)
    canvas.paint(socket, Material.CARTILAGE)
    pubis = [
        [side * 84 * width, hip_y + 16, -252],
        [side * 50 * width, hip_y + 44, -264],
        [side * 10, hip_y + 52, -284],
        [side * 10, hip_y + 46, -302],
    ]
    ischium = [
        [side * 10, hip_y + 46, -302],
        [side * 36, hip_y + 10, -322],
        [side * 60, hip_y - 22, -322],
        [side * 74 * width, hip_y - 22, -285],
        [side * 76 * width, hip_y - 12, -262],
    ]
    bones.tube(pubis, [12, 8, 9, 8])
    bones.tube(ischium, [7, 6, 11, 12, 12])
    bones.carve(socket)
    bones.ellipsoid(head + np.array([side * 2, 0, -1]), [24, 24, 24])
    trochanter = np.array([side * 138 * width, hip_y - 16, -282.0])
    bones.tube([head + np.array([side * 4, 0, -2]), trochanter + np.array([-side * 8, 6, -2])], 14)
    bones.tube(
        [trochanter, trochanter + np.array([-side * 6, 4, -25]), trochanter + np.array([-side * 12, 6, -60])],
        [16, 17, 14.5],
    )


def _add_sacrum(trunk: Trunk, bones: Bones, width: float) -> None:
    canvas = trunk.canvas
    for z in np.arange(-305, -172, 3.0):
        height = (z + 305) / 133
        half = np.interp(height, [0, 0.2, 0.6, 1], [6, 14, 36, 50]) * width
        thick = np.interp(height, [0, 0.2, 0.7, 1], [4, 7, 13, 17])
        centre = [0, trunk.spine_y(z) - 4 * height, z]
        bones.add(canvas.ellipsoid(centre, [half, thick, _SLAB], power=2.4, rough=0.1, grain=2))
        if height > 0.4:
            bones.ellipsoid([0, trunk.spine_y(z) - thick - 8, z], [8, 10, _SLAB])


def _add_ribs(trunk: Trunk, bones: Bones) -> None:
    """Twelve pairs from the vertebrae around the chest wall, the upper ten continued by costal cartilage."""
    uniform = trunk.canvas.rng.uniform
    slope, pitch = uniform(0.75, 1.15), uniform(22.5, 24)
    reach = [25, 35, 45, 50, 52, 50, 45, 38, 30, 20, -8, -42]
    drop = [22, 40, 55, 65, 70, 74, 78, 80, 82, 80, 62, 42]
    for i in range(12):
        root_z = 20 + (11 - i) * pitch
        root = np.array([18.0, trunk.spine_y(root_z) - 10])
        for side in (1, -1):
            end = reach[i] + uniform(-8, 8)
            path = []
            for k, angle in enumerate(np.radians(np.linspace(-80, end, 46))):
                along = k / 45
                fall = drop[i] * slope * (0.15 * along + 0.85 * along**1.25) * (end + 80) / 130
                point = trunk.chest_wall(angle, root_z - fall, 3)
                if k < 7:
                    point = root + (point - root) * (k / 7)
                path.append([side * point[0], point[1], root_z - fall])
            bones.tube(path, uniform(3.4, 4.6), stretch=1.45)
            if i < 10:
                _paint_costal_cartilage(trunk, np.array(path[-1]), side, i)


def _paint_costal_cartilage(trunk: Trunk, tip: np.ndarray, side: int, rib: int) -> None:
    uniform = trunk.canvas.rng.uniform
    z = max(tip[2] + (rib > 4) * 12 * (rib - 4), uniform(70, 90))
    end = np.array([side * 14, trunk.at(trunk.fascia_y + trunk.fascia_depth, max(tip[2], 60)) - 12, z])
    middle = [side * (0.5 * abs(tip[0]) + 12), 0.5 * (tip[1] + end[1]) + 8, min(tip[2], end[2]) - 4]
    path = curve([tip, middle, end], 10)
    trunk.canvas.tube(path, uniform(4, 5.5), Material.CARTILAGE, within=trunk.inside_fascia)


def _add_sternum(trunk: Trunk, bones: Bones) -> None:
    half = trunk.canvas.rng.uniform(14, 15)
    front = trunk.fascia_y + (trunk.fascia_depth - 0.5 * trunk.wall) * (0.5 * trunk.chest_taper + 0.5)
    for z in np.arange(62, 235, 3.0):
        bones.ellipsoid([0, trunk.at(front, z) - 2, z], [half + 8 * (z > 205), 6, _SLAB], power=3)


def _add_shoulder_girdle(trunk: Trunk, bones: Bones, side: int) -> None:
    """Shoulder blade behind the ribs, collar bone and humeral head."""
    for z in np.arange(120, 262, 3.0):
        height = (z - 120) / 142
        inner = trunk.chest_wall(np.radians(-72), z, -9)
        outer = trunk.chest_wall(np.radians(-72 + 50 * height), z, -12)
        for t in np.linspace(0, 1, int(4 + 16 * height)):
            x, y = inner + (outer - inner) * t
            bones.ellipsoid([side * x, y - 3, z], [3.4, 3.4, 3])
    y = trunk.at(trunk.fascia_y, 255)
    collar = [[side * 12, y + 40, 238], [side * 60, y + 30, 252], [side * 125, y - 20, 262]]
    bones.tube(curve(collar, 12), 6)
    bones.ellipsoid([side * 148 * trunk.width, y - 20, 245], [22, 22, 22])
