"""The display copy: what of a scan travels inside the page, and how it lies in the body.

Axes are those of the file, ordered and flipped to the closest anatomical ones: z from feet to head, y from front
to back, x from the patient's right to left. The copy keeps true voxels, cropped to the structures + 20 mm, never
averages: a read-out is always a stored value. Slices keep every row and column; where the page would grow too large,
unchanged slices go first, then all but every n-th changed one, the most changed of each structure never.
"""

from collections.abc import Callable
from dataclasses import dataclass

import nibabel as nib
import numpy as np

from perturbox.io.formats import PHOTOGRAPHS
from perturbox.report.encode import pack_bytes, pack_int16
from perturbox.report.load import Result

MARGIN_MM = 20.0
TARGET_BYTES = 13_000_000  # of base64 text
SAMPLE_SLICES = 12  # of which the size of all is estimated
PLANES = ("axial", "coronal", "sagittal")
ENDS = (("I", "S"), ("A", "P"), ("R", "L"))  # of z, y, x


@dataclass(frozen=True)
class Axis:
    """One display axis: the file axis it follows, its kept voxels in display order, distance between file voxels
    (mm), and the anatomical letters of its two ends ("" where a picture has none)."""

    file: int
    kept: np.ndarray
    flipped: bool
    length: int
    spacing: float
    ends: tuple[str, str]

    def order(self) -> np.ndarray:
        """All voxels of the file along this axis, in display order."""
        return np.arange(self.length)[:: -1 if self.flipped else 1]

    def keeping(self, kept: np.ndarray) -> "Axis":
        return Axis(self.file, kept, self.flipped, self.length, self.spacing, self.ends)


Axes = tuple[Axis, Axis, Axis]


def anatomical_axes(result: Result) -> Axes:
    """The file's axes as (z, y, x), whole length. Pictures keep columns and rows as they are and carry no letters."""
    spacing = [float(s) for s in np.linalg.norm(result.affine[:3, :3], axis=0)]
    if result.flat and result.record["source"]["format"] in PHOTOGRAPHS:
        follows, flips, ends = [2, 1, 0], [False] * 3, [("", "")] * 3
    else:
        orientation = nib.orientations.io_orientation(result.affine)  # file axis -> (RAS axis, sign)
        follows = [int(np.flatnonzero(orientation[:, 0] == ras)[0]) for ras in (2, 1, 0)]
        wanted = (1, -1, -1)  # towards superior, posterior, left
        flips = [orientation[f, 1] != sign for f, sign in zip(follows, wanted, strict=True)]
        ends = list(ENDS)
    axes = []
    for f, flip, letters in zip(follows, flips, ends, strict=True):
        axis = Axis(f, np.arange(0), bool(flip), result.shape[f], spacing[f], letters)
        axes.append(axis.keeping(axis.order()))
    return axes[0], axes[1], axes[2]


