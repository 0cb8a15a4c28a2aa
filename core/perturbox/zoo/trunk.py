"""The trunk's frame: outline, fat, muscle wall, spine line, diaphragm and cavities that every organ is placed in."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import binary_erosion

from perturbox.zoo.canvas import Canvas, Floats, Mask
from perturbox.zoo.materials import Material

CHEST_TOP = 285.0
PELVIS_FLOOR = -305.0
THIGH_TOP = -296.0


@dataclass
class Trunk:
    """One patient's proportions (mm) and cavities; the profiles run along the canvas' z axis."""

    canvas: Canvas
    width: float
    """Scale of the bony and muscular frame, about 1."""
    obesity: float
    """0 lean … 1 obese."""
    half_width: Floats
    half_depth: Floats
    fascia_width: Floats
    fascia_depth: Floats
    fascia_y: Floats
    """Half axes and centre of the ellipse inside the subcutaneous fat."""
    back: Floats
    """y of the posterior fascia."""
    behind: Floats
    """Thickness of what lies between it and the posterior peritoneum."""
    wall: Floats
    """Thickness of the muscular wall."""
    spine: Floats
    """y of the vertebral bodies' centres."""
    power: float
    """Exponent of the outline's superellipse."""
    pelvic_width: Floats
    """Half width of the true pelvis, where narrower than the wall."""
    chest_taper: Floats
    dome: float
    """z of the right diaphragm's top."""
    body: Mask
    inside_fascia: Mask
    cavity: Mask
    abdomen: Mask
    chest: Mask

    def at(self, profile: ArrayLike, z: float) -> float:
        """Value of a profile at height z."""
        return float(np.interp(z, self.canvas.axes[2], np.asarray(profile)))

    def spine_y(self, z: float) -> float:
        """y of the vertebral bodies' centre line."""
        return self.at(self.spine, z)

    @property
    def hip_y(self) -> float:
        """y of the hip joints."""
        return self.spine_y(-190) + 50

    def front(self, z: float) -> float:
        """y of the anterior peritoneum."""
        return self.at(self.fascia_y + self.fascia_depth - self.wall, z)

    def rear(self, z: float) -> float:
        """y of the posterior peritoneum beside the spine."""
        return self.at(self.back + np.maximum(self.behind, 24), z)

    def flank(self, z: float) -> float:
        """Half width of the peritoneal cavity."""
        return self.at(np.minimum(self.fascia_width - self.wall, self.pelvic_width), z)

    def chest_wall(self, angle: float, z: float, depth: float) -> NDArray[np.float64]:
        """Point (x, y) of the chest wall at an angle from the right (rad), `depth` mm inside the rib line."""
        taper = self.at(self.chest_taper, z) if z > 60 else 1.0
        half_x = (self.at(self.fascia_width - 0.5 * self.wall, z)) * max(taper, 0.45) - depth
        half_y = (self.at(self.fascia_depth - 0.5 * self.wall, z)) * (0.5 * taper + 0.5) - depth
        cos, sin = np.cos(angle), np.sin(angle)
        length = (abs(cos) ** 2.3 + abs(sin) ** 2.3) ** (-1 / 2.3)
        return np.array([half_x * cos * length, self.at(self.fascia_y, z) + half_y * sin * length])


def _profile(canvas: Canvas, z: ArrayLike, values: ArrayLike) -> Floats:
    return np.interp(canvas.axes[2], np.asarray(z, float), np.asarray(values, float)).astype(np.float32)


