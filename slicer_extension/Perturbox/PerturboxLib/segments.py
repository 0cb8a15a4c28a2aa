"""Segmentations from label maps: segments named and coloured by the model's labels, on the scan's exact grid.

All segments of a segmentation share one label map, as Slicer's own layers do: a hundred structures cost one volume.
"""

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util import numpy_support

from .counts import numbered
from .palette import ADDED, LOST, RELABELLED, readable, rgb, structureColour, terminology

FILL, DIFFERENCE_FILL = 0.28, 0.6
BEFORE_LINE = "Perturbox.BeforeLine"
LINE_OPACITY, LINE_WIDTH = 0.9, 1


def addSegmentation(source, array: np.ndarray, labels: dict[str, int], name: str):
    """A new segmentation of a label map "k j i"; ids of the segments are the labels' names, their values kept.

    Structures that the map doesn't hold get no segment. Hidden until a view shows it.
    """
    held = set(np.unique(array).tolist())
    image = _labelImage(source, array)
    node = _newSegmentation(source, name)
    for number, (label, value) in enumerate(_structures(labels).items(), 1):
        if value in held:
            _addSegment(node, label, readable(label), structureColour(number), value, image, label)
    shown = node.GetDisplayNode()
    shown.SetOpacity2DFill(FILL)
    shown.SetOpacity2DOutline(1.0)
    return node


def addDifference(source, clean: np.ndarray, adversarial: np.ndarray, labels: dict[str, int], name: str):
    """A new segmentation with, per structure, what was lost, relabelled and added.

    "Spleen lost": became background. "Spleen relabelled": became another structure, lost as well. "Spleen added": all
    that wasn't spleen before, drawn as an outline only because it overlaps what others lost by relabelling.
    """
    structures = _structures(labels)
    before, after = numbered(clean, structures), numbered(adversarial, structures)
    differs = before != after
    count = len(structures)
    gone = np.where(differs, before, 0).astype(np.uint16)
    gone[differs & (before > 0) & (after > 0)] += count  # 1 … n lost, n + 1 … 2n relabelled
    come = np.where(differs, after, 0).astype(np.uint16)
    layers = [_labelImage(source, layer) for layer in (gone, come)]
    held = [set(np.unique(layer).tolist()) for layer in (gone, come)]
    node = _newSegmentation(source, name)
    shown = node.GetDisplayNode()
    kinds = (("lost", LOST, 0, 0), ("relabelled", RELABELLED, 0, count), ("added", ADDED, 1, 0))
    for kind, colour, layer, offset in kinds:
        for number, label in enumerate(structures, 1):
            if number + offset not in held[layer]:
                continue
            segment = f"{label}_{kind}"
            title = f"{readable(label)} {kind}"
            _addSegment(node, segment, title, colour, number + offset, layers[layer], label)
            shown.SetSegmentOpacity2DFill(segment, 0.0 if kind == "added" else DIFFERENCE_FILL)
            shown.SetSegmentOpacity2DOutline(segment, 1.0 if kind == "added" else 0.0)
    shown.SetOpacity2DFill(1.0)
    shown.SetOpacity2DOutline(1.0)
    return node


def addBeforeLine(node) -> None:
    """Give the segmentation before a second way to be shown: as a thin white outline over the one after. Hidden."""
    shown = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationDisplayNode", "before-line")
    shown.SetAttribute(BEFORE_LINE, "1")
    shown.SetVisibility(False)
    node.AddAndObserveDisplayNodeID(shown.GetID())
    shown.SetVisibility2DFill(False)
    shown.SetVisibility3D(False)
    shown.SetOpacity2DOutline(LINE_OPACITY)
    shown.SetSliceIntersectionThickness(LINE_WIDTH)
    for segment in segmentIds(node):
        shown.SetSegmentOverrideColor(segment, 1, 1, 1)


def beforeLine(node):
    """The display node that `addBeforeLine` made; None where there is none."""
    for number in range(node.GetNumberOfDisplayNodes()):
        shown = node.GetNthDisplayNode(number)
        if shown is not None and shown.GetAttribute(BEFORE_LINE) == "1":
            return shown
    return None


def structureOf(segmentId: str) -> str:
    """The structure that a segment of a difference belongs to."""
    return segmentId.rpartition("_")[0]


def segmentIds(node) -> list[str]:
    segmentation = node.GetSegmentation()
    return [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]


def _structures(labels: dict[str, int]) -> dict[str, int]:
    return {label: value for label, value in labels.items() if value}


def _newSegmentation(source, name: str):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.SetReferenceImageGeometryParameterFromVolumeNode(source)
    node.SetAndObserveTransformNodeID(source.GetTransformNodeID())
    node.GetSegmentation().SetSourceRepresentationName(_binary())
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetVisibility(False)
    return node


def _addSegment(node, segmentId: str, title: str, colour: str, value: int, image, label: str) -> None:
    segment = slicer.vtkSegment()
    segment.SetName(title)
    segment.SetColor(*rgb(colour))
    segment.SetLabelValue(value)
    segment.SetTag(segment.GetTerminologyEntryTagName(), terminology(label))
    segment.AddRepresentation(_binary(), image)
    if not node.GetSegmentation().AddSegment(segment, segmentId):
        raise RuntimeError(_("Slicer refused the segment {title}.").format(title=title))


def _binary() -> str:
    return slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()


def _labelImage(source, array: np.ndarray):
    """A label map "k j i" as a vtkOrientedImageData on the scan's grid; the array is copied."""
    most = int(array.max(initial=0))
    kind = np.uint8 if most < 256 else np.uint16
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(array.shape[::-1])
    values = np.ascontiguousarray(array, kind)
    image.GetPointData().SetScalars(numpy_support.numpy_to_vtk(values.ravel(), deep=True))
    matrix = vtk.vtkMatrix4x4()
    source.GetIJKToRASMatrix(matrix)
    image.SetImageToWorldMatrix(matrix)
    return image
