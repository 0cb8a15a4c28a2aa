"""Small scans in the scene, on grids of every kind, in which the model of tests/core/tiny.py finds liver and bone."""

import numpy as np
import slicer

SHAPE = (18, 22, 24)  # k j i
ANGLE = np.deg2rad(20)
TURN = np.array([[np.cos(ANGLE), -np.sin(ANGLE), 0], [np.sin(ANGLE), np.cos(ANGLE), 0], [0, 0, 1]]) @ np.array(
    [[1, 0, 0], [0, np.cos(0.3), -np.sin(0.3)], [0, np.sin(0.3), np.cos(0.3)]]
)


def affine(directions: np.ndarray, spacing, origin=(-20.0, 31.0, 5.5)) -> np.ndarray:
    """ijk -> RAS in mm."""
    matrix = np.eye(4)
    matrix[:3, :3] = directions * np.asarray(spacing)
    matrix[:3, 3] = origin
    return matrix


GRIDS = {
    "axial": affine(np.diag([-1.0, -1.0, 1.0]), (2, 2, 3)),
    "flipped": affine(np.diag([1.0, -1.0, -1.0]), (2, 2, 3)),
    "oblique": affine(TURN, (2, 2, 3)),
    "anisotropic": affine(np.eye(3), (0.75, 1.5, 6)),
    "sagittal": affine(np.array([[0, 0, 1.0], [1, 0, 0], [0, 1, 0]]), (2, 2, 3)),
}


def hounsfield(shape=SHAPE, seed: int = 0) -> np.ndarray:
    """int16 HU "k j i": fat in air, in it a liver of 8 ± 3 HU and a bone of 400 HU."""
    k, j, i = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    around = np.sqrt(k**2 + j**2 + i**2)
    hu = np.full(shape, -1000.0)
    hu[around < 0.95] = -100
    hu[(around < 0.7) & (i < 0.2)] = 8
    hu[(around < 0.8) & (i > 0.45)] = 400
    return np.rint(hu + np.random.default_rng(seed).normal(0, 3, shape)).astype(np.int16)


def add_scan(grid: str = "axial", name: str = "CT", shape=SHAPE, seed: int = 0):
    """A volume node with that scan on that grid."""
    return slicer.util.addVolumeFromArray(hounsfield(shape, seed), GRIDS[grid], name)


def add_segmentation(volume, masks: dict, name: str = "expert"):
    """A segmentation node with a segment for each mask "k j i" of that name."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    for title, mask in masks.items():
        segment = node.GetSegmentation().AddEmptySegment("", title)
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), node, segment, volume)
    return node


def add_transform(volume, matrix: np.ndarray):
    """A linear transform over the volume."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    volume.SetAndObserveTransformNodeID(node.GetID())
    return node
