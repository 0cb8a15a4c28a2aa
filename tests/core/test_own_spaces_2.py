"""Spaces that move what is in a scan: against SciPy's interpolation, closed forms, and what bounds them."""

import dataclasses

import numpy as np
import pytest
import torch
import victims
from attacking import attacked, built, channels_scan, recipe_of, same_bits, with_channels
from scipy import ndimage

from perturbox.attacks.attack import random_draw
from perturbox.attacks.budget import Budget
from perturbox.attacks.recipes.deformation import unit_vectors
from perturbox.attacks.spaces import deformation, slice_axis, warp
from perturbox.attacks.spaces.affine import Affine
from perturbox.attacks.spaces.bias_field import spline_matrix
from perturbox.attacks.spaces.deformation import Deformation, exponential, least_jacobian
from perturbox.attacks.spaces.warp import sampled, warped
from perturbox.types import Case

GENERATOR = torch.Generator().manual_seed(0)
SPACING = (2.0, 1.0, 3.0)


def limits(image, **changes) -> Budget:
    return dataclasses.replace(Budget.of(Case(image), None), **({"step": None, "clip": (-1e6, 1e6)} | changes))


def scan(shape=(9, 8, 7), spacing=SPACING, **changes):
    affine = np.diag([*spacing[: len(shape)], *[1.0] * (4 - len(shape))])
    return victims.random_scan(shape, affine=affine, dtype=np.dtype(np.float32), **changes)


def tensor(image) -> torch.Tensor:
    return torch.from_numpy(image.data)[None].double()


def pulled(values: np.ndarray, displacement: np.ndarray) -> np.ndarray:
    """values "*s" at voxel + displacement "d *s" by SciPy, the edge continued."""
    places = np.stack(np.meshgrid(*[np.arange(n) for n in values.shape], indexing="ij")) + displacement
    return ndimage.map_coordinates(values, places, order=1, mode="nearest")


# ---------------------------------------------------------------- interpolation


@pytest.mark.parametrize("shape", [(9, 8, 7), (11, 6)])
def test_interpolation_is_that_of_scipy(shape):
    x = torch.randn(1, 2, *shape, generator=GENERATOR).double()
    u = 4 * torch.randn(1, len(shape), *shape, generator=GENERATOR).double()
    found = sampled(x, u)[0].numpy()
    for channel in range(2):
        np.testing.assert_allclose(found[channel], pulled(x[0, channel].numpy(), u[0].numpy()), atol=1e-12)


def test_whole_voxels_are_met_exactly():
    x = torch.randn(1, 1, 6, 5, 4, generator=GENERATOR)
    assert torch.equal(sampled(x, torch.zeros(1, 3, 6, 5, 4)), x)
    u = torch.zeros(1, 3, 6, 5, 4)
    u[:, 0], u[:, 2] = 1, -2
    assert torch.equal(sampled(x, u)[:, :, :-1, :, 2:], x[:, :, 1:, :, :-2])


