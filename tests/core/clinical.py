"""A scan of clinical size made from the small real CT: 512 x 512 x 300 voxels of 0.8 x 0.8 x 1.5 mm, oblique, int16.

python tests/core/clinical.py CT.nii.gz OUT.nii.gz
"""

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

SHAPE, SPACING = (512, 512, 300), np.array([0.8, 0.8, 1.5])


def oblique(spacing: np.ndarray, degrees: tuple[float, float] = (7.0, 4.0)) -> np.ndarray:
    """Affine ijk -> RAS whose axes are turned about z and then about x."""
    a, b = np.radians(degrees)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_x @ about_z * spacing
    affine[:3, 3] = (-200.0, -190.0, 35.0)
    return affine


def make(source: Path, target: Path) -> None:
    """Resample linearly about the centre; what lies outside the source is air."""
    image = nib.load(source)
    data = np.asanyarray(image.dataobj).astype(np.float32)
    zoom = SPACING / np.array(image.header.get_zooms()[:3])
    offset = (np.array(data.shape) - 1) / 2 - zoom * (np.array(SHAPE) - 1) / 2
    fine = ndimage.affine_transform(data, zoom, offset, SHAPE, order=1, cval=-1024.0)
    nib.save(nib.Nifti1Image(np.rint(fine).astype(np.int16), oblique(SPACING)), target)


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]))
