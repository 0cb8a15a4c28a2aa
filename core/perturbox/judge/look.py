"""Where a result shows best: the slice that report and Slicer open with."""

from collections.abc import Mapping, Sequence
from typing import Any

from perturbox.judge.summary import lead

BETTER = 1.5  # times as much of a structure must have moved in a slice across another axis than the scan's own


def look(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """{structure, axis, index} of a result.json: the slice, across which of the file's axes, in which most became of
    what the headline is about; None of a 2D image and where the record holds no slices of it."""
    name = lead(record)
    rows = [row for row in record.get("slices") or () if row["structure"] == name]
    if not rows:
        return None
    moved = [[0] * length for length in record["source"]["shape"]]
    for row in rows:
        moved[row["axis"]][row["index"]] = row["lost"] + row["gained"]
    axis, index = most(moved, record["source"]["spacing_mm"])
    return {"structure": name, "axis": axis, "index": index}


def most(moved: Sequence[Any], spacing: Sequence[float]) -> tuple[int, int]:
    """(axis, index) of the slice of which the largest area moved; moved: voxels per slice, along each of the file's
    axes. The axis along which the scan's own slices lie, furthest apart, unless another shows clearly more."""
    area = [float(max(counts, default=0)) / apart for counts, apart in zip(moved, spacing, strict=True)]
    own = max(range(len(area)), key=lambda axis: (round(float(spacing[axis]), 3), axis))
    best = area.index(max(area))
    axis = best if area[best] > BETTER * area[own] else own
    counts = [int(count) for count in moved[axis]]
    return axis, counts.index(max(counts))
