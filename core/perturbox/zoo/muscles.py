"""Muscles: the labelled ones (erector spinae, gluteals, iliopsoas) and their unlabelled neighbours.

The generic muscle under the fascia stays unlabelled; what is painted `MUSCLE` here is what a multi-organ CT label map
calls autochthonous back muscle, gluteus and iliopsoas. Fat planes part the two, as they do in patients.
"""

import numpy as np

from perturbox.zoo.canvas import curve
from perturbox.zoo.materials import Material
from perturbox.zoo.trunk import Trunk


def paint_muscles(trunk: Trunk) -> None:
    """Paint psoas, erector spinae and the chest wall's and pelvis' unlabelled muscles."""
    for side in (1, -1):
        _paint_psoas(trunk, side)
        _paint_pelvic_wall(trunk, side)
    _paint_erector(trunk)
    _part_chest_wall(trunk)


def _paint_psoas(trunk: Trunk, side: int) -> None:
    canvas, rng = trunk.canvas, trunk.canvas.rng
    uniform = rng.uniform
    hip_y = trunk.hip_y
    axis = curve(
        [
            [side * 27, trunk.spine_y(0) - 2, 8],
            [side * 31, trunk.spine_y(-30) + 2, -30],
            [side * 36, trunk.spine_y(-70) + 6, -70],
            [side * 42, trunk.spine_y(-110) + 10, -110],
            [side * 52, trunk.spine_y(-150) + 18, -150],
            [side * 66, hip_y + 18, -195],
            [side * 84, hip_y + 44, -245],  # over the front of the hip joint …
            [side * 93, hip_y + 45, -268],
            [side * 97, hip_y + 24, -300],
            [side * 96, hip_y + 2, -330],  # … to the lesser trochanter
        ],
        40,
    )
    thickness = [4, 9, 14, 18, 20, 19, 17, 17, 15, 11]
    radius = np.interp(np.linspace(0, 1, 40), np.linspace(0, 1, 10), thickness) * uniform(0.8, 1.25)
    canvas.tube(axis, radius + 2.5, Material.FAT, within=trunk.cavity, step=0.8)
    canvas.tube(axis, radius, Material.MUSCLE, within=trunk.inside_fascia)
    centre = [side * uniform(58, 70), trunk.spine_y(-60) - uniform(10, 22), -70]
    lumborum = canvas.ellipsoid(centre, [uniform(14, 26), uniform(8, 15), 66], spin=side * 0.4)
    loose = (Material.FAT, Material.OTHER_MUSCLE)
    canvas.paint(lumborum, Material.OTHER_MUSCLE, within=trunk.inside_fascia, over=loose)


def _paint_pelvic_wall(trunk: Trunk, side: int) -> None:
    """Piriformis and obturator internus: muscle beside the labelled ones that is not theirs."""
    canvas = trunk.canvas
    uniform = canvas.rng.uniform
    hip = trunk.hip_y
    piriformis = [
        [side * 22, trunk.spine_y(-215) + 10, -212],
        [side * 62, hip - 34, -228],
        [side * 112, hip - 20, -262],
    ]
    obturator = [[side * 54, hip + 18, -235], [side * 52, hip - 2, -262], [side * 62, hip - 26, -285]]
    loose = (Material.FAT, Material.OTHER_MUSCLE)
    for path, radius in ((piriformis, uniform(6, 11)), (obturator, uniform(5, 10))):
        canvas.tube(curve(path, 14), radius, Material.OTHER_MUSCLE, within=trunk.inside_fascia, over=loose)


