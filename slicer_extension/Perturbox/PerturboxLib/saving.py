"""A result on disk: a folder with all of it, its report, pictures of its slices. Nothing is overwritten."""

import csv
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util import numpy_support

from .navigation import caption
from .scene import Nodes
from .trouble import Trouble
from .volumes import NOTICE

VOLUMES = {"perturbed": "perturbed.nrrd", "perturbation": "perturbation.nrrd"}
SEGMENTATIONS = {role: f"{role}.seg.nrrd" for role in ("clean", "adversarial", "difference")}
TABLES = {"structures": "structures.csv", "slices": "slices.csv", "trace": "trace.csv"}
WORST = 5
GAP, FONT = 6, 16  # pixels


def saveFolder(resultNode, parent: str) -> str:
    """Write everything of a result into a new folder, named after it, in the folder `parent`; returns its path.

    Either the whole folder is written or nothing. Raises Trouble where it exists already or something of the result is
    gone, OSError where the disk refuses.
    """
    nodes = Nodes(resultNode)

    def write(folder: Path) -> None:
        for role, name in (VOLUMES | SEGMENTATIONS).items():
            node = getattr(nodes, role)
            if node is None:
                raise Trouble(
                    "gone",
                    _("The result has lost its {role}.").format(role=role),
                    _("Save what is left by Slicer's own means."),
                )
            _writeNode(node, folder / name)
        (folder / "result.json").write_text(nodes.recordText + "\n", encoding="utf-8")
        for kept in ("margin", "detection"):
            if nodes.node.GetParameter(kept):
                (folder / f"{kept}.json").write_text(nodes.node.GetParameter(kept) + "\n", encoding="utf-8")
        for role, name in TABLES.items():
            table = getattr(nodes, role)
            if table is not None:
                _writeTable(table, folder / name)
        if nodes.report:
            (folder / "report.html").write_text(nodes.report, encoding="utf-8")

    return _newFolder(Path(parent) / safeName(resultNode.GetName()), write)


def saveReport(resultNode, path: str, replace: bool = False) -> str:
    """Write the HTML report to a file and return its path. An existing file is refused, or (replace) overwritten unless
    it is one that the scene's volumes come from."""
    text = Nodes(resultNode).report
    if not text:
        raise Trouble("no-report", _("This result came without a report."), _("Run the attack again to get one."))
    target = Path(path)
    if not replace and target.exists():
        raise _exists(target)
    if target.exists() and any(os.path.samefile(target, source) for source in _sceneFiles()):
        raise Trouble(
            "source", _("'{name}' is a file of this scene.").format(name=target.name), _("Choose another name.")
        )
    draft = target.with_name(target.name + ".part")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, target)
    return str(target)


def saveSlices(resultNode, viewer, parent: str) -> str:
    """Write a PNG of every changed slice as the views show it, and a strip of the five worst with captions, into a new
    folder in `parent`; returns its path. The views come back to their slice."""
    result = _shown(resultNode, viewer)
    index = viewer.index()

    def write(folder: Path) -> None:
        digits = len(str(result.slices))
        for k in result.changed():
            writePng(slicePicture(viewer, k), folder / f"{result.plane}_{k + 1:0{digits}d}.png", caption(result, k))
        strip = teachingStrip(viewer, result)
        if strip is not None:
            writePng(strip, folder / "worst_slices.png", _("The slices that differ most"))

    if not result.changed():
        raise Trouble("no-change", _("No slice changed by more than 0.5 ml."), _("There is nothing to picture."))
    try:
        return _newFolder(Path(parent) / f"{safeName(resultNode.GetName())} slices", write)
    finally:
        viewer.jump(index)


def saveStrip(resultNode, viewer, path: str) -> str:
    """Write the five worst slices under one another with captions, for teaching; returns the path."""
    result, index = _shown(resultNode, viewer), viewer.index()
    target = Path(path)
    if target.exists():
        raise _exists(target)
    try:
        strip = teachingStrip(viewer, result)
    finally:
        viewer.jump(index)
    if strip is None:
        raise Trouble("no-change", _("Nothing differs in any slice."), _("There is nothing to picture."))
    writePng(strip, target, _("The slices that differ most"))
    return str(target)


# ---------------------------------------------------------------- pictures


def slicePicture(viewer, index: int) -> np.ndarray:
    """The slice views at a slice beside one another, uint8 "row column 3"."""
    viewer.jump(index)
    parts = [_array(picture) for picture in viewer.pictures().values()]
    height = max(part.shape[0] for part in parts)
    gap = np.full((height, GAP, 3), 64, np.uint8)
    row = []
    for part in parts:
        row += [np.pad(part, ((0, height - part.shape[0]), (0, 0), (0, 0))), gap]
    return np.concatenate(row[:-1], axis=1)


def teachingStrip(viewer, result) -> np.ndarray | None:
    """The worst slices, most changed first, each over its caption; None where nothing differs."""
    rows = []
    for place, index in enumerate(result.worstSlices(WORST), 1):
        picture = slicePicture(viewer, index)
        rows += [picture, textBar(f"{place}   {caption(result, index)}", picture.shape[1])]
    if not rows:
        return None
    rows.append(textBar(f"{result.verdict()}   {NOTICE}", rows[0].shape[1]))
    return np.concatenate(rows, axis=0)


