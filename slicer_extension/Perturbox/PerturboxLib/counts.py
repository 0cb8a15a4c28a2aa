"""Voxels per slice of two label maps: what every table, chart and jump is made of. Needs numpy only."""

from dataclasses import dataclass

import numpy as np

CHANGED_ML, CHANGED_SHARE, LOCAL_AREA = 0.5, 0.02, 0.10


@dataclass(frozen=True, eq=False)
class Counts:
    """Voxels of each slice along one ijk axis; before, after, shared: "slice structure", in both maps for `shared`.

    differ: "slice", voxels whose label changed at all; one that went from one structure to another counts once.
    """

    before: np.ndarray
    after: np.ndarray
    shared: np.ndarray
    differ: np.ndarray

    @property
    def lost(self) -> np.ndarray:
        return self.before - self.shared

    @property
    def gained(self) -> np.ndarray:
        return self.after - self.shared

    @property
    def moved(self) -> np.ndarray:
        return self.lost + self.gained

    @property
    def dice(self) -> np.ndarray:
        """NaN where the structure is in neither map: no value, not 1."""
        total = self.before + self.after
        return np.where(total > 0, 2 * self.shared / np.maximum(total, 1), np.nan)

    def failed(self, column: int, voxelMl: float, below: float = 0.8) -> np.ndarray:
        """Slices in which a structure fails: Dice below 0.8, of at least a tenth of its largest area, over 0.5 ml."""
        before, after = self.before[:, column], self.after[:, column]
        large = np.maximum(before, after) >= LOCAL_AREA * max(int(before.max(initial=0)), 1)
        differs = self.moved[:, column] * voxelMl > CHANGED_ML
        return large & differs & (np.nan_to_num(self.dice[:, column], nan=1.0) < below)

    def packed(self) -> dict:
        """The same as plain lists for JSON: per structure from the first to the last slice that holds it."""
        columns = []
        for column in range(self.before.shape[1]):
            held = np.flatnonzero(self.before[:, column] + self.after[:, column])
            part = slice(int(held[0]), int(held[-1]) + 1) if held.size else slice(0, 0)
            numbers = [array[part, column].tolist() for array in (self.before, self.after, self.shared)]
            columns.append([part.start, *numbers])
        return {"differ": self.differ.tolist(), "structures": columns}

    @classmethod
    def unpacked(cls, packed: dict) -> "Counts":
        arrays = [np.zeros((len(packed["differ"]), len(packed["structures"])), np.int64) for _ in range(3)]
        for column, (first, *numbers) in enumerate(packed["structures"]):
            for array, values in zip(arrays, numbers, strict=True):
                array[first : first + len(values), column] = values
        return cls(*arrays, np.array(packed["differ"], np.int64))


def numbered(array: np.ndarray, labels: dict[str, int]) -> np.ndarray:
    """A label map with its structures renumbered 1, 2, … in the order of `labels`; everything else 0."""
    values = [value for value in labels.values() if value]
    known = np.zeros(max([*values, int(array.max(initial=0))]) + 1, np.uint8 if len(values) < 256 else np.uint16)
    known[values] = np.arange(1, len(values) + 1)
    return known[array]


def countSlices(before: np.ndarray, after: np.ndarray, structures: int, ijkAxis: int) -> Counts:
    """Counts along an ijk axis of two numbered label maps "k j i"."""
    axis, size = 2 - ijkAxis, structures + 1
    length = before.shape[axis]
    joint = np.zeros((length, size, size), np.int64)
    busy = tuple(a for a in range(3) if a != axis)
    for index in np.flatnonzero((before.any(axis=busy)) | (after.any(axis=busy))):
        at = (*[slice(None)] * axis, index)
        pairs = before[at].astype(np.int64) * size + after[at]
        joint[index] = np.bincount(pairs.ravel(), minlength=size * size).reshape(size, size)
    same = np.diagonal(joint, axis1=1, axis2=2)
    return Counts(joint.sum(2)[:, 1:], joint.sum(1)[:, 1:], same[:, 1:], joint.sum((1, 2)) - same.sum(1))


def countsFromRecord(record: dict, ijkAxis: int) -> Counts:
    """The counts as far as result.json knows them.

    It doesn't hold the size of an unchanged slice, taken as the mean here, nor whether what one structure lost another
    gained: `differ` then counts such a voxel once for each.
    """
    names = [name for name, value in record["victim"]["labels"].items() if value]
    length = record["source"]["shape"][ijkAxis]
    before, after, shared = (np.zeros((length, len(names)), np.int64) for _ in range(3))
    quiet: dict[int, list[int]] = {}
    for row in record["slices"]:
        if row["axis"] != ijkAxis or row["structure"] not in names:
            continue
        column, index, lost, gained = names.index(row["structure"]), row["index"], row["lost"], row["gained"]
        if lost + gained == 0:
            quiet.setdefault(column, []).append(index)
            continue
        both = round(row["dice"] * (lost + gained) / (2 * (1 - row["dice"])))
        before[index, column], after[index, column], shared[index, column] = both + lost, both + gained, both
    voxel = float(np.prod(record["source"]["spacing_mm"])) / 1000
    for column, indices in quiet.items():
        whole = record["metrics"]["clean"][names[column]]["volume_ml"] / voxel - before[:, column].sum()
        for array in (before, after, shared):
            array[indices, column] = max(round(whole / len(indices)), 1)
    return Counts(before, after, shared, (before + after - 2 * shared).sum(1))
