"""Everything the page shows, worked out once from a result folder."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from perturbox.judge.columns import summarise
from perturbox.judge.flow import flow
from perturbox.judge.summary import lead
from perturbox.report import display
from perturbox.report.findings import Finding, Slices, changed_slices, count_slices, judge
from perturbox.report.load import Result
from perturbox.report.words import Units

BETTER = 1.5  # times as much of a structure must have moved in a slice of another plane to open with that plane


@dataclass(frozen=True)
class Plane:
    """Slices of one orientation. axis: its display axis (0 axial, 1 coronal, 2 sagittal); slices, changed: over the
    file's voxels along it; changed_of: "slice structure"."""

    axis: int
    name: str
    slices: Slices
    changed: np.ndarray
    changed_of: np.ndarray


@dataclass(frozen=True)
class Story:
    """A result and what follows from it. subject: what the headline is about, which the first picture shows."""

    result: Result
    units: Units
    voxel: float
    planes: tuple[Plane, ...]
    findings: list[Finding]
    subject: Finding | None
    copy: display.Copy
    streams: dict[str, bytes]

    @property
    def lead(self) -> Plane:
        """The plane that figures are told in: axial, of a 2D image its own."""
        return self.planes[0]

    @property
    def opening(self) -> Plane:
        return best_plane(self.planes, self.subject, self.copy.axes)

    @property
    def present(self) -> list[Finding]:
        return [f for f in self.findings if f.reason != "absent"]


def tell(result: Result) -> Story:
    """Read the folder's volumes, count, judge and make the display copy."""
    counted, clean, adversarial = _count(result)
    planes, axes = counted["planes"], display.anatomical_axes(counted["result"])
    along = display.slice_axis(axes)
    across = next((p for p in planes if p.axis == along), planes[0])
    always = np.unique([int(across.slices.differ.argmax()), *across.slices.moved.argmax(axis=0).tolist()])
    copy, streams = display.make_copy(counted["result"], clean, adversarial, across.changed, always)
    name = lead(counted["result"].record)
    return Story(**counted, subject=_named(counted["findings"], name), copy=copy, streams=streams)


def glimpse(result: Result, name: str) -> Story:
    """A story of one structure, whose copy holds its worst slice alone, in the plane that shows it best."""
    counted, clean, adversarial = _count(result)
    subject, axes = _named(counted["findings"], name), display.anatomical_axes(counted["result"])
    plane = best_plane(counted["planes"], subject, axes)
    moved = plane.slices.differ if subject is None else plane.slices.moved[:, subject.number - 1]
    axes = list(display.crop(axes, (clean > 0) | (adversarial > 0)))
    axes[plane.axis] = axes[plane.axis].keeping(np.array([int(moved.argmax())]))
    copy = display.copy_of(counted["result"], (axes[0], axes[1], axes[2]), clean, adversarial)
    return Story(**counted, subject=subject, copy=copy, streams={})


def best_plane(planes: tuple[Plane, ...], subject: Finding | None, axes: display.Axes) -> Plane:
    """The plane whose worst slice shows most of what became of the subject; another than the first only if clearly
    more."""
    if subject is None:
        return planes[0]
    area = [p.slices.moved[:, subject.number - 1].max() / axes[p.axis].spacing for p in planes]
    best = int(np.argmax(area))
    return planes[best] if area[best] > BETTER * area[0] else planes[0]


def _named(findings: list[Finding], name: str | None) -> Finding | None:
    return next((f for f in findings if f.name == name), None)


def _count(result: Result) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """What slices and structures say, as the fields of a story, and both label maps "i j k"."""
    clean, adversarial = result.labels("clean_seg"), result.labels("adversarial_seg")
    axes = display.anatomical_axes(result)
    units = Units.of(result.record)
    voxel = voxel_size(result, axes)
    if result.record["flow"] is None:  # a folder of the first schema
        labels = {name: number for number, name in enumerate(result.structures, start=1)}
        record = {**result.record, "flow": flow(clean, adversarial, labels, voxel)}
        result = replace(result, record={**record, "summary": summarise(record)})
    box = _box((clean > 0) | (adversarial > 0))
    planes = []
    for a in plane_order(result, axes):
        file, length = axes[a].file, axes[a].length
        slices = _widened(count_slices(clean[box], adversarial[box], len(result.structures), file), box[file], length)
        planes.append(Plane(a, plane_name(axes, a), slices, *changed_slices(slices, voxel)))
    findings = judge(result, [(plane.name, plane.slices) for plane in planes], voxel)
    counted = {"result": result, "units": units, "voxel": voxel, "planes": tuple(planes), "findings": findings}
    return counted, clean, adversarial


def voxel_size(result: Result, axes: display.Axes) -> float:
    """What one voxel counts in the result's sizes: ml, cm², or 1 pixel."""
    if result.record["source"]["sizes"] == "pixels":
        return 1.0
    spacing = [axis.spacing for axis in axes if not (result.flat and axis.length == 1)]
    return float(np.prod(spacing)) / (100.0 if result.flat else 1000.0)


def plane_name(axes: display.Axes, axis: int) -> str:
    return display.PLANES[axis] if axes[axis].ends[0] else "image"


def plane_order(result: Result, axes: display.Axes) -> list[int]:
    """Axial, coronal, sagittal; of a 2D image the one plane it is."""
    single = [a for a in range(3) if axes[a].length == 1]
    return single[:1] if result.flat and single else [0, 1, 2]


def _box(mask: np.ndarray) -> tuple[slice, slice, slice]:
    ranges = []
    for axis in range(3):
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        ranges.append(slice(int(hit[0]), int(hit[-1]) + 1) if hit.size else slice(0, 1))
    return ranges[0], ranges[1], ranges[2]


def _widened(slices: Slices, box: slice, length: int) -> Slices:
    """Counts of a box as counts of the whole axis: nothing lies outside."""

    def widen(counts: np.ndarray) -> np.ndarray:
        whole = np.zeros((length, *counts.shape[1:]), counts.dtype)
        whole[box] = counts
        return whole

    return Slices(widen(slices.before), widen(slices.after), widen(slices.shared), widen(slices.differ))
