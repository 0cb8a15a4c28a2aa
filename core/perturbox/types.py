"""What flows through the project: a `Volume` is a scan or a label map on its own grid, in its own units; a `Case` is a
question about one scan; `Effort` counts what answering it cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from perturbox.errors import InputError

__all__ = ["ADVERSARIAL_NOTICE", "Case", "Effort", "Geometry", "InputError", "Undefined", "Volume", "points"]

Geometry = Literal["patient", "spacing", "none"]

FINEST = 1e-30  # stands for no step at all
ADVERSARIAL_NOTICE = "ADVERSARIAL - NOT FOR CLINICAL USE"


def points(dims: int) -> str:
    """What the points of a grid of so many axes are called: "voxels", of a flat one "pixels"."""
    return "pixels" if dims == 2 else "voxels"


@dataclass(frozen=True, eq=False)
class Volume:
    """A scan or label map on its own grid.

    data: "c *s" float32 (float64 where storage needs it) in `unit`, spatial axes in the file's order (i, j, k).
    affine: 4x4, ijk -> RAS, millimetres; a 2D image has the identity in its third axis.
    unit: "HU" for CT, "intensity" otherwise, "label" for label maps.
    dtype, slope, intercept: how a file stores it: data = slope * stored + intercept.
    format: the file's suffix (".nii.gz", ".nrrd", ".png", "dicom", ...); header: what a writer needs to keep of it.
    geometry: how much of the affine the file states: "patient" all of it, "spacing" only how far voxels are apart,
    "none" of a picture, whose pixels have no size: the affine then only numbers them. notes: sentences about the rule
    by which it was read, where there is a choice.
    files: of a scan whose channels are files of their own, how each is stored: volumes without values; dtype, slope,
    intercept, format and header above are then the first's. ones: of a scan whose channels are told in a unit of each
    (its noise, percent of its range), what 1 of that is in the files' own unit; empty: in that unit.
    """

    data: np.ndarray
    affine: np.ndarray = field(default_factory=lambda: np.eye(4))
    unit: str = "HU"
    dtype: np.dtype = field(default_factory=lambda: np.dtype(np.int16))
    slope: float = 1.0
    intercept: float = 0.0
    format: str = ".nii.gz"
    header: Mapping[str, object] = field(default_factory=dict)
    geometry: Geometry = "patient"
    notes: tuple[str, ...] = ()
    files: tuple["Volume", ...] = ()
    ones: tuple[float, ...] = ()

    @property
    def in_mm(self) -> bool:
        """Whether distances between voxels are in millimetres; otherwise they are counted in pixels."""
        return self.geometry != "none"

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape, without channels."""
        return self.data.shape[1:]

    @property
    def dims(self) -> int:
        return self.data.ndim - 1

    @property
    def spacing(self) -> tuple[float, ...]:
        """Distance between voxel centres along each spatial axis, mm."""
        return tuple(float(s) for s in np.linalg.norm(self.affine[:3, :3], axis=0)[: self.dims])

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres (2D: area in square centimetres)."""
        i, j, k = self.affine[:3, :3].T
        if self.dims == 2:
            return float(np.linalg.norm(np.cross(i, j))) / 100.0
        return abs(float(np.cross(i, j) @ k)) / 1000.0

    @property
    def sizes(self) -> str:
        """What sizes on this grid are told in: "ml", of a flat image "cm²", of a photograph "pixels"."""
        if not self.in_mm:
            return "pixels"
        return "ml" if self.dims == 3 else "cm²"

    @property
    def points(self) -> str:
        """What the points of this grid are called."""
        return points(self.dims)

    @property
    def voxel_size(self) -> float:
        """Of one voxel, in `sizes`."""
        return 1.0 if self.sizes == "pixels" else self.voxel_ml

    @property
    def ruler(self) -> tuple[float, ...]:
        """What one step along each spatial axis counts in a distance: `spacing` in mm, of a photograph one pixel."""
        return (1.0,) * self.dims if self.sizes == "pixels" else self.spacing

    @property
    def step(self) -> float | None:
        """The smallest change the file can store, in `unit`; None for floating-point storage. Of several files the
        coarsest."""
        if self.files:
            return max((file.step for file in self.files if file.step is not None), default=None)
        return abs(float(self.slope)) if np.issubdtype(self.dtype, np.integer) else None

    @property
    def steps(self) -> float | np.ndarray | None:
        """`step`, or where the channels' files differ in it that of each, "c 1 …", FINEST for floating-point."""
        each = {file.step for file in self.files}
        if len(each) < 2:
            return self.step
        return self.by_channel([file.step or FINEST for file in self.files])

    def by_channel(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        """One number per channel, as it goes with `data`."""
        return np.asarray(values, np.float64).reshape(-1, *[1] * self.dims)

    def split(self) -> tuple["Volume", ...]:
        """Each channel as the volume its file holds; the scan itself where it is one file."""
        if not self.files:
            return (self,)
        parts = zip(self.files, np.split(self.data, len(self.files)), strict=True)
        return tuple(replace(file, data=data, affine=self.affine) for file, data in parts)

    def in_units(self, ones: Sequence[float], unit: str) -> "Volume":
        """The same scan with each channel told in a unit of its own, of which 1 is ones[c] here; itself without ones.
        What it would store stays the same."""
        if not ones:
            return self
        files = self.files or (replace(self, data=self.data[:0]),) * len(self.data)
        pairs = zip(files, ones, strict=True)
        files = tuple(replace(f, slope=f.slope / one, intercept=f.intercept / one) for f, one in pairs)
        told = replace(self, data=self._over(ones), unit=unit, files=files, ones=tuple(ones))
        # Voxels that don't change must not seem to, so they lie on the file's steps from the start.
        return told.with_data(told.as_saved(told.data))

    def _over(self, ones: Sequence[float]) -> np.ndarray:
        return (self.data / self.by_channel(ones)).astype(self.data.dtype)

    @property
    def native(self) -> np.ndarray:
        """`data` in the files' own unit."""
        return (self.data * self.by_channel(self.ones)).astype(self.data.dtype) if self.ones else self.data

    def stored(self) -> np.ndarray:
        """The numbers a file holds: `data` mapped back through slope and intercept, rounded for integer storage."""
        values = (self.data.astype(np.float64) - self.intercept) / self.slope
        if np.issubdtype(self.dtype, np.integer):
            limits = np.iinfo(self.dtype)
            values = np.clip(np.rint(values), limits.min, limits.max)
        return values.astype(self.dtype)

    def resaved(self) -> np.ndarray:
        """`data` as its files would give it back, float64."""
        if self.files:
            return np.concatenate([part.resaved() for part in self.split()])
        return self.stored() * np.float64(self.slope) + self.intercept

    def refiled(self, data: np.ndarray, **changes) -> "Volume":
        """The same grid and storage with what the files would give back of other values."""
        other = self.with_data(data, **changes)
        return other.with_data(other.resaved().astype(self.data.dtype))

    def with_data(self, data: np.ndarray, **changes) -> "Volume":
        """The same grid and storage with other values."""
        return replace(self, data=data, **changes)

    def as_saved(self, data: np.ndarray) -> np.ndarray:
        """What a file of this storage gives back of float32 values "c *s", in `data`'s type: unchanged voxels bit for
        bit, changed ones on its steps."""
        if self.files:
            pairs = zip(self.split(), np.split(data, len(self.files)), strict=True)
            return np.concatenate([part.as_saved(values) for part, values in pairs])
        if self.data.dtype != np.float32:
            # What float32 can't hold of the source must not look like a change.
            data = self.data + (data - self.data.astype(np.float32))
        if self.step is None:
            return data
        stored = self.with_data(data).stored().astype(np.float64)
        return (self.slope * stored + self.intercept).astype(self.data.dtype)

    def same_grid(self, other: "Volume", tolerance_mm: float = 1e-3) -> bool:
        """Whether both lie on the same voxels: equal shape, and corners closer than `tolerance_mm`, as far as both
        state where they are."""
        if self.shape != other.shape:
            return False
        if "none" in (self.geometry, other.geometry):
            return True
        if "spacing" in (self.geometry, other.geometry):
            return bool(np.allclose(self.spacing, other.spacing, rtol=1e-3))
        ends = [(0, n - 1) for n in self.shape] + [(0, 0)] * (3 - self.dims)
        corners = np.array(np.meshgrid(*ends, indexing="ij")).reshape(3, -1)
        corners = np.vstack([corners, np.ones(corners.shape[1])])
        return bool(np.abs((self.affine - other.affine) @ corners).max() < tolerance_mm)


@dataclass(frozen=True, eq=False)
class Case:
    """One question about one scan.

    label: reference label map in the victim's values on the scan's grid; None: the clean prediction is the reference.
    roi: bool "*s"; only these voxels may change.
    """

    image: Volume
    label: np.ndarray | None = None
    roi: np.ndarray | None = None


@dataclass(frozen=True)
class Undefined:
    """Scores of one prediction that are no finite numbers: how many, in how many of its windows."""

    kind: str
    scores: int
    of_scores: int
    windows: int
    of_windows: int

    def __str__(self) -> str:
        windows = f"{self.windows} of {self.of_windows} window{'s' * (self.of_windows != 1)}"
        return f"{self.kind} at {self.scores:,} of {self.of_scores:,} scores, in {windows}"


@dataclass
class Effort:
    """What a computation cost; counters add up over calls.

    forwards, backwards: whole-volume equivalents (windows computed / windows of the volume). model_calls: calls of the
    network. windows, windows_kept, windows_skipped: windows seen in backward passes, of those whose graph was kept from
    the forward pass, and of those without upstream gradient. saved_bytes: most bytes autograd graphs held at once.
    undefined: what of the latest prediction isn't finite, None where all is.
    """

    forwards: float = 0.0
    backwards: float = 0.0
    model_calls: int = 0
    windows: int = 0
    windows_kept: int = 0
    windows_skipped: int = 0
    saved_bytes: int = 0
    notes: list[str] = field(default_factory=list)
    undefined: Undefined | None = None

    def add(self, other: "Effort") -> None:
        """Count what another computation cost as part of this one."""
        for name in ("forwards", "backwards", "model_calls", "windows", "windows_kept", "windows_skipped"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.saved_bytes = max(self.saved_bytes, other.saved_bytes)
        self.notes += [note for note in other.notes if note not in self.notes]
