"""Nodes of a result: what they hold, voxel by voxel on every kind of grid; made in steps, removed without a trace."""

import json
import re
import time

import bundles
import numpy as np
import pytest
import scans
import slicer
import vtk
from PerturboxLib import client, segments, sending, tasks, volumes
from PerturboxLib import scene as results_scene
from PerturboxLib.trouble import Trouble
from vtk.util.numpy_support import vtk_to_numpy

SEGMENTS = {"liver": 1, "spleen": 2, "kidney_left": 5}


def mask(segmentation, segment: str) -> np.ndarray:
    """Voxels of a segment on the whole grid, bool "k j i", as the segmentation itself holds them."""
    image = slicer.vtkOrientedImageData()
    assert segmentation.GetBinaryLabelmapRepresentation(segment, image)
    extent, size = image.GetExtent(), image.GetDimensions()
    found = np.zeros(bundles.SHAPE, bool)
    part = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(size[::-1])
    found[extent[4] : extent[5] + 1, extent[2] : extent[3] + 1, extent[0] : extent[1] + 1] = part > 0
    return found


def matrix_of(node) -> np.ndarray:
    found = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(found)
    return slicer.util.arrayFromVTKMatrix(found)


def names_in(scene) -> list[str]:
    return sorted(scene.GetNthNode(n).GetID() for n in range(scene.GetNumberOfNodes()))


def items() -> list[str]:
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    found = vtk.vtkIdList()
    hierarchy.GetItemChildren(hierarchy.GetSceneItemID(), found, True)
    return sorted(hierarchy.GetItemName(found.GetId(n)) for n in range(found.GetNumberOfIds()))


# ---------------------------------------------------------------- what they hold


@pytest.mark.parametrize("grid", list(scans.GRIDS))
def test_volumes_and_segments_hold_the_arrays_on_the_scans_grid(scene, grid):
    node, volume, made = bundles.add(grid)
    nodes = results_scene.Nodes(node)
    for role in ("perturbed", "perturbation", "influence"):
        assert np.array_equal(matrix_of(getattr(nodes, role)), matrix_of(volume))
    for role in ("perturbed", "perturbation"):
        assert np.array_equal(slicer.util.arrayFromVolume(getattr(nodes, role)), made.images[role].array)
    assert np.array_equal(slicer.util.arrayFromVolume(volume), bundles.hounsfield())  # the scan itself is untouched
    for role in ("clean", "adversarial"):
        for name, value in SEGMENTS.items():
            wanted = made.images[role].array == value
            segmentation = getattr(nodes, role)
            if not wanted.any():
                assert segmentation.GetSegmentation().GetSegment(name) is None
                continue
            assert np.array_equal(mask(segmentation, name), wanted), (role, name)
            assert segmentation.GetSegmentation().GetSegment(name).GetLabelValue() == value


@pytest.mark.parametrize("grid", ["axial", "oblique", "flipped", "anisotropic", "sagittal"])
def test_slicers_own_export_finds_the_same_voxels_in_the_world(scene, grid):
    """Independent of the way they came in: exported by Slicer onto the scan's geometry."""
    node, volume, made = bundles.add(grid)
    labelmap = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    ids = vtk.vtkStringArray()
    for name in SEGMENTS:
        ids.InsertNextValue(name)
    logic = slicer.modules.segmentations.logic()
    assert logic.ExportSegmentsToLabelmapNode(results_scene.Nodes(node).clean, ids, labelmap, volume)
    exported, clean = slicer.util.arrayFromVolume(labelmap), made.images["clean"].array
    for place, value in enumerate(SEGMENTS.values(), 1):
        assert np.array_equal(exported == place, clean == value)
    assert np.allclose(matrix_of(labelmap), matrix_of(volume))


