"""One random CT acquisition: the mean HU and the texture of every material, scanner noise and blur.

The ranges are broad on purpose: a network that has seen every contrast phase, dose and calibration finds a real scan
ordinary. HU of organs without and with contrast follow radiology textbooks.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perturbox.zoo.materials import Material as M

PHASES = ("native", "arterial", "portal", "delayed")
_PHASE_WEIGHTS = (0.48, 0.12, 0.31, 0.09)
GASES = (M.AIR, M.AIRWAY, M.LUNG, M.STOMACH_GAS, M.SMALL_BOWEL_GAS, M.COLON_GAS)


class Tissue(NamedTuple):
    """Ranges: native HU, gain in HU at full contrast (arterial, portal, delayed), texture amplitude in HU."""

    native: tuple[float, float]
    gain: tuple[float, float, float] = (0, 0, 0)
    texture: tuple[float, float] = (3, 3)


TISSUES = {
    M.AIR: Tissue((-1000, -1000), texture=(0, 0)),
    M.FAT: Tissue((-118, -88), texture=(2, 16)),
    M.SKIN: Tissue((-40, 50)),
    M.LIVER: Tissue((40, 68), (15, 55, 40), (2, 9)),
    M.HEPATIC_VESSEL: Tissue((32, 48), (30, 120, 70)),
    M.SPLEEN: Tissue((32, 56), (60, 70, 45), (2, 8)),
    M.RENAL_CORTEX: Tissue((4, 36), (140, 150, 110), (3, 14)),
    M.RENAL_MEDULLA: Tissue((4, 36), (50, 140, 115), (3, 16)),
    M.RENAL_SINUS: Tissue((-90, 15), texture=(5, 45)),
    M.CORTICAL_BONE: Tissue((280, 750), texture=(30, 160)),
    M.SPONGY_BONE: Tissue((20, 290), texture=(20, 110)),
    M.DISC: Tissue((55, 110), texture=(4, 15)),
    M.CARTILAGE: Tissue((60, 140), texture=(3, 30)),
    M.MUSCLE: Tissue((22, 62), (5, 12, 12), (4, 26)),
    M.OTHER_MUSCLE: Tissue((22, 62), (5, 12, 12), (4, 26)),
    M.STOMACH_WALL: Tissue((25, 50), (20, 40, 30)),
    M.STOMACH_CONTENT: Tissue((-15, 60), texture=(2, 45)),
    M.STOMACH_GAS: Tissue((-980, -750)),
    M.SMALL_BOWEL_WALL: Tissue((20, 50), (40, 50, 40)),
    M.CHYME_A: Tissue((0, 45), texture=(2, 18)),
    M.CHYME_B: Tissue((0, 60), texture=(2, 40)),
    M.CHYME_C: Tissue((-45, 40), texture=(2, 25)),
    M.SMALL_BOWEL_GAS: Tissue((-950, -400)),
    M.COLON_WALL: Tissue((20, 50), (25, 40, 30)),
    M.STOOL_FATTY: Tissue((-125, 60), texture=(8, 220)),
    M.STOOL_SOFT: Tissue((-30, 70), texture=(4, 50)),
    M.COLON_GAS: Tissue((-980, -700)),
    M.LUNG: Tissue((-900, -690), texture=(10, 55)),
    M.LUNG_VESSEL: Tissue((-250, 30), (60, 60, 40), (20, 90)),
    M.MYOCARDIUM: Tissue((32, 55), (50, 60, 50)),
    M.HEART_BLOOD: Tissue((28, 50), (320, 120, 80), (2, 12)),
    M.ARTERY: Tissue((28, 50), (380, 120, 80)),
    M.VEIN: Tissue((28, 50), (30, 110, 85)),
    M.SMALL_VESSEL: Tissue((20, 50), (60, 100, 60)),
    M.PANCREAS: Tissue((15, 48), (60, 50, 35), (5, 22)),
    M.ADRENAL: Tissue((5, 40), (30, 40, 30)),
    M.BILE: Tissue((-5, 22)),
    M.CYST: Tissue((-8, 14)),
    M.URINE: Tissue((-5, 16)),
    M.PELVIC_ORGAN: Tissue((25, 55), (20, 40, 40)),
    M.MEDIASTINAL_FAT: Tissue((-120, -80), texture=(4, 25)),
    M.AIRWAY: Tissue((-1000, -960)),
    M.OESOPHAGUS: Tissue((20, 50), (10, 20, 15), (3, 30)),
    M.SPINAL_CORD: Tissue((5, 45)),
    M.GLAND: Tissue((-30, 60), (40, 60, 40), (10, 40)),
    M.TABLE: Tissue((-700, 0)),
}


@dataclass(frozen=True)
class Acquisition:
    """Everything that turns materials into HU, except the noise itself."""

    phase: str
    mean: NDArray[np.float32]
    texture: NDArray[np.float32]
    noise: float
    """Standard deviation of the scanner's noise, HU."""
    noise_blur: tuple[float, float]
    blur: tuple[float, float]
    """Gaussian widths in plane and along z, voxels."""
    bubbles: float
    """Depth of gas bubbles in fatty stool, HU."""


def draw_acquisition(rng: np.random.Generator) -> Acquisition:
    """Draw a contrast phase, HU of every material, texture, noise and blur."""
    uniform = rng.uniform
    phase = str(rng.choice(PHASES, p=_PHASE_WEIGHTS))
    strength = uniform(0.5, 1.15)
    mean, texture = np.zeros(len(M), np.float32), np.zeros(len(M), np.float32)
    for material, tissue in TISSUES.items():
        gain = 0.0 if phase == "native" else tissue.gain[PHASES.index(phase) - 1]
        mean[material] = uniform(*tissue.native) + strength * gain
        texture[material] = uniform(*tissue.texture)

    mean[M.OTHER_MUSCLE] = mean[M.MUSCLE] + uniform(-8, 8)
    mean[M.MEDIASTINAL_FAT] = mean[M.FAT] + uniform(-5, 15)
    if rng.random() < 0.12:  # fatty liver
        mean[M.LIVER] -= uniform(15, 50)
    if phase == "native":  # without contrast cortex equals medulla and vessels hide in the liver
        mean[M.RENAL_MEDULLA] = mean[M.RENAL_CORTEX] + uniform(-4, 4)
        mean[M.HEPATIC_VESSEL] = mean[M.LIVER] - uniform(0, 18)
    if rng.random() < 0.2:  # urine instead of fat in the renal pelvis, bright once the kidney excretes
        mean[M.RENAL_SINUS] = uniform(0, 12) + 300 * strength * (phase == "delayed")
    if phase == "delayed":
        mean[M.URINE] += uniform(50, 500)
    if rng.random() < 0.3:  # oral contrast
        mean[M.STOMACH_CONTENT] = uniform(120, 400)
        mean[M.CHYME_B] = uniform(100, 380)
        mean[M.STOOL_SOFT] = uniform(80, 420)

    solid = ~np.isin(np.arange(len(M)), GASES)
    mean[solid] += uniform(-5, 4) + rng.normal(0, 3, int(solid.sum())).astype(np.float32)
    noise = uniform(2, 12) if rng.random() < 0.55 else uniform(10, 38)
    return Acquisition(
        phase, mean, texture, noise, (uniform(0, 0.8), uniform(0, 0.6)), (uniform(0.25, 0.62), uniform(0.25, 0.9)),
        uniform(80, 900),
    )  # fmt: skip
