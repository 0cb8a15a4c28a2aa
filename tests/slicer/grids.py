"""Grids that tell axes and signs apart, and volumes on them."""

import numpy as np
import slicer


def turned(degrees: float, axis: int) -> np.ndarray:
    """Rotation about one of the axes, 3x3."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(3)
    a, b = [i for i in range(3) if i != axis]
    matrix[a, a], matrix[a, b], matrix[b, a], matrix[b, b] = c, -s, s, c
    return matrix


def affine(directions, spacing=(1.0, 1.0, 1.0), origin=(10.5, -20.25, 30.125)) -> np.ndarray:
    """IJK -> RAS of unit directions (columns), spacing and origin in mm."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.asarray(directions, float) * spacing
    matrix[:3, 3] = origin
    return matrix


AFFINES = {
    "axial": affine(np.diag([-1, -1, 1]), (0.8, 0.8, 3.0)),
    "anisotropic": affine(np.eye(3), (0.5, 1.25, 7.0)),
    "flipped": affine(np.diag([1, -1, -1]), (0.9, 1.1, 2.0)),
    "left-handed": affine(np.diag([1, 1, -1]), (0.9, 1.1, 2.0)),
    "sagittal": affine(np.eye(3)[:, [1, 2, 0]], (1.0, 2.0, 3.0)),
    "oblique": affine(turned(17, 0) @ turned(-8, 1) @ turned(33, 2), (0.7, 0.9, 2.5)),
}


def volume_node(array: np.ndarray, ijk_to_ras: np.ndarray, name: str = "CT"):
    """A scalar volume node of a k j i array."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    slicer.util.updateVolumeFromArray(node, np.ascontiguousarray(array))
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(ijk_to_ras))
    return node
