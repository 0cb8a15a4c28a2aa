"""From the scene to what is sent: the scan, an expert's outline and a region, all on the scan's own grid.

Nothing of the scene is changed. Everything that can be known to fail is said before a byte leaves.
"""

from dataclasses import dataclass, field

import numpy as np
import slicer
from slicer.i18n import tr as _

from . import geometry, nrrd, palette, scene
from .trouble import Trouble, trouble

AIR, FAT, SHARE = -500, (-200, -50), 1e-3  # CT shows air, or fat in a crop inside the body, in at least this share


@dataclass(frozen=True)
class Preflight:
    """What is known of a scan before anything is sent. level: "ok", "warn" or "bad"."""

    level: str
    text: str
    trouble: Trouble = None


@dataclass(frozen=True)
class Parcel:
    """files: what is uploaded, by field. shape "k j i" and affine: the grid that must come back."""

    files: dict
    shape: tuple
    affine: np.ndarray
    structures: tuple = field(default=())


def preflight(volumeNode, unit: str = "HU", sigma=None) -> Preflight:
    """Look at a scan: range, size, orientation, noise; what would be refused is refused here. unit: of the model;
    sigma: the scan's noise, None: not looked for yet, 0: not available."""
    if volumeNode is None:
        return Preflight("bad", _("Choose a scan."))
    try:
        array, affine = voxels(volumeNode)
        low, high = requireUnit(array, unit)
    except Trouble as problem:
        return Preflight("bad", f"✕ {problem}", problem)
    size = "×".join(str(length) for length in reversed(array.shape))
    unknown = _("noise not measured yet") if sigma is None else _("noise not available")
    noise = f"noise σ ≈ {sigma:.1f} {unit}" if sigma else unknown
    kind = _("CT in HU") if unit == "HU" else _("Values")
    text = _("{kind} ({low:g} … {high:g}) · {size} · orientation {orientation} · {noise}").format(
        kind=kind, low=low, high=high, size=size, orientation=geometry.orientation(affine), noise=noise
    )
    if scene.isSynthetic(volumeNode):
        return Preflight(
            "warn",
            _("▲ This scan was perturbed already: it is synthetic. Choose the original. {text}").format(text=text),
        )
    return Preflight("ok", f"✓ {text}")


def voxels(volumeNode):
    """(array "k j i", affine ijk -> RAS of the world) of a volume. Raises Trouble for one that can't be attacked."""
    affine = geometry.worldGrid(volumeNode)
    if volumeNode.GetImageData().GetNumberOfScalarComponents() != 1:
        raise Trouble("not-scalar", _("This volume has several values per voxel."), _("Choose a scan."))
    return slicer.util.arrayFromVolume(volumeNode), affine


def requireUnit(array: np.ndarray, unit: str):
    """(lowest, highest) value. Raises Trouble for values that aren't finite, or that aren't HU where they must be."""
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise Trouble("not-finite", _("Some values of the scan are not numbers."), _("Export it again."))
    air = np.count_nonzero(array < AIR)
    fat = np.count_nonzero((array >= FAT[0]) & (array <= FAT[1]))
    if unit == "HU" and max(air, fat) < SHARE * array.size:
        raise trouble("not-hu", low=f"{low:g}", high=f"{high:g}")
    return low, high


def pack(volumeNode, victim: dict, referenceNode=None, roiNode=None, roiSegment: str = "", others=()) -> Parcel:
    """What an attack on this scan sends. victim: the model's entry in the server's schema; roiSegment: id of a segment
    where roiNode is a segmentation; others: the volumes of the channels after the first. Raises Trouble for whatever
    doesn't fit."""
    array, affine = voxels(volumeNode)
    requireUnit(array, victim["unit"])
    files = {"image": ("scan.nrrd", nrrd.encode(array, affine))}
    if others:
        each = [channel(node, volumeNode, victim["unit"]) for node in others]
        files["image"] = [files["image"], *((f"scan{n}.nrrd", content) for n, content in enumerate(each, 1))]
    structures = ()
    if referenceNode is not None:
        labels, structures = reference(referenceNode, volumeNode, victim["labels"])
        files["label"] = ("label.nrrd", nrrd.encode(labels, affine))
    if roiNode is not None:
        mask = region(roiNode, volumeNode, affine, array.shape, roiSegment)
        files["roi"] = ("roi.nrrd", nrrd.encode(mask, affine))
    return Parcel(files, array.shape, affine, structures)


