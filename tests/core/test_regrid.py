"""From the scan's grid to the network's and back: against nibabel, PyTorch's interpolation, and the definition of an
adjoint."""

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from perturbox.model.pipeline import Pipeline, step_from
from perturbox.model.regrid import Regrid, linear_matrix, nearest_index

AXES = ("LR", "PA", "IS")
CODES = ["".join(axes) for order in permutations(AXES) for axes in product(*order)]
SHAPE, SPACING = (4, 5, 6), (0.7, 1.3, 2.5)


def affine_of(codes: str, spacing=SPACING, tilt: float = 0.0) -> np.ndarray:
    """An affine whose axes point where `codes` says, tilted by `tilt` degrees about a skew axis."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, sign) in enumerate(nib.orientations.axcodes2ornt(codes)):
        affine[int(world), axis] = sign
    affine[:3, :3] = Rotation.from_rotvec(np.deg2rad(tilt) * np.array([0.6, 0.0, 0.8])).as_matrix() @ affine[:3, :3]
    affine[:3, :3] *= spacing
    affine[:3, 3] = 11, -7, 3
    assert "".join(nib.aff2axcodes(affine)) == codes
    return affine


def test_there_are_48_axis_codes():
    assert len(set(CODES)) == 48


@pytest.mark.parametrize("tilt", [0.0, 25.0])
@pytest.mark.parametrize("codes", CODES)
def test_reorienting_is_that_of_nibabel(codes, tilt, rng):
    data = rng.normal(size=SHAPE)
    affine = affine_of(codes, tilt=tilt)
    plan = Regrid.plan(SHAPE, affine, "RAS", None)
    canonical = nib.as_closest_canonical(nib.Nifti1Image(data, affine))
    assert np.array_equal(plan.to_network(torch.from_numpy(data)[None, None])[0, 0].numpy(), canonical.get_fdata())
    assert plan.target == canonical.shape


@pytest.mark.parametrize("wanted", ["LPS", "SAR", "IPR"])
@pytest.mark.parametrize("codes", CODES[::5])
def test_any_axis_code_can_be_wanted(codes, wanted, rng):
    data = rng.normal(size=SHAPE)
    affine = affine_of(codes)
    transform = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(wanted))
    plan = Regrid.plan(SHAPE, affine, wanted, None)
    expected = nib.apply_orientation(data, transform)
    assert np.array_equal(plan.to_network(torch.from_numpy(data)[None, None])[0, 0].numpy(), expected)


@pytest.mark.parametrize("codes", CODES)
def test_labels_go_there_and_back_on_every_axis_code(codes, rng):
    labels = rng.integers(0, 3, SHAPE)
    plan = Regrid.plan(SHAPE, affine_of(codes), "RAS", None)
    image = plan.to_network(torch.from_numpy(labels)[None, None].double())[0, 0]
    there = plan.labels_to_network(labels)
    assert np.array_equal(there, image.numpy())
    onehot = torch.stack([image == k for k in range(3)]).double()
    assert np.array_equal(plan.argmax_to_native(onehot), labels)


def test_the_network_axes_get_the_spacing_of_the_scan_axes_that_end_there():
    affine = affine_of("SRA")  # spacing: i (S) 0.7, j (R) 1.3, k (A) 2.5
    plan = Regrid.plan((40, 50, 60), affine, "RAS", (2.6, 5.0, 1.4))
    assert plan.oriented_shape == (50, 60, 40)
    assert plan.target == (25, 30, 20)


def test_an_axis_may_keep_its_spacing():
    plan = Regrid.plan((40, 50, 60), np.diag([1.0, 1.0, 5.0, 1.0]), "RAS", (2.0, 2.0, None))
    assert plan.target == (20, 25, 60)


def test_a_grid_never_shrinks_to_nothing():
    assert Regrid.plan((3, 3, 1), np.eye(4), None, (100.0, 100.0, 100.0)).target == (1, 1, 1)


def test_two_dimensional_images_keep_their_axes(rng):
    image = torch.from_numpy(rng.normal(size=(1, 1, 7, 9)))
    plan = Regrid.plan((7, 9), np.diag([-1.0, 1.0, 1.0, 1.0]), "RAS", None)
    assert torch.equal(plan.to_network(image), image)


@given(st.integers(1, 40), st.integers(1, 40), st.booleans())
@settings(max_examples=50, deadline=None)
def test_rows_of_a_resampling_matrix_are_averages(n_in, n_out, antialias):
    matrix = linear_matrix(n_in, n_out, antialias)
    assert matrix.shape == (n_out, n_in)
    assert (matrix >= 0).all()
    torch.testing.assert_close(matrix.sum(1), torch.ones(n_out, dtype=torch.float64), rtol=0, atol=1e-12)
    if n_in == n_out:
        assert torch.equal(matrix, torch.eye(n_in, dtype=torch.float64))


SIZES = [((9, 8, 7), (5, 11, 7)), ((6, 5, 4), (12, 9, 9)), ((12, 9, 16), (5, 4, 3)), ((1, 5, 2), (3, 1, 7))]


@pytest.mark.parametrize("shape, target", SIZES)
def test_plain_resampling_is_that_of_pytorch(shape, target, rng):
    x = torch.from_numpy(rng.normal(size=(2, 3, *shape)))
    plan = Regrid(shape, (0, 1, 2), (False,) * 3, target, antialias=False)
    expected = F.interpolate(x, target, mode="trilinear", align_corners=False)
    torch.testing.assert_close(plan.to_network(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape, target", [((9, 8), (5, 11)), ((30, 17), (7, 5)), ((5, 6), (13, 20))])
def test_antialiased_resampling_is_that_of_pytorch(shape, target, rng):
    x = torch.from_numpy(rng.normal(size=(2, 3, *shape)))
    plan = Regrid(shape, (0, 1), (False,) * 2, target, antialias=True)
    expected = F.interpolate(x, target, mode="bilinear", align_corners=False, antialias=True)
    torch.testing.assert_close(plan.to_network(x), expected, rtol=1e-12, atol=1e-12)


def test_antialiasing_is_separable_in_three_dimensions(rng):
    x = torch.from_numpy(rng.normal(size=(1, 1, 12, 10, 9)))
    plan = Regrid((12, 10, 9), (0, 1, 2), (False,) * 3, (5, 6, 4), antialias=True)
    flat = F.interpolate(x.movedim(4, 0)[:, 0], (5, 6), mode="bilinear", antialias=True)  # "d 1 h w", slice by slice
    columns = flat[:, 0].permute(1, 2, 0).reshape(1, 1, 30, 9)
    expected = F.interpolate(columns, (30, 4), mode="bilinear", antialias=True).reshape(5, 6, 4)
    torch.testing.assert_close(plan.to_network(x)[0, 0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n_in, n_out", [(7, 3), (3, 7), (10, 4), (16, 16), (5, 1)])
def test_the_nearest_voxel_is_that_of_pytorch(n_in, n_out):
    x = torch.arange(n_in, dtype=torch.float64)[None, None]
    assert np.array_equal(nearest_index(n_in, n_out), F.interpolate(x, n_out, mode="nearest-exact")[0, 0].numpy())


def oblique_plan(antialias: bool) -> tuple[Regrid, tuple[int, ...]]:
    shape = (9, 7, 8)
    return Regrid.plan(shape, affine_of("SLA", (1.0, 2.0, 3.0), tilt=20.0), "RAS", (1.7, 4.1, 2.3), antialias), shape


@pytest.mark.parametrize("antialias", [True, False])
def test_autograd_is_the_adjoint(antialias, rng):
    plan, shape = oblique_plan(antialias)
    assert plan.order != (0, 1, 2) and any(plan.flips) and plan.oriented_shape != plan.target
    x = torch.from_numpy(rng.normal(size=(2, 2, *shape))).requires_grad_()
    y = torch.from_numpy(rng.normal(size=(2, 2, *plan.target)))
    mapped = plan.to_network(x)
    (adjoint,) = torch.autograd.grad((mapped * y).sum(), x)
    # <Ax, y> = <x, A'y>, and A'y is what finite differences of <Ax, y> give (A is linear, so any step is exact).
    assert float((mapped.detach() * y).sum()) == pytest.approx(float((x.detach() * adjoint).sum()), rel=1e-12)
    for index in [(0, 0, 0, 0, 0), (1, 1, 4, 3, 7), (0, 1, 8, 6, 2)]:
        moved = x.detach().clone()
        moved[index] += 1.0
        slope = ((plan.to_network(moved) - mapped.detach()) * y).sum()
        assert float(slope) == pytest.approx(float(adjoint[index]), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("slabs", [1, 4])
@pytest.mark.parametrize("codes, tilt", [("RAS", 0.0), ("SLA", 20.0), ("PIR", 0.0)])
def test_labels_come_back_by_interpolating_scores(codes, tilt, slabs, rng, monkeypatch):
    shape = (9, 7, 8)
    plan = Regrid.plan(shape, affine_of(codes, (1.0, 2.0, 3.0), tilt), "RAS", (1.7, 4.1, 2.3))
    scores = torch.from_numpy(rng.normal(size=(5, *plan.target)))
    fine = F.interpolate(scores[None], plan.oriented_shape, mode="trilinear", align_corners=False)[0]
    oriented = fine.argmax(0).numpy()
    # Undo the orientation by where each voxel came from, without the plan's own arithmetic.
    index = Regrid(shape, plan.order, plan.flips, plan.oriented_shape).to_network(
        torch.arange(9 * 7 * 8.0, dtype=torch.float64).reshape(1, 1, *shape)
    )
    expected = np.empty(9 * 7 * 8, int)
    expected[index.long().flatten().numpy()] = oriented.flatten()
    if slabs > 1:
        monkeypatch.setattr("perturbox.model.regrid.SLAB_VOXELS", int(np.prod(plan.oriented_shape)) // slabs)
    found = plan.argmax_to_native(scores)
    assert found.dtype == np.uint8
    assert np.array_equal(found, expected.reshape(shape))


def test_many_classes_need_a_wider_label_map():
    scores = torch.zeros(300, 2, 2)
    scores[299, 0, 0] = 1
    labels = Regrid((2, 2), (0, 1), (False, False), (2, 2)).argmax_to_native(scores)
    assert labels.dtype == np.int16
    assert labels.tolist() == [[299, 0], [0, 0]]


def test_the_first_of_equal_scores_wins_as_in_argmax():
    scores = torch.tensor([0.0, 1.0, 1.0]).view(3, 1, 1).expand(3, 2, 2)
    assert (Regrid((2, 2), (0, 1), (False, False), (2, 2)).argmax_to_native(scores) == 1).all()


@pytest.mark.parametrize("antialias", [True, False])
def test_reach_is_where_the_adjoint_is_not_zero(antialias):
    shape = (24, 21, 20)
    plan = Regrid.plan(shape, affine_of("SLA", (1.0, 1.0, 1.0)), "RAS", (4.0, 3.0, 1.0), antialias)
    x = torch.zeros(1, 1, *shape, dtype=torch.float64, requires_grad=True)
    (weight,) = torch.autograd.grad(plan.to_network(x).sum(), x)
    assert np.array_equal(plan.reach, (weight[0, 0] > 0).numpy())
    assert plan.reach.all() == antialias


def test_labels_and_scans_are_resampled_to_the_same_place():
    """A nearest-voxel label map of a step edge and the interpolated step agree about where the edge is."""
    shape = (30, 4, 4)
    step = np.zeros(shape)
    step[13:] = 1
    for spacing in (0.5, 1.7, 3.0):
        plan = Regrid.plan(shape, np.diag([-1.0, 1.0, 1.0, 1.0]), "RAS", (spacing, 1.0, 1.0))
        image = plan.to_network(torch.from_numpy(step)[None, None])[0, 0].numpy()
        labels = plan.labels_to_network(step.astype(bool))
        assert (image[labels] >= 0.5 - 1e-9).all() and (image[~labels] <= 0.5 + 1e-9).all()


def test_classes_come_back_together_as_they_do_one_by_one(monkeypatch):
    """All five at once, two at once, and each alone: the same labels."""
    steps = (step_from({"step": "orient", "to": "RAS"}), step_from({"step": "spacing", "mm": [2.0, 2.0, 2.0]}))
    plan = Pipeline(steps).plan((9, 8, 7), np.diag([1.0, 1.5, 3.0, 1.0]), lambda: torch.zeros(1, 1, 9, 8, 7))
    scores = torch.from_numpy(np.random.default_rng(0).normal(size=(5, *plan.target))).float()
    expected = torch.stack([plan.back(scores[k : k + 1])[0] for k in range(5)]).argmax(0).numpy()
    assert len(np.unique(expected)) == 5
    for voxels in (2**22, 2 * 9 * 8 * 7, 1):
        monkeypatch.setattr("perturbox.model.pipeline.plan.BACK_AT_ONCE", voxels)
        assert np.array_equal(plan.argmax_to_native(scores), expected)
