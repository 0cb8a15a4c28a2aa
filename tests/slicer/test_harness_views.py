"""The harness's views: layouts, linked slices, rendered pixels, charts, 3D, pictures of the desktop."""

import numpy as np
import pytest
import slicer
from harness import pictures

AFFINE = np.diag([-1.0, -1.0, 3.0, 1.0])
GREEN = (0.0, 0.6, 0.4)
LAYOUT = 7391
XML = """<layout type="vertical" split="true">
<item splitSize="700"><layout type="horizontal">
<item><view class="vtkMRMLSliceNode" singletontag="Left">
<property name="orientation" action="default">Axial</property>
<property name="viewlabel" action="default">L</property>
<property name="viewcolor" action="default">#8FC1E8</property></view></item>
<item><view class="vtkMRMLSliceNode" singletontag="Right">
<property name="orientation" action="default">Axial</property>
<property name="viewlabel" action="default">R</property>
<property name="viewcolor" action="default">#F2C26B</property></view></item>
</layout></item>
<item splitSize="300"><view class="vtkMRMLPlotViewNode" singletontag="Chart">
<property name="viewlabel" action="default">C</property></view></item></layout>"""


@pytest.fixture
def volume(scene):
    """A CT of 64 x 64 x 20 voxels of 1 x 1 x 3 mm with a block of i, j 20..39 and k 5..14."""
    array = np.full((20, 64, 64), -100, np.int16)
    array[5:15, 20:40, 20:40] = 100
    return slicer.util.addVolumeFromArray(array, ijkToRAS=AFFINE, name="CT")


@pytest.fixture
def segmentation(scene, volume):
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "block")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    name = node.GetSegmentation().AddEmptySegment("block", "block", GREEN)
    mask = (slicer.util.arrayFromVolume(volume) > 0).astype(np.uint8)
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, name, volume)
    return node


@pytest.fixture
def pair(volume, slicer_app):
    """The layout above with the volume in both slice views, linked."""
    manager = slicer_app.layoutManager()
    node = manager.layoutLogic().GetLayoutNode()
    add = node.SetLayoutDescription if node.IsLayoutDescription(LAYOUT) else node.AddLayoutDescription
    add(LAYOUT, XML)
    manager.setLayout(LAYOUT)
    for name in ("Left", "Right"):
        widget = manager.sliceWidget(name)
        widget.mrmlSliceNode().SetViewGroup(73)
        widget.mrmlSliceCompositeNode().SetBackgroundVolumeID(volume.GetID())
        widget.fitSliceToBackground()
        widget.mrmlSliceCompositeNode().SetLinkedControl(1)
        widget.mrmlSliceCompositeNode().SetHotLinkedControl(1)
    return manager.sliceWidget("Left"), manager.sliceWidget("Right")


def offset(widget):
    return widget.sliceLogic().GetSliceOffset()


# -- layouts


def test_a_layout_makes_its_views(pair, slicer_app):
    manager, (left, right) = slicer_app.layoutManager(), pair
    assert manager.layout == LAYOUT and manager.sliceViewNames()[:2] == ["Left", "Right"]
    assert left.visible and right.visible and not manager.sliceWidget("Red").visible
    assert left.mrmlSliceNode().IsMappedInLayout() and not manager.sliceWidget("Red").mrmlSliceNode().IsMappedInLayout()
    assert left.mrmlSliceNode().GetOrientation() == "Axial" and left.mrmlSliceNode().GetLayoutLabel() == "L"
    assert abs(left.width - right.width) <= 1 and left.x < right.x
    assert left.height > 1.8 * manager.viewWidget(manager.plotWidget(0).mrmlPlotViewNode()).height
    assert manager.sliceWidget("Nothing") is None and manager.plotWidget(9) is None


def test_the_earlier_layout_comes_back(pair, slicer_app):
    manager, changes = slicer_app.layoutManager(), []
    manager.connect("layoutChanged(int)", changes.append)
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView)
    assert manager.sliceWidget("Red").visible and not pair[0].visible
    manager.layout = LAYOUT
    assert pair[0].visible and changes == [slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView, LAYOUT]
    manager.disconnect("layoutChanged(int)", changes.append)


def test_a_saved_scene_brings_its_layout_and_slices_back(pair, scene, slicer_app, tmp_path):
    pair[0].sliceLogic().SetSliceOffset(24)
    slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    scene.Clear(0)
    slicer_app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    left = slicer_app.layoutManager().sliceWidget("Left")
    assert slicer_app.layoutManager().layout == LAYOUT and left.visible
    shown = scene.GetNodeByID(left.mrmlSliceCompositeNode().GetBackgroundVolumeID())
    assert (offset(left), shown.GetName()) == (24.0, "CT")


# -- linked slices