def test_the_reference_geometry_is_the_scans(scene):
    node, volume, _ = bundles.add("oblique")
    nodes = results_scene.Nodes(node)
    for role in ("clean", "adversarial", "difference"):
        geometry = getattr(nodes, role).GetSegmentation().GetConversionParameter("Reference image geometry")
        image = slicer.vtkOrientedImageData()
        converter = slicer.vtkSegmentationConverter
        converter.DeserializeImageGeometry(geometry, image, False)
        found = vtk.vtkMatrix4x4()
        image.GetImageToWorldMatrix(found)
        assert np.allclose(slicer.util.arrayFromVTKMatrix(found), matrix_of(volume)), role
        assert image.GetDimensions() == volume.GetImageData().GetDimensions()


def test_what_became_what_is_a_segment_for_each_pair(scene):
    """Of the made-up result one pair: the spleen loses voxels to the liver."""
    from PerturboxLib import palette, segments

    node, volume, made = bundles.add("oblique")
    became = results_scene.Nodes(node).became
    clean, after = (made.images[role].array for role in ("clean", "adversarial"))
    assert segments.segmentIds(became) == ["spleen→liver"] and segments.ends("spleen→liver") == ("spleen", "liver")
    assert np.array_equal(mask(became, "spleen→liver"), (clean == 2) & (after == 1))
    segment = became.GetSegmentation().GetSegment("spleen→liver")
    assert segment.GetName() == "Spleen → liver"
    assert np.allclose(segment.GetColor(), palette.rgb(palette.structureColour(1)))
    was = segments.beforeColours(became)
    assert np.allclose(was.GetSegmentOverrideColor("spleen→liver"), palette.rgb(palette.structureColour(2)))
    assert not was.GetVisibility() and not became.GetDisplayNode().GetVisibility()
    assert segments.addBecame(volume, clean, clean, bundles.LABELS, "none") is None, "nothing became anything"
    assert segments.addBecame(volume, clean, np.where(clean == 2, 0, clean), bundles.LABELS, "lost") is None
    results_scene.remove(node)
    assert slicer.mrmlScene.GetFirstNodeByName("what became what") is None


def test_of_very_many_pairs_the_largest_are_kept(scene, monkeypatch):
    from PerturboxLib import segments

    monkeypatch.setattr(segments, "MOST_PAIRS", 2)
    _, volume, _ = bundles.add("axial")
    clean, after = np.zeros((2, *bundles.SHAPE), np.uint8)
    clean[0, 0, :9] = [1, 1, 1, 1, 2, 2, 2, 5, 5]
    after[0, 0, :9] = [2, 2, 2, 2, 5, 5, 5, 1, 0]
    made = segments.addBecame(volume, clean, after, bundles.LABELS, "few")
    assert segments.segmentIds(made) == ["liver→spleen", "spleen→kidney_left"]
    assert np.array_equal(mask(made, "spleen→kidney_left"), (clean == 2) & (after == 5))
    assert np.array_equal(mask(made, "liver→spleen"), (clean == 1) & (after == 2))


def test_the_difference_tells_lost_relabelled_and_added_apart(scene):
    node, _, made = bundles.add("oblique")
    difference = results_scene.Nodes(node).difference
    clean, after = (made.images[role].array for role in ("clean", "adversarial"))
    expected = {
        "spleen_lost": (clean == 2) & (after == 0),
        "spleen_relabelled": (clean == 2) & (after == 1),
        "kidney_left_lost": clean == 5,
        "liver_added": (after == 1) & (clean != 1),  # from background and from the spleen
    }
    assert sorted(segments.segmentIds(difference)) == sorted(expected)
    for segment, wanted in expected.items():
        assert wanted.any() and np.array_equal(mask(difference, segment), wanted), segment
    counts = results_scene.Nodes(node).result.along
    assert counts.lost[:, 1].sum() == expected["spleen_lost"].sum() + expected["spleen_relabelled"].sum()
    assert counts.gained[:, 0].sum() == expected["liver_added"].sum()
    shown, segmentation = difference.GetDisplayNode(), difference.GetSegmentation()
    looks = {
        "spleen_lost": ("Spleen lost", "#56B4E9", 0.6, 0.0),
        "spleen_relabelled": ("Spleen relabelled", "#CC79A7", 0.6, 0.0),
        "liver_added": ("Liver added", "#E69F00", 0.0, 1.0),
    }
    for segment, (name, colour, fill, outline) in looks.items():
        found = segmentation.GetSegment(segment)
        assert found.GetName() == name and hexed(found.GetColor()) == colour
        assert shown.GetSegmentOpacity2DFill(segment) == pytest.approx(fill)
        assert shown.GetSegmentOpacity2DOutline(segment) == pytest.approx(outline)
    assert [segments.structureOf(s) for s in ("kidney_left_lost", "liver_added")] == ["kidney_left", "liver"]


