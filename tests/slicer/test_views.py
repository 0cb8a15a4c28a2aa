"""Layouts, linked views, modes and text, on the real slice logics; indices exact on every kind of grid."""

import bundles
import numpy as np
import pytest
import scans
import slicer
from PerturboxLib import layouts, placing, segments, views
from PerturboxLib import scene as results_scene
from PerturboxLib.annotations import sides
from PerturboxLib.trouble import Trouble
from PerturboxLib.views import Viewer


@pytest.fixture
def viewer(scene, slicer_app):
    found = Viewer(slicer_app.layoutManager())
    yield found
    found.leave()


def composite(viewer, name):
    return viewer.widget(name).sliceLogic().GetSliceCompositeNode()


def shown_in(display) -> set[str]:
    """Names of the slice views that a display node is visible in."""
    if not display.GetVisibility():
        return set()
    nodes = slicer.util.getNodesByClass("vtkMRMLSliceNode")
    return {node.GetLayoutName() for node in nodes if display.IsDisplayableInView(node.GetID())}


def placed(node) -> list[float]:
    """Where a slice view lies and how large it shows things; its width follows the window's."""
    matrix = slicer.util.arrayFromVTKMatrix(node.GetSliceToRAS()).ravel()
    width, height, _ = node.GetDimensions()
    field = node.GetFieldOfView()
    assert field[0] / field[1] == pytest.approx(width / height)
    return np.round([*matrix, *field[1:], *node.GetXYZOrigin()], 9).tolist()


# ---------------------------------------------------------------- layouts


def test_layouts_are_registered_once_and_again_after_a_reload(slicer_app, scene):
    node = slicer_app.layoutManager().layoutLogic().GetLayoutNode()
    for _ in range(2):
        layouts.register(slicer_app.layoutManager())
        for number in (7301, 7302, 7303, 7304):
            assert node.IsLayoutDescription(number)
    assert 'singletontag="Before"' in node.GetLayoutDescription(7301)
    before, after = (node.GetLayoutDescription(7301).index(tag) for tag in ("Before", "After"))
    assert before < after and "#8FC1E8" in node.GetLayoutDescription(7301)


@pytest.mark.parametrize("mode", views.MODES)
def test_each_mode_has_its_layout_and_the_chart(viewer, slicer_app, mode):
    node, _, _ = bundles.add()
    viewer.show(node, mode)
    assert slicer_app.layoutManager().layout == layouts.LAYOUTS[mode]
    plot = slicer.mrmlScene.GetSingletonNode("DicePerSlice", "vtkMRMLPlotViewNode")
    assert plot.GetPlotChartNodeID() == results_scene.Nodes(node).chart.GetID() and plot.IsMappedInLayout()
    assert plot.GetInteractionMode() == plot.InteractionModeSelectPoints
    shown = {n.GetLayoutName() for n in slicer.util.getNodesByClass("vtkMRMLSliceNode") if n.IsMappedInLayout()}
    assert shown == set(viewer.names)


# ---------------------------------------------------------------- what a mode shows


def test_compare_shows_clean_left_and_adversarial_right_with_the_line_of_before(viewer):
    node, volume, _ = bundles.add()
    nodes = results_scene.Nodes(node)
    viewer.show(node, "compare")
    assert composite(viewer, "Before").GetBackgroundVolumeID() == volume.GetID()
    assert composite(viewer, "After").GetBackgroundVolumeID() == nodes.perturbed.GetID()
    assert composite(viewer, "After").GetForegroundVolumeID() is None
    assert shown_in(nodes.clean.GetDisplayNode()) == {"Before"}
    assert shown_in(nodes.adversarial.GetDisplayNode()) == {"After"}
    assert shown_in(nodes.difference.GetDisplayNode()) == set()
    line = segments.beforeLine(nodes.clean)
    assert shown_in(line) == {"After"} and not line.GetVisibility2DFill()
    assert list(line.GetSegmentOverrideColor("liver")) == [1, 1, 1] and line.GetSliceIntersectionThickness() == 1
    for name in ("Before", "After"):
        assert composite(viewer, name).GetLinkedControl() and composite(viewer, name).GetHotLinkedControl()
        assert viewer.widget(name).mrmlSliceNode().GetViewGroup() == 73


