"""Abdominal and pelvic organs other than the gut: vessels, pancreas, kidneys, liver, gallbladder, spleen, bladder."""

from functools import partial

import numpy as np
from scipy.ndimage import binary_dilation

from perturbox.zoo.canvas import Mask, Shape, curve
from perturbox.zoo.materials import Material
from perturbox.zoo.trunk import Trunk

_COLON = (Material.COLON_WALL, Material.STOOL_FATTY, Material.STOOL_SOFT, Material.COLON_GAS)
_KIDNEY = (Material.RENAL_CORTEX, Material.RENAL_MEDULLA, Material.RENAL_SINUS)


def paint_abdomen(trunk: Trunk) -> None:
    """Paint the solid organs over the gut, as they push it aside."""
    _paint_pancreas_and_mesentery(trunk)
    left_kidney = [_paint_kidney(trunk, side) for side in (1, -1)][1]
    kidneys = trunk.canvas.is_any(*_KIDNEY)
    touching = trunk.canvas.rng.random() < 0.5
    clear = trunk.abdomen & ~np.asarray(kidneys if touching else binary_dilation(kidneys), bool)
    colon = trunk.canvas.is_any(*_COLON) & (trunk.canvas.rng.random() < 0.5)  # it dents the liver, or yields to it
    _paint_liver(trunk, clear & ~colon)
    _paint_great_vessels(trunk)
    _paint_spleen(trunk, clear, left_kidney, touching)


def paint_pelvis(trunk: Trunk) -> None:
    """Paint the urinary bladder and prostate or uterus."""
    canvas, rng = trunk.canvas, trunk.canvas.rng
    uniform = rng.uniform
    radii = np.array([uniform(22, 58), uniform(20, 48), uniform(18, 56)])
    y = trunk.at(trunk.fascia_y + 0.25 * trunk.fascia_depth, -264)
    centre = [uniform(-6, 6), y, -272 + 0.7 * radii[2]]
    canvas.paint(canvas.ellipsoid(centre, radii + 4, rough=0.08), Material.FAT, within=trunk.cavity)
    canvas.paint(canvas.ellipsoid(centre, radii, rough=0.06), Material.URINE, within=trunk.cavity)
    if rng.random() < 0.5:
        prostate = canvas.ellipsoid([0, y - 5, -285], [22, 18, 18], rough=0.1)
        canvas.paint(prostate, Material.PELVIC_ORGAN, within=trunk.inside_fascia)
    else:
        size = [uniform(22, 32), uniform(16, 26), uniform(22, 38)]
        uterus = canvas.ellipsoid([uniform(-10, 10), y - radii[1] - 18, -245], size, rough=0.15)
        canvas.paint(uterus, Material.PELVIC_ORGAN, within=trunk.cavity)


def _paint_pancreas_and_mesentery(trunk: Trunk) -> None:
    canvas, rng = trunk.canvas, trunk.canvas.rng
    uniform, z = rng.uniform, trunk.dome - 115
    y = trunk.spine_y(z)
    pancreas = curve([[32, y + 48, z - 18], [6, y + 58, z], [-28, y + 54, z + 10], [-62, y + 30, z + 24]], 16)
    canvas.tube(pancreas, np.linspace(uniform(13, 17), uniform(6, 10), 16), Material.PANCREAS, within=trunk.abdomen)
    for _ in range(rng.integers(25, 60)):
        start = np.array([uniform(-70, 70), uniform(0, 70), uniform(-200, 0)])
        vessel = curve([start, start + rng.normal(0, 15, 3), start + rng.normal(0, 28, 3)], 8)
        canvas.tube(vessel, uniform(1.8, 3.2), Material.SMALL_VESSEL, within=trunk.abdomen, over=[Material.FAT])