def channel(node, first, unit: str) -> bytes:
    """The file of a channel after the first. Raises Trouble where none is chosen or it lies on other voxels."""
    if node is None:
        raise Trouble("no-scan", _("A channel of the scan is missing."), _("Choose a volume for each channel."))
    array, affine = voxels(node)
    requireUnit(array, unit)
    firstArray, firstAffine = voxels(first)
    if array.shape != firstArray.shape or np.abs(affine - firstAffine).max() > 1e-3:
        sizes = ["×".join(str(length) for length in reversed(each.shape)) for each in (firstArray, array)]
        said = _("{first} and {other} don't lie on the same voxels ({sizes}).").format(
            first=first.GetName(), other=node.GetName(), sizes=_(" and ").join(sizes)
        )
        raise Trouble("other-grid", said, _("Resample one to the other's grid."))
    return nrrd.encode(array, affine)


def reference(segmentationNode, volumeNode, labels: dict):
    """(label map "k j i" in the model's values, names of the structures in it) of an expert's segmentation.

    Segments are matched by name, case and underscores aside. Raises Trouble where none fits or all are empty.
    """
    wanted = {plain(name): (name, value) for name, value in labels.items() if value}
    segmentation = segmentationNode.GetSegmentation()
    found = None
    names = []
    for segmentId in segmentation.GetSegmentIDs():
        match = wanted.get(plain(segmentation.GetSegment(segmentId).GetName()))
        if match is None:
            continue
        mask = segmentMask(segmentationNode, segmentId, volumeNode)
        if found is None:
            found = np.zeros(mask.shape, np.int16)
        if mask.any():
            found[mask] = match[1]
            names.append(match[0])
    if not names:
        known = ", ".join(palette.readable(name) for name, _ in wanted.values())
        said = _("No segment of '{name}' is named like one of the model's structures.").format(
            name=segmentationNode.GetName()
        )
        raise Trouble(
            "no-match",
            said,
            _("Name them as the model does ({known}), or choose no expert outline.").format(known=known),
        )
    return found, tuple(names)


def region(roiNode, volumeNode, affine, shape, segmentId: str = "") -> np.ndarray:
    """Mask "k j i", uint8, of the voxels that may change. Raises Trouble for a region without any."""
    if roiNode.IsA("vtkMRMLSegmentationNode"):
        if roiNode.GetSegmentation().GetSegment(segmentId) is None:
            raise Trouble("no-segment", _("No segment is chosen for the region."), _("Choose one, or the whole scan."))
        mask = segmentMask(roiNode, segmentId, volumeNode)
    else:
        mask = boxMask(roiNode, affine, shape)
    if not mask.any():
        raise Trouble(
            "empty-region", _("The region holds no voxel of this scan."), _("Move it, or choose the whole scan.")
        )
    return mask.astype(np.uint8)


def segmentMask(segmentationNode, segmentId: str, volumeNode) -> np.ndarray:
    """Mask "k j i" of a segment on the volume's grid."""
    array = slicer.util.arrayFromSegmentBinaryLabelmap(segmentationNode, segmentId, volumeNode)
    if array is None:
        raise Trouble("no-segment", _("A segment could not be read."), _("Choose another one."))
    return array > 0


def boxMask(roiNode, affine, shape) -> np.ndarray:
    """Mask "k j i" of the voxels whose centre lies in a Markups ROI, however it is turned."""
    objectToWorld = slicer.util.arrayFromVTKMatrix(roiNode.GetObjectToWorldMatrix())
    size = np.zeros(3)
    roiNode.GetSizeWorld(size)
    scale = np.linalg.norm(objectToWorld[:3, :3], axis=0)
    ijkToBox = np.linalg.inv(objectToWorld) @ affine
    half = size / 2 / scale + 1e-6
    k, j, i = np.ogrid[tuple(slice(length) for length in shape)]
    mask = np.ones(shape, bool)
    for axis in range(3):
        row = ijkToBox[axis]
        mask &= np.abs(row[0] * i + row[1] * j + row[2] * k + row[3]) <= half[axis]
    return mask


def plain(name: str) -> str:
    """A structure's name without case, underscores and doubled spaces."""
    return " ".join(name.replace("_", " ").lower().split())
