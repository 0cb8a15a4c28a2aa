"""What lies outside the trunk proper: breasts, arms, the table."""

import numpy as np

from perturbox.zoo.canvas import curve
from perturbox.zoo.materials import Material
from perturbox.zoo.trunk import Trunk


def paint_surroundings(trunk: Trunk) -> None:
    """Paint breasts in a third, arms in ninety per cent (down or raised) and a table under most patients."""
    rng = trunk.canvas.rng
    if rng.random() < 0.33:
        _paint_breasts(trunk)
    arms = rng.random()
    if arms < 0.4:
        _paint_arms_down(trunk)
    elif arms < 0.9:
        _paint_arms_up(trunk)
    if rng.random() < 0.85:
        _paint_table(trunk)


def _paint_breasts(trunk: Trunk) -> None:
    canvas, uniform = trunk.canvas, trunk.canvas.rng.uniform
    surface = trunk.at(trunk.half_depth, 150)
    centre_z, size = trunk.dome + uniform(50, 90), [uniform(50, 65), uniform(25, 50), uniform(45, 60)]
    for side in (1, -1):
        breast = canvas.ellipsoid([side * 80, surface - 8, centre_z], size, rough=0.03)
        canvas.paint(breast, Material.FAT, over=[Material.AIR])
        gland = [uniform(20, 35), uniform(12, 22), uniform(20, 35)]
        tissue = canvas.ellipsoid([side * 80, surface + 2, centre_z], gland, rough=0.4, grain=2)
        canvas.paint(tissue, Material.GLAND, within=~trunk.inside_fascia, over=[Material.FAT])


def _paint_limb(trunk: Trunk, path: np.ndarray, radius: np.ndarray, bone: float, only: tuple[Material, ...]) -> None:
    """Skin, fat, muscle and bone around a line, painted over air and, near the shoulder, over `only`."""
    canvas, uniform = trunk.canvas, trunk.canvas.rng.uniform
    over = [Material.AIR, *only]
    fat = uniform(3, 8)
    canvas.tube(path, radius, Material.SKIN, over=[Material.AIR], step=0.3)
    canvas.tube(path, radius - 3, Material.FAT, over=[*over, Material.SKIN], step=0.3)
    canvas.tube(path, radius - fat, Material.OTHER_MUSCLE, over=[*over, Material.FAT, Material.SKIN], step=0.3)
    canvas.tube(path, bone, Material.CORTICAL_BONE, step=0.5)
    canvas.tube(path, bone - 4, Material.SPONGY_BONE, step=0.5)


def _paint_arms_down(trunk: Trunk) -> None:
    """Humerus and forearm beside the trunk, close enough to touch it in some."""
    uniform = trunk.canvas.rng.uniform
    gap, forward = uniform(-8, 14), uniform(-25, 30)
    thickness = uniform(0.85, 1.15) + 0.2 * trunk.obesity
    widest = float(trunk.half_width[trunk.canvas.axes[2] > -160].max())
    for side in (1, -1):
        x = widest + 36 * thickness + gap
        shoulder = [side * (trunk.at(trunk.half_width, 245) - 12), -18, 240]
        path = curve([shoulder, [side * x, -20, 150], [side * (x + 4), -10, -60], [side * (x - 6), forward, -260]], 30)
        radius = np.interp(np.linspace(0, 1, 30), [0, 0.2, 0.6, 0.75, 1], [44, 42, 36, 34, 24]) * thickness
        _paint_limb(trunk, path, radius, uniform(9, 11.5), ())


def _paint_arms_up(trunk: Trunk) -> None:
    """Upper arms leaving through the top of the field of view."""
    uniform = trunk.canvas.rng.uniform
    for side in (1, -1):
        x = trunk.at(trunk.half_width, 250) - 25
        path = curve([[side * x, -25, 235], [side * (x + uniform(5, 25)), -15, 285], [side * (x + 5), 0, 330]], 12)
        _paint_limb(trunk, path, np.full(12, uniform(38, 48)), uniform(9, 11.5), ())


def _paint_table(trunk: Trunk) -> None:
    canvas, uniform = trunk.canvas, trunk.canvas.rng.uniform
    x, y = canvas.x[:, :, 0], canvas.y[:, :, 0]
    top = -float(trunk.half_depth.max()) - uniform(1, 12) + (x / 190) ** 2 * uniform(0, 45)
    plate = np.abs(y - top + 6) < uniform(2, 6)
    canvas.map[plate[:, :, None] & (canvas.map == Material.AIR)] = Material.TABLE