def test_linked_views_scroll_together(pair, slicer_app):
    left, right = pair
    red = offset(slicer_app.layoutManager().sliceWidget("Red"))
    start = offset(left)
    left.scroll(3)
    assert offset(left) == offset(right) == start + 9
    right.scroll(-1)
    assert offset(left) == offset(right) == start + 6
    assert offset(slicer_app.layoutManager().sliceWidget("Red")) == red
    for widget in pair:
        widget.mrmlSliceCompositeNode().SetLinkedControl(0)
    left.scroll(1)
    assert (offset(left), offset(right)) == (start + 9, start + 6)


def test_jumping_moves_a_slice_without_the_mouse(pair):
    left, right = pair
    left.mrmlSliceNode().JumpSliceByOffsetting(0, 0, 45)
    assert offset(left) == 45 and offset(right) != 45


# -- pixels


def test_a_slice_shows_the_volume_at_its_scale(rendering, volume, pair):
    left, _ = pair
    volume.GetDisplayNode().AutoWindowLevelOff()
    volume.GetDisplayNode().SetWindowLevelMinMax(-100, 100)
    volume.GetDisplayNode().SetInterpolate(0)
    left.sliceLogic().SetSliceOffset(30)
    node, shown = left.mrmlSliceNode(), left.sliceView().array()
    assert shown.shape == (left.sliceView().height, left.sliceView().width, 3)
    per_mm = node.GetDimensions()[0] / node.GetFieldOfView()[0]
    assert pictures.count(shown, (1, 1, 1)) == pytest.approx((20 * per_mm) ** 2, rel=0.02)
    assert pictures.count(shown, (1, 1, 1)) + pictures.count(shown, (0, 0, 0)) > 0.95 * shown[..., 0].size
    volume.GetDisplayNode().SetWindowLevelMinMax(-300, 100)
    assert pictures.count(left.sliceView().array(), (0.5, 0.5, 0.5), 2) > 2 * (20 * per_mm) ** 2
    left.sliceLogic().SetSliceOffset(3)
    assert pictures.count(left.sliceView().array(), (1, 1, 1)) == 0


def test_the_block_lies_where_its_voxels_are(rendering, volume, pair):
    left, _ = pair
    volume.GetDisplayNode().SetInterpolate(0)
    left.sliceLogic().SetSliceOffset(30)
    shown, view = left.sliceView().array(), left.sliceView()
    rows, columns = np.nonzero(shown[..., 0] > 200)
    corner = view.convertRASToXYZ((-19.5, -19.5, 30))
    assert columns.min() == pytest.approx(corner[0], abs=1.5)
    assert shown.shape[0] - 1 - rows.min() == pytest.approx(corner[1], abs=1.5)
    assert view.convertXYZToRAS(corner) == pytest.approx([-19.5, -19.5, 30])


def test_a_filled_segment_has_as_many_pixels_as_its_voxels_cover(rendering, segmentation, pair):
    left, _ = pair
    display = segmentation.GetDisplayNode()
    display.SetOpacity2DFill(1.0)
    display.SetVisibility2DOutline(False)
    left.sliceLogic().SetSliceOffset(30)
    node = left.mrmlSliceNode()
    per_mm = node.GetDimensions()[0] / node.GetFieldOfView()[0]
    filled = pictures.count(left.sliceView().array(), GREEN)
    assert filled == pytest.approx((20 * per_mm) ** 2, rel=0.02)
    display.SetVisibility2DOutline(True)
    display.SetVisibility2DFill(False)
    assert 0 < pictures.count(left.sliceView().array(), GREEN) < 0.2 * filled
    display.SetVisibility(False)
    assert pictures.count(left.sliceView().array(), GREEN) == 0


def test_display_nodes_can_be_for_one_view_only(rendering, segmentation, pair):
    left, right = pair
    segmentation.GetDisplayNode().SetViewNodeIDs([right.mrmlSliceNode().GetID()])
    segmentation.GetDisplayNode().SetOpacity2DFill(1.0)
    for widget in pair:
        widget.sliceLogic().SetSliceOffset(30)
    assert pictures.count(left.sliceView().array(), GREEN) == 0
    assert pictures.count(right.sliceView().array(), GREEN) > 1000


def test_corner_text_is_drawn(rendering, pair):
    view = pair[0].sliceView()
    before = pictures.grab(view)
    view.cornerAnnotation().SetText(2, "BEFORE")
    changed = (pictures.grab(view) != before).any(axis=-1)
    rows, columns = np.nonzero(changed)
    assert changed.sum() > 50 and rows.max() < before.shape[0] / 4 and columns.max() < before.shape[1] / 2
    view.cornerAnnotation().SetText(2, "")
    assert np.array_equal(pictures.grab(view), before)