def hexed(colour) -> str:
    return "#" + "".join(f"{round(255 * part):02X}" for part in colour)


def test_segments_bear_the_models_names_colours_and_terminology(scene):
    node, _, _ = bundles.add()
    clean = results_scene.Nodes(node).clean
    found = {s: clean.GetSegmentation().GetSegment(s) for s in segments.segmentIds(clean)}
    assert {s: segment.GetName() for s, segment in found.items()} == {
        "liver": "Liver",
        "spleen": "Spleen",
        "kidney_left": "Kidney left",
    }
    assert {s: hexed(segment.GetColor()) for s, segment in found.items()} == {
        "liver": "#009E73",
        "spleen": "#56B4E9",
        "kidney_left": "#F0E442",
    }
    assert "SCT^64033007^Kidney~SCT^7771000^Left" in found["kidney_left"].GetTerminology()
    assert clean.GetDisplayNode().GetOpacity2DFill() == pytest.approx(0.28)
    assert clean.GetDisplayNode().GetOpacity2DOutline() == 1.0


def test_more_labels_than_a_byte_holds_keep_their_values(scene):
    volume = scans.add_scan()
    array = np.zeros(scans.SHAPE, np.uint16)
    array[2, 3, 4], array[5, 6, 7] = 300, 44  # 300 - 256
    node = segments.addSegmentation(volume, array, {"background": 0, "a": 44, "b": 300}, "many")
    for name, place in (("a", (5, 6, 7)), ("b", (2, 3, 4))):
        found = slicer.util.arrayFromSegmentBinaryLabelmap(node, name, volume)
        assert found.sum() == 1 and found[place]
    for extra in slicer.util.getNodesByClass("vtkMRMLLabelMapVolumeDisplayNode"):
        slicer.mrmlScene.RemoveNode(extra)


def test_units_windows_and_colours_of_the_volumes(scene):
    affine = scans.GRIDS["axial"]
    volume = slicer.util.addVolumeFromArray(bundles.hounsfield(), affine, "CT")
    volume.GetDisplayNode().SetAutoWindowLevel(0)
    volume.GetDisplayNode().SetWindowLevel(321, 21)
    nodes = results_scene.Nodes(results_scene.addResultNow(bundles.bundle(affine), volume))
    shown = nodes.perturbed.GetDisplayNode()
    assert (shown.GetWindow(), shown.GetLevel(), shown.GetAutoWindowLevel()) == (321, 21, 0)
    assert shown is not volume.GetDisplayNode()
    for role in ("perturbed", "perturbation"):
        assert getattr(nodes, role).GetVoxelValueUnits().GetCodeValue() == "[hnsf'U]"
    assert nodes.influence.GetVoxelValueUnits() is None  # only its proportions mean anything
    heat, signed = nodes.influence.GetDisplayNode(), nodes.perturbation.GetDisplayNode()
    assert (heat.GetColorNode().GetName(), heat.GetInterpolate(), heat.GetApplyThreshold()) == ("influence", 0, 0)
    assert (heat.GetWindowLevelMin(), heat.GetWindowLevelMax()) == (-1, 1)
    assert (signed.GetWindowLevelMin(), signed.GetWindowLevelMax()) == (-bundles.EPS, bundles.EPS)
    colour = [0.0] * 4
    for entry, clear in ((0, False), (127, True), (128, True), (255, False)):
        signed.GetColorNode().GetColor(entry, colour)
        assert (colour[3] == 0.0) == clear, entry  # nothing is drawn where nothing changed
    signed.GetColorNode().GetColor(255, colour)
    assert colour[0] > 0.6 > colour[2]  # brighter is red


