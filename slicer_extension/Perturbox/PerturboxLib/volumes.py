"""Volumes of a result on the scan's own grid, the local mean of an influence, and the colours of heat."""

from collections.abc import Iterator

import numpy as np
import slicer
import vtk

from . import palette

NOTICE = "ADVERSARIAL - NOT FOR CLINICAL USE"
QUANTITY = ("112031", "DCM", "Attenuation Coefficient")
HOUNSFIELD = ("[hnsf'U]", "UCUM", "Hounsfield unit")
WINDOW_MM, HEAT_FROM = 5.0, 0.5
TOP_PERCENT, INFLUENCE_FROM = 99.9, 0.1
SLAB_VOXELS = 4_000_000
BELOW, MIDDLE, ABOVE = "#3F8CFF", "#505050", "#FF5A4A"  # the report's


def addVolume(source, array: np.ndarray, name: str, hounsfield: bool):
    """A new scalar volume "k j i" with the place, transform and orientation of `source`, named `name`; the array is
    copied."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetAutoWindowLevel(0)  # before there are voxels: working it out takes seconds
    slicer.util.updateVolumeFromArray(node, array)
    place(node, source)
    if hounsfield:
        node.SetVoxelValueQuantity(_coded(QUANTITY))
        node.SetVoxelValueUnits(_coded(HOUNSFIELD))
    return node


def place(node, source) -> None:
    """Give a node the scan's grid, exactly, and let both move together if the scan has a transform."""
    node.CopyOrientation(source)
    node.SetAndObserveTransformNodeID(source.GetTransformNodeID())


def markSynthetic(node) -> None:
    """Attributes by which the module knows a perturbed scan; a .nrrd file carries them too."""
    node.SetAttribute("Perturbox.Synthetic", "1")
    node.SetAttribute("notice", NOTICE)


def isOurs(node) -> bool:
    """Whether a volume came from an attack, so is no scan to begin with."""
    return node.GetAttribute("Perturbox.Synthetic") == "1" or node.GetAttribute("Perturbox.Role") is not None


def isSynthetic(node) -> bool:
    """Whether a volume is a perturbed scan, made here or read from a file that says so."""
    if node is None:
        return False
    return node.GetAttribute("Perturbox.Synthetic") == "1" or "ADVERSARIAL" in (node.GetAttribute("notice") or "")


def copyWindow(target, source) -> None:
    """Show a volume in the grey levels of another, once."""
    shown, like = target.GetDisplayNode(), source.GetDisplayNode()
    shown.SetAutoWindowLevel(0)
    if like is None:
        shown.SetWindowLevel(400, 40)
        return
    shown.SetWindowLevel(like.GetWindow(), like.GetLevel())
    shown.SetInterpolate(like.GetInterpolate())
    if like.GetColorNodeID():
        shown.SetAndObserveColorNodeID(like.GetColorNodeID())


def showHeat(node, colours, limit: float) -> None:
    """Show a volume from -`limit` to `limit` in a colour table, uninterpolated."""
    shown = node.GetDisplayNode()
    shown.SetAndObserveColorNodeID(colours.GetID())
    shown.SetAutoWindowLevel(0)
    shown.SetWindowLevelMinMax(-limit, limit)
    shown.SetInterpolate(0)


def signedColours(name: str, limit: float, clear: float):
    """A new colour table, blue below 0 and red above, full from half the limit on as in the report, clear below
    `clear`. Between them it is dark: slices take an entry's alpha for all or nothing, and what is pale looks strong."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLColorTableNode", name)
    node.SetTypeToUser()
    node.SetNumberOfColors(256)
    middle = np.array(palette.rgb(MIDDLE))
    for entry, value in enumerate(np.linspace(-limit, limit, 256)):
        colour = np.array(palette.rgb(ABOVE if value > 0 else BELOW))
        mixed = middle + min(1.0, 2 * abs(value) / limit) * (colour - middle)
        node.SetColor(entry, f"{entry}", *mixed.tolist(), float(abs(value) >= clear))
    return node


def localMean(influence: np.ndarray, spacing, window: float = WINDOW_MM) -> Iterator[np.ndarray | None]:
    """Mean of an influence "k j i" in a box of `window` mm around each voxel, float32, as shares of what hardly any
    voxel exceeds; None between steps.

    spacing: mm along i, j, k. Voxels partly inside the box count with that part; at the rim only what exists counts.
    """
    mean = influence.astype(np.float32)
    for axis in range(3):
        for _ in boxMean(mean, axis, window / 2 / float(spacing[2 - axis])):
            yield None
    size = np.abs(mean)
    mean /= np.percentile(size[size > 0], TOP_PERCENT) if size.any() else 1.0
    yield mean


def boxMean(array: np.ndarray, axis: int, reach: float) -> Iterator[None]:
    """Replace each value by the mean over ±`reach` voxels along an axis, in place, slab by slab."""
    length = array.shape[axis]
    edges = np.arange(length) + 0.5
    low, high = np.clip(edges - reach, 0, length), np.clip(edges + reach, 0, length)
    width = (high - low).reshape([-1 if a == axis else 1 for a in range(3)])
    other = 0 if axis else 1
    rows = max(1, SLAB_VOXELS // max(1, array.size // array.shape[other]))
    for start in range(0, array.shape[other], rows):
        slab = array[(*[slice(None)] * other, slice(start, start + rows))]
        total = np.zeros([n + (a == axis) for a, n in enumerate(slab.shape)])
        inner = [slice(None)] * 3
        inner[axis] = slice(1, None)
        np.cumsum(slab, axis=axis, dtype=np.float64, out=total[tuple(inner)])
        slab[...] = (_at(total, high, axis) - _at(total, low, axis)) / width
        yield None


def _at(total: np.ndarray, where: np.ndarray, axis: int) -> np.ndarray:
    """Cumulative sums read between their entries, along an axis."""
    below = np.minimum(where.astype(int), total.shape[axis] - 2)
    part = (where - below).reshape([-1 if a == axis else 1 for a in range(3)])
    return np.take(total, below, axis) * (1 - part) + np.take(total, below + 1, axis) * part


def _coded(code: tuple[str, str, str]):
    entry = slicer.vtkCodedEntry()
    entry.SetValueSchemeMeaning(*code)
    return entry


def ijkToRas(node) -> np.ndarray:
    """A volume's own IJK->RAS matrix, without parent transforms."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)
