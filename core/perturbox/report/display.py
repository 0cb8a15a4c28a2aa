"""The display copy: what of a scan travels inside the page, and how it lies in the body.

Axes are those of the file, ordered and flipped to the closest anatomical ones: z from feet to head, y from front
to back, x from the patient's right to left. The copy keeps true voxels, cropped to the structures + 20 mm, never
averages: a read-out is always a stored value, to the last bit. Slices keep every row and column; where the page would
grow too large, unchanged slices go first, then all but every n-th changed one, the most changed of each structure
never. What is left out stands in the full-size edition (`edition`).
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from scipy import ndimage

from perturbox.io.formats import PHOTOGRAPHS
from perturbox.report.encode import pack_bytes, pack_floats, pack_int16
from perturbox.report.load import Result

MARGIN_MM = 20.0
TARGET_BYTES = 13_000_000  # of base64 text
SAMPLE_SLICES = 12  # of which the size of all is estimated
PLANES = ("axial", "coronal", "sagittal")
STREAMS = ("before", "after", "clean", "adversarial", "influence")  # the last only of attacks that took a gradient
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
    return axes_of(result.shape, result.affine, result.flat and result.record["source"]["format"] in PHOTOGRAPHS)


def axes_of(shape: tuple[int, int, int], affine: np.ndarray, photograph: bool) -> Axes:
    """The same of any grid; a 2D image has one voxel along its third axis."""
    spacing = [float(s) for s in np.linalg.norm(affine[:3, :3], axis=0)]
    if photograph:
        follows, flips, ends = [2, 1, 0], [False] * 3, [("", "")] * 3
    else:
        orientation = nib.orientations.io_orientation(affine)  # file axis -> (RAS axis, sign)
        follows = [int(np.flatnonzero(orientation[:, 0] == ras)[0]) for ras in (2, 1, 0)]
        wanted = (1, -1, -1)  # towards superior, posterior, left
        flips = [orientation[f, 1] != sign for f, sign in zip(follows, wanted, strict=True)]
        ends = list(ENDS)
    axes = []
    for f, flip, letters in zip(follows, flips, ends, strict=True):
        axis = Axis(f, np.arange(0), bool(flip), shape[f], spacing[f], letters)
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
    """Both scans "c z y x", one channel or three of a colour picture, and label maps "z y x", voxel by voxel as saved.

    scale: codes are int16, and values float32 of code * scale + offset; None: codes are the values, float32 or float64.
    influence: "z y x", see `as_roots`; None where the attack took no gradient.
    """

    axes: Axes
    before: np.ndarray
    after: np.ndarray
    scale: float | None
    offset: float
    clean: np.ndarray
    adversarial: np.ndarray
    influence: np.ndarray | None

    @property
    def arrays(self) -> list[np.ndarray]:
        known = (self.before, self.after, self.clean, self.adversarial, self.influence)
        return [array for array in known if array is not None]

    def values(self, codes: np.ndarray) -> np.ndarray:
        """Values in the scan's unit of some of its codes."""
        return codes if self.scale is None else (codes * self.scale + self.offset).astype(np.float32)

    def keeping(self, axes: Axes) -> "Copy":
        """A selection of it."""
        return self._of(axes, [_again(array, self.axes, axes) for array in self.arrays])

    def _of(self, axes: Axes, arrays: list[np.ndarray]) -> "Copy":
        before, after, clean, adversarial, *rest = arrays
        return Copy(axes, before, after, self.scale, self.offset, clean, adversarial, rest[0] if rest else None)

    def cut(self, axis: int, position: int) -> dict[str, bytes]:
        """The packed streams of one slice, scans "c rows columns" and labels "rows columns" in display order."""
        arrays = [np.take(array, position, array.ndim - 3 + axis) for array in self.arrays]
        return self._of(self.axes, arrays).streams()

    def streams(self, parts: Collection[str] = STREAMS) -> dict[str, bytes]:
        """Those of its parts, packed."""
        scan = pack_floats if self.scale is None else pack_int16
        pack = {"before": scan, "after": lambda after: scan(after, self.before)}
        held = zip(STREAMS, self.arrays, strict=False)
        return {part: pack.get(part, pack_bytes)(array) for part, array in held if part in parts}


def whole_copy(result: Result, clean: np.ndarray, adversarial: np.ndarray) -> Copy:
    """Everything within the crop; clean, adversarial: "i j k" renumbered labels."""
    return copy_within(result, crop(anatomical_axes(result), (clean > 0) | (adversarial > 0)), clean, adversarial)


def copy_within(result: Result, axes: Axes, clean: np.ndarray, adversarial: np.ndarray) -> Copy:
    """The kept voxels of `axes`; clean, adversarial: "i j k" renumbered labels."""
    change = pick(result.change(), axes)
    after = pick(result.perturbed(), axes)
    before = np.empty_like(after)
    for z in range(after.shape[1]):  # a clinical scan in float64 is large
        before[:, z] = after[:, z].astype(np.float64) - change[:, z]
    del change
    coded = as_int16(before, after, storage_step(result))
    before, after, scale, offset = coded or (before, after, None, 0.0)
    influence = result.influence()
    steps = None if influence is None else as_roots(pick(influence, axes))
    return Copy(axes, before, after, scale, offset, pick(clean, axes), pick(adversarial, axes), steps)