def test_the_perturbed_file_says_what_it_is(scene, tmp_path):
    node, volume, made = bundles.add()
    nodes = results_scene.Nodes(node)
    assert nodes.perturbed.GetAttribute("Perturbox.Synthetic") == "1"
    assert results_scene.isSynthetic(nodes.perturbed) and not results_scene.isSynthetic(volume)
    storage = scene.AddNewNodeByClass("vtkMRMLNRRDStorageNode")
    storage.SetFileName(str(tmp_path / "perturbed.nrrd"))
    assert storage.WriteData(nodes.perturbed)
    header = (tmp_path / "perturbed.nrrd").read_bytes().split(b"\n\n")[0].decode()
    assert "notice:=ADVERSARIAL - NOT FOR CLINICAL USE" in header.splitlines()
    again = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    assert storage.ReadData(again)
    assert results_scene.isSynthetic(again) and np.array_equal(
        slicer.util.arrayFromVolume(again), made.images["perturbed"].array
    )
    again.RemoveAttribute("Perturbox.Synthetic")
    assert results_scene.isSynthetic(again)  # by its notice alone, as files from elsewhere have it
    assert not results_scene.isSynthetic(None)


def test_influence_is_its_mean_in_five_millimetres(scene):
    node, volume, made = bundles.add("anisotropic")
    found = slicer.util.arrayFromVolume(results_scene.Nodes(node).influence)
    spacing = volume.GetSpacing()  # 0.75, 1.5, 6 mm along i, j, k
    influence = made.images["influence"].array.astype(float)
    expected = np.zeros(bundles.SHAPE)
    for at in np.ndindex(*bundles.SHAPE):
        weight = 1.0
        for axis, index in enumerate(at):
            size, width = bundles.SHAPE[axis], spacing[2 - axis]
            edges = (np.arange(size) - 0.5 - index) * width
            inside = np.clip(np.minimum(edges + width, 2.5) - np.maximum(edges, -2.5), 0, None)
            weight = weight * (inside / inside.sum()).reshape([-1 if a == axis else 1 for a in range(3)])
        expected[at] = (influence * weight).sum()
    clearly = np.abs(expected) > 1e-4
    expected /= np.percentile(np.abs(expected[clearly]), volumes.TOP_PERCENT)
    assert np.allclose(found[clearly], expected[clearly], rtol=1e-2) and (found > 0).any() and (found < 0).any()


def test_a_result_of_an_attack_without_a_gradient_has_no_influence(scene):
    affine = scans.GRIDS["axial"]
    volume = slicer.util.addVolumeFromArray(bundles.hounsfield(), affine, "CT")
    made = bundles.bundle(affine)
    del made.images["influence"]
    nodes = results_scene.Nodes(results_scene.addResultNow(made, volume))
    assert nodes.influence is None and nodes.perturbation is not None


@pytest.mark.parametrize("slab", [1, 10**9])
def test_a_mean_over_a_box_is_exact_for_whole_boxes(slab, monkeypatch):
    monkeypatch.setattr(volumes, "SLAB_VOXELS", slab)
    array = np.random.default_rng(0).random((7, 8, 9)).astype(np.float32)
    for axis in range(3):
        moved = np.moveaxis(array, axis, 0)
        expected = np.stack([moved[max(k - 1, 0) : k + 2].mean(0) for k in range(len(moved))])
        smooth = array.copy()
        assert len(list(volumes.boxMean(smooth, axis, 1.5))) > 1 or slab > 1
        assert np.allclose(np.moveaxis(smooth, axis, 0), expected, atol=1e-6)
        list(volumes.boxMean(same := array.copy(), axis, 0.3))
        assert np.allclose(same, array, atol=1e-6)  # a box inside the voxel