def _paint_kidney(trunk: Trunk, side: int) -> np.ndarray | None:
    """One kidney in its fat, with medulla, sinus, ureter and adrenal; its centre, or None for a missing one."""
    canvas, rng = trunk.canvas, trunk.canvas.rng
    uniform = rng.uniform
    if rng.random() < 0.03:
        return None
    level = uniform(-50, -8)
    y = trunk.spine_y(level)
    drop = uniform(0, 20) if side > 0 else uniform(-14, 8)
    centre = np.array([side * uniform(56, 84), y + uniform(-8, 14), level - drop])
    radii = np.array([uniform(25, 32), uniform(24, 32), uniform(46, 60)]) * uniform(0.88, 1.14)
    tilt, spin = -side * uniform(0.1, 0.45), side * uniform(0.3, 0.9)
    bean = partial(canvas.ellipsoid, tilt=tilt, spin=spin)
    room = trunk.abdomen & (canvas.y < y + 60)
    canvas.paint(bean(centre, radii + uniform(4, 20), rough=0.12), Material.FAT, within=room)
    outline = bean(centre, radii, power=2.2, rough=0.08)
    canvas.paint(outline, Material.RENAL_CORTEX, within=trunk.inside_fascia)
    inner = bean(centre, radii - uniform(6, 9), rough=0.35, grain=2)
    canvas.paint(inner, Material.RENAL_MEDULLA, over=[Material.RENAL_CORTEX])
    parenchyma = _KIDNEY[:2]
    hilum = centre + np.array([-side * radii[0] * uniform(0.75, 1.0), radii[1] * uniform(0.25, 0.6), 0])
    opening = canvas.ellipsoid(hilum, [uniform(15, 22), uniform(14, 20), uniform(18, 30)], rough=0.25, grain=2)
    canvas.paint(opening, Material.RENAL_SINUS, over=parenchyma)
    pelvis = [uniform(5, 12), uniform(5, 11), uniform(16, 34)]
    sinus = bean(centre + np.array([-side * 4, 3, 0]), pelvis, rough=0.4, grain=2)
    canvas.paint(sinus, Material.RENAL_SINUS, over=parenchyma)
    if rng.random() < 0.15:
        cyst = canvas.ellipsoid(centre + rng.normal(0, 0.6, 3) * radii, np.full(3, uniform(5, 16)))
        canvas.paint(cyst, Material.CYST, within=trunk.abdomen)
    ureter = [
        centre + np.array([-side * 12, 6, -10]),
        [side * 34, trunk.spine_y(-80) + 26, -90],
        [side * 45, trunk.spine_y(-180) + 20, -190],
    ]
    canvas.tube(ureter, 1.8, Material.SMALL_VESSEL, over=[Material.FAT])
    above = centre + np.array([-side * 14, 12, radii[2] + 4])
    adrenal = canvas.ellipsoid(above, [9, 4, 12], spin=side * 0.5, rough=0.3, grain=2)
    canvas.paint(adrenal, Material.ADRENAL, within=trunk.abdomen, over=[Material.FAT])
    return centre


def _paint_liver(trunk: Trunk, clear: Mask) -> None:
    """Right lobe cut by a sloping visceral face and a hilar fissure, left lobe, caudate, vessels, gallbladder."""
    canvas, rng, dome = trunk.canvas, trunk.canvas.rng, trunk.dome
    uniform = rng.uniform
    size, y_mid = uniform(0.8, 1.1), trunk.at(trunk.fascia_y, 0)
    centre = np.array([trunk.flank(30) * 0.55, y_mid + uniform(-12, 5), dome - uniform(60, 85)])
    radii = np.array([uniform(78, 98), uniform(85, 105), uniform(85, 115)]) * size
    right = canvas.ellipsoid(centre, radii, power=2.5, rough=0.07)
    x, y, z = canvas.coordinates(right.box)
    slope = uniform(0.25, 0.6) * (centre[0] + 40 - x) + uniform(0, 0.25) * np.abs(y - 20)
    lower_edge = dome - uniform(150, 200) * size + slope + 6 * canvas.noise[1][right.box]
    hilum_front = trunk.spine_y(0) + 62
    fissure = (np.abs(x - 28 - 0.25 * (y - 20)) < 26) & (y < hilum_front) & (z < dome - 70)
    canvas.paint(Shape(right.box, right.mask & (z > lower_edge) & ~fissure), Material.LIVER, within=clear)
    left_centre = [centre[0] - uniform(55, 95), y_mid + uniform(30, 48), dome - uniform(30, 60)]
    left_radii = np.array([uniform(60, 95), uniform(32, 52), uniform(34, 60)]) * size
    left = canvas.ellipsoid(left_centre, left_radii, power=2.2, tilt=-uniform(0, 0.3), rough=0.08)
    canvas.paint(left, Material.LIVER, within=clear)
    if rng.random() < 0.8:
        caudate = canvas.ellipsoid([18, trunk.spine_y(20) + 66, dome - 62], [22, 14, 26], rough=0.2)
        canvas.paint(caudate, Material.LIVER, within=clear)
    portal = np.array([26, trunk.spine_y(0) + 70, dome - 85.0])
    for _ in range(rng.integers(8, 15)):
        tip = centre + rng.normal(0, 1, 3) * [45, 35, 38]
        branch = curve([portal, (portal + tip) / 2 + rng.normal(0, 6, 3), tip], 9)
        canvas.tube(branch, np.linspace(uniform(5, 8), 1.9, 9), Material.HEPATIC_VESSEL, over=[Material.LIVER])
    if rng.random() < 0.15:
        for _ in range(rng.integers(1, 5)):
            lesion = canvas.ellipsoid(centre + rng.normal(0, 40, 3), np.full(3, uniform(4, 16)), rough=0.1)
            canvas.paint(lesion, Material.HEPATIC_VESSEL, over=[Material.LIVER])
    z = dome - 115
    splenic = curve([[-55, trunk.spine_y(z) + 30, z + 20], [-10, trunk.spine_y(z) + 46, z + 6], portal], 12)
    canvas.tube(splenic, uniform(5, 7.5), Material.VEIN, over=[Material.FAT, Material.PANCREAS])
    if rng.random() < 0.75:
        place = [uniform(38, 58), y_mid + uniform(28, 52), dome - uniform(110, 135)]
        size = [uniform(10, 18), uniform(12, 20), uniform(20, 34)]
        canvas.paint(canvas.ellipsoid(place, size, spin=0.3, rough=0.1), Material.BILE, within=trunk.abdomen)