def _paint_erector(trunk: Trunk) -> None:
    """Erector spinae and multifidus beside the spinous processes, wrapped in fascia fat, with fatty streaks."""
    canvas, rng = trunk.canvas, trunk.canvas.rng
    uniform = rng.uniform
    x, y, z = canvas.x, canvas.y, canvas.axes[2]
    knots = [-290, -250, -200, -150, -80, 0, 100, 200, 280]
    broad = uniform(0.9, 1.35)
    half_x = np.interp(z, knots, [6, 12, 25, 31, 30, 27, 22, 19, 17]) * broad
    half_y = np.interp(z, knots, [5, 8, 15, 23, 23, 20, 15, 13, 13]) * uniform(0.85, 1.2)
    offset = np.interp(z, knots, [14, 18, 25, 31, 32, 30, 26, 23, 21]) * (0.3 + 0.7 * broad)
    upright = np.minimum(np.maximum(trunk.back + half_y + 1, trunk.spine - 40), trunk.back + half_y + uniform(2, 8))
    centre_y = np.where(z < -190, trunk.back + half_y + 1, upright)
    half_x, half_y, offset, centre_y = (v.astype(np.float32) for v in (half_x, half_y, offset, centre_y))
    distance = np.abs((np.abs(x) - offset) / half_x) ** 2.4 + np.abs((y - centre_y) / half_y) ** 2.4
    region = trunk.inside_fascia & (canvas.z > -285)
    erector = region & (distance + 0.06 * canvas.noise[2] < 1) & (np.abs(x) > 2)
    depth = np.interp(z, [-160, -100, 100, 318], [4, uniform(6, 12), uniform(8, 15), 14]).astype(np.float32)
    lateral = trunk.inside_fascia & (y < trunk.back + depth) & (canvas.z > -150) & (np.abs(x) > 50)
    canvas.map[lateral & (canvas.map == Material.FAT)] = Material.OTHER_MUSCLE
    sheath = region & (distance < uniform(1.1, 1.4)) & ~erector & (y < trunk.spine)
    canvas.map[sheath & (canvas.map == Material.OTHER_MUSCLE)] = Material.FAT
    canvas.map[erector] = Material.MUSCLE
    streaks = np.abs(canvas.noise[2] + 0.7 * canvas.noise[1]) < uniform(0, 0.12)
    canvas.map[erector & streaks] = Material.FAT


def _part_chest_wall(trunk: Trunk) -> None:
    """Fat planes between the chest wall's layers (pectoral, serratus, latissimus, …) and in the armpit."""
    canvas = trunk.canvas
    uniform = canvas.rng.uniform
    wall = trunk.inside_fascia & ~trunk.chest & (canvas.z > 70) & (canvas.map == Material.OTHER_MUSCLE)
    planes = np.abs(canvas.noise[1] + 0.4 * canvas.noise[2]) < uniform(0.08, 0.3)
    canvas.map[wall & planes] = Material.FAT
    for side in (1, -1):
        place = [side * trunk.at(trunk.half_width, 200) * uniform(0.72, 0.82), uniform(-5, 15), uniform(170, 215)]
        armpit = canvas.ellipsoid(place, [uniform(14, 26), uniform(20, 34), uniform(24, 48)], rough=0.2)
        canvas.paint(armpit, Material.FAT, within=wall)


def paint_gluteals(trunk: Trunk, crest_z: float, width: float) -> None:
    """Gluteus maximus behind and medius/minimus beside the pelvis, over generic muscle only."""
    canvas = trunk.canvas
    uniform = canvas.rng.uniform
    x, y, z = np.abs(canvas.x), canvas.y, canvas.z
    hip_y = trunk.hip_y
    front = hip_y - 14 - 0.35 * (x - 90) + 0.1 * (z + 250)
    outside = trunk.inside_fascia & ~trunk.cavity
    top = np.interp(x, [20, 60, 130], [-190, -140, -175])
    maximus = outside & (z < top) & (y < front) & (x > np.where(z < -285, 15, 8)) & (y < trunk.spine - 8 + 0.55 * x)
    side_x = width * np.interp(canvas.axes[2], [-290, -200, crest_z], [112, 96, 100])
    medius = outside & (z > -264) & (z < crest_z - 3) & (x > side_x) & (y < hip_y + 38) & (y >= hip_y - 40)
    region = maximus | medius
    canvas.map[region & (canvas.map == Material.OTHER_MUSCLE)] = Material.MUSCLE
    plane = (np.abs(y - front) < uniform(1.5, 6)) & (z < -140) & (x > 60)
    streaks = region & (np.abs(canvas.noise[2]) < uniform(0, 0.14))
    canvas.map[(plane | streaks) & (canvas.map == Material.MUSCLE)] = Material.FAT