def test_slabs_are_the_whole_and_have_its_gradient(monkeypatch):
    x = torch.randn(1, 1, 7, 4, 3, generator=GENERATOR).double().requires_grad_()
    u = torch.randn(1, 3, 7, 4, 3, generator=GENERATOR).double().requires_grad_()
    weight = torch.randn(1, 1, 7, 4, 3, generator=GENERATOR).double()

    def field(first, end, u):
        return u[:, :, first:end]

    expected = sampled(x, u)
    slopes = torch.autograd.grad((expected * weight).sum(), [x, u])
    monkeypatch.setattr(warp, "SLAB_VOXELS", 2 * 12)  # two rows, and one that is left
    found = warped(x, field, u)
    assert torch.equal(found, expected)
    for slope, same in zip(torch.autograd.grad((found * weight).sum(), [x, u]), slopes, strict=True):
        torch.testing.assert_close(slope, same, rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------- deformation


@pytest.mark.parametrize("distance", [6.0, 24.0])  # the flow's grid is the scan's, or coarser
@pytest.mark.parametrize("spacing", [SPACING, (2.0, 3.0)])
def test_a_deformation_by_hand(distance, spacing):
    shape = (14, 9, 8)[: len(spacing)]
    image, space = scan(shape, spacing), Deformation(2.0, distance)
    x, budget = tensor(image), limits(scan(shape, spacing))
    z = space.draw(x, budget, GENERATOR)
    nodes, cell = space.cell(x, budget)
    assert (nodes == list(shape)) == (distance == 6.0)
    v = z[0].numpy()
    for axis, m in enumerate(nodes):
        v = np.moveaxis(np.moveaxis(v, axis + 1, -1) @ spline_matrix(m, z.shape[axis + 2] - 3).numpy().T, -1, axis + 1)
    lengths = np.array(cell).reshape(-1, *[1] * len(shape))
    u = v / 256
    for _ in range(8):
        u = u + np.stack([pulled(part, u / lengths) for part in u])
    # From the nodes to the voxels: both lie in the middle of equal parts of the same extent.
    ratios = [m / n for m, n in zip(nodes, shape, strict=True)]
    places = np.stack(
        np.meshgrid(*[(np.arange(n) + 0.5) * r - 0.5 for n, r in zip(shape, ratios, strict=True)], indexing="ij")
    )
    u = np.stack([ndimage.map_coordinates(part, places, order=1, mode="nearest") for part in u])
    expected = pulled(x[0, 0].numpy(), u / np.array(spacing).reshape(lengths.shape))
    np.testing.assert_allclose(space.decode(z, x, budget)[0, 0].numpy(), expected, atol=1e-9)
    assert 0.5 < np.linalg.norm(u, axis=0).max() <= 2.0


def test_a_constant_velocity_is_a_translation():
    v = torch.tensor([2.5, -1.25, 6.0], dtype=torch.float64).view(1, 3, 1, 1, 1).expand(1, 3, 6, 5, 4)
    assert torch.equal(exponential(v, SPACING), v)
    image, space = scan(), Deformation(100.0, 8.0)
    x, budget = tensor(image), limits(image)
    z = torch.zeros_like(space.init(x, budget, GENERATOR))
    z[:, 0], z[:, 2] = 4.0, 3.0  # two voxels of 2 mm and one of 3 mm
    moved = space.decode(z, x, budget)
    torch.testing.assert_close(moved[:, :, :-2, :, :-1], x[:, :, 2:, :, 1:], rtol=0, atol=1e-9)


def test_a_linear_velocity_grows_exponentially():
    """v = a p has the flow p e^a; linear interpolation is exact on it, and the squaring gives (1 + a / 2^n)^(2^n)."""
    places = (torch.arange(41, dtype=torch.float64) - 20) * 0.5
    v = torch.zeros(1, 2, 41, 5, dtype=torch.float64)
    v[0, 0] = (0.1 * places)[:, None]
    found = exponential(v, (0.5, 1.0))[0, 0, 12:29, 2]  # what doesn't reach the border
    torch.testing.assert_close(found, places[12:29] * ((1 + 0.1 / 256) ** 256 - 1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found, places[12:29] * (np.exp(0.1) - 1), rtol=3e-4, atol=1e-12)
    assert least_jacobian(exponential(v, (0.5, 1.0))[:, :, 12:29], (0.5, 1.0)) == pytest.approx(1.0, abs=1e-9)


def test_jacobians_by_hand_and_what_folds():
    """p + u(p) = M p has the determinant of M everywhere; beyond the border u continues, and one factor after the other
    is 1."""
    p = torch.stack(torch.meshgrid(*[torch.arange(5.0, dtype=torch.float64) * s for s in SPACING], indexing="ij"))
    matrix = torch.tensor([[0.6, 0.2, 0.0], [-0.1, 0.7, 0.1], [0.0, 0.3, 0.5]], dtype=torch.float64)
    u = (torch.einsum("ij,jxyz->ixyz", matrix, p) - p)[None]
    assert least_jacobian(u, SPACING) == pytest.approx(float(torch.linalg.det(matrix)), abs=1e-12)
    assert least_jacobian(torch.zeros_like(u), SPACING) == 1.0
    # Turned inside out: -0.1 beyond the border of two axes, less in size everywhere else.
    assert least_jacobian((-1.1 * p)[None], SPACING) == pytest.approx(-0.1)
    assert least_jacobian((-0.9 * p)[None], SPACING) == pytest.approx(0.1**3)
    # A fold between two nodes alone, in a plane.
    local = torch.zeros(1, 2, 6, 6)
    local[0, 0, 2, 3] = 2.5
    assert least_jacobian(local, (2.0, 2.0)) == pytest.approx(-0.25) and least_jacobian(local / 2, (2.0, 2.0)) > 0
    local[0, 0, 2, 3] = torch.nan
    assert np.isnan(least_jacobian(local, (2.0, 2.0)))


def test_what_would_fold_is_slowed_down_until_it_does_not():
    image = scan((12, 12), (2.0, 2.0))
    x, budget, space = tensor(image), limits(image), Deformation(20.0, 4.0)
    rough = 40 * torch.randn(space.init(x, budget, GENERATOR).shape, generator=GENERATOR).double()
    short = rough * (20.0 / rough.norm(dim=1, keepdim=True)).clamp_max(1)
    cell = space.cell(x, budget)[1]
    assert least_jacobian(space.flow(short, x, budget), cell) < 0
    z = space.project(rough, x, budget)
    assert least_jacobian(space.flow(z, x, budget), cell) > 0
    torch.testing.assert_close(z, short * float(z.norm() / short.norm()))  # the same motion, only slower
    before = least_jacobian(space.flow(z / deformation.SHRINK, x, budget), cell)
    assert before <= 0 < float(z.norm())
    smooth = torch.full_like(rough, 1.0)
    assert torch.equal(space.project(smooth, x, budget), smooth)
    assert not space.project(torch.full_like(rough, torch.nan), x, budget).any()


def test_no_velocity_is_longer_than_the_limit_nor_any_displacement():
    image = scan()
    x, budget, space = tensor(image), limits(image), Deformation(2.0, 8.0)
    z = space.draw(x, budget, GENERATOR)
    torch.testing.assert_close(z.norm(dim=1), torch.full_like(z[:, 0], 2.0))
    assert float(space.flow(z, x, budget).norm(dim=1).max()) <= 2.0
    torch.testing.assert_close(space.project(z / 2, x, budget), z / 2)


def test_steps_of_a_deformation_are_as_long_at_every_control_point():
    slope = torch.randn(1, 3, 4, 4, 4, generator=GENERATOR) * 1e-30
    slope[..., 0] = 0
    step = unit_vectors(slope)
    torch.testing.assert_close(step[..., 1:].norm(dim=1), torch.ones(1, 4, 4, 3))
    assert not step[..., 0].any()
    assert recipe_of("deformation", None, steps=10).parameters["alpha"] == pytest.approx(0.75)


# ---------------------------------------------------------------- affine


@pytest.mark.parametrize("spacing", [SPACING, (2.0, 3.0)])
def test_an_affine_motion_by_hand(spacing):
    shape = (9, 8, 7)[: len(spacing)]
    image, dims = scan(shape, spacing), len(shape)
    x, budget, space = tensor(image), limits(scan(shape, spacing)), Affine(6.0)
    z = space.draw(x, budget, GENERATOR)
    matrix, shift = (part.numpy() for part in space.motion(z, x, budget))
    whole, steps = matrix + np.eye(dims), np.array(spacing)
    middle = (np.array(shape) - 1) / 2 * steps
    # In voxels: out(i) = in(A i + b) with A = D^-1 M D.
    linear = whole * steps[None] / steps[:, None]
    offset = (middle - whole @ middle + shift) / steps
    expected = ndimage.affine_transform(x[0, 0].numpy(), linear, offset, order=1, mode="nearest")
    np.testing.assert_allclose(space.decode(z, x, budget)[0, 0].numpy(), expected, atol=1e-9)
    moved = (
        np.stack(np.meshgrid(*[np.arange(n) * s for n, s in zip(shape, spacing, strict=True)], indexing="ij"), -1)
        - middle
    )
    lengths = np.linalg.norm(moved @ matrix.T + shift, axis=-1)
    assert lengths.max() == pytest.approx(space.largest(z, x, budget), rel=1e-9)
    assert 6.0 * 0.999 <= lengths.max() <= 6.0


def test_each_part_of_a_motion_is_what_it_is_called():
    image = scan((9, 8), (2.0, 3.0))
    x, budget, space = tensor(image), limits(image), Affine(6.0)
    half = np.array([9.0, 12.0])

    def motion(*z):
        matrix, shift = space.motion(torch.tensor([z], dtype=torch.float64), x, budget)
        return matrix.numpy() + np.eye(2), shift.numpy()

    turn = 3.0 / np.linalg.norm(half)
    rotation, none = motion(3.0, 0, 0, 0, 0)
    np.testing.assert_allclose(rotation, [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]], atol=1e-12)
    assert not none.any()
    scaling, _ = motion(0, 0.9, -1.2, 0, 0)
    np.testing.assert_allclose(scaling, np.diag(np.exp([0.1, -0.1])), atol=1e-12)
    np.testing.assert_allclose(motion(3.0, 0.9, -1.2, 0, 0)[0], rotation @ scaling, atol=1e-12)
    still, shift = motion(0, 0, 0, 1.5, -2.0)
    assert (still == np.eye(2)).all() and shift.tolist() == [1.5, -2.0]


def test_a_shift_by_whole_voxels_is_exact_and_shared_by_channels():
    image = channels_scan(2, (9, 8, 7), dtype=np.dtype(np.float32))
    x, budget = torch.from_numpy(image.data)[None], limits(channels_scan(2, (9, 8, 7)), clip=(-1e6, 1e6))
    z = torch.zeros(1, 9)
    z[0, 6:] = torch.tensor([2.0, -4.0, 3.0])  # spacing 2, 2, 3 mm
    moved = Affine(9.0).decode(z, x, budget)
    torch.testing.assert_close(moved[:, :, :-1, 2:, :-1], x[:, :, 1:, :-2, 1:], rtol=0, atol=1e-4)


def test_a_motion_that_is_too_large_is_made_smaller_and_others_are_left():
    image = scan()
    x, budget, space = tensor(image), limits(image), Affine(2.0)
    z = torch.randn(1, 9, generator=GENERATOR).double()
    for factor in (10.0, 100.0):
        found = space.project(factor * z, x, budget)
        assert 2.0 * 0.999 <= space.largest(found, x, budget) <= 2.0
        torch.testing.assert_close(found / found.norm(), z / z.norm())
    small = z * 0.01
    assert torch.equal(space.project(small, x, budget), small)
    assert not Affine(0.0).project(z, x, budget).any()


def test_a_step_of_a_motion_goes_along_the_gradient():
    attack = built("affine", None, steps=10)
    assert recipe_of("affine", None, steps=10).parameters["alpha"] == pytest.approx(1.25)
    update, _ = attack.solver.rule.apply(torch.tensor([[3.0, 0.0, 0.0, -4.0, 0.0]]), (None, None))
    torch.testing.assert_close(update, torch.tensor([[0.75, 0.0, 0.0, -1.0, 0.0]]))


# ---------------------------------------------------------------- both


@pytest.mark.parametrize("space", [Deformation(3.0, 8.0), Affine(3.0)])
@pytest.mark.parametrize("spacing", [SPACING, (2.0, 3.0)])
def test_motions_have_the_gradient_of_differences(space, spacing):
    image = scan((5, 4, 4)[: len(spacing)], spacing)
    x, budget = tensor(image), limits(image)
    # Away from whole voxels, where linear interpolation has kinks.
    z = space.draw(x, budget, torch.Generator().manual_seed(3)).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: space.decode(z, x, budget), z, eps=1e-6, atol=1e-4, fast_mode=True)


