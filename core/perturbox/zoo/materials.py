"""What a phantom is made of, and which material belongs to which class.

An anatomy is a map of materials, not of CT numbers: `appearance.py` colours the same map as any acquisition.
"""

from enum import IntEnum, auto

import numpy as np
from numpy.typing import NDArray

CLASSES = ("background", "liver", "spleen", "kidney", "bone", "muscle", "gut", "lung")


class Material(IntEnum):
    """Tissues and contents that CT tells apart."""

    AIR = 0
    FAT = auto()
    SKIN = auto()
    LIVER = auto()
    HEPATIC_VESSEL = auto()
    SPLEEN = auto()
    RENAL_CORTEX = auto()
    RENAL_MEDULLA = auto()
    RENAL_SINUS = auto()
    CORTICAL_BONE = auto()
    SPONGY_BONE = auto()
    DISC = auto()
    CARTILAGE = auto()
    MUSCLE = auto()
    OTHER_MUSCLE = auto()
    STOMACH_WALL = auto()
    STOMACH_CONTENT = auto()
    STOMACH_GAS = auto()
    SMALL_BOWEL_WALL = auto()
    CHYME_A = auto()
    CHYME_B = auto()
    CHYME_C = auto()
    SMALL_BOWEL_GAS = auto()
    COLON_WALL = auto()
    STOOL_FATTY = auto()
    STOOL_SOFT = auto()
    COLON_GAS = auto()
    LUNG = auto()
    LUNG_VESSEL = auto()
    MYOCARDIUM = auto()
    HEART_BLOOD = auto()
    ARTERY = auto()
    VEIN = auto()
    SMALL_VESSEL = auto()
    PANCREAS = auto()
    ADRENAL = auto()
    BILE = auto()
    CYST = auto()
    URINE = auto()
    PELVIC_ORGAN = auto()
    MEDIASTINAL_FAT = auto()
    AIRWAY = auto()
    OESOPHAGUS = auto()
    SPINAL_CORD = auto()
    GLAND = auto()
    TABLE = auto()


_CLASS_MATERIALS = {
    "liver": (Material.LIVER, Material.HEPATIC_VESSEL),
    "spleen": (Material.SPLEEN,),
    "kidney": (Material.RENAL_CORTEX, Material.RENAL_MEDULLA),
    "bone": (Material.CORTICAL_BONE, Material.SPONGY_BONE),
    "muscle": (Material.MUSCLE,),
    "gut": tuple(m for m in Material if Material.STOMACH_WALL <= m <= Material.COLON_GAS),
    "lung": (Material.LUNG, Material.LUNG_VESSEL),
}


def _label_table() -> NDArray[np.uint8]:
    table = np.zeros(len(Material), np.uint8)
    for name, materials in _CLASS_MATERIALS.items():
        table[list(materials)] = CLASSES.index(name)
    return table


LABEL_OF = _label_table()
"""Class of every material: `LABEL_OF[material_map]` is the label map."""