def test_difference_shows_lost_and_added_over_the_scan_and_in_space(viewer):
    node, volume, _ = bundles.add()
    nodes = results_scene.Nodes(node)
    viewer.show(node, "difference")
    shown = nodes.difference.GetDisplayNode()
    assert viewer.names == ("Difference",)
    assert composite(viewer, "Difference").GetBackgroundVolumeID() == volume.GetID()
    assert shown_in(shown) == {"Difference"} and shown_in(nodes.clean.GetDisplayNode()) == set()
    surfaces = slicer.mrmlScene.GetSingletonNode("Surfaces", "vtkMRMLViewNode")
    assert shown.IsDisplayableInView(surfaces.GetID()) and shown.GetVisibility3D()
    assert nodes.difference.GetClosedSurfaceInternalRepresentation("spleen_lost").GetNumberOfPoints() > 0


def test_surfaces_of_a_large_scan_are_made_only_on_demand(viewer, monkeypatch):
    monkeypatch.setattr(views, "SURFACE_VOXELS", 10)
    node, _, _ = bundles.add()
    nodes = results_scene.Nodes(node)
    viewer.show(node, "difference")
    assert nodes.difference.GetClosedSurfaceInternalRepresentation("spleen_lost") is None
    viewer.showSurfaces()
    assert nodes.difference.GetClosedSurfaceInternalRepresentation("spleen_lost").GetNumberOfPoints() > 0


def test_heat_lies_over_the_perturbed_scan_as_influence_or_the_change_itself(viewer):
    node, _, _ = bundles.add()
    nodes = results_scene.Nodes(node)
    viewer.setHeatOpacity(0.35)
    viewer.show(node, "heat")
    right = composite(viewer, "After")
    assert right.GetForegroundVolumeID() == nodes.influence.GetID()
    assert right.GetForegroundOpacity() == pytest.approx(0.35)
    assert composite(viewer, "Before").GetForegroundVolumeID() is None
    assert nodes.adversarial.GetDisplayNode().GetOpacity2DFill() == 0  # heat is not hidden by fills
    viewer.setSigned(True)
    assert right.GetForegroundVolumeID() == nodes.perturbation.GetID()
    viewer.setHeatOpacity(0.8)
    assert right.GetForegroundOpacity() == pytest.approx(0.8)
    viewer.setSigned(False)
    viewer.show(node, "compare")
    assert right.GetForegroundVolumeID() is None and right.GetForegroundOpacity() == 0


def test_a_legend_is_there_only_with_its_heat(viewer):
    if not slicer.mrmlScene.IsNodeClassRegistered("vtkMRMLColorLegendDisplayNode"):
        slicer.mrmlScene.RegisterNodeClass(slicer.vtkMRMLColorLegendDisplayNode())
    node, _, _ = bundles.add()
    nodes = results_scene.Nodes(node)

    def visible():
        found = slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode")
        return [legend.GetPrimaryDisplayNode() for legend in found if legend.GetVisibility()]

    viewer.show(node, "heat")
    assert visible() == [nodes.influence.GetDisplayNode()]
    (legend,) = slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode")
    assert legend.GetTitleText() == "influence"
    viewer.setSigned(True)
    assert visible() == [nodes.perturbation.GetDisplayNode()]
    legends = slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode")
    assert sorted(legend.GetTitleText() for legend in legends) == ["HU", "influence"]
    viewer.show(node, "compare")
    assert visible() == []
    viewer.setSigned(False)
    viewer.leave()
    results_scene.remove(node)
    assert slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode") == []