@pytest.mark.parametrize("name", ["deformation", "affine"])
def test_one_motion_for_all_channels_and_none_outside_the_region(name):
    image = channels_scan(2, (12, 11, 9), dtype=np.dtype(np.float32))
    image.data[1] = 3 * image.data[0] + 5
    roi = np.zeros((12, 11, 9), bool)
    roi[2:10, 2:9, 1:8] = True
    outcome = attacked(image, with_channels(2, 3), name, None, roi=roi)
    assert outcome.delta.any() and same_bits(outcome.x_adv[:, ~roi], image.data[:, ~roi])
    inside = (outcome.x_adv[1] > image.data.min()) & (outcome.x_adv[1] < image.data.max()) & (outcome.delta[1] != 0)
    assert inside.sum() > 100
    np.testing.assert_allclose(outcome.x_adv[1][inside], 3 * outcome.x_adv[0][inside] + 5, atol=1e-2)


@pytest.mark.parametrize("name", ["deformation", "affine"])
def test_a_moved_organ_loses_the_dice_that_a_random_motion_measures(name):
    """A victim that sees the organ wherever it lies: all that is lost is the motion, and the control says so."""
    image, victim = victims.organ_scan((16, 14, 12)), victims.organ()
    draw = random_draw(built(name, None, displacement=6.0), Case(image), victim)
    reference = victim.predict(image)
    assert draw is not None
    moved = victim.predict(image.with_data(draw(0)))
    dice = 2 * (moved & reference).sum() / (moved.sum() + reference.sum())
    assert 0.3 < dice < 0.97


def test_the_slices_of_a_volume_are_those_farthest_apart():
    assert slice_axis((1.0, 1.0, 3.0)) == 2 and slice_axis((4.0, 1.0, 1.0)) == 0
    assert slice_axis((1.0, 1.0, 1.0)) == 2 and slice_axis((0.7, 0.7)) is None
