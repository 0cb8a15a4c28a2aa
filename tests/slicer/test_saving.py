"""A result on disk: what each file holds when it is read again; nothing is overwritten, nothing left half-written."""

import csv
import json
import os
from pathlib import Path

import bundles
import numpy as np
import pytest
import scans
import slicer
from PerturboxLib import nrrd, saving
from PerturboxLib import scene as results_scene
from PerturboxLib.trouble import Trouble
from PerturboxLib.views import Viewer
from vtk.util.numpy_support import vtk_to_numpy

NOTICE = "ADVERSARIAL - NOT FOR CLINICAL USE"


@pytest.fixture
def viewer(scene, slicer_app):
    found = Viewer(slicer_app.layoutManager())
    yield found
    found.leave()


def tree(folder) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*"))


def png(path: Path) -> tuple[np.ndarray, dict]:
    """A PNG's pixels and its texts, read by another library than wrote it."""
    image = pytest.importorskip("PIL.Image").open(path)
    return np.asarray(image.convert("RGB")), image.text


# ---------------------------------------------------------------- the folder


@pytest.mark.parametrize("grid", ["axial", "oblique", "flipped"])
def test_the_folder_holds_everything_and_reads_back_the_same(scene, tmp_path, grid):
    node, _, made = bundles.add(grid)
    count = slicer.mrmlScene.GetNumberOfNodes()
    folder = Path(saving.saveFolder(node, str(tmp_path)))
    assert folder.parent == tmp_path and folder.name.startswith("CT_PGD_10_HU_")
    assert tree(folder) == [
        "adversarial.seg.nrrd", "clean.seg.nrrd", "difference.seg.nrrd", "perturbation.nrrd", "perturbed.nrrd",
        "report.html", "result.json", "slices.csv", "structures.csv", "trace.csv",
    ]  # fmt: skip
    for role in ("perturbed", "perturbation"):
        data = (folder / f"{role}.nrrd").read_bytes()
        image = nrrd.decode(data)  # not Slicer's own reader
        assert np.array_equal(image.array, made.images[role].array)
        assert np.allclose(image.ijkToRas, scans.GRIDS[grid], atol=1e-6)
        assert image.fields["notice"] == NOTICE
    again = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(folder / "clean.seg.nrrd"))
    assert storage.ReadData(again)
    for name, value in (("liver", 1), ("spleen", 2), ("kidney_left", 5)):
        segment = again.GetSegmentation().GetSegment(name)
        assert segment.GetName() == name.replace("_", " ").capitalize()
        image = slicer.vtkOrientedImageData()
        again.GetBinaryLabelmapRepresentation(name, image)

        assert (vtk_to_numpy(image.GetPointData().GetScalars()) > 0).sum() == (
            made.images["clean"].array == value
        ).sum()
    slicer.mrmlScene.RemoveNode(storage)
    shown = again.GetDisplayNode()
    slicer.mrmlScene.RemoveNode(again)
    if shown is not None:
        slicer.mrmlScene.RemoveNode(shown)
    assert json.loads((folder / "result.json").read_text(encoding="utf-8")) == made.record
    assert (folder / "report.html").read_text(encoding="utf-8") == made.report
    assert slicer.mrmlScene.GetNumberOfNodes() == count  # nothing of the writing stays in the scene
    assert results_scene.Nodes(node).perturbed.GetStorageNode() is None


