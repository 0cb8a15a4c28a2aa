"""Chest contents: lungs with vessels, heart, great vessels, airways, oesophagus."""

import numpy as np

from perturbox.zoo.canvas import curve, smooth_noise
from perturbox.zoo.materials import Material
from perturbox.zoo.trunk import CHEST_TOP, Trunk

_AROUND_VESSELS = (Material.MEDIASTINAL_FAT, Material.LUNG, Material.LUNG_VESSEL)


def paint_thorax(trunk: Trunk) -> None:
    """Paint the chest from the lungs inwards."""
    canvas, rng, dome = trunk.canvas, trunk.canvas.rng, trunk.dome
    uniform = rng.uniform
    heart = np.array([-uniform(18, 32), trunk.at(trunk.fascia_y, -30) + uniform(12, 26), dome + uniform(8, 22)])
    heart_radii = np.array([uniform(50, 62), uniform(42, 52), uniform(46, 56)]) * uniform(0.9, 1.12)
    _paint_lungs(trunk, heart, heart_radii)
    canvas.paint(
        canvas.ellipsoid(heart, heart_radii, spin=-0.5, tilt=0.5, rough=0.06), Material.MYOCARDIUM, within=trunk.chest
    )
    chambers = (((-12, -4, -6), 0.55), ((22, 8, -2), 0.5), ((6, -24, 16), 0.5), ((26, -8, 16), 0.42))
    for offset, size in chambers:
        chamber = canvas.ellipsoid(heart + np.array(offset), heart_radii * size, rough=0.1)
        canvas.paint(chamber, Material.HEART_BLOOD, within=trunk.chest)
    _paint_mediastinum(trunk, heart)


def _paint_lungs(trunk: Trunk, heart: np.ndarray, heart_radii: np.ndarray) -> None:
    canvas, rng = trunk.canvas, trunk.canvas.rng
    uniform = rng.uniform
    x, y, z = canvas.x, canvas.y, canvas.axes[2]
    between = np.interp(z, [-60, 60, 140, 200, 250, CHEST_TOP], [26, 26, 24, 26, 24, 20]) * uniform(0.9, 1.2)
    lung = trunk.chest & (np.abs(x) > between - 12 * (y < trunk.spine + 10) + 4 * canvas.noise[1])
    around = canvas.ellipsoid(heart, heart_radii + 6, spin=-0.5, tilt=0.5, rough=0.06)
    lung[around.box] &= ~around.mask
    canvas.map[lung] = Material.LUNG
    specks = np.abs(0.8 * canvas.noise[2] + smooth_noise(rng, lung.shape, 3.3)) > uniform(2.0, 2.6)
    canvas.map[lung & specks] = Material.LUNG_VESSEL
    for side in (1, -1):
        hilum = np.array([side * 22.0, trunk.spine_y(150) + 45, trunk.dome + 85])
        for _ in range(rng.integers(9, 16)):
            tip = hilum + np.array([side * uniform(20, 90), uniform(-70, 60), uniform(-80, 90)])
            branch = curve([hilum, (hilum + tip) / 2 + rng.normal(0, 8, 3), tip], 12)
            canvas.tube(branch, np.linspace(uniform(5, 8), 1.8, 12), Material.LUNG_VESSEL, within=lung)
    if rng.random() < 0.2:  # effusion or dependent atelectasis: soft tissue where the lung used to be
        level = trunk.back + 13 + uniform(8, 40)
        side = rng.choice([1, -1])
        canvas.map[lung & (y < level + 4 * canvas.noise[1]) & (side * x > 0)] = Material.CYST


def _paint_mediastinum(trunk: Trunk, heart: np.ndarray) -> None:
    canvas, dome = trunk.canvas, trunk.dome
    uniform = canvas.rng.uniform
    y = trunk.spine_y(100) + 30
    aorta = [
        [heart[0] + 22, heart[1] - 5, dome + 40],
        [14, y + 32, dome + 100],
        [4, y + 26, dome + 128],
        [-14, y + 6, dome + 132],
        [-22, y, dome + 105],
        [-20, trunk.spine_y(dome) + 30, dome + 20],
    ]
    cava = [[24, y + 24, dome + 70], [24, y + 26, dome + 130], [18, y + 25, dome + 190]]
    pulmonary = [[heart[0] + 4, heart[1] + 10, dome + 60], [-12, y + 22, dome + 88], [-30, y + 6, dome + 95]]
    canvas.tube(curve(aorta), uniform(11, 17), Material.ARTERY, over=_AROUND_VESSELS)
    canvas.tube(curve(cava, 20), uniform(8, 11), Material.VEIN, over=_AROUND_VESSELS)
    canvas.tube(curve(pulmonary, 15), uniform(11, 14), Material.ARTERY, over=_AROUND_VESSELS)
    for side in (1, -1):
        neck = [[side * 14, y + 20, dome + 135], [side * 22, y + 16, dome + 180], [side * 28, y + 12, 318]]
        canvas.tube(curve(neck, 12), uniform(3.5, 5.5), Material.ARTERY)
        vein = [[20 - 6 * (side < 0), y + 28, dome + 170], [side * 40, y + 22, 285], [side * 36, y + 16, 318]]
        canvas.tube(curve(vein, 12), uniform(4, 7), Material.VEIN)
    canvas.tube([[0, y + 4, dome + 100], [0, y + 8, dome + 150], [0, y + 10, 318]], uniform(6, 9), Material.AIRWAY)
    for side in (1, -1):
        canvas.tube([[0, y + 4, dome + 102], [side * 28, y - 2, dome + 80]], 6, Material.AIRWAY)
    gullet = [
        [-4, trunk.spine_y(250) + 26, 318],
        [-4, trunk.spine_y(250) + 26, 280],
        [-4, trunk.spine_y(120) + 26, 120],
        [-8, trunk.spine_y(dome) + 32, dome - 5],
    ]
    canvas.tube(gullet, uniform(6, 9), Material.OESOPHAGUS, over=(*_AROUND_VESSELS, Material.OTHER_MUSCLE))
    if uniform() < 0.6:  # thyroid
        for side in (1, -1):
            canvas.paint(canvas.ellipsoid([side * 18, y + 18, 305], [9, 10, 18], rough=0.2), Material.GLAND)