def test_everything_lies_in_one_folder(scene):
    node, _, _ = bundles.add(name="abdomen")
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    folder = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node))
    name = hierarchy.GetItemName(folder)
    assert re.fullmatch(r"Perturbox – abdomen – PGD 10 HU – \d\d:\d\d", name)
    found = vtk.vtkIdList()
    hierarchy.GetItemChildren(folder, found)
    names = [hierarchy.GetItemName(found.GetId(n)) for n in range(found.GetNumberOfIds())]
    assert names == [
        node.GetName(), "PERTURBED abdomen", "perturbation HU", "influence", "clean", "adversarial",
        "difference", "what became what", "structures", "slices", "trace", "Dice per slice", "Dice while attacking",
        "result.json", "report.html",
    ]  # fmt: skip


def test_record_and_report_are_kept_as_texts(scene):
    node, _, made = bundles.add()
    nodes = results_scene.Nodes(node)
    assert nodes.record == made.record and nodes.report == made.report
    assert json.loads(nodes.recordText) == made.record
    assert node.GetAttribute("Perturbox.Result") == "1" and not node.GetHideFromEditors()
    with pytest.raises(AttributeError, match="no node 'nonsense'"):
        _ = nodes.nonsense


def test_a_scan_under_a_transform_keeps_its_result_with_it(scene):
    affine = scans.GRIDS["axial"]
    volume = slicer.util.addVolumeFromArray(bundles.hounsfield(), affine, "CT")
    turn = np.eye(4)
    turn[:3, :3], turn[:3, 3] = scans.TURN, (5, -3, 2)
    scans.add_transform(volume, turn)
    nodes = results_scene.Nodes(results_scene.addResultNow(bundles.bundle(turn @ affine), volume))
    for role in ("perturbed", "perturbation", "influence", "clean", "adversarial", "difference"):
        assert getattr(nodes, role).GetParentTransformNode() is volume.GetParentTransformNode(), role
    found = slicer.util.arrayFromSegmentBinaryLabelmap(nodes.clean, "liver", volume)
    assert np.array_equal(found > 0, bundles.maps()[0] == 1)
    assert np.allclose(nodes.result.affine, turn @ affine)


# ---------------------------------------------------------------- making and removing


def test_it_is_made_in_steps_that_say_what_comes(scene):
    affine = scans.GRIDS["axial"]
    volume = slicer.util.addVolumeFromArray(bundles.hounsfield(), affine, "CT")
    making, grown, said = results_scene.addResult(bundles.bundle(affine), volume), [], []
    for step in making:
        said.append(step)
        grown.append(slicer.mrmlScene.GetNumberOfNodes())
    assert grown == sorted(grown) and len(set(grown)) >= 7  # bit by bit
    assert said[-1] is results_scene.results()[0] and said[0] == "the perturbed scan" and "the difference" in said


def test_removing_leaves_the_scene_as_it_was(scene):
    volume = slicer.util.addVolumeFromArray(bundles.hounsfield(), scans.GRIDS["axial"], "CT")
    before, listed = names_in(scene), items()
    first = results_scene.addResultNow(bundles.bundle(scans.GRIDS["axial"]), volume)
    between = names_in(scene)
    second = results_scene.addResultNow(bundles.bundle(scans.GRIDS["axial"]), volume)
    assert results_scene.results() == [first, second]
    results_scene.remove(second)
    assert names_in(scene) == between and results_scene.results() == [first]
    results_scene.remove(first)
    assert names_in(scene) == before and items() == listed and results_scene.results() == []


