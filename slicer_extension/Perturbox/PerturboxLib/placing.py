"""Where a slice view lies: in the scan's own planes, so that a slice of the view is a slice of the scan.

Slice `index` along an ijk axis is the plane through the centres of its voxels, whatever the scan's direction.
"""

import numpy as np
import slicer
import vtk

from . import geometry


def orient(sliceNode, plane: str, volume) -> None:
    """Turn a view to "Axial", "Coronal" or "Sagittal" and then into the closest plane of the volume's voxels."""
    sliceNode.SetOrientation(plane)
    sliceNode.RotateToVolumePlane(volume)


def fit(sliceWidget, volume) -> None:
    """Show the whole volume."""
    width, height, _ = sliceWidget.mrmlSliceNode().GetDimensions()
    sliceWidget.sliceLogic().FitSliceToVolume(volume, width, height)


def centre(volume, axis: int | None = None, index: int = 0) -> np.ndarray:
    """RAS of a volume's middle, or of the middle of slice `index` (0-based) along an ijk axis."""
    point = (np.array(volume.GetImageData().GetDimensions(), float) - 1) / 2
    if axis is not None:
        point[axis] = index
    return (geometry.worldGrid(volume) @ [*point, 1.0])[:3]


def jumpTo(sliceNode, ras) -> None:
    """Move a view along its normal until it holds a point; what it is centred on stays."""
    sliceNode.JumpSliceByOffsetting(*(float(value) for value in ras))


def indexAt(sliceNode, volume, axis: int) -> int:
    """The slice of the volume (0-based, may lie outside it) that the middle of a view is closest to."""
    matrix = sliceNode.GetSliceToRAS()
    middle = [matrix.GetElement(row, 3) for row in range(3)]
    inverse = np.linalg.inv(geometry.worldGrid(volume))
    return int(np.rint((inverse @ [*middle, 1.0])[axis]))


class SavedView:
    """What a standard slice view shows and from where, to be put back."""

    NUMBERS = ("ForegroundOpacity", "LabelOpacity", "LinkedControl", "HotLinkedControl", "InteractionFlagsModifier")
    VOLUMES = ("BackgroundVolumeID", "ForegroundVolumeID", "LabelVolumeID")

    def __init__(self, sliceWidget):
        self.node = sliceWidget.mrmlSliceNode()
        self.composite = sliceWidget.sliceLogic().GetSliceCompositeNode()
        self.place = vtk.vtkMatrix4x4()
        self.place.DeepCopy(self.node.GetSliceToRAS())
        self.fieldOfView, self.origin = self.node.GetFieldOfView(), self.node.GetXYZOrigin()
        self.values = {name: getattr(self.composite, f"Get{name}")() for name in (*self.VOLUMES, *self.NUMBERS)}

    def restore(self) -> None:
        for name, value in self.values.items():
            gone = name in self.VOLUMES and value and slicer.mrmlScene.GetNodeByID(value) is None
            getattr(self.composite, f"Set{name}")(None if gone else value)
        self.node.GetSliceToRAS().DeepCopy(self.place)
        width, height, _ = self.node.GetDimensions()  # of this layout; a resized view keeps the height it shows
        _, tall, deep = self.fieldOfView
        self.node.SetFieldOfView(tall * width / max(height, 1), tall, deep)
        self.node.SetXYZOrigin(*self.origin)
        self.node.UpdateMatrices()
