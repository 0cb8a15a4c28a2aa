"""From a material map to a CT crop: look somewhere, deform, colour, add noise and artefacts, cut the field of view.

An anatomy takes seconds to make and a crop a tenth of one, so every anatomy is recoloured many times.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from perturbox.zoo.acquisition import Acquisition, draw_acquisition
from perturbox.zoo.canvas import BOTTOM, SPACING, Floats, smooth_noise
from perturbox.zoo.materials import LABEL_OF, Material

CROP = (112, 96, 48)
Labels = NDArray[np.uint8]


def make_crop(
    anatomy: NDArray[np.uint8], rng: np.random.Generator, size: Sequence[int] = CROP
) -> tuple[Floats, Labels]:
    """Random training pair of a material map: HU float32 and labels uint8, both of `size` voxels of about 3 mm."""
    materials = deform(anatomy, rng, size, *_random_view(anatomy.shape, rng, size))
    hu = colour(materials, draw_acquisition(rng), rng)
    return _cut_field_of_view(hu, LABEL_OF[materials], rng)


def _random_view(shape: Sequence[int], rng: np.random.Generator, size: Sequence[int]) -> tuple[Floats, Floats]:
    """Centre and voxel size of a crop in map voxels: the abdomen in half the crops, then pelvis, chest, anywhere."""
    uniform = rng.uniform
    scale = np.array([uniform(0.84, 1.14), uniform(0.84, 1.16), uniform(0.8, 1.2)]) * uniform(0.93, 1.07)
    region = rng.random()
    if region < 0.48:
        z = np.clip(rng.normal(-5, 55), -110, 120)
    elif region < 0.64:
        z = uniform(-280, -170)
    elif region < 0.84:
        z = uniform(60, 260)
    else:
        z = uniform(BOTTOM, BOTTOM + shape[2] * SPACING)
    half = 0.5 * size[2] * scale[2]
    middle = np.array([shape[0] / 2 + rng.normal(0, 5), shape[1] / 2 + rng.normal(0, 5), (z - BOTTOM) / SPACING])
    middle[2] = np.clip(middle[2], min(half - 4, shape[2] / 2), max(shape[2] - half, shape[2] / 2))
    if rng.random() < 0.25:
        middle[:2] += rng.normal(0, 16, 2)
    return middle.astype(np.float32), scale.astype(np.float32)


def _rotation(angles: NDArray[np.float64]) -> Floats:
    matrix = np.eye(3)
    for angle, (i, j) in zip(angles, ((0, 1), (0, 2), (1, 2)), strict=True):
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return matrix.astype(np.float32)


def deform(
    anatomy: NDArray[np.uint8], rng: np.random.Generator, size: Sequence[int], centre: Floats, scale: Floats
) -> NDArray[np.uint8]:
    """Material map of `size` voxels, `scale` map voxels wide each, around `centre`, slightly turned and warped."""
    axes = [(np.arange(n, dtype=np.float32) - (n - 1) / 2) * s for n, s in zip(size, scale, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1) @ _rotation(rng.normal(0, 0.07, 3)).T
    grid += centre
    for amplitude, period in ((rng.uniform(0, 3.2), 20), (rng.uniform(0, 1.0), 8)):
        for axis in range(3):
            grid[..., axis] += amplitude * 0.55 * smooth_noise(rng, size, period)
    index = np.rint(grid).astype(np.int32)
    limit = np.array(anatomy.shape, np.int32) - 1
    beside = ((index < 0) | (index > limit))[..., :2].any(axis=-1)
    np.clip(index, 0, limit, out=index)
    materials = anatomy[index[..., 0], index[..., 1], index[..., 2]]
    materials[beside] = Material.AIR
    return materials


def colour(materials: NDArray[np.uint8], acquisition: Acquisition, rng: np.random.Generator) -> Floats:
    """HU float32 of a material map as one acquisition shows it."""
    uniform, size = rng.uniform, materials.shape
    grain = gaussian_filter(rng.standard_normal(size).astype(np.float32), 0.8)
    grain = 0.75 * grain / (grain.std() + 1e-6) + 0.6 * smooth_noise(rng, size, 5)
    hu = acquisition.mean[materials] + acquisition.texture[materials] * grain

    stool = materials == Material.STOOL_FATTY
    bubbles = grain if rng.random() < 0.5 else 0.9 * smooth_noise(rng, size, uniform(1.4, 2.6))
    hu[stool] -= acquisition.bubbles * np.clip(bubbles[stool] - uniform(-0.3, 2.4), 0, 1.3)

    in_plane, along_z = acquisition.blur
    hu = gaussian_filter(np.maximum(hu, -1020), (in_plane, in_plane, along_z))
    in_plane, along_z = acquisition.noise_blur
    noise = gaussian_filter(rng.standard_normal(size).astype(np.float32), (in_plane, in_plane, along_z))
    hu += acquisition.noise * noise / (noise.std() + 1e-6)
    hu += uniform(0, 4) * smooth_noise(rng, size, 30) + uniform(-6, 6)
    if rng.random() < 0.08:
        _add_metal(hu, materials, rng)
    if rng.random() < 0.3:  # calibration
        hu = (hu + 1000) * np.float32(uniform(0.97, 1.03)) - 1000
    return hu.clip(-1024, 3071).astype(np.float32)


def _add_metal(hu: Floats, materials: NDArray[np.uint8], rng: np.random.Generator) -> None:
    """A metal implant in bone with streaks around it, in place."""
    uniform = rng.uniform
    bone = np.argwhere(materials == Material.CORTICAL_BONE)
    if not len(bone):
        return
    x, y, z = (
        axis - p
        for axis, p in zip(np.ogrid[: hu.shape[0], : hu.shape[1], : hu.shape[2]], rng.choice(bone), strict=True)
    )
    distance2, angle = x**2 + y**2 + (z / 2) ** 2, np.arctan2(y, x)
    streaks = np.zeros(angle.shape)
    for _ in range(6):
        streaks += rng.normal() * np.cos(rng.integers(2, 9) * angle + uniform(0, 2 * np.pi))
    hu += uniform(20, 130) * streaks * np.exp(-np.sqrt(distance2) / uniform(5, 16)) * (np.abs(z) < uniform(4, 12))
    in_bone = np.isin(materials, (Material.CORTICAL_BONE, Material.SPONGY_BONE))
    hu[(distance2 < uniform(4, 26)) & in_bone] = 3000


def _cut_field_of_view(hu: Floats, labels: Labels, rng: np.random.Generator) -> tuple[Floats, Labels]:
    """Sometimes a tight or short scan: a circle or box around the centre, filled up with air or repeated edges.

    Inference pads a small scan with its own edge voxels, so padding is repeated together with its labels.
    """
    uniform = rng.uniform
    if rng.random() < 0.15:  # the reconstruction circle, outside of which scanners write a constant
        centre, radius = uniform(-8, 8, 2), uniform(0.36, 0.56) * min(hu.shape[:2])
        x, y = np.ogrid[: hu.shape[0], : hu.shape[1]]
        outside = (x - hu.shape[0] / 2 - centre[0]) ** 2 + (y - hu.shape[1] / 2 - centre[1]) ** 2 > radius**2
        hu[outside], labels[outside] = -1024 if rng.random() < 0.6 else -1000, 0
    for axis, chance, least in ((0, 0.1, 0.6), (1, 0.1, 0.6), (2, 0.18, 0.2)):
        if rng.random() < chance:
            side = hu.shape[axis]
            kept = int(side * uniform(least, 0.95))
            first = rng.integers(0, side - kept + 1)
            index = np.clip(np.arange(side), first, first + kept - 1)
            repeat = axis == 2 or rng.random() < 0.6
            hu, labels = hu.take(index, axis), labels.take(index, axis)
            if not repeat:
                padding = np.moveaxis(hu, axis, 0), np.moveaxis(labels, axis, 0)
                beyond = index != np.arange(side)
                padding[0][beyond], padding[1][beyond] = -1000, 0
    return hu, labels
