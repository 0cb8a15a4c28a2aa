"""Spaces with a budget of their own: transforms there and back, formulas by hand, and what bounds them."""

import numpy as np
import pytest
import torch
import victims
from attacking import attacked, built, channels_scan, with_channels
from scipy import fft, interpolate

from perturbox.attacks.budget import Budget
from perturbox.attacks.objectives import dice_ce
from perturbox.attacks.on_scan import Task
from perturbox.attacks.recipes.vafa import alike_and_wrong
from perturbox.attacks.smoothing import gaussian_mm, smooth, ssim, ssim_map
from perturbox.attacks.spaces.bias_field import BiasField, spline_field, spline_matrix
from perturbox.attacks.spaces.dct import Quantised, _SoftRound, along_blocks, cosine_matrix, to_blocks
from perturbox.judge.metrics import ssim as measured_ssim
from perturbox.types import Case

GENERATOR = torch.Generator().manual_seed(0)


def limits(image, **changes) -> Budget:
    import dataclasses

    return dataclasses.replace(Budget.of(Case(image), None, visible=(-100.0, 155.0)), **changes)


def tensor(image) -> torch.Tensor:
    return torch.from_numpy(image.data)[None]


# ---------------------------------------------------------------- cosine transform


@pytest.mark.parametrize("shape, block", [((8, 12, 4), 4), ((16, 8), 8)])
def test_the_block_transform_is_the_orthonormal_dct_and_its_inverse(shape, block):
    x = torch.randn(1, 2, *shape, generator=GENERATOR).double()
    found = along_blocks(x, cosine_matrix(block))
    first = (0, 1, *(slice(block),) * len(shape))
    np.testing.assert_allclose(found[first].numpy(), fft.dctn(x[first].numpy(), norm="ortho"), atol=1e-12)
    last = (0, 0, *(slice(-block, None),) * len(shape))
    np.testing.assert_allclose(found[last].numpy(), fft.dctn(x[last].numpy(), norm="ortho"), atol=1e-12)
    torch.testing.assert_close(along_blocks(found, cosine_matrix(block).T), x, rtol=1e-12, atol=1e-12)


def test_scans_are_continued_by_their_edge():
    x = torch.arange(10.0).view(1, 1, 5, 2)
    padded = to_blocks(x, 4)
    assert padded.shape == (1, 1, 8, 4) and torch.equal(padded[..., :5, :2], x)
    assert (padded[0, 0, 5:, 0] == x[0, 0, 4, 0]).all() and torch.equal(padded[0, 0, :5, 2], x[0, 0, :, 1])