def as_roots(influence: np.ndarray) -> np.ndarray:
    """int8 of an influence, which spans many orders: ±127 is the largest, ±1 a sixteen-thousandth of it."""
    most = float(np.abs(influence).max(initial=0)) or 1.0
    return (np.sign(influence) * np.rint(127 * np.sqrt(np.abs(influence) / most))).astype(np.int8)


def clearly(influence: np.ndarray, axes: Axes) -> float:
    """What the colours of an influence map end at, as a share of the largest: the 99.9th percentile of its mean over
    5 mm in the scan's slices, where there is any."""
    along = slice_axis(axes)
    reach = [1 if a == along else 2 * round(2.5 / axes[a].spacing) + 1 for a in range(3)]
    values = np.square(influence / 127.0, dtype=np.float32) * np.sign(influence)
    near = np.abs(ndimage.uniform_filter(values, reach, mode="nearest"))  # type: ignore[arg-type]
    return float(np.percentile(near[near > 0], 99.9)) if near.any() else 1.0


def as_int16(
    before: np.ndarray, after: np.ndarray, step: float | None
) -> tuple[np.ndarray, np.ndarray, float, float] | None:
    """Codes of both, scale and offset, where 65,536 steps hold each value exactly, as those of most files do."""
    low, high = (float(end) for end in (min(before.min(), after.min()), max(before.max(), after.max())))
    for scale in dict.fromkeys((1.0, step or 1.0)):
        offset = 0.0 if low >= -32768 * scale and high <= 32767 * scale else low + 32768 * scale
        if high - offset > 32767 * scale:
            continue
        pair = [_codes(values, scale, offset) for values in (before, after)]
        if pair[0] is not None and pair[1] is not None:
            return pair[0], pair[1], scale, offset
    return None


def _codes(values: np.ndarray, scale: float, offset: float) -> np.ndarray | None:
    """int16 codes of "c z y x" that give the values back exactly, else None."""
    codes = np.empty(values.shape, np.int16)
    for z in range(values.shape[1]):
        codes[:, z] = np.rint((values[:, z].astype(np.float64) - offset) / scale)
        if not np.array_equal((codes[:, z] * scale + offset).astype(np.float32), values[:, z]):
            return None
    return codes


def page_copy(whole: Copy, changed: np.ndarray, always: np.ndarray, room: float) -> tuple[Copy, dict[str, bytes]]:
    """What of it travels in `room` bytes of base64 text, with its packed streams.

    changed, always: along the slice axis, see `thin`.
    """
    axes, streams = fit(whole.axes, changed, always, room, lambda some: whole.keeping(some).streams())
    return whole.keeping(axes), streams


def fit(
    axes: Axes, changed: np.ndarray, always: np.ndarray, room: float, pack: Callable[[Axes], dict[str, bytes]]
) -> tuple[Axes, dict[str, bytes]]:
    """The slices that fit into `room`, and their streams as `pack` makes them; the rest as of `page_copy`."""
    along = slice_axis(axes)
    count = axes[along].kept.size
    if count > 4 * SAMPLE_SLICES:
        some = axes[along].keeping(axes[along].kept[_spread(count, SAMPLE_SLICES)])
        z, y, x = (some if a == along else axes[a] for a in range(3))
        most = int(SAMPLE_SLICES * room / weight(pack((z, y, x))))
        axes = thin(axes, changed, always, most) if most < count else axes
    while True:
        streams = pack(axes)
        size, count = weight(streams), axes[along].kept.size
        if size <= room:
            return axes, streams
        share = room / size * 0.97
        smaller = thin(axes, changed, always, int(count * share))
        axes = coarser(axes, share) if smaller[along].kept.size == count else smaller


def coarse(copy: Copy, whole: Copy) -> bool:
    """Whether slices themselves had to be thinned."""
    along = slice_axis(whole.axes)
    return any(copy.axes[a].kept.size < whole.axes[a].kept.size for a in range(3) if a != along)


def weight(streams: dict[str, bytes]) -> float:
    """Bytes in the page, as base64 text."""
    return sum(len(stream) for stream in streams.values()) * 4 / 3


def _again(array: np.ndarray, axes: Axes, smaller: Axes) -> np.ndarray:
    """A selection of a selection."""
    chosen = [np.flatnonzero(np.isin(a.kept, b.kept)) for a, b in zip(axes, smaller, strict=True)]
    return np.ascontiguousarray(array[(..., *np.ix_(*chosen))])


def storage_step(result: Result) -> float | None:
    """The smallest change the file can store; None for floating-point files."""
    return result.shown.get("step")