def test_what_a_user_put_into_the_folder_stays(scene):
    node, _, _ = bundles.add()
    own = scans.add_scan(name="mine")
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    folder = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node))
    item = hierarchy.GetItemByDataNode(own) or hierarchy.CreateItem(folder, own)
    hierarchy.SetItemParent(item, folder)
    results_scene.remove(node)
    assert scene.IsNodePresent(own) and "mine" in items()
    assert not any("Perturbox" in name for name in items())


def test_a_result_whose_nodes_were_deleted_is_removed_all_the_same(scene):
    volume = slicer.util.addVolumeFromArray(bundles.hounsfield(), scans.GRIDS["axial"], "CT")
    before = names_in(scene)
    node = results_scene.addResultNow(bundles.bundle(scans.GRIDS["axial"]), volume)
    nodes = results_scene.Nodes(node)
    for role in ("perturbed", "clean"):
        gone = getattr(nodes, role)
        shown = [gone.GetNthDisplayNode(n) for n in range(gone.GetNumberOfDisplayNodes())]
        slicer.mrmlScene.RemoveNode(gone)
        for each in shown:
            slicer.mrmlScene.RemoveNode(each)
    assert nodes.perturbed is None and nodes.clean is None
    results_scene.remove(node)
    assert names_in(scene) == before


@pytest.mark.parametrize("step", range(12))
def test_a_failure_at_any_step_leaves_nothing(scene, step, monkeypatch):
    volume = slicer.util.addVolumeFromArray(bundles.hounsfield(), scans.GRIDS["axial"], "CT")
    before, listed = names_in(scene), items()
    making = results_scene.addResult(bundles.bundle(scans.GRIDS["axial"]), volume)
    for _ in range(step):
        next(making)
    with pytest.raises(ZeroDivisionError):
        making.throw(ZeroDivisionError())
    assert names_in(scene) == before and items() == listed


@pytest.mark.parametrize(
    ("where", "name", "call"),
    [
        *((segments, "_addSegment", call) for call in (1, 4, 7)),
        *((results_scene.charts, "addSeries", call) for call in (2, 6)),
        (results_scene.charts, "addChart", 2),
        (segments, "addBeforeLine", 1),
        (volumes, "showHeat", 1),
        (results_scene, "countSlices", 2),
        (results_scene.geometry, "worldGrid", 5),
        (results_scene.json, "dumps", 2),
    ],
)
def test_a_failure_inside_a_step_leaves_nothing(scene, where, name, call, monkeypatch):
    volume = slicer.util.addVolumeFromArray(bundles.hounsfield(), scans.GRIDS["axial"], "CT")
    before, listed, calls, real = names_in(scene), items(), [], getattr(where, name)

    def fail(*arguments, **named):
        calls.append(name)
        if len(calls) == call:
            raise MemoryError
        return real(*arguments, **named)

    monkeypatch.setattr(where, name, fail)
    with pytest.raises(MemoryError):
        results_scene.addResultNow(bundles.bundle(scans.GRIDS["axial"]), volume)
    assert names_in(scene) == before and items() == listed


def test_closing_early_leaves_nothing(scene):
    volume = slicer.util.addVolumeFromArray(bundles.hounsfield(), scans.GRIDS["axial"], "CT")
    before = names_in(scene)
    making = results_scene.addResult(bundles.bundle(scans.GRIDS["axial"]), volume)
    for _ in range(9):
        next(making)
    assert names_in(scene) != before
    making.close()
    assert names_in(scene) == before


