"""What leaves the scene: voxels, outlines and regions on the scan's own grid, and what is refused before that."""

import numpy as np
import pytest
import scans

VICTIM = {"name": "tiny", "unit": "HU", "labels": {"background": 0, "liver": 1, "bone": 2}}


@pytest.fixture
def sending(scene):
    from PerturboxLib import sending

    return sending


def decoded(parcel, field):
    from PerturboxLib import nrrd

    return nrrd.decode(bytes(parcel.files[field][1]))


@pytest.mark.parametrize("grid", scans.GRIDS)
def test_the_scan_is_sent_voxel_by_voxel_on_its_grid(sending, grid):
    volume = scans.add_scan(grid)
    parcel = sending.pack(volume, VICTIM)
    image = decoded(parcel, "image")
    assert image.array.dtype == np.int16 and np.array_equal(image.array, scans.hounsfield())
    assert np.abs(image.ijkToRas - scans.GRIDS[grid]).max() < 1e-12
    assert parcel.shape == scans.SHAPE and np.abs(parcel.affine - scans.GRIDS[grid]).max() < 1e-12
    assert set(parcel.files) == {"image"}


def test_a_linear_transform_is_applied_to_what_is_sent_and_not_to_the_node(sending):
    volume = scans.add_scan("axial")
    turn = np.eye(4)
    turn[:3, :3], turn[:3, 3] = scans.TURN, (4, 5, 6)
    scans.add_transform(volume, turn)
    image = decoded(sending.pack(volume, VICTIM), "image")
    assert np.allclose(image.ijkToRas, turn @ scans.GRIDS["axial"], atol=1e-9)
    import slicer

    own = slicer.util.arrayFromVTKMatrix(_own_matrix(volume))
    assert np.allclose(own, scans.GRIDS["axial"]) and volume.GetParentTransformNode() is not None


def _own_matrix(volume):
    import vtk

    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return matrix


def test_a_bent_scan_is_refused_in_words(sending):
    import slicer

    volume = scans.add_scan()
    bend = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLBSplineTransformNode")
    volume.SetAndObserveTransformNodeID(bend.GetID())
    found = sending.preflight(volume)
    assert found.level == "bad" and "non-linear transform" in found.text and "copy" in found.text


@pytest.mark.parametrize("grid", scans.GRIDS)
def test_an_experts_segments_become_the_models_values(sending, grid):
    volume = scans.add_scan(grid)
    liver = scans.hounsfield() > 0
    liver[:, :, 12:] = False
    bone = scans.hounsfield() > 200
    expert = scans.add_segmentation(volume, {"Liver": liver, " BONE": bone, "tumour": liver})
    parcel = sending.pack(volume, VICTIM, expert)
    labels = decoded(parcel, "label")
    assert parcel.structures == ("liver", "bone")
    assert np.array_equal(labels.array == 2, bone) and np.array_equal(labels.array == 1, liver & ~bone)
    assert np.abs(labels.ijkToRas - scans.GRIDS[grid]).max() < 1e-12


def test_an_outline_without_a_structure_of_the_model_is_refused_with_their_names(sending):
    volume = scans.add_scan()
    expert = scans.add_segmentation(volume, {"jake": scans.hounsfield() > 0})
    with pytest.raises(Exception, match=r"No segment of 'expert'.*Liver, Bone") as caught:
        sending.pack(volume, VICTIM, expert)
    assert caught.value.code == "no-match"


@pytest.mark.parametrize("grid", scans.GRIDS)
def test_a_box_holds_the_voxels_whose_centres_lie_in_it(sending, grid):
    """Against each voxel's centre in the box's own axes, worked out one by one."""
    import slicer

    volume = scans.add_scan(grid)
    centre = (scans.GRIDS[grid] @ [11, 10, 8, 1])[:3]
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
    roi.SetCenter(centre)
    roi.SetSize(13.0, 9.0, 14.0)
    mask = decoded(sending.pack(volume, VICTIM, roiNode=roi), "roi").array
    expected = np.zeros(scans.SHAPE, bool)
    for k, j, i in np.ndindex(scans.SHAPE):
        at = (scans.GRIDS[grid] @ [i, j, k, 1])[:3] - centre
        expected[k, j, i] = (np.abs(at) <= np.array([6.5, 4.5, 7.0]) + 1e-6).all()
    assert mask.dtype == np.uint8 and np.array_equal(mask > 0, expected) and expected.sum() > 10


def test_a_segment_can_be_the_region(sending):
    volume = scans.add_scan("oblique")
    liver = np.abs(scans.hounsfield() - 8) < 40
    node = scans.add_segmentation(volume, {"where": liver})
    chosen = node.GetSegmentation().GetNthSegmentID(0)
    mask = decoded(sending.pack(volume, VICTIM, roiNode=node, roiSegment=chosen), "roi").array
    assert np.array_equal(mask > 0, liver)


def test_a_region_beside_the_scan_is_refused(sending):
    import slicer

    volume = scans.add_scan()
    roi = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
    roi.SetCenter(1000, 0, 0)
    roi.SetSize(10, 10, 10)
    with pytest.raises(Exception, match="holds no voxel") as caught:
        sending.pack(volume, VICTIM, roiNode=roi)
    assert caught.value.code == "empty-region"


def test_preflight_tells_range_size_orientation_and_noise(sending):
    volume = scans.add_scan("axial")
    low, high = scans.hounsfield().min(), scans.hounsfield().max()
    said = sending.preflight(volume, "HU", 11.84)
    expected = f"✓ CT in HU ({low} … {high}) · 24×22×18 · orientation LPS · noise σ ≈ 11.8 HU"
    assert (said.level, said.text) == ("ok", expected)
    assert "noise not measured yet" in sending.preflight(volume).text


@pytest.mark.parametrize(
    ("array", "level", "words"),
    [
        (np.full(scans.SHAPE, 100, np.uint8), "bad", "not CT in Hounsfield units"),
        (scans.hounsfield().astype(np.float32) * np.nan, "bad", "not numbers"),
        ((scans.hounsfield() + 1024).clip(0).astype(np.int16), "bad", "not CT in Hounsfield units"),
    ],
    ids=["8-bit", "nan", "no rescale intercept"],
)
def test_what_is_no_ct_is_said_before_anything_is_sent(sending, array, level, words):
    import slicer

    volume = slicer.util.addVolumeFromArray(array, scans.GRIDS["axial"], "odd")
    found = sending.preflight(volume)
    assert found.level == level and words in found.text


def test_other_units_need_no_air(sending):
    import slicer

    volume = slicer.util.addVolumeFromArray(np.arange(24, dtype=np.int16).reshape(2, 3, 4), scans.GRIDS["axial"], "MR")
    assert sending.preflight(volume, "a.u.").level == "ok"


def test_a_perturbed_scan_is_warned_of(sending):
    volume = scans.add_scan()
    volume.SetAttribute("Perturbox.Synthetic", "1")
    found = sending.preflight(volume)
    assert found.level == "warn" and "synthetic" in found.text
    assert sending.preflight(None).level == "bad"
