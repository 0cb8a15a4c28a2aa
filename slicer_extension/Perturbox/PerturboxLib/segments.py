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
BEFORE_LINE, BEFORE_COLOURS = "Perturbox.BeforeLine", "Perturbox.BeforeColours"
MOST_PAIRS, ARROW = 250, "→"
LINE_OPACITY, LINE_WIDTH = 0.9, 1


def addSegmentation(
    source, array: np.ndarray, labels: dict[str, int], name: str, colours: dict[str, str] | None = None
):
    """A new segmentation of a label map "k j i"; ids of the segments are the labels' names, their values kept.

    Structures that the map doesn't hold get no segment. colours: of labels that have one of their own. Hidden until a
    view shows it.
    """
    own = colours or {}
    held = set(np.unique(array).tolist())
    image = _labelImage(source, array)
    node = _newSegmentation(source, name)
    for number, (label, value) in enumerate(_structures(labels).items(), 1):
        if value in held:
            _addSegment(node, label, readable(label), own.get(label, structureColour(number)), value, image, label)
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


def addBecame(source, clean: np.ndarray, adversarial: np.ndarray, labels: dict[str, int], name: str):
    """A new segmentation of what became another structure, a segment for each pair ("kidney→liver") in the colour of
    what it is now, and a second way to be shown: in that of what it was. Of very many pairs the largest. Hidden; None
    if nothing did."""
    structures = list(_structures(labels))
    before, after = numbered(clean, labels), numbered(adversarial, labels)
    moved = (before != after) & (before > 0) & (after > 0)
    ways = before.astype(np.int64) * (len(structures) + 1) + after
    found, counts = np.unique(ways[moved], return_counts=True)
    if not found.size:
        return None
    chosen = np.sort(found[np.argsort(-counts, kind="stable")[:MOST_PAIRS]])
    place = np.clip(np.searchsorted(chosen, ways), 0, len(chosen) - 1)
    image = _labelImage(source, np.where(moved & (chosen[place] == ways), place + 1, 0))
    node = _newSegmentation(source, name)
    was = _secondDisplay(node, "before-colours", BEFORE_COLOURS)
    for value, way in enumerate(chosen.tolist(), 1):
        old, new = divmod(way, len(structures) + 1)
        ends = structures[old - 1], structures[new - 1]
        title = f"{readable(ends[0])} {ARROW} {readable(ends[1]).lower()}"
        _addSegment(node, ARROW.join(ends), title, structureColour(new), value, image, ends[1])
        was.SetSegmentOverrideColor(ARROW.join(ends), *rgb(structureColour(old)))
    for shown in (node.GetDisplayNode(), was):
        shown.SetVisibility3D(False)
        shown.SetOpacity2DOutline(0.0)
    return node


def ends(segmentId: str) -> tuple[str, str]:
    """What a segment of `addBecame` was, and what it is now."""
    before, _arrow, after = segmentId.partition(ARROW)
    return before, after


def beforeColours(node):
    """The second display node of what `addBecame` made; None where there is none."""
    return _displayOf(node, BEFORE_COLOURS)


def addBeforeLine(node) -> None:
    """Give the segmentation before a second way to be shown: as a thin white outline over the one after. Hidden."""
    shown = _secondDisplay(node, "before-line", BEFORE_LINE)
    shown.SetVisibility2DFill(False)
    shown.SetVisibility3D(False)
    shown.SetOpacity2DOutline(LINE_OPACITY)
    shown.SetSliceIntersectionThickness(LINE_WIDTH)
    for segment in segmentIds(node):
        shown.SetSegmentOverrideColor(segment, 1, 1, 1)


def beforeLine(node):
    """The display node that `addBeforeLine` made; None where there is none."""
    return _displayOf(node, BEFORE_LINE)


def _secondDisplay(node, name: str, attribute: str):
    """One more display node, hidden, found again by its attribute."""
    shown = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationDisplayNode", name)
    shown.SetAttribute(attribute, "1")
    shown.SetVisibility(False)
    node.AddAndObserveDisplayNodeID(shown.GetID())
    return shown


def _displayOf(node, attribute: str):
    for number in range(node.GetNumberOfDisplayNodes()):
        shown = node.GetNthDisplayNode(number)
        if shown is not None and shown.GetAttribute(attribute) == "1":
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