@pytest.mark.parametrize("role", ["perturbed", "perturbation", "clean", "adversarial"])
def test_a_result_that_does_not_line_up_is_refused(scene, role):
    volume = slicer.util.addVolumeFromArray(bundles.hounsfield(), scans.GRIDS["axial"], "CT")
    before = names_in(scene)
    made = bundles.bundle(scans.GRIDS["axial"])
    moved = scans.GRIDS["axial"].copy()
    moved[2, 3] += 0.01
    made.images[role] = type(made.images[role])(made.images[role].array, moved, {})
    with pytest.raises(Trouble) as told:
        results_scene.addResultNow(made, volume)
    assert told.value.code == "mismatch" and role in told.value.detail and names_in(scene) == before
    del made.images[role]
    with pytest.raises(Trouble, match=f"no {role}"):
        results_scene.addResultNow(made, volume)


def test_a_prediction_alone_is_a_visible_segmentation(scene):
    volume = slicer.util.addVolumeFromArray(bundles.hounsfield(), scans.GRIDS["flipped"], "CT")
    made = bundles.bundle(scans.GRIDS["flipped"])
    record = {"victim": made.record["victim"]}
    only = tasks.Bundle("segment", "job-2", record, {"segmentation": made.images["clean"]})
    *_, node = results_scene.addSegmentation(only, volume)
    assert node.GetName() == "made-up of CT" and node.GetDisplayNode().GetVisibility()
    assert np.array_equal(mask(node, "kidney_left"), made.images["clean"].array == 5)
    assert not results_scene.isSynthetic(node)


def test_a_margin_comes_into_the_rows_and_the_table(scene):
    node, _, _ = bundles.add()
    nodes = results_scene.Nodes(node)
    assert {row.breaksAt for row in nodes.result.rows()} == {"–"}
    margin = {"schema": "perturbox-margin/1", "structures": {"spleen": {"breaks_at": 3.0}, "liver": {"above": 10.0}}}
    results_scene.addMargin(node, margin)
    found = {row.name: row.breaksAt for row in nodes.result.rows()}
    assert found == {"spleen": "≤ 3", "liver": "> 10", "kidney_left": "–"}
    table = nodes.structures.GetTable()
    column = table.GetColumnByName("Breaks at")
    assert sorted(column.GetValue(n) for n in range(table.GetNumberOfRows())) == ["> 10", "–", "–", "≤ 3"]


# ---------------------------------------------------------------- saved and loaded


def test_a_result_survives_saving_and_loading_the_scene(scene, tmp_path):
    node, _, made = bundles.add("oblique", name="abdomen")
    results_scene.addMargin(node, {"structures": {"spleen": {"breaks_at": 3.0}}})
    nodes = results_scene.Nodes(node)
    said = [row.cells() for row in nodes.result.rows()], nodes.result.verdict()
    differing = nodes.result.differing()
    path = str(tmp_path / "scene.mrb")
    assert scene.WriteToMRB(path)
    scene.Clear(0)
    assert results_scene.results() == []
    assert scene.ReadFromMRB(path)
    (node,) = results_scene.results()
    nodes = results_scene.Nodes(node)
    assert not node.GetHideFromEditors() and nodes.original.GetName() == "abdomen"
    assert ([row.cells() for row in nodes.result.rows()], nodes.result.verdict()) == said
    assert np.array_equal(nodes.result.differing(), differing)
    assert nodes.record == made.record and nodes.report == made.report
    assert results_scene.isSynthetic(nodes.perturbed)
    assert np.array_equal(slicer.util.arrayFromVolume(nodes.perturbed), made.images["perturbed"].array)
    for name, value in SEGMENTS.items():
        assert np.array_equal(mask(nodes.clean, name), made.images["clean"].array == value)
        assert nodes.clean.GetSegmentation().GetSegment(name).GetName() == name.replace("_", " ").capitalize()
    assert segments.beforeLine(nodes.clean) is not None
    assert nodes.difference.GetDisplayNode().GetSegmentOpacity2DFill("spleen_lost") == pytest.approx(0.6)
    assert nodes.chart.GetNumberOfPlotSeriesNodes() == 5 and nodes.slices.GetNumberOfRows() == 10
    count = slicer.mrmlScene.GetNumberOfNodes()
    results_scene.remove(node)
    assert results_scene.results() == [] and slicer.mrmlScene.GetNumberOfNodes() < count - 30
    assert slicer.util.getNodesByClass("vtkMRMLSegmentationDisplayNode") == []


