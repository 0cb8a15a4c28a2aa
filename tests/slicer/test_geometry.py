"""Where voxels lie: one conversion of axes, and grids in the world whatever moves the volume."""

import numpy as np
import pytest
import slicer
import vtk
from grids import AFFINES, affine, turned, volume_node
from PerturboxLib import geometry
from PerturboxLib.trouble import Trouble

SHAPE = (3, 4, 5)


def ramp() -> np.ndarray:
    return np.arange(60, dtype=np.int16).reshape(SHAPE)


def linear(matrix: np.ndarray, name: str = "moved"):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    return node


def grid_transform(name: str):
    """A transform that moves the last slice only, as Slicer's DICOM reader makes for uneven slices."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode", name)
    field = vtk.vtkImageData()
    field.SetDimensions(2, 2, 3)
    field.AllocateScalars(vtk.VTK_DOUBLE, 3)
    for place in np.ndindex(2, 2, 3):
        for axis in range(3):
            field.SetScalarComponentFromDouble(*place, axis, 2.0 if (axis, place[2]) == (2, 2) else 0.0)
    warp = slicer.vtkOrientedGridTransform()
    warp.SetDisplacementGridData(field)
    node.SetAndObserveTransformToParent(warp)
    return node


def code_of(node) -> str:
    with pytest.raises(Trouble) as caught:
        geometry.worldGrid(node)
    return caught.value.code


def test_the_conversion_of_axes_is_its_own_inverse_and_is_numpys():
    assert [geometry.arrayAxis(axis) for axis in range(3)] == [2, 1, 0]
    assert all(geometry.arrayAxis(geometry.arrayAxis(axis)) == axis for axis in range(3))
    assert geometry.ijkShape(SHAPE) == (5, 4, 3)


@pytest.mark.parametrize("name", AFFINES)
def test_an_unmoved_volume_has_its_own_grid(scene, name):
    assert np.allclose(geometry.worldGrid(volume_node(ramp(), AFFINES[name])), AFFINES[name], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize(
    "move",
    [
        affine(np.eye(3), origin=(5, -6, 7)),
        affine(turned(25, 1) @ turned(-40, 0), origin=(1, 2, 3)),
        affine(turned(90, 2), (1.5, 1.5, 1.5)),
        affine(np.diag([-1, 1, 1])),
    ],
    ids=["translation", "rotation", "scale", "mirror"],
)
def test_a_linear_transform_above_is_part_of_the_grid(scene, name, move):
    node = volume_node(ramp(), AFFINES[name])
    outer, inner = affine(turned(11, 2), origin=(9, 8, 7)), linear(move)
    inner.SetAndObserveTransformNodeID(linear(outer, "outer").GetID())
    node.SetAndObserveTransformNodeID(inner.GetID())
    found = geometry.worldGrid(node)
    assert np.allclose(found, outer @ move @ AFFINES[name], rtol=0, atol=1e-9)
    # Slicer itself puts a voxel there.
    point = [0.0, 0.0, 0.0]
    node.TransformPointToWorld((AFFINES[name] @ [4, 3, 2, 1])[:3], point)
    assert np.allclose(found @ [4, 3, 2, 1], [*point, 1], rtol=0, atol=1e-9)


def test_hardening_changes_nothing_of_the_grid(scene):
    node = volume_node(ramp(), AFFINES["oblique"])
    node.SetAndObserveTransformNodeID(linear(affine(turned(30, 0), origin=(5, 5, 5))).GetID())
    before = geometry.worldGrid(node)
    node.HardenTransform()
    assert node.GetParentTransformNode() is None
    assert np.allclose(geometry.worldGrid(node), before, rtol=0, atol=1e-6)


def test_a_scale_along_a_slanted_axis_shears_the_grid(scene):
    node = volume_node(ramp(), AFFINES["oblique"])
    node.SetAndObserveTransformNodeID(linear(np.diag([2.0, 1, 1, 1])).GetID())
    assert code_of(node) == "sheared"
    node = volume_node(ramp(), AFFINES["axial"])
    node.SetAndObserveTransformNodeID(linear(np.diag([2.0, 1, 1, 1])).GetID())
    assert geometry.spacing(geometry.worldGrid(node)) == pytest.approx((1.6, 0.8, 3.0))


@pytest.mark.parametrize(("degrees", "refused"), [(0.05, False), (0.1, True), (5.0, True)])
def test_a_tilted_gantry_shears_the_grid(scene, degrees, refused):
    tilt = np.eye(4)
    tilt[1, 2] = np.tan(np.radians(degrees))
    node = volume_node(ramp(), np.eye(4))
    node.SetAndObserveTransformNodeID(linear(tilt).GetID())
    if refused:
        assert code_of(node) == "sheared"
    else:
        assert np.allclose(geometry.worldGrid(node), tilt, rtol=0, atol=1e-12)


def test_non_linear_and_uneven_are_told_apart(scene):
    node = volume_node(ramp(), AFFINES["axial"])
    warp = grid_transform("registration")
    node.SetAndObserveTransformNodeID(warp.GetID())
    assert code_of(node) == "non-linear"
    uneven = grid_transform("CT acquisition transform_1")
    node.SetAndObserveTransformNodeID(uneven.GetID())
    assert code_of(node) == "uneven-slices"
    between = linear(np.eye(4))
    between.SetAndObserveTransformNodeID(uneven.GetID())
    node.SetAndObserveTransformNodeID(between.GetID())
    assert code_of(node) == "uneven-slices"


def test_an_uneven_scan_can_be_sent_once_its_transform_is_hardened(scene):
    node = volume_node(ramp(), np.eye(4))
    node.SetAndObserveTransformNodeID(grid_transform("CT acquisition transform").GetID())
    assert node.HardenTransform()
    grid = geometry.worldGrid(node)
    assert np.allclose(grid[:3, :3], np.eye(3))


def test_no_voxels_and_no_size(scene):
    assert code_of(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")) == "no-voxels"
    node = volume_node(ramp(), np.eye(4))
    node.SetAndObserveTransformNodeID(linear(np.diag([1.0, 1, 0, 1])).GetID())
    assert code_of(node) == "no-size"


def test_a_single_slice_is_a_volume(scene):
    node = volume_node(ramp()[:1], AFFINES["oblique"])
    assert np.allclose(geometry.worldGrid(node), AFFINES["oblique"], rtol=0, atol=1e-12)
    assert geometry.sameGrid((1, 4, 5), AFFINES["oblique"], (1, 4, 5), geometry.worldGrid(node))


@pytest.mark.parametrize(
    ("matrix", "name"),
    [
        (np.eye(4), "RAS"),
        (np.diag([-2.0, -2, 3, 1]), "LPS"),
        (AFFINES["flipped"], "RPI"),
        (AFFINES["sagittal"], "ASR"),
        (AFFINES["oblique"], "RAS, oblique"),
        (affine(turned(45, 2) @ np.diag([-1, -1, 1])), "LPS, oblique"),
        (affine(turned(1e-4, 2)), "RAS"),
    ],
)
def test_orientation(matrix, name):
    assert geometry.orientation(matrix) == name


def test_orientation_never_uses_a_letter_twice():
    rng = np.random.default_rng(0)
    for _ in range(200):
        directions = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        letters = geometry.orientation(affine(directions)).split(",")[0]
        assert sorted(letters.translate(str.maketrans("LPI", "RAS"))) == ["A", "R", "S"]


def test_spacing_is_the_length_of_the_columns():
    assert geometry.spacing(AFFINES["oblique"]) == pytest.approx((0.7, 0.9, 2.5), abs=1e-12)


def test_corners_are_the_centres_of_the_corner_voxels():
    found = geometry.corners(SHAPE, np.diag([1.0, 10, 100, 1]))
    assert sorted(map(tuple, found)) == [(i, j, k) for i in (0, 4) for j in (0, 30) for k in (0, 200)]


@pytest.mark.parametrize("name", AFFINES)
def test_same_grid(name):
    ours = AFFINES[name]
    assert geometry.sameGrid(SHAPE, ours, SHAPE, ours)
    assert geometry.sameGrid(SHAPE, ours, SHAPE, ours.astype(np.float32))  # as NIfTI keeps it
    near, far = ours.copy(), ours.copy()
    near[0, 3] += 0.9e-3
    far[0, 3] += 1.1e-3
    assert geometry.sameGrid(SHAPE, ours, SHAPE, near) and not geometry.sameGrid(SHAPE, ours, SHAPE, far)
    assert geometry.sameGrid(SHAPE, ours, SHAPE, far, tolerance=2e-3)
    longer = ours.copy()
    longer[:3, 2] *= 1.001  # 2 µm to 6 µm at the last slice, but 2 mm and more in a scan of 1000
    assert not geometry.sameGrid((1000, 4, 5), ours, (1000, 4, 5), longer)


def test_other_grids():
    ours = AFFINES["axial"]
    assert not geometry.sameGrid(SHAPE, ours, (4, 3, 5), ours)
    mirrored = ours @ np.array([[-1, 0, 0, 4], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    assert not geometry.sameGrid(SHAPE, ours, SHAPE, mirrored)  # the same box, filled the other way round
    assert not geometry.sameGrid(SHAPE, ours, SHAPE, np.full((4, 4), np.nan))