def tilt_degrees(affine: np.ndarray) -> float:
    """Largest angle between a file axis and its closest anatomical axis."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return float(np.degrees(np.arccos(np.clip(np.abs(directions).max(axis=0), 0, 1))).max())


def crop(axes: Axes, labelled: np.ndarray) -> Axes:
    """Keep the bounding box of a bool mask "i j k" plus 20 mm; everything where the mask is empty."""
    if not labelled.any():
        return axes
    cropped = []
    for axis in axes:
        others = tuple(a for a in range(3) if a != axis.file)
        hit = np.flatnonzero(np.asarray(labelled.any(axis=others))[axis.order()])
        pad = int(np.ceil(MARGIN_MM / axis.spacing - 1e-3))  # files store spacing in single precision
        cropped.append(axis.keeping(axis.order()[max(hit[0] - pad, 0) : hit[-1] + pad + 1]))
    return cropped[0], cropped[1], cropped[2]


def slice_axis(axes: Axes) -> int:
    """The display axis along which slices lie apart: the widest spacing, axial when equal; a 2D image's only
    voxel."""
    single = [a for a, axis in enumerate(axes) if axis.length == 1]
    if single:
        return single[0]
    return int(np.argmax([round(axis.spacing, 3) for axis in axes]))


def thin(axes: Axes, changed: np.ndarray, always: np.ndarray, slices: int) -> Axes:
    """About `slices` of the slices: unchanged ones go first, evenly; then every n-th changed one stays, and `always`.

    changed, always: bool and int over the file's voxels along the slice axis.
    """
    along = slice_axis(axes)
    kept = axes[along].kept
    must = kept[changed[kept]]
    chosen = set(must[:: -(-must.size // max(slices, 1)) or 1].tolist())
    quiet = kept[~changed[kept]]
    chosen |= set(quiet[_spread(quiet.size, max(slices - must.size, 0))].tolist())
    chosen |= set(always.tolist()) & set(kept.tolist())
    thinned = list(axes)
    thinned[along] = axes[along].keeping(np.array([k for k in kept if int(k) in chosen]))
    return thinned[0], thinned[1], thinned[2]


def coarser(axes: Axes, share: float) -> Axes:
    """A share of the pixels of each slice, evenly spread: for pictures too large to travel whole."""
    along = slice_axis(axes)
    thinned = list(axes)
    for a in range(3):
        if a != along:
            kept = axes[a].kept
            thinned[a] = axes[a].keeping(kept[_spread(kept.size, max(int(kept.size * share**0.5), 16))])
    return thinned[0], thinned[1], thinned[2]


def _spread(count: int, wanted: int) -> np.ndarray:
    """`wanted` positions spread evenly over `count`."""
    if wanted >= count:
        return np.arange(count)
    return ((np.arange(max(wanted, 0)) + 0.5) * count / max(wanted, 1)).astype(int)


def pick(array: np.ndarray, axes: Axes) -> np.ndarray:
    """The kept voxels of an array "... i j k" as "... z y x"."""
    order = np.argsort([axis.file for axis in axes])
    chosen = array[(..., *np.ix_(*[axes[a].kept for a in order]))]
    return np.ascontiguousarray(np.moveaxis(chosen, [axis.file - 3 for axis in axes], [-3, -2, -1]))


@dataclass(frozen=True)
class Copy:
    """Scan and change "c z y x", one channel or three of a colour picture, and label maps "z y x". Values in the scan's
    unit: scan * scale + offset, change * step."""

    axes: Axes
    scan: np.ndarray
    scale: float
    offset: float
    change: np.ndarray
    step: float
    clean: np.ndarray
    adversarial: np.ndarray

    def streams(self) -> dict[str, bytes]:
        return {
            "scan": pack_int16(self.scan),
            "change": pack_bytes(self.change),
            "clean": pack_bytes(self.clean),
            "adversarial": pack_bytes(self.adversarial),
        }


def quantised_scan(scan: np.ndarray) -> tuple[np.ndarray, float, float]:
    """int16 with scale and offset: whole numbers exactly as they are, anything else in 65,000 steps of its range."""
    low, high = float(scan.min()), float(scan.max())
    whole = bool((scan == np.rint(scan)).all())
    if whole and low >= -32768 and high <= 32767:
        return scan.astype(np.int16), 1.0, 0.0
    scale = max(high - low, 1e-12) / 65000
    return np.rint((scan - low) / scale - 32500).astype(np.int16), scale, low + 32500 * scale


def quantised_change(change: np.ndarray, unit_step: float | None) -> tuple[np.ndarray, float]:
    """int8 with its step: the file's storage step where 127 of them suffice (then exact), else largest change /
    127."""
    largest = float(np.abs(change).max(initial=0))
    if (
        unit_step
        and largest <= 127 * unit_step
        and np.allclose(change / unit_step, np.rint(change / unit_step), atol=1e-3)
    ):
        step = unit_step
    else:
        step = max(largest, 1e-12) / 127
    return np.rint(change / step).astype(np.int8), step


def make_copy(
    result: Result, clean: np.ndarray, adversarial: np.ndarray, changed: np.ndarray, always: np.ndarray
) -> tuple[Copy, dict[str, bytes]]:
    """The display copy within the page's budget, with its packed streams.

    clean, adversarial: "i j k" renumbered labels. changed, always: along the slice axis, see `thin`.
    """
    axes = crop(anatomical_axes(result), (clean > 0) | (adversarial > 0))
    whole = _picked(result, axes)

    def pack(some: Axes) -> dict[str, bytes]:
        return _copied(result, some, clean, adversarial, *(again(array, axes, some) for array in whole)).streams()

    kept, streams = fit(axes, changed, always, pack)
    return _copied(result, kept, clean, adversarial, *(again(array, axes, kept) for array in whole)), streams


def fit(
    axes: Axes, changed: np.ndarray, always: np.ndarray, pack: Callable[[Axes], dict[str, bytes]]
) -> tuple[Axes, dict[str, bytes]]:
    """The slices that fit into a page, and their streams as `pack` makes them; changed, always: see `thin`."""
    along = slice_axis(axes)
    count = axes[along].kept.size
    if count > 4 * SAMPLE_SLICES:
        some = axes[along].keeping(axes[along].kept[_spread(count, SAMPLE_SLICES)])
        z, y, x = (some if a == along else axes[a] for a in range(3))
        most = int(SAMPLE_SLICES * TARGET_BYTES / _weight(pack((z, y, x))))
        axes = thin(axes, changed, always, most) if most < count else axes
    while True:
        streams = pack(axes)
        size, count = _weight(streams), axes[along].kept.size
        if size <= TARGET_BYTES:
            return axes, streams
        share = TARGET_BYTES / size * 0.97
        smaller = thin(axes, changed, always, int(count * share))
        axes = coarser(axes, share) if smaller[along].kept.size == count else smaller


def copy_of(result: Result, axes: Axes, clean: np.ndarray, adversarial: np.ndarray) -> Copy:
    """The copy of just these voxels."""
    return _copied(result, axes, clean, adversarial, *_picked(result, axes))


def _copied(
    result: Result, axes: Axes, clean: np.ndarray, adversarial: np.ndarray, change: np.ndarray, perturbed: np.ndarray
) -> Copy:
    scan, scale, offset = quantised_scan(perturbed - change)
    steps, step = quantised_change(change, storage_step(result))
    return Copy(axes, scan, scale, offset, steps, step, pick(clean, axes), pick(adversarial, axes))


def _weight(streams: dict[str, bytes]) -> float:
    """Bytes in the page, as base64 text."""
    return sum(len(stream) for stream in streams.values()) * 4 / 3


def _picked(result: Result, axes: Axes) -> tuple[np.ndarray, np.ndarray]:
    """Change and perturbed scan at the kept voxels, as float64 "c z y x"; one whole volume in memory at a time."""
    change = pick(result.change(), axes).astype(np.float64)
    return change, pick(result.perturbed(), axes).astype(np.float64)


def again(array: np.ndarray, axes: Axes, smaller: Axes) -> np.ndarray:
    """A selection of a selection."""
    chosen = [np.flatnonzero(np.isin(a.kept, b.kept)) for a, b in zip(axes, smaller, strict=True)]
    return np.ascontiguousarray(array[(..., *np.ix_(*chosen))])


def storage_step(result: Result) -> float | None:
    """The smallest change the source can store; None for floating-point files."""
    source = result.record["source"]
    if not source["dtype"].startswith(("int", "uint")):
        return None
    return float(source.get("step") or 1.0)
