"""Stomach, duodenum, small bowel and colon with wall, content and gas."""

import numpy as np
from numpy.typing import ArrayLike

from perturbox.zoo.canvas import curve
from perturbox.zoo.materials import Material
from perturbox.zoo.trunk import Trunk


def paint_bowel(trunk: Trunk) -> None:
    """Paint the gut from the small bowel to the stomach; later parts push earlier ones aside."""
    _paint_small_bowel(trunk)
    _paint_colon(trunk)
    _paint_stomach(trunk)


def _paint_small_bowel(trunk: Trunk) -> None:
    """Loops are random walks with inertia, kept inside the peritoneum and off the spine."""
    canvas, rng = trunk.canvas, trunk.canvas.rng
    uniform = rng.uniform
    calibre = uniform(9, 13)
    for _ in range(int(14 + 22 * uniform(0.4, 1.3))):
        radius = calibre * uniform(0.8, 1.35)
        point = np.array([uniform(-85, 85), uniform(-10, trunk.front(-100) - 15), uniform(-230, -30)])
        heading = rng.normal(0, 1, 3)
        content = (Material.CHYME_A, Material.CHYME_B, Material.CHYME_C)[rng.integers(3)]
        path = []
        for _ in range(rng.integers(7, 24)):
            heading = 0.75 * heading + rng.normal(0, 0.7, 3)
            heading[2] *= 0.8
            heading /= np.linalg.norm(heading)
            point = _inside_peritoneum(trunk, point + heading * radius * 0.8, radius)
            path.append(point)
        canvas.tube(path, radius + 3.5, Material.FAT, within=trunk.abdomen, step=0.8)
        canvas.tube(path, radius, Material.SMALL_BOWEL_WALL, within=trunk.abdomen)
        canvas.tube(path, radius - uniform(2, 3.5), content, within=trunk.abdomen)
        if rng.random() < 0.22:
            start = rng.integers(0, max(1, len(path) - 4))
            bubble = np.array(path[start : start + 5]) + np.array([0, radius * 0.25, 0])
            canvas.tube(bubble, radius * uniform(0.4, 0.65), Material.SMALL_BOWEL_GAS, trunk.abdomen, over=[content])


def _inside_peritoneum(trunk: Trunk, point: np.ndarray, radius: float) -> np.ndarray:
    x, y, z = point
    z = np.clip(z, -262, -10)
    flank = trunk.flank(z) - radius
    x = np.clip(x, -flank, flank)
    rear = max(trunk.rear(z), trunk.spine_y(z) + 30 if abs(x) < 50 else -200)
    return np.array([x, np.clip(y, rear + radius, trunk.front(z) - radius - 2), z])


def _paint_colon(trunk: Trunk) -> None:
    uniform = trunk.canvas.rng.uniform
    spread, gas = uniform(0.78, 0.9), uniform(0.1, 0.6)
    right, left = uniform(16, 33), uniform(13, 27)

    def side(z: float) -> float:
        return trunk.flank(z) * spread

    def middle(z: float) -> float:
        return 0.5 * (trunk.rear(z) + trunk.front(z))

    hepatic = [side(-40) * uniform(0.85, 1), middle(-40) + uniform(-10, 20), uniform(-65, -5)]
    splenic = [-side(20), middle(20) + uniform(-20, 10), uniform(-10, 45)]
    sag = uniform(-110, -25)
    turn = [-side(-150) * 0.95, middle(-150), -150]
    ascending = [
        [side(-170) * 0.9, middle(-170) + 10, -165],
        [side(-110), middle(-110) - 5, -110],
        [side(-70), middle(-70) - 10, -70],
        hepatic,
    ]
    transverse = [
        hepatic,
        [50, trunk.front(sag) - right, 0.5 * sag - 20],
        [0, trunk.front(sag) - right, sag],
        [-50, trunk.front(sag) - left, 0.5 * sag - 10],
        splenic,
    ]
    descending = [splenic, [-side(-40), middle(-40) - 15, -45], [-side(-100), middle(-100) - 12, -100], turn]
    sigmoid = [
        turn,
        [-70, middle(-185), -190],
        [-20 + uniform(-20, 30), middle(-190) + uniform(-10, 55), -190 + uniform(-20, 80)],
        [uniform(0, 35), middle(-220), -215],
        [0, trunk.spine_y(-240) + 32, -240],
        [0, trunk.spine_y(-280) + 36, -290],
    ]
    _paint_colon_part(trunk, ascending, right, gas)
    _paint_colon_part(trunk, transverse, 0.5 * (right + left), gas)
    _paint_colon_part(trunk, descending, left * 0.85, gas * 0.8)
    _paint_colon_part(trunk, sigmoid, left * 0.9, gas)