def test_standard_views_show_the_perturbed_scan_and_are_put_back(viewer, slicer_app):
    node, volume, _ = bundles.add("oblique")
    nodes = results_scene.Nodes(node)
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    manager = slicer_app.layoutManager()
    manager.sliceWidget("Green").sliceLogic().SetSliceOffset(3.25)
    manager.sliceWidget("Red").sliceLogic().GetSliceCompositeNode().SetForegroundOpacity(0.5)

    def state():
        return {
            name: (
                placed(manager.sliceWidget(name).mrmlSliceNode()),
                composite(viewer, name).GetBackgroundVolumeID(),
                composite(viewer, name).GetForegroundOpacity(),
                composite(viewer, name).GetLinkedControl(),
                manager.sliceWidget(name).sliceView().cornerAnnotation().GetVisibility(),
            )
            for name in ("Red", "Green", "Yellow")
        }

    before = state()
    viewer.show(node, "fourUp")
    assert viewer.names == ("Red", "Green", "Yellow")
    for name in viewer.names:
        assert composite(viewer, name).GetBackgroundVolumeID() == nodes.perturbed.GetID()
    assert shown_in(nodes.adversarial.GetDisplayNode()) == {"Red", "Green", "Yellow"}
    viewer.jump(4)
    assert viewer.index() == 4 and state() != before
    viewer.leave()
    assert state() == before and manager.layout == slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView


@pytest.mark.parametrize("mode", views.MODES)
def test_leaving_restores_layout_opacities_and_visibility(viewer, slicer_app, mode):
    node, _, _ = bundles.add()
    nodes = results_scene.Nodes(node)
    manager = slicer_app.layoutManager()
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView)
    viewer.show(node, mode)
    viewer.leave()
    assert manager.layout == slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView
    for role in ("clean", "adversarial", "difference"):
        assert not getattr(nodes, role).GetDisplayNode().GetVisibility()
        assert not getattr(nodes, role).GetDisplayNode().GetNumberOfViewNodeIDs()
    assert not segments.beforeLine(nodes.clean).GetVisibility()
    for name in ("Before", "After", "Difference"):
        if viewer.widget(name) is not None:
            assert composite(viewer, name).GetForegroundOpacity() == 0
            assert composite(viewer, name).GetBackgroundVolumeID() is None
    viewer.leave()  # once more does nothing
    assert viewer.index() == 0 and viewer.mode == ""


def test_a_scene_saved_in_our_layout_is_left_for_the_standard_one(viewer, slicer_app):
    node, _, _ = bundles.add()
    slicer_app.layoutManager().setLayout(7303)
    viewer.show(node, "compare")
    viewer.leave()
    assert slicer_app.layoutManager().layout == slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView


def test_a_result_without_its_scan_is_not_shown(viewer, slicer_app):
    node, volume, _ = bundles.add()
    slicer.mrmlScene.RemoveNode(volume)
    before = slicer_app.layoutManager().layout
    with pytest.raises(Trouble, match="scan is no longer in the scene"):
        viewer.show(node)
    assert slicer_app.layoutManager().layout == before


def test_a_result_removed_while_it_is_shown_leaves_cleanly(viewer, slicer_app):
    node, _, _ = bundles.add()
    viewer.show(node, "heat")
    results_scene.remove(node)
    viewer.leave()
    assert slicer_app.layoutManager().layout == slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView


def test_closing_the_scene_while_a_result_is_shown_is_survived(viewer, slicer_app):
    node, _, _ = bundles.add()
    viewer.show(node, "heat")
    slicer.mrmlScene.Clear(0)
    viewer.leave()
    node, _, _ = bundles.add()
    viewer.show(node, "compare")
    assert viewer.index() == results_scene.Nodes(node).result.worst()


# ---------------------------------------------------------------- slices


@pytest.mark.parametrize("grid", list(scans.GRIDS))
def test_a_slice_of_the_view_is_a_slice_of_the_scan(viewer, grid):
    node, volume, _ = bundles.add(grid)
    viewer.show(node, "compare")
    axis = viewer.result.axis
    inverse = np.linalg.inv(placing.geometry.worldGrid(volume))
    for index in range(viewer.result.slices):
        viewer.jump(index)
        assert viewer.index() == index
        for name in viewer.names:
            slice_node = viewer.widget(name).mrmlSliceNode()
            to_ras = slicer.util.arrayFromVTKMatrix(slice_node.GetXYToRAS())
            width, height, _ = slice_node.GetDimensions()
            for x, y in ((0, 0), (width, 0), (0, height)):  # the whole view lies in the slice
                ijk = inverse @ to_ras @ [x, y, 0, 1]
                assert ijk[axis] == pytest.approx(index, abs=1e-6), (name, x, y)
            logic = viewer.widget(name).sliceLogic()
            shown = viewer._volumeIn(name)
            slicers = logic.GetSliceIndexFromOffset(logic.GetSliceOffset(), shown)
            assert slicers == index + 1  # Slicer counts from 1


