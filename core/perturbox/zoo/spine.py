"""Vertebrae and discs as a periodic pattern along the spine's curve, and the spinal canal."""

import numpy as np

from perturbox.zoo.canvas import Mask
from perturbox.zoo.materials import Material
from perturbox.zoo.trunk import Trunk


def paint_spine(trunk: Trunk, bone: Mask) -> Mask:
    """Add T1 to L5 to `bone` in place, paint the discs and return the canal's mask."""
    canvas = trunk.canvas
    uniform = canvas.rng.uniform
    box = canvas.box([-60, -200, -176], [60, 150, 318])
    x, y, z = canvas.coordinates(box)
    side = np.abs(x)
    lumbar, thoracic = uniform(32, 37), uniform(22.5, 25)
    phase = np.where(z < 0, z / lumbar, z / thoracic) % 1  # 0 at a lower end plate, 1 at the next one
    half_x = (14 + 9 * np.clip(1 - z / 250, 0, 1.3)) * uniform(0.92, 1.1)
    half_y = (13 + 4 * np.clip(1 - z / 200, 0, 1.2)) * uniform(0.92, 1.1)
    ahead = y - np.interp(z, canvas.axes[2], trunk.spine)
    waist = 1 - 0.1 * np.sin(np.pi * phase)
    outline = (side / (half_x * waist)) ** 2.3 + (np.abs(ahead) / (half_y * waist)) ** 2.3
    disc_part = np.where(z < 0, uniform(0.2, 0.28), uniform(0.14, 0.2))
    body, disc = (outline < 1) & (phase > disc_part), (outline < 0.98) & (phase <= disc_part)

    behind = ahead + half_y + 8  # 0 at the canal's centre, negative behind it
    canal = (x / uniform(10, 12)) ** 2 + (behind / 8.5) ** 2 < 1
    lamina = ((x / 19) ** 2 + ((behind + 1) / 15) ** 2 < 1) & (phase > 0.25) & (ahead < -half_y * 0.6)
    pedicle = (np.abs(side - 14) < 4.5) & (np.abs(behind) < 10) & (phase > 0.5) & (phase < 0.95)
    slant = np.abs((phase - 0.45 + 0.012 * (behind + 20)) % 1 - 0.2) < 0.28
    spinous = (side < uniform(3, 4.5)) & (behind < -8) & (behind > -uniform(30, 40)) & slant
    tip = uniform(32, 42)
    transverse = (side > 12) & (side < tip) & (np.abs(behind + 0.12 * side - 2) < 5) & (np.abs(phase - 0.62) < 0.17)
    facet = (np.abs(side - 17) < 7) & (np.abs(behind + 4) < 9) & (phase > -1)
    arch = (lamina | pedicle | spinous | transverse | facet) & ~canal
    canvas.map[box][disc] = Material.DISC
    bone[box] |= body | arch
    bone[box] &= ~disc | body
    hollow = np.zeros_like(bone)
    hollow[box] = canal & ~body
    return hollow