def make_trunk(canvas: Canvas) -> Trunk:
    """Draw a trunk: skin, subcutaneous fat, muscle (unlabelled so far) and the fat-filled cavities are painted."""
    rng = canvas.rng
    uniform = rng.uniform
    x, y, z = canvas.x, canvas.y, canvas.z
    coarse, middle, fine = canvas.noise

    obesity = uniform(0, 1) ** 1.5
    width, depth = uniform(0.86, 1.0) + 0.12 * obesity, uniform(0.88, 1.08) + 0.2 * obesity
    belly = uniform(-8, 22) * (obesity + 0.3)
    knots = [-330, -260, -200, -130, -60, 0, 60, 130, 200, 250, 318]
    half_width = [172, 174, 168, 156, 146, 146, 150, 156, 162, 168, 132]
    half_depth = [100, 108, 108, 104, 103, 105, 109, 112, 104, 88, 66]
    bulge = np.array([0, 0, 0.5, 1, 1, 0.6, 0, 0, 0, 0, 0]) * belly
    half_width = _profile(canvas, knots, np.array(half_width) * width + rng.normal(0, 4, 11))
    half_depth = _profile(canvas, knots, np.array(half_depth) * depth + bulge + rng.normal(0, 3, 11))

    hips = _profile(canvas, [-330, -200, -120, -40, 318], [1.35, 1.3, 1.15, 1, 0.8])
    front_fat = hips * (5 + 25 * obesity * uniform(0.3, 1.2))
    side_fat = hips * (4 + 22 * obesity * uniform(0.3, 1.2))
    back_fat = hips * (6 + 25 * obesity * uniform(0.4, 1.2))
    power = uniform(2.2, 3.0)
    fascia_width, fascia_depth = half_width - side_fat, half_depth - (front_fat + back_fat) / 2
    fascia_y = (back_fat - front_fat) / 2

    def ellipse(half_x: Floats, half_y: Floats, centre_y: Floats | float = 0.0) -> NDArray[np.floating]:
        return np.abs(x / half_x) ** power + np.abs((y - centre_y) / half_y) ** power

    def thighs(fat_x: float, fat_y: float) -> Mask:
        across = (np.abs(x) - 86 * width) / (84 * width - fat_x)
        return (across**2 + ((y + 5) / (92 * depth - fat_y)) ** 2 < 1)[:, :, 0]

    below = np.asarray(canvas.axes[2] < THIGH_TOP)
    body = ellipse(half_width, half_depth) + 0.02 * coarse < 1
    body[:, :, below] &= thighs(0, 0)[:, :, None]
    inside = (ellipse(fascia_width, fascia_depth, fascia_y) + 0.02 * middle < 1) & body
    inside[:, :, below] &= thighs(side_fat[0], back_fat[0] * 0.7)[:, :, None]
    canvas.map[body] = Material.SKIN
    canvas.map[np.asarray(binary_erosion(body), bool)] = Material.FAT
    canvas.map[inside] = Material.OTHER_MUSCLE
    planes = np.abs(middle + 0.5 * fine) < uniform(0.06, 0.2)
    canvas.map[inside & np.asarray(planes) & np.asarray(z < -150)] = Material.FAT

    back = (back_fat - half_depth).astype(np.float32)
    lordosis = uniform(50, 88)  # the vertebrae's distance from the back: strong backs have much muscle behind them
    spine = _profile(
        canvas,
        [-330, -300, -205, -180, -100, 0, 120, 220, 318],
        [20, 20, lordosis + 2, lordosis + 2, lordosis + 6, lordosis - 4, lordosis - 10, lordosis - 6, lordosis + 4],
    )
    spine = back + spine
    low, high = uniform(7, 12), uniform(12, 18)
    wall = _profile(canvas, [-330, 20, 70, 318], [low, low, high, high])

    pelvic_width = _profile(canvas, [-330, -300, -260, -210, -170, -131, -130], [38, 44, 58, 78, 108, 170, 400])
    cavity = ellipse(np.minimum(fascia_width - wall, pelvic_width), fascia_depth - wall, fascia_y + 3) < 1
    rear = np.asarray([30, 26, 24, 16, 16], float)
    rear[2:4] = np.maximum(rear[2:4], lordosis - uniform(30, 42))
    behind = _profile(canvas, [-330, -210, -150, 60, 318], rear)
    cavity &= (y > back + behind) & (z > PELVIS_FLOOR)
    canvas.map[cavity] = Material.FAT

    dome, diaphragm = _diaphragm(canvas)
    taper = _profile(canvas, [-60, 60, 150, 220, 262, CHEST_TOP], [1, 1, 0.93, 0.8, 0.52, 0.2])
    across = np.abs(x / ((fascia_width - wall) * taper)) ** 2.2
    along = np.abs((y - fascia_y + 2) / ((fascia_depth - wall) * (0.5 * taper + 0.5))) ** 2.2
    chest = (across + along < 1) & (z > diaphragm) & (z < CHEST_TOP) & (y > back + 13)
    canvas.map[cavity & (z > diaphragm - 3)] = Material.OTHER_MUSCLE
    canvas.map[chest] = Material.MEDIASTINAL_FAT
    return Trunk(
        canvas, width, obesity, half_width, half_depth, fascia_width, fascia_depth, fascia_y, back, behind, wall, spine,
        power, pelvic_width, taper, dome, body, inside, cavity, cavity & (z < diaphragm - 3), chest,
    )  # fmt: skip


def _diaphragm(canvas: Canvas) -> tuple[float, NDArray[np.floating]]:
    """Height of the right dome and the diaphragm's surface (x, y, 1 or z)."""
    uniform = canvas.rng.uniform
    x, y = canvas.x, canvas.y
    top, steep, left_drop = uniform(55, 105), uniform(1.3, 2.1), uniform(5, 22)

    def half(centre_x: float, height: float) -> NDArray[np.floating]:
        return height - steep * (26 * ((x - centre_x) / 70) ** 2 + 24 * ((y - 8) / 75) ** 2)

    surface = np.maximum(half(62, top), half(-62, top - left_drop)) - 18 * np.exp(-((x / 22) ** 2))
    return top, np.maximum(surface, uniform(-45, 0)) + 3 * canvas.noise[1]