def test_jumping_beyond_the_ends_stops_there(viewer):
    node, _, _ = bundles.add()
    viewer.show(node)
    viewer.jump(-5)
    assert viewer.index() == 0
    viewer.jump(99)
    assert viewer.index() == 9


def test_both_views_scroll_and_zoom_together(viewer, slicer_app):
    node, _, _ = bundles.add("oblique")
    viewer.show(node, "compare")
    viewer.jump(4)
    left, right = (viewer.widget(name) for name in ("Before", "After"))
    seen = []
    viewer.onSlice(seen.append)
    right.scroll(2)
    assert viewer.index() in (2, 6)
    for name in ("SliceOffset",):
        assert getattr(left.sliceLogic(), f"Get{name}")() == pytest.approx(getattr(right.sliceLogic(), f"Get{name}")())
    assert seen and seen[-1] == viewer.index()
    left.scroll(-1)
    assert left.sliceLogic().GetSliceOffset() == pytest.approx(right.sliceLogic().GetSliceOffset())


def test_the_slice_stays_when_the_mode_changes_and_is_the_worst_at_first(viewer):
    node, _, _ = bundles.add()
    viewer.show(node, "compare")
    assert viewer.index() == results_scene.Nodes(node).result.worst()
    viewer.jump(2)
    for mode in ("difference", "heat", "fourUp", "compare"):
        viewer.show(node, mode)
        assert viewer.index() == 2, mode


def test_zoom_stays_when_the_mode_changes(viewer):
    node, _, _ = bundles.add()
    viewer.show(node, "compare")
    slice_node = viewer.widget("After").mrmlSliceNode()
    field = slice_node.GetFieldOfView()
    slice_node.SetFieldOfView(field[0] / 2, field[1] / 2, field[2])
    viewer.show(node, "heat")
    assert slice_node.GetFieldOfView()[0] == pytest.approx(field[0] / 2)


def test_callers_hear_of_each_slice_once(viewer):
    node, _, _ = bundles.add()
    seen = []
    viewer.onSlice(seen.append)
    viewer.show(node)
    first = viewer.index()
    viewer.jump(1)
    viewer.jump(1)
    viewer.jump(5)
    assert seen == [first, 1, 5]
    cursor = results_scene.Nodes(node).cursor.GetTable().GetColumnByName("Slice")
    assert [cursor.GetValue(0), cursor.GetValue(1)] == [6, 6]


# ---------------------------------------------------------------- looks


def test_a_window_is_the_same_for_both_whoever_sets_it(viewer):
    node, volume, _ = bundles.add()
    nodes = results_scene.Nodes(node)
    viewer.show(node)
    original, perturbed = volume.GetDisplayNode(), nodes.perturbed.GetDisplayNode()
    for window in views.WINDOWS:
        viewer.setWindow(window.name)
        for shown in (original, perturbed):
            assert (shown.GetWindow(), shown.GetLevel()) == (window.width, window.level)
    perturbed.SetWindowLevel(77, 7)
    assert (original.GetWindow(), original.GetLevel()) == (77, 7)
    original.SetWindowLevel(88, 8)
    assert (perturbed.GetWindow(), perturbed.GetLevel()) == (88, 8)
    viewer.setWindow("bone")  # asked for again: the user's own stays
    assert original.GetWindow() == 88
    viewer.setWindow("liver")
    assert (original.GetWindow(), perturbed.GetLevel()) == (150, 60)
    viewer.leave()
    original.SetWindowLevel(99, 9)
    assert perturbed.GetWindow() == 150  # nothing is observed any more


