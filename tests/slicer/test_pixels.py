"""Pixels of the rendered views against the arrays: each voxel is a block of pixels of its structure's colour."""

import bundles
import numpy as np
import pytest
import slicer
from PerturboxLib import palette, segments
from PerturboxLib import scene as results_scene
from PerturboxLib.views import Viewer

ZOOM = 8  # pixels to a voxel, each way
COLOURS = {"liver": "#009E73", "spleen": "#56B4E9", "kidney_left": "#F0E442"}
GRIDS = ["axial", "oblique", "flipped", "anisotropic", "sagittal"]


@pytest.fixture
def viewer(scene, slicer_app, rendering):
    found = Viewer(slicer_app.layoutManager())
    yield found
    views = [found.widget(name) for name in ("Before", "After", "Difference")]
    for view in (widget.sliceView() for widget in views if widget is not None):
        view.setMinimumSize(0, 0)
        view.setMaximumSize(16777215, 16777215)
    found.leave()


def enlarge(viewer, slicer_app) -> None:
    """Make each view exactly as large as a slice, `ZOOM` pixels to a voxel, without text."""
    axis = viewer.result.axis
    for name in viewer.names:
        widget, volume = viewer.widget(name), viewer._volumeIn(name)
        node = widget.mrmlSliceNode()
        # Which of the volume's axes run along the view, from its own matrices.
        turn = np.linalg.inv(results_scene.geometry.worldGrid(volume)[:3, :3])
        along = [int(np.abs(turn @ direction).argmax()) for direction in directions(node)]
        assert sorted([*along, axis]) == [0, 1, 2]
        size, spacing = volume.GetImageData().GetDimensions(), volume.GetSpacing()
        widget.sliceView().setFixedSize(*(ZOOM * size[a] for a in along))
        slicer_app.processEvents()
        widget.sliceView().array()
        assert list(node.GetDimensions()[:2]) == [ZOOM * size[a] for a in along]
        node.SetFieldOfView(*(size[a] * spacing[a] for a in along), node.GetFieldOfView()[2])
        # The first pixel's sample lies on its edge: half a pixel further, none lies between two voxels.
        node.SetXYZOrigin(*(spacing[a] / ZOOM / 2 for a in along), 0)
        for actor in vars(viewer.looks.annotations[name]).values():
            if getattr(actor, "IsA", lambda _: False)("vtkTextActor"):
                actor.SetVisibility(False)
        volume.GetDisplayNode().SetInterpolate(0)


def hide_legends() -> None:
    """They lie over the pixels, and come with every change of the heat."""
    for legend in slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode"):
        legend.SetVisibility(False)


def directions(slice_node) -> list[np.ndarray]:
    """RAS directions of the view's columns and rows."""
    matrix = slicer.util.arrayFromVTKMatrix(slice_node.GetSliceToRAS())
    return [matrix[:3, 0], matrix[:3, 1]]


def opaque(node, outlined=()) -> None:
    """Fill the segments wholly, without outlines; those in `outlined` too."""
    shown = node.GetDisplayNode()
    shown.SetOpacity2DFill(1.0)
    shown.SetVisibility2DOutline(False)
    for segment in segments.segmentIds(node):
        shown.SetSegmentOpacity2DFill(segment, 1.0)
        shown.SetSegmentVisibility(segment, segment in outlined or not segment.endswith("_added"))


def voxels(viewer, name) -> np.ndarray:
    """The k, j, i of each pixel of a view, "row column 3", by the matrices alone; rows from the top."""
    node, volume = viewer.widget(name).mrmlSliceNode(), viewer._volumeIn(name)
    width, height, _ = node.GetDimensions()
    to_ijk = np.linalg.inv(results_scene.geometry.worldGrid(volume)) @ slicer.util.arrayFromVTKMatrix(node.GetXYToRAS())
    y, x = np.meshgrid(np.arange(height)[::-1], np.arange(width), indexing="ij")
    points = np.stack([x, y, np.zeros_like(x), np.ones_like(x)], -1) @ to_ijk.T
    return np.rint(points[..., 2::-1]).astype(int)