def test_the_tables_are_plain_csv_with_units(scene, tmp_path):
    node, _, _ = bundles.add()
    results_scene.addMargin(node, {"structures": {"spleen": {"breaks_at": 3.0}}})
    folder = Path(saving.saveFolder(node, str(tmp_path)))
    with (folder / "structures.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["Structure"]: row for row in csv.DictReader(file)}
    clean, after = bundles.maps()
    assert float(rows["Spleen"]["Lost (ml)"]) == pytest.approx(((clean == 2) & (after != 2)).sum() * 0.012)
    assert rows["Spleen"]["Breaks at (HU)"] == "≤ 3" and rows["Liver"]["Breaks at (HU)"] == "–"
    assert rows["Aorta"]["Dice"] == "" and rows["Kidney left"]["Dice"] == "0"
    with (folder / "slices.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["Slice"] for row in rows] == [str(k + 1) for k in range(10)]
    assert "Differs, as drawn" not in rows[0]
    for k, row in enumerate(rows):
        dice = bundles.dice(clean[k] == 1, after[k] == 1)
        assert row["liver"] == "" if dice is None else float(row["liver"]) == pytest.approx(dice)
    assert json.loads((folder / "margin.json").read_text())["structures"]["spleen"]["breaks_at"] == 3.0


def test_an_existing_folder_is_not_touched(scene, tmp_path):
    node, _, _ = bundles.add()
    folder = Path(saving.saveFolder(node, str(tmp_path)))
    (folder / "result.json").write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(Trouble, match="exists already"):
        saving.saveFolder(node, str(tmp_path))
    assert (folder / "result.json").read_text() == "mine" and tree(tmp_path) == before


@pytest.mark.parametrize("name", ["_writeNode", "_writeTable"])
def test_a_failure_leaves_no_half_folder(scene, tmp_path, monkeypatch, name):
    node, _, _ = bundles.add()
    count, calls, real = slicer.mrmlScene.GetNumberOfNodes(), [], getattr(saving, name)

    def fail(*arguments):
        calls.append(name)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        real(*arguments)

    monkeypatch.setattr(saving, name, fail)
    with pytest.raises(OSError, match="No space"):
        saving.saveFolder(node, str(tmp_path))
    assert tree(tmp_path) == [] and slicer.mrmlScene.GetNumberOfNodes() == count


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a user whom permissions bind")
def test_a_folder_one_may_not_write_to_is_an_error(scene, tmp_path):
    node, _, _ = bundles.add()
    tmp_path.chmod(0o500)
    with pytest.raises(OSError):
        saving.saveFolder(node, str(tmp_path))


def test_a_file_that_could_not_be_written_is_an_error(scene, tmp_path, vtk_errors):
    node, _, _ = bundles.add()
    with pytest.raises(OSError, match=r"perturbed.nrrd"):
        saving._writeNode(results_scene.Nodes(node).perturbed, tmp_path / "nowhere" / "perturbed.nrrd")
    assert vtk_errors.pop().startswith("ERROR: In vtkMRMLNRRDStorageNode") and vtk_errors.pop()


def test_names_suit_every_file_system():
    assert saving.safeName("a/b: c – PGD ≤ 4 HU – 14:32 ") == "a_b_c_PGD_4_HU_14_32"
    assert saving.safeName("..") == "result" and saving.safeName("CON (1)") == "CON_(1)"


# ---------------------------------------------------------------- the report


def test_the_report_is_written_and_replaces_nothing_unasked(scene, tmp_path):
    node, _, made = bundles.add()
    path = tmp_path / "report.html"
    assert saving.saveReport(node, str(path)) == str(path) and path.read_text(encoding="utf-8") == made.report
    path.write_text("mine")
    with pytest.raises(Trouble, match="exists already"):
        saving.saveReport(node, str(path))
    assert path.read_text() == "mine"
    saving.saveReport(node, str(path), replace=True)  # a user has said so
    assert path.read_text(encoding="utf-8") == made.report and tree(tmp_path) == ["report.html"]


def test_the_scan_is_never_overwritten(scene, tmp_path):
    node, volume, _ = bundles.add()
    path = tmp_path / "CT.nrrd"
    storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLNRRDStorageNode")
    volume.SetAndObserveStorageNodeID(storage.GetID())
    storage.SetFileName(str(path))
    assert storage.WriteData(volume)
    before = path.read_bytes()
    for replace in (False, True):
        with pytest.raises(Trouble):
            saving.saveReport(node, str(path), replace=replace)
    assert path.read_bytes() == before


# ---------------------------------------------------------------- pictures


def test_every_changed_slice_and_a_strip_are_pictured(viewer, tmp_path, rendering):
    node, _, _ = bundles.add("oblique")
    viewer.show(node, "compare")
    viewer.jump(1)
    result = viewer.result
    result.voxelMl = 0.1  # so that some slices change by over 0.5 ml, some don't
    changed = result.changed()
    assert 0 < len(changed) < 10
    folder = Path(saving.saveSlices(node, viewer, str(tmp_path)))
    assert tree(folder) == [*(f"axial_{k + 1:02d}.png" for k in changed), "worst_slices.png"]
    assert viewer.index() == 1
    pictures = [png(folder / f"axial_{k + 1:02d}.png") for k in changed]
    for k, (picture, texts) in zip(changed, pictures, strict=True):
        assert texts["Comment"] == NOTICE and texts["Description"].startswith(f"Axial {k + 1} of 10: ")
        assert picture.max() > 200
    assert len({picture.tobytes() for picture, _ in pictures}) == len(changed)
    strip, texts = png(folder / "worst_slices.png")
    one = pictures[0][0]
    assert texts["Comment"] == NOTICE and strip.shape[1] == one.shape[1]
    worst = result.worstSlices()
    place = 0
    for k in worst:  # each picture lies over its caption
        expected = saving.slicePicture(viewer, k)
        # An outline may move by a pixel with the last digit of where the view lies.
        assert (strip[place : place + expected.shape[0]] != expected).mean() < 0.005
        place += expected.shape[0]
        caption = saving.textBar(f"{worst.index(k) + 1}   {saving.caption(result, k)}", one.shape[1])
        assert np.array_equal(strip[place : place + caption.shape[0]], caption) and caption.max() > 200
        place += caption.shape[0]
    with pytest.raises(Trouble, match="exists already"):
        saving.saveSlices(node, viewer, str(tmp_path))


def test_a_strip_alone(viewer, tmp_path, rendering):
    node, _, _ = bundles.add()
    viewer.show(node, "difference")
    path = tmp_path / "strip.png"
    assert saving.saveStrip(node, viewer, str(path)) == str(path) and png(path)[1]["Comment"] == NOTICE
    with pytest.raises(Trouble, match="exists already"):
        saving.saveStrip(node, viewer, str(path))


def test_pictures_need_the_result_in_the_views(viewer, tmp_path):
    node, _, _ = bundles.add()
    for shown in (viewer, None):
        with pytest.raises(Trouble, match="not shown"):
            saving.saveSlices(node, shown, str(tmp_path))
    viewer.show(node)
    with pytest.raises(Trouble, match="No slice changed"):
        saving.saveSlices(node, viewer, str(tmp_path))  # nowhere over 0.5 ml
    assert tree(tmp_path) == []


def test_text_breaks_into_lines_and_stays_inside(slicer_app):
    short, long = saving.textBar("Axial 4 of 10", 300), saving.textBar("spleen 12 ml lost, " * 12, 300)
    assert short.shape[1] == long.shape[1] == 300 and long.shape[0] >= 3 * short.shape[0]
    assert not long[:, -saving.GAP + 1 :].any() and short.max() > 200