def test_closed_surfaces_are_shown_in_3d(rendering, segmentation, slicer_app):
    view = slicer_app.layoutManager().threeDWidget(0).threeDView()
    segmentation.CreateClosedSurfaceRepresentation()
    view.array()
    view.resetFocalPoint()
    shown = view.array()
    segmentation.GetDisplayNode().SetVisibility3D(False)
    empty = view.array()
    changed = (shown.astype(int) - empty).any(axis=-1)
    greener = shown[..., 1].astype(int) > np.maximum(shown[..., 0], shown[..., 2]).astype(int) + 20
    assert changed.sum() > 300 and (greener & changed).sum() > 0.5 * changed.sum()


# -- charts


@pytest.fixture
def chart(pair, slicer_app):
    """Ten values, one of them missing, in the layout's plot view."""
    table = np.stack([np.arange(10.0), [1, 0.9, 0.8, np.nan, 0.6, 0.5, 0.6, 0.7, 0.8, 0.9]], axis=1)
    node = slicer.util.plot(table, 0, ["slice", "Dice"], title="Dice", show=False)
    series = node.GetNthPlotSeriesNode(0)
    series.SetColor(*GREEN)
    series.SetMarkerStyle(series.MarkerStyleSquare)
    manager = slicer_app.layoutManager()
    widgets = [manager.plotWidget(index) for index in range(manager.plotViewCount)]
    view = next(widget for widget in widgets if widget.mrmlPlotViewNode().GetLayoutName() == "Chart").plotView()
    view.mrmlPlotViewNode().SetPlotChartNodeID(node.GetID())
    view.mrmlPlotViewNode().SetInteractionMode(view.mrmlPlotViewNode().InteractionModeSelectPoints)
    return node, series, view


def test_a_chart_is_drawn_and_follows_its_table(rendering, chart):
    node, series, view = chart
    drawn = pictures.count(view.array(), GREEN)
    assert drawn > 500
    series.SetLineStyle(series.LineStyleNone)
    assert pictures.count(view.array(), GREEN) < drawn / 2
    node.RemovePlotSeriesNodeID(series.GetID())
    assert pictures.count(view.array(), GREEN) == 0


@pytest.mark.parametrize("row", [0, 5, 9])
def test_a_click_on_a_point_says_which(rendering, chart, row):
    _, series, view = chart
    said = []

    def hear(names, selections):
        for index in range(names.GetNumberOfValues()):
            points = selections.GetItemAsObject(index)
            said.append((names.GetValue(index), [points.GetValue(n) for n in range(points.GetNumberOfValues())]))

    view.connect("dataSelected(vtkStringArray*, vtkCollection*)", hear)
    view.click_point(series, row)
    view.disconnect("dataSelected(vtkStringArray*, vtkCollection*)", hear)
    assert said == [(series.GetID(), [row])]
    view.RemovePlotSelections()


def test_a_box_selects_points_only_in_that_mode(rendering, chart):
    _, series, view = chart
    said = []

    def hear(names, selections):
        said.extend(selections.GetItemAsObject(index).GetNumberOfValues() for index in range(names.GetNumberOfValues()))

    view.connect("dataSelected(vtkStringArray*, vtkCollection*)", hear)
    (left, low), (right, high) = view.position_of(series, 4), view.position_of(series, 8)
    view.drag((left - 3, low - 3), (right + 3, high + 3))
    assert said == [4]  # rows 4, 6, 7 and 8: row 5 lies lower
    view.RemovePlotSelections()
    said.clear()
    node = view.mrmlPlotViewNode()
    node.SetInteractionMode(node.InteractionModePanView)
    view.drag((left - 3, low - 3), (right + 3, high + 3))
    view.disconnect("dataSelected(vtkStringArray*, vtkCollection*)", hear)
    assert 4 not in said


def test_a_fixed_axis_stays(rendering, chart):
    node, series, view = chart
    node.SetYAxisRangeAuto(False)
    node.SetYAxisRange(0, 1)
    bottom = view.position_of(series, 5)
    top = view.position_of(series, 0)
    axis = view.chart().GetAxis(0)
    assert (axis.GetMinimum(), axis.GetMaximum()) == (0.0, 1.0)
    assert bottom[1] == pytest.approx((axis.GetPoint1()[1] + top[1]) / 2, abs=2)


# -- pictures


def test_the_desktop_is_panel_and_views(rendering, pair, tmp_path):
    picture = pictures.desktop(1200, 800)
    assert picture.shape == (800, 1200, 3)
    view = pair[0].sliceView()
    place = view.mapTo(slicer.util.mainWindow(), view.rect.topLeft())
    shown = picture[place.y() : place.y() + view.height, place.x() : place.x() + view.width]
    assert place.x() > 300 and np.array_equal(shown, view.array())
    path = pictures.save(picture, tmp_path / "docs" / "desktop.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_colours_are_counted_within_their_tolerance():
    picture = np.zeros((2, 2, 3), np.uint8)
    picture[0, 0], picture[0, 1] = (0, 153, 102), (0, 153, 111)
    assert pictures.count(picture, GREEN) == 1 and pictures.count(picture, GREEN, tolerance=9) == 2