@pytest.mark.parametrize("dims", [2, 3])
def test_quantising_by_hand(dims):
    """Against SciPy's transform, block by block; a grey level of the window of 255 HU is 1 HU."""
    image = victims.random_scan((8, 12, 4)[:dims], dtype=np.dtype(np.float32))
    space, budget = Quantised(4, 5.0, 20.0), limits(image, clip=(-1e6, 1e6))
    steps = 5 + 15 * torch.rand(1, 1, *image.shape, generator=GENERATOR)  # each block has its own
    found = space.decode(steps, tensor(image), budget)[0, 0].numpy()
    expected = np.empty_like(image.data[0], dtype=float)
    for place in np.ndindex(*(n // 4 for n in image.shape)):
        box = tuple(slice(4 * p, 4 * p + 4) for p in place)
        coefficients = fft.dctn(image.data[0][box].astype(float), norm="ortho")
        q = steps[0, 0].numpy()[box]
        expected[box] = fft.idctn(np.rint(coefficients / q) * q, norm="ortho")
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_quantising_hardly_at_all_is_the_identity():
    image = victims.random_scan(dtype=np.dtype(np.float32))
    space, budget = Quantised(4, 0.001, 0.001), limits(image)
    z = space.init(tensor(image), budget, GENERATOR)
    assert float((space.decode(z, tensor(image), budget) - tensor(image)).abs().max()) < 0.01


def test_steps_follow_the_victims_window_or_the_scans_range():
    image = victims.random_scan()
    x = tensor(image)
    z = Quantised(4, 5, 20).init(x, limits(image), GENERATOR)
    narrow, wide = limits(image), limits(image, visible=(-100.0, 410.0))
    assert torch.equal(Quantised(4, 5, 40).decode(2 * z, x, narrow), Quantised(4, 5, 40).decode(z, x, wide))
    own = Budget.of(Case(image), None)
    assert own.visible == own.clip == (float(image.data.min()), float(image.data.max()))


def test_rounding_has_the_slope_of_the_cube():
    u = torch.linspace(-1.4, 1.4, 29, dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(_SoftRound.apply(u).sum(), u)
    rest = u.detach() - u.detach().round()
    torch.testing.assert_close(slope, 3 * rest**2)
    assert torch.equal(_SoftRound.apply(u), u.round())


def test_vafa_starts_at_the_coarsest_and_stays_within_its_table():
    image, victim = victims.random_scan(), victims.textured()
    attack = built("vafa", None, steps=30)
    seen = []
    project = attack.space.project

    class Watched(Quantised):
        def project(self, z, x, budget):
            z = project(z, x, budget)
            seen.append((float(z.min()), float(z.max())))
            return z

        def init(self, x, budget, generator):
            z = super().init(x, budget, generator)
            seen.append((float(z.min()), float(z.max())))
            return z

    import dataclasses

    from perturbox.attacks.goals import Goal
    from perturbox.attacks.runner import run

    watched = dataclasses.replace(attack, space=Watched(4, 5.0, 20.0))
    goal = Goal.parse("change", (), victim.labels)
    outcome = run(watched, victim.on(image), Case(image), victim.predict(image), goal)
    assert seen[0] == (20.0, 20.0) and min(low for low, _ in seen) >= 5.0 and max(high for _, high in seen) == 20.0
    assert seen[1] == (19.0, 20.0) and outcome.delta.any()


# ---------------------------------------------------------------- similarity


@pytest.mark.parametrize("shape", [(1, 1, 24, 20), (1, 1, 16, 15, 14)])
def test_similarity_is_the_measured_one_where_the_kernel_fits(shape):
    rng = np.random.default_rng(0)
    clean = rng.normal(40, 30, shape).clip(-160, 240)
    changed = (clean + rng.normal(0, 10, shape)).clip(-160, 240)
    expected = measured_ssim(clean[0], changed[0])
    found = ssim_map(torch.from_numpy(clean), torch.from_numpy(changed), 400.0)
    fits = (0, 0, *(slice(5, -5) for _ in shape[2:]))
    assert float(found[fits].mean()) == pytest.approx(expected, rel=1e-6) and expected < 0.99


def test_similarity_of_equal_images_is_one_and_its_gradient_that_of_differences():
    x = torch.randn(1, 1, 9, 8, generator=GENERATOR).double() * 30 + 1000
    assert float(ssim(x, x, 100.0)) == pytest.approx(1.0, abs=1e-12)
    y = (x + 5 * torch.randn(x.shape, generator=GENERATOR)).requires_grad_()
    assert torch.autograd.gradcheck(lambda y: ssim(x, y, 100.0), y, eps=1e-4, atol=1e-6)


def test_smoothing_in_mm_is_as_wide_along_every_axis():
    x = torch.zeros(1, 1, 41, 41)
    x[..., 20, 20] = 1
    found = smooth(x.double(), gaussian_mm(4.0, (1.0, 2.0)))[0, 0].numpy()
    i, j = np.meshgrid(np.arange(41) - 20, np.arange(41) - 20, indexing="ij")
    assert np.sqrt((found * (1.0 * i) ** 2).sum()) == pytest.approx(4.0, rel=0.03)
    assert np.sqrt((found * (2.0 * j) ** 2).sum()) == pytest.approx(4.0, rel=0.03)


# ---------------------------------------------------------------- bias field


def test_splines_are_those_of_scipy():
    n, knots = 20, 4
    matrix = spline_matrix(n, knots).numpy()
    assert np.allclose(matrix.sum(1), 1) and (matrix >= 0).all()
    grid = np.arange(-3, knots + 4)
    points = np.random.default_rng(0).normal(size=knots + 3)
    expected = interpolate.BSpline(grid, points, 3)((np.arange(n) + 0.5) / n * knots)
    np.testing.assert_allclose(matrix @ points, expected, atol=1e-12)


def test_a_field_by_hand_never_exceeds_its_control_points():
    image = victims.random_scan((12, 10, 8), dtype=np.dtype(np.float32))
    space, budget = BiasField(0.3, 8.0), limits(image, clip=(-1000.0, 1e6))
    x, z = tensor(image), space.draw(tensor(image), budget, GENERATOR)
    assert z.shape == (1, 1, 6, 5, 6) and z.abs().unique().tolist() == pytest.approx([0.3])
    field = spline_field(z.double(), x.shape)
    assert float(field.abs().max()) <= 0.3
    expected = -1000 + (x.double() + 1000) * field.exp()
    torch.testing.assert_close(space.decode(z, x, budget).double(), expected, atol=1e-2, rtol=1e-5)


def test_a_field_is_shared_by_channels_and_leaves_the_lowest_value():
    image = channels_scan(2, (12, 11, 9), dtype=np.dtype(np.float32))
    image.data[:, :2] = image.data.min()
    outcome = attacked(image, with_channels(2, 3), "bias-field", None)
    assert outcome.delta.any() and not outcome.delta[:, :2].any()
    ratio = (outcome.x_adv - image.data.min()) / np.maximum(image.data - image.data.min(), 1e-6)
    inside = (outcome.x_adv < image.data.max() - 1).all(0) & (image.data - image.data.min() > 30).all(0)
    assert inside.sum() > 200
    np.testing.assert_allclose(ratio[0][inside], ratio[1][inside], rtol=1e-3)


@pytest.mark.parametrize("dims", [2, 3])
def test_vafa_rescaled_fills_the_window_slice_by_slice_and_leaves_flat_ones(dims):
    image = victims.random_scan((8, 12, 6)[:dims], dtype=np.dtype(np.float32))
    if dims == 3:
        image.data[..., 2] = 30.0
    x = torch.from_numpy(image.data)[None]
    space, budget = Quantised(4, 5.0, 20.0, rescaled=True), limits(image, clip=(-1e6, 1e6))
    low, high = budget.visible
    found = space.decode(space.init(x, budget, GENERATOR), x, budget).clamp(low, high)
    plain = Quantised(4, 5.0, 20.0).decode(space.init(x, budget, GENERATOR), x, budget)
    for n in range(1 if dims == 2 else 6):
        part, before = (found, plain) if dims == 2 else (found[..., n], plain[..., n])
        if float(before.max() - before.min()) > 0:
            assert (float(part.min()), float(part.max())) == pytest.approx((low, high), abs=0.01)
        else:
            assert bool((part == before).all())
    assert built("vafa", None, block=32).space == Quantised(32, 5.0, 20.0)


def test_vafa_compares_what_the_window_shows_and_nothing_beyond():
    generator = torch.Generator().manual_seed(3)
    clean, x = (400 * torch.rand(1, 1, 16, 16, 16, generator=generator) - 200 for _ in range(2))
    logits = torch.randn(1, 2, 16, 16, 16, generator=generator)
    labels, weight = torch.randint(2, (1, 16, 16, 16), generator=generator), torch.ones(1, 16, 16, 16)
    task = Task(labels, weight, False, (1,), None, clean, visible=(-100.0, 150.0))
    alike = ssim(clean.clamp(-100, 150), x.clamp(-100, 150), 250.0)
    expected = dice_ce(logits, labels, weight, (1,)) - (1 - alike)
    assert float(alike_and_wrong(lambda _: logits, x, task, 0.0)) == pytest.approx(float(expected), rel=1e-6)
    beyond = torch.where(x > 150, x + 1000, x)  # no reader and no victim sees it
    values = [alike_and_wrong(lambda _: logits, point, task, 0.0) for point in (x, beyond)]
    assert torch.equal(*values)