def _paint_great_vessels(trunk: Trunk) -> None:
    canvas, dome = trunk.canvas, trunk.dome
    uniform = canvas.rng.uniform
    aorta, cava = uniform(8, 12), uniform(7, 13)
    heights = (dome + 25, 40, 0, -60, -125)
    path = [[-18 + 8 * (z < 0), trunk.spine_y(z) + 30 + 0.3 * aorta, z] for z in heights]
    canvas.tube(path, [aorta + 2, aorta + 1, aorta, aorta, aorta - 1], Material.ARTERY)
    path = [[20, trunk.spine_y(z) + 28, z] for z in (-130, -60, 0)]
    path += [[24, trunk.spine_y(40) + 40, 40], [24, trunk.spine_y(dome) + 48, dome + 5]]
    canvas.tube(path, cava, Material.VEIN)
    groin = trunk.at(trunk.fascia_y, -270)
    for side in (1, -1):
        artery = [
            [side * 6, trunk.spine_y(-125) + 30, -125],
            [side * 34, trunk.spine_y(-170) + 30, -180],
            [side * 66, groin + 30, -245],
            [side * 78, groin + 42, -290],
            [side * 80, groin + 40, -330],
        ]
        vein = [
            [side * 14, trunk.spine_y(-125) + 24, -130],
            [side * 40, trunk.spine_y(-170) + 22, -185],
            [side * 60, groin + 20, -245],
            [side * 68, groin + 36, -290],
            [side * 70, groin + 32, -330],
        ]
        canvas.tube(artery, uniform(4.5, 6.5), Material.ARTERY)
        canvas.tube(vein, uniform(5, 8), Material.VEIN)


def _paint_spleen(trunk: Trunk, clear: Mask, kidney: np.ndarray | None, touching: bool) -> None:
    """A convex lens along the left wall, hollowed on the inner side; sometimes large, sometimes lying on the kidney."""
    canvas, rng, dome = trunk.canvas, trunk.canvas.rng, trunk.dome
    uniform = rng.uniform
    size = uniform(0.95, 1.5) if rng.random() < 0.8 else uniform(1.5, 2.2)
    z = dome - uniform(52, 88)
    centre = np.array([-trunk.flank(dome - 60) * uniform(0.66, 0.8), trunk.rear(20) + uniform(20, 46), z])
    if touching and kidney is not None:
        centre += 0.35 * (np.array([kidney[0] - 38, kidney[1] + 8, kidney[2] + 45]) - centre)
    radii = np.array([uniform(34, 46), uniform(42, 58), uniform(46, 66)]) * size**0.6
    lens = canvas.ellipsoid(centre, radii, power=2.2, spin=-uniform(0.1, 0.6), tilt=uniform(-0.3, 0.3), rough=0.1)
    x, y, z = canvas.coordinates(lens.box)
    hollow_x, hollow_y = centre[0] + uniform(58, 76), centre[1] + uniform(14, 30)
    hollow = ((x - hollow_x) / 46) ** 2 + ((y - hollow_y) / 52) ** 2 + ((z - centre[2]) / 62) ** 2 <= 1
    canvas.paint(Shape(lens.box, lens.mask & ~hollow), Material.SPLEEN, within=clear)