def test_label_styles(viewer):
    node, _, _ = bundles.add()
    nodes = results_scene.Nodes(node)
    viewer.show(node)
    shown, line = nodes.adversarial.GetDisplayNode(), segments.beforeLine(nodes.clean)
    found = {}
    for style in views.LABEL_STYLES:
        viewer.setLabelStyle(style)
        found[style] = (
            round(shown.GetOpacity2DFill(), 2), shown.GetOpacity2DOutline(), bool(shown.GetVisibility()),
            bool(line.GetVisibility()),
        )  # fmt: skip
    assert found["outline"] == (0.28, 1, True, True)
    assert found["fill"] == (0.6, 0, True, False)
    assert found["off"][2:] == (False, False)
    viewer.setLabelStyle("outline")


@pytest.mark.parametrize("mode", ["compare", "difference"])
def test_isolating_hides_the_other_structures_everywhere(viewer, mode):
    node, _, _ = bundles.add()
    nodes = results_scene.Nodes(node)
    viewer.show(node, mode)
    viewer.setIsolated(["spleen"])
    for shown in (nodes.clean.GetDisplayNode(), segments.beforeLine(nodes.clean), nodes.adversarial.GetDisplayNode()):
        assert shown.GetSegmentVisibility("spleen") and not shown.GetSegmentVisibility("liver")
    shown = nodes.difference.GetDisplayNode()
    visible = {s: bool(shown.GetSegmentVisibility(s)) for s in segments.segmentIds(nodes.difference)}
    assert visible == {"spleen_lost": True, "spleen_relabelled": True, "kidney_left_lost": False, "liver_added": False}
    viewer.setIsolated(None)
    assert all(shown.GetSegmentVisibility(s) for s in visible)


# ---------------------------------------------------------------- text


def test_corner_text_says_what_is_shown(viewer):
    node, _, _ = bundles.add()
    viewer.show(node, "compare")
    viewer.setWindow("soft")
    viewer.jump(7)
    result = viewer.result
    ml = result.differing()[7]
    corners = viewer.looks.annotations
    assert corners["Before"].lines == [
        "BEFORE – original scan, clean result",
        "Axial 8 / 10   W 400 L 40",
        f"differs here {ml:.1f} ml",
    ]
    assert corners["After"].lines == [
        "AFTER – SYNTHETIC perturbed scan, adversarial result",
        "Axial 8 / 10   W 400 L 40",
        f"differs here {ml:.1f} ml",
        "thin white line: before",
    ]
    viewer.setIsolated(["liver"])
    assert corners["After"].lines[2] == "Liver differs here 0.0 ml"
    viewer.setWindow("lung")
    assert corners["Before"].lines[1].endswith("W 1500 L −600")
    viewer.setIsolated(None)


@pytest.mark.parametrize("mode", views.MODES)
def test_every_perturbed_view_says_synthetic(viewer, mode):
    node, _, _ = bundles.add()
    perturbed = results_scene.Nodes(node).perturbed.GetID()
    viewer.show(node, mode)
    for name in viewer.names:
        told = " ".join(viewer.looks.annotations[name].lines)
        assert ("SYNTHETIC" in told) == (composite(viewer, name).GetBackgroundVolumeID() == perturbed), name
        assert not viewer.widget(name).sliceView().cornerAnnotation().GetVisibility()  # it may name the patient


@pytest.mark.parametrize(
    ("grid", "letters"), [("axial", ("R", "L")), ("oblique", ("R", "L")), ("sagittal", ("A", "P"))]
)
def test_sides_are_the_patients(viewer, grid, letters):
    node, _, _ = bundles.add(grid)
    viewer.show(node, "compare")
    assert sides(viewer.widget("Before").mrmlSliceNode()) == tuple(letters)


def test_text_leaves_with_the_views(viewer):
    node, _, _ = bundles.add()
    viewer.show(node, "compare")
    renderer = viewer.looks.annotations["After"].renderer
    count = renderer.GetViewProps().GetNumberOfItems()
    viewer.leave()
    assert renderer.GetViewProps().GetNumberOfItems() == count - 3