def _paint_colon_part(trunk: Trunk, points: ArrayLike, calibre: float, gas: float, count: int = 46) -> None:
    """A haustrated tube whose filling changes along the way: stool (fatty or soft), gas, or both in layers."""
    canvas, rng = trunk.canvas, trunk.canvas.rng
    uniform = rng.uniform
    path = curve(points, count)
    path[1:-1] += 0.6 * np.cumsum(rng.normal(0, 1.2, (count - 2, 3)), axis=0)
    for point in path:
        flank = trunk.flank(point[2]) - calibre * 0.75
        point[0] = np.clip(point[0], -flank, flank)
        point[1] = min(point[1], trunk.front(point[2]) - calibre * 0.8)
    haustra = 1 + 0.16 * np.sin(np.arange(count) * uniform(0.9, 1.5) + uniform(0, 6))
    radius = calibre * haustra * np.repeat(uniform(0.75, 1.2, 8), 6)[:count]
    canvas.tube(path, radius + 3, Material.FAT, within=trunk.abdomen, step=0.8)
    canvas.tube(path, radius, Material.COLON_WALL, within=trunk.abdomen)
    start = 0
    while start < count:
        length = rng.integers(4, 22)
        part = slice(start, min(count, start + length + 1))
        lumen, centre, mode = radius[part], path[part], rng.random()
        if mode < gas:
            canvas.tube(centre, np.maximum(lumen - 2.2, 2), Material.COLON_GAS, within=trunk.abdomen)
            if rng.random() < 0.6:
                layer, thickness, over = Material.STOOL_SOFT, 0.7, [Material.COLON_GAS]
                canvas.tube(centre - [0, 0.6 * calibre, 0], np.maximum(lumen * thickness, 2), layer, over=over)
        else:
            stool = Material.STOOL_FATTY if mode < gas + 0.55 * (1 - gas) else Material.STOOL_SOFT
            canvas.tube(centre, np.maximum(lumen - 2.5, 2), stool, within=trunk.abdomen)
            if rng.random() < 0.5:
                bubble = centre + np.array([0, 0.45 * calibre, 0])
                canvas.tube(bubble, np.maximum(lumen * 0.6, 2), Material.COLON_GAS, within=trunk.abdomen, over=[stool])
        start += length


def _paint_stomach(trunk: Trunk) -> None:
    canvas, rng, dome = trunk.canvas, trunk.canvas.rng, trunk.dome
    uniform = rng.uniform
    flank_y = 0.5 * (trunk.rear(40) + trunk.front(40))
    axis = curve(
        [
            [-58, flank_y - uniform(5, 25), dome - uniform(28, 45)],
            [-66, 0.5 * (trunk.rear(20) + trunk.front(20)) + 8, dome - 75],
            [-48, trunk.front(-20) - 36, dome - 110],
            [-12, trunk.front(-30) - 30, dome - 128 - uniform(0, 25)],
            [18, trunk.front(-20) - 38, dome - 122],
        ],
        30,
    )
    radius = np.interp(np.linspace(0, 1, 30), [0, 0.15, 0.45, 0.8, 1], [20, 36, 30, 20, 9]) * uniform(0.6, 1.15)
    canvas.tube(axis, radius + 3, Material.FAT, within=trunk.abdomen, step=0.8)
    canvas.tube(axis, radius, Material.STOMACH_WALL, within=trunk.abdomen)
    canvas.tube(axis, np.maximum(radius - uniform(3, 7), 2), Material.STOMACH_CONTENT, within=trunk.abdomen)
    level = 0.5 * (trunk.rear(20) + trunk.front(20)) + uniform(-10, 45)
    above = (canvas.map == Material.STOMACH_CONTENT) & (canvas.y > level + 3 * canvas.noise[1])
    canvas.map[above] = Material.STOMACH_GAS
    duodenum = curve(
        [
            axis[-1],
            [38, trunk.spine_y(-20) + 45, dome - 120],
            [44, trunk.spine_y(-50) + 38, dome - 155],
            [20, trunk.spine_y(-60) + 44, dome - 178],
            [-22, trunk.spine_y(-60) + 46, dome - 165],
        ],
        20,
    )
    canvas.tube(duodenum, uniform(9, 12), Material.SMALL_BOWEL_WALL, within=trunk.abdomen)
    canvas.tube(duodenum, uniform(5, 8), Material.CHYME_B, within=trunk.abdomen)