def coloured(picture: np.ndarray, colour: str) -> np.ndarray:
    """Which pixels have a colour."""
    return (np.abs(picture.astype(int) - np.rint(255 * np.array(palette.rgb(colour)))) <= 1).all(-1)


@pytest.mark.parametrize("grid", GRIDS)
def test_clean_and_adversarial_pixels_are_the_voxels(viewer, slicer_app, grid):
    node, _, _ = bundles.add(grid)
    nodes = results_scene.Nodes(node)
    viewer.show(node, "compare")
    viewer.setLabelStyle("fill")
    for segmentation in (nodes.clean, nodes.adversarial):
        opaque(segmentation)
    enlarge(viewer, slicer_app)
    maps = dict(zip(viewer.names, bundles.maps(), strict=True))
    for index in range(10):
        viewer.jump(index)
        for name, labels in maps.items():
            picture, at = viewer.widget(name).sliceView().array(), voxels(viewer, name)
            assert set(at[..., 0].ravel()) == {index}
            there = labels[tuple(np.moveaxis(at, -1, 0))]
            for structure, colour in COLOURS.items():
                found, value = coloured(picture, colour), bundles.LABELS[structure]
                # as many as the array says, and where it says
                assert found.sum() == ZOOM**2 * (labels[index] == value).sum(), (name, index, structure)
                assert np.array_equal(found, there == value), (name, index, structure)


@pytest.mark.parametrize("grid", GRIDS)
def test_lost_relabelled_and_added_pixels_are_the_voxels(viewer, slicer_app, grid):
    node, _, _ = bundles.add(grid)
    difference = results_scene.Nodes(node).difference
    viewer.show(node, "difference")
    results_scene.segments.beforeLine(results_scene.Nodes(node).clean).SetVisibility(False)
    enlarge(viewer, slicer_app)
    view = viewer.widget("Difference").sliceView()
    clean, after = bundles.maps()
    became = {
        palette.LOST: (clean > 0) & (after == 0),
        palette.RELABELLED: (clean > 0) & (after > 0) & (clean != after),
    }
    added = (after > 0) & (clean != after)
    for index in range(10):
        viewer.jump(index)
        opaque(difference)
        picture, at = view.array(), tuple(np.moveaxis(voxels(viewer, "Difference"), -1, 0))
        for colour, wanted in became.items():
            found = coloured(picture, colour)
            assert found.sum() == ZOOM**2 * wanted[index].sum(), (index, colour)
            assert np.array_equal(found, wanted[at]), (index, colour)
        opaque(difference, outlined=segments.segmentIds(difference))
        for segment in segments.segmentIds(difference):
            difference.GetDisplayNode().SetSegmentVisibility(segment, segment.endswith("_added"))
        found = coloured(view.array(), palette.ADDED)
        assert found.sum() == ZOOM**2 * added[index].sum() and np.array_equal(found, added[at]), index
    assert all(wanted.any() for wanted in became.values()) and added.any()


@pytest.mark.parametrize("grid", ["axial", "oblique"])
@pytest.mark.parametrize("role, clear", [("influence", 0.05), ("perturbation", 0.5)])
def test_heat_pixels_begin_where_there_is_something_to_show(viewer, slicer_app, grid, role, clear):
    """Where hardly anything changed the view shows the scan alone, elsewhere red or blue on top of it."""
    node, _, _ = bundles.add(grid)
    nodes = results_scene.Nodes(node)
    viewer.show(node, "heat")
    viewer.setLabelStyle("off")
    enlarge(viewer, slicer_app)
    viewer.setSigned(role == "perturbation")
    value = slicer.util.arrayFromVolume(getattr(nodes, role))
    view = viewer.widget("After").sliceView()
    assert (np.abs(value) < clear).any()
    seen = 0
    for index in range(value.shape[0]):
        viewer.jump(index)
        viewer.setHeatOpacity(0.0)
        hide_legends()
        without = view.array()
        viewer.setHeatOpacity(1.0)
        hide_legends()
        picture, at = view.array(), tuple(np.moveaxis(voxels(viewer, "After"), -1, 0))
        hot, picture = np.abs(value[at]) > 1.2 * clear, picture.astype(int)  # a colour table has 256 steps
        assert np.array_equal(picture[np.abs(value[at]) < 0.8 * clear], without[np.abs(value[at]) < 0.8 * clear])
        if hot.any():
            seen += 1
            redness = (picture[..., 0] - picture[..., 2])[hot]
            strong = np.abs(value[at][hot]) > 0.3 * np.abs(value).max()
            assert (np.sign(redness) == np.sign(value[at][hot]))[strong].all()
    assert seen > 1