def textBar(text: str, width: int) -> np.ndarray:
    """White text on black, broken into as many lines as it needs, uint8 "row width 3"."""
    lines, line = [], ""
    for word in text.split(" "):
        longer = f"{line} {word}".strip(" ")
        if line and _drawn(longer).shape[1] > width - 2 * GAP:
            lines.append(line)
            longer = word
        line = longer
    bars = []
    for drawn in (_drawn(each) for each in [*lines, line]):
        bar = np.zeros((max(FONT + 8, drawn.shape[0] + 6), width, 3), np.uint8)
        part = drawn[:, : width - GAP]
        bar[3 : 3 + part.shape[0], GAP : GAP + part.shape[1]] = part
        bars.append(bar)
    return np.concatenate(bars, axis=0)


def _drawn(text: str) -> np.ndarray:
    look = vtk.vtkTextProperty()
    look.SetFontFamilyToArial()
    look.SetFontSize(FONT)
    look.SetColor(1, 1, 1)
    image, size = vtk.vtkImageData(), [0, 0]
    vtk.vtkTextRenderer.GetInstance().RenderString(look, text, image, size, 72)
    pixels = _array(image)[-size[1] :, : size[0]]
    return np.rint(pixels[..., :3] * (pixels[..., 3:] / 255)).astype(np.uint8)


def _array(image) -> np.ndarray:
    """A vtkImageData as "row column channel", rows from the top; RGB pictures copied without alpha."""
    width, height, _ = image.GetDimensions()
    return numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, -1)[::-1].copy()


def writePng(picture: np.ndarray, path: Path, description: str) -> None:
    """Write a picture "row column 3" with the notice and a description in its text; raises OSError where it can't."""
    height, width = picture.shape[:2]
    image = vtk.vtkImageData()
    image.SetDimensions(width, height, 1)
    rows = np.ascontiguousarray(picture[::-1, :, :3]).reshape(-1, 3)
    image.GetPointData().SetScalars(numpy_support.numpy_to_vtk(rows, deep=True))
    writer = vtk.vtkPNGWriter()
    writer.SetInputData(image)
    writer.SetFileName(str(path))
    writer.AddText("Comment", NOTICE)
    writer.AddText("Description", description.encode("latin-1", "replace").decode("latin-1"))
    writer.Write()
    if writer.GetErrorCode() or not path.is_file():
        raise OSError(_("'{name}' could not be written").format(name=path.name))


# ---------------------------------------------------------------- how


def safeName(name: str) -> str:
    """A name that every file system takes."""
    return re.sub(r"[^\w.()+-]+", "_", name).strip("._") or "result"


def _newFolder(folder: Path, write: Callable[[Path], None]) -> str:
    """Make a folder whole or not at all."""
    if folder.exists():
        raise _exists(folder)
    draft = Path(tempfile.mkdtemp(prefix=".perturbox-", dir=folder.parent))
    try:
        write(draft)
        draft.chmod(0o755)
        if folder.exists():
            raise _exists(folder)
        draft.rename(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return str(folder)


def _exists(path: Path) -> Trouble:
    return Trouble(
        "exists",
        _("'{name}' exists already.").format(name=path.name),
        _("Choose another place; nothing was overwritten."),
    )


def _writeNode(node, path: Path) -> None:
    """Write a node by a storage node of its own, so that Slicer keeps its own idea of where the node is saved."""
    kind = "vtkMRMLSegmentationStorageNode" if node.IsA("vtkMRMLSegmentationNode") else "vtkMRMLNRRDStorageNode"
    storage = slicer.mrmlScene.AddNewNodeByClass(kind)
    try:
        storage.SetFileName(str(path))
        storage.SetUseCompression(1)
        if not storage.WriteData(node) or not path.is_file():
            raise OSError(_("'{name}' could not be written").format(name=path.name))
    finally:
        slicer.mrmlScene.RemoveNode(storage)


def _writeTable(node, path: Path) -> None:
    table = node.GetTable()
    columns = [table.GetColumn(number) for number in range(table.GetNumberOfColumns())]
    columns = [column for column in columns if not column.GetName().endswith(", as drawn")]
    units = [node.GetColumnUnitLabel(column.GetName()) for column in columns]
    heads = [column.GetName() + (f" ({unit})" if unit else "") for column, unit in zip(columns, units, strict=True)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(heads)
        for row in range(table.GetNumberOfRows()):
            writer.writerow([_cell(column.GetValue(row)) for column in columns])


def _cell(value) -> str:
    """A number as short as it is exact, nothing for NaN."""
    if isinstance(value, str):
        return value
    return "" if np.isnan(value) else f"{value:.10g}"


def _sceneFiles() -> list[str]:
    storages = slicer.util.getNodesByClass("vtkMRMLStorageNode")
    files = [storage.GetFullNameFromFileName() for storage in storages]
    return [file for file in files if file and os.path.isfile(file)]


def _shown(resultNode, viewer):
    if viewer is None or viewer.nodes is None or viewer.nodes.node != resultNode:
        raise Trouble("not-shown", _("This result is not shown in the views."), _("Show it, then save its pictures."))
    return viewer.result