# ---------------------------------------------------------------- real results


def attacked(server, volume, **request) -> tasks.Bundle:
    """Attack a volume on a real server, as the module does."""
    parcel, background = sending.pack(volume, {"unit": "HU"}), tasks.Background()
    wanted = {"kind": "attack", "eps": 10, "steps": 1, **request}
    background.start(tasks.run(client.Client(server.url), wanted, parcel.files, (parcel.shape, parcel.affine)))
    end = time.monotonic() + 500
    try:
        while time.monotonic() < end:
            for event in background.drain():
                if event.name == "trouble":
                    raise event.data
                if event.name == "result":
                    return event.data
            time.sleep(0.05)
    finally:
        background.stop()
    raise TimeoutError("the attack took too long")


def compare(node, made) -> None:
    """A result's rows, slices and verdicts against counts of its label arrays and what the server measured."""
    nodes = results_scene.Nodes(node)
    result, record = nodes.result, made.record
    clean, after = (made.images[role].array for role in ("clean", "adversarial"))
    ml = result.voxelMl
    assert clean.any() and (clean != after).any()
    shown = {row.name: row for row in result.rows(absent=True)}
    for name, value in result.labels.items():
        a, b = clean == value, after == value
        row, served = shown[name], record["metrics"]["adversarial"][name]
        assert row.beforeMl == pytest.approx(record["metrics"]["clean"][name]["volume_ml"])
        assert row.afterMl == pytest.approx(served["volume_ml"]) and row.beforeMl == pytest.approx(a.sum() * ml)
        assert row.lostMl == pytest.approx((a & ~b).sum() * ml) and row.gainedMl == pytest.approx((b & ~a).sum() * ml)
        if row.agreement is None:
            assert served["dice"] is None
            continue
        assert row.agreement == pytest.approx(served["dice"], abs=1e-12) and row.dice == served["dice"]
        # The server's verdict and the slices that failed here go by the same rule.
        if record["verdicts"][name] == "local":
            assert row.failed > 2
        if record["verdicts"][name] == "held":
            assert row.failed <= 2
        for axis in range(3):
            rows = [r for r in record["slices"] if (r["structure"], r["axis"]) == (name, axis)]
            counts, column = result.counts[axis], result.names.index(name)
            assert [r["index"] for r in rows] == np.flatnonzero(~np.isnan(counts.dice[:, column])).tolist()
            for r in rows:
                at = r["index"], column
                found = counts.dice[at], counts.lost[at], counts.gained[at]
                assert found == pytest.approx((r["dice"], r["lost"], r["gained"]))
    others = tuple(a for a in range(3) if a != 2 - result.axis)
    assert np.allclose(result.differing(), (clean != after).sum(others) * ml)
    for role, array in (("clean", clean), ("adversarial", after)):
        for name, value in result.labels.items():
            if (array == value).any():
                segmentation = getattr(nodes, role)
                found = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, name, nodes.original)
                assert np.array_equal(found > 0, array == value)


def test_a_real_result_says_what_the_server_measured(scene, tiny_server):
    volume = scans.add_scan("oblique")
    made = attacked(tiny_server, volume, steps=3)
    compare(results_scene.addResultNow(made, volume), made)


@pytest.mark.slow
def test_a_real_scan_and_the_built_in_model(scene, server, real_ct):
    volume = slicer.util.loadVolume(str(real_ct))
    made = attacked(server, volume)
    node = results_scene.addResultNow(made, volume)
    compare(node, made)
    verdict = results_scene.Nodes(node).result.verdict()
    assert re.match(r"A change of at most 10 HU \(0\.8\d × this scan's own noise\) broke ", verdict), verdict
    assert re.search(r"removed \d+ ml of ", verdict), verdict