def test_the_line_of_before_is_white_and_thin(viewer, slicer_app):
    node, _, _ = bundles.add("axial")
    nodes = results_scene.Nodes(node)
    viewer.show(node, "compare")
    viewer.setIsolated(["kidney_left"])  # vanished: only its line is left
    enlarge(viewer, slicer_app)
    results_scene.segments.beforeLine(nodes.clean).SetOpacity2DOutline(1.0)
    nodes.perturbed.GetDisplayNode().SetWindowLevel(1, 1000)  # black
    viewer.jump(4)
    white = coloured(viewer.widget("After").sliceView().array(), "#FFFFFF")
    rows, columns = np.flatnonzero(white.any(1)), np.flatnonzero(white.any(0))
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    assert abs(height - 3 * ZOOM) <= 1 and abs(width - 3 * ZOOM) <= 1  # 3 x 3 voxels of kidney
    assert 0.8 * 2 * (height + width) < white.sum() < 1.3 * 2 * (height + width)  # one pixel thin
    viewer.setLabelStyle("off")
    assert not coloured(viewer.widget("After").sliceView().array(), "#FFFFFF").any()


@pytest.mark.parametrize("grid", ["axial", "oblique"])
@pytest.mark.parametrize("alone", ["spleen", "liver"])
def test_a_lone_structure_shows_what_it_became_and_what_became_it(viewer, slicer_app, grid, alone):
    """Of the spleen alone the view after shows the part that is liver now in the liver's colour; of the liver alone the
    view before shows the same part in the spleen's, which became it."""
    node, _, _ = bundles.add(grid)
    nodes = results_scene.Nodes(node)
    viewer.show(node, "compare")
    viewer.setLabelStyle("fill")
    viewer.setIsolated({alone})
    ways = [nodes.became.GetDisplayNode(), segments.beforeColours(nodes.became)]
    for shown in (nodes.clean.GetDisplayNode(), nodes.adversarial.GetDisplayNode(), *ways):
        shown.SetOpacity2DFill(1.0)
        shown.SetVisibility2DOutline(False)
    enlarge(viewer, slicer_app)
    clean, after = bundles.maps()
    value, moved = bundles.LABELS[alone], (clean == 2) & (after == 1)
    other = {"spleen": "liver", "liver": "spleen"}[alone]
    wanted = {
        "Before": {alone: clean == value, other: moved & (alone == "liver")},
        "After": {alone: after == value, other: moved & (alone == "spleen")},
    }
    for index in range(10):
        viewer.jump(index)
        for name in viewer.names:
            picture, at = viewer.widget(name).sliceView().array(), tuple(np.moveaxis(voxels(viewer, name), -1, 0))
            for structure, there in wanted[name].items():
                found = coloured(picture, COLOURS[structure])
                assert np.array_equal(found, there[at]), (name, index, structure)
            assert not coloured(picture, COLOURS["kidney_left"]).any()
    assert moved.any()
    said = {name: viewer.looks._notes(name) for name in viewer.names}
    assert said == {"Before": ["other colours: what becomes it"], "After": ["other colours: what it became"]}
    viewer.setIsolated(None)
    assert [bool(shown.GetVisibility()) for shown in ways] == [False, False]
    viewer.setIsolated({alone})
    assert [bool(shown.GetVisibility()) for shown in ways] == [True, True]
    viewer.setLabelStyle("off")
    assert [bool(shown.GetVisibility()) for shown in ways] == [False, False]
