"""Everything the page shows, worked out once from a result folder."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from perturbox.judge.columns import summarise
from perturbox.judge.flow import flow
from perturbox.judge.look import most
from perturbox.judge.summary import lead
from perturbox.report import display
from perturbox.report.findings import Finding, Slices, changed_slices, count_slices, judge
from perturbox.report.load import Result
from perturbox.report.words import Units


@dataclass(frozen=True)
class Plane:
    """Slices of one orientation. axis: its display axis (0 axial, 1 coronal, 2 sagittal); slices, changed: over the
    file's voxels along it; changed_of: "slice structure"."""

    axis: int
    name: str
    slices: Slices
    changed: np.ndarray
    changed_of: np.ndarray

    def moved(self, number: int) -> np.ndarray:
        """Voxels per slice that differ; number: of a structure, what it lost and gained, 0 of any label."""
        return self.slices.moved[:, number - 1] if number else self.slices.differ

    def worst(self, number: int, kept: np.ndarray) -> int:
        """Where in `kept` most differs: the one slice that tiles, pictures and viewer mean. Where nothing does, where
        most of the structure is: no jump may land on an empty slice."""
        moved = self.moved(number)[kept]
        if not number:
            return int(moved.argmax())
        area = (self.slices.before + self.slices.after)[kept, number - 1]
        return int((moved * (area.max(initial=0) + 1.0) + area).argmax())


@dataclass(frozen=True)
class Story:
    """A result and what follows from it.

    subject: what the headline is about, which the first picture shows. whole: all of it within the crop; copy, streams:
    what travels inside the page; beside: slices across it that it left out, {(axis, position in `whole`): streams}.
    edition: whether the slices that changed stand beside the page.
    """

    result: Result
    units: Units
    voxel: float
    planes: tuple[Plane, ...]
    findings: list[Finding]
    subject: Finding | None
    whole: display.Copy
    copy: display.Copy
    streams: dict[str, bytes]
    beside: dict[tuple[int, int], dict[str, bytes]]
    edition: bool

    @property
    def opening(self) -> Plane:
        """The plane that shows best what became of the subject, as the record says, or else the label maps: viewer,
        tiles and pictures begin with it."""
        told = self.result.record["summary"].get("look")
        if self.subject is not None and isinstance(told, dict) and told.get("structure") == self.subject.name:
            for plane in self.planes:
                if self.whole.axes[plane.axis].file == told.get("axis"):
                    return plane
        return best_plane(self.planes, self.subject, self.whole.axes)

    @property
    def axes(self) -> display.Axes:
        """Where slices may stand: everywhere within the crop, unless all there is of them is a coarser picture."""
        return self.copy.axes if display.coarse(self.copy, self.whole) and not self.edition else self.whole.axes

    @property
    def pictured(self) -> display.Copy:
        """What its pictures are drawn from."""
        return self.copy if display.coarse(self.copy, self.whole) else self.whole

    @property
    def stops(self) -> list[np.ndarray]:
        """Along each of `axes`, the positions of slices that can be shown: the page's own and those of the edition."""
        stops = [np.flatnonzero(np.isin(a.kept, b.kept)) for a, b in zip(self.axes, self.copy.axes, strict=True)]
        if self.edition:
            for p in self.planes:
                stops[p.axis] = np.union1d(stops[p.axis], np.flatnonzero(p.slices.differ[self.axes[p.axis].kept]))
        return stops

    @property
    def present(self) -> list[Finding]:
        return [f for f in self.findings if f.reason != "absent"]


def tell(result: Result, edition: bool = False) -> Story:
    """Read the folder's volumes, count, judge and make the display copy; edition: whether there is to be one, if it
    holds anything that the page doesn't."""
    counted, clean, adversarial = _count(result)
    planes, axes, findings = counted["planes"], display.anatomical_axes(counted["result"]), counted["findings"]
    along = display.slice_axis(axes)
    across = next((p for p in planes if p.axis == along), planes[0])
    always = np.unique([int(across.slices.differ.argmax()), *across.slices.moved.argmax(axis=0).tolist()])
    whole = display.whole_copy(counted["result"], clean, adversarial)
    copy, streams = display.page_copy(whole, across.changed, always, display.TARGET_BYTES)
    beside = {}
    if copy.clean.size < whole.clean.size and len(planes) > 1:
        beside = _worst_across(whole, [p for p in planes if p.axis != along], findings)
        room = display.TARGET_BYTES - sum(display.weight(s) for s in beside.values())
        copy, streams = display.page_copy(whole, across.changed, always, room)
        beside = {} if display.coarse(copy, whole) else beside
    edition = edition and copy.clean.size < whole.clean.size
    subject = _named(findings, lead(counted["result"].record))
    return Story(**counted, subject=subject, whole=whole, copy=copy, streams=streams, beside=beside, edition=edition)


def glimpse(result: Result, name: str) -> Story:
    """A story of one structure, whose copy holds its worst slice alone, in the plane that shows it best."""
    counted, clean, adversarial = _count(result)
    subject, axes = _named(counted["findings"], name), display.anatomical_axes(counted["result"])
    plane = best_plane(counted["planes"], subject, axes)
    moved = plane.moved(subject.number if subject else 0)
    whole = display.whole_copy(counted["result"], clean, adversarial)
    axes = list(whole.axes)
    axes[plane.axis] = axes[plane.axis].keeping(np.array([int(moved.argmax())]))
    copy = whole.keeping((axes[0], axes[1], axes[2]))
    return Story(**counted, subject=subject, whole=copy, copy=copy, streams={}, beside={}, edition=False)


def _worst_across(
    whole: display.Copy, planes: list[Plane], findings: list[Finding]
) -> dict[tuple[int, int], dict[str, bytes]]:
    """The slice of each structure that changed most, of planes that cut across the slices a page leaves out; as many as
    a third of the page holds, worst structures first."""
    found: dict[tuple[int, int], dict[str, bytes]] = {}
    room = display.TARGET_BYTES / 3
    for f in findings:
        for plane in planes:
            moved = plane.slices.moved[whole.axes[plane.axis].kept, f.number - 1]
            key = (plane.axis, int(moved.argmax()))
            if moved.any() and key not in found:
                streams = whole.cut(*key)
                room -= display.weight(streams)
                if room < 0:
                    return found
                found[key] = streams
    return found


def best_plane(planes: tuple[Plane, ...], subject: Finding | None, axes: display.Axes) -> Plane:
    """The plane whose worst slice shows most of what became of the subject, by `judge.look`."""
    if subject is None or len(planes) == 1:
        return planes[0]
    by_file = {axes[p.axis].file: p for p in planes}
    moved = [by_file[file].slices.moved[:, subject.number - 1] for file in range(3)]
    spacing = {axis.file: axis.spacing for axis in axes}
    return by_file[most(moved, [spacing[file] for file in range(3)])[0]]


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
