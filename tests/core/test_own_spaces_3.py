"""Frequencies as factors, k-space and watermarks: formulas by hand, there and back, and what bounds them."""

import dataclasses

import numpy as np
import pytest
import torch
import victims
from attacking import attacked, built, channels_scan, with_channels
from scipy import fft

from perturbox.attacks import recipes
from perturbox.attacks.attack import random_draw
from perturbox.attacks.budget import Budget
from perturbox.attacks.recipes.kspace import only_mr, unit_phasors
from perturbox.attacks.recipes.watermark import Placing
from perturbox.attacks.spaces.dct import Multiplied, along_blocks, cosine_matrix, to_blocks
from perturbox.attacks.spaces.kspace import KSpace
from perturbox.attacks.spaces.watermark import MARGIN, WORD, Watermark, haar_matrix, tile, word_at
from perturbox.types import Case, InputError

GENERATOR = torch.Generator().manual_seed(0)
WINDOW = (-40.0, 60.0)


def limits(image, **changes) -> Budget:
    wide = {"step": None, "clip": (-1e6, 1e6), "visible": WINDOW}
    return dataclasses.replace(Budget.of(Case(image), None), **(wide | changes))


def scan(shape=(8, 8, 8), **changes):
    return victims.random_scan(shape, **({"dtype": np.dtype(np.float32)} | changes))


def mr(shape=(10, 9, 8), channels=1, **changes):
    image = channels_scan(channels, shape, dtype=np.dtype(np.float32), unit="intensity", **changes)
    return image.with_data(np.abs(image.data))


def tensor(image) -> torch.Tensor:
    return torch.from_numpy(image.data)[None].double()


# ---------------------------------------------------------------- SA^2


@pytest.mark.parametrize("dims", [2, 3])
def test_multiplying_by_hand(dims):
    """Against SciPy's transform of what the window shows, block by block, the mean of a block left alone."""
    image, space = scan((8, 12, 4)[:dims]), Multiplied(4, 0.2)
    x, budget = tensor(image), limits(scan((8, 12, 4)[:dims]))
    z = space.draw(x, budget, GENERATOR)
    found = space.decode(z, x, budget)[0, 0].numpy()
    shown = np.clip(image.data[0], *WINDOW).astype(float)
    expected = image.data[0].astype(float)
    for place in np.ndindex(*(n // 4 for n in image.shape)):
        box = tuple(slice(4 * p, 4 * p + 4) for p in place)
        factors = z[0, 0].numpy()[box].copy()
        factors.flat[0] = 1
        coefficients = fft.dctn(shown[box], norm="ortho")
        expected[box] += fft.idctn(factors * coefficients, norm="ortho") - shown[box]
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_blocks_keep_their_mean_and_flat_ones_are_left():
    image = scan()
    image.data[0, :4, :4, :4] = 37.0
    x, budget, space = tensor(image), limits(image), Multiplied(4, 0.2)
    change = space.decode(space.draw(x, budget, GENERATOR), x, budget) - x
    blocks = torch.nn.functional.avg_pool3d(change, 4)
    torch.testing.assert_close(blocks, torch.zeros_like(blocks), atol=1e-9, rtol=0)
    assert float(change[..., :4, :4, :4].abs().max()) < 1e-9 < float(change[..., 4:, :, :].abs().min())


def test_energy_is_that_of_the_frequencies_and_comes_back():
    x = torch.randn(1, 2, 8, 16, 8, generator=GENERATOR).double()
    spectrum = along_blocks(x, cosine_matrix(8))
    assert float(spectrum.square().sum()) == pytest.approx(float(x.square().sum()), rel=1e-12)
    torch.testing.assert_close(along_blocks(spectrum, cosine_matrix(8).T), x, rtol=1e-12, atol=1e-12)


def test_sa2_starts_at_random_and_takes_steps_of_a_tenth():
    attack = built("sa2", None, steps=3)
    assert attack.space == Multiplied(8, 0.2, random_start=True)
    x, budget = tensor(scan()), limits(scan())
    z = attack.space.init(x, budget, torch.Generator().manual_seed(1))
    assert 0.8 <= float(z.min()) < 0.81 < 1.19 < float(z.max()) <= 1.2
    update, _ = attack.solver.rule.apply(torch.tensor([-3.0, 0.0, 0.1]), attack.solver.init(z, budget, GENERATOR))
    torch.testing.assert_close(update, torch.tensor([-0.1, 0.0, 0.1]))
    assert torch.equal(built("sa2", None, random_start=False).space.init(x, budget, GENERATOR), torch.ones_like(z))


# ---------------------------------------------------------------- k-space


@pytest.mark.parametrize("slices", [False, True])
@pytest.mark.parametrize("shape", [(6, 5, 4), (6, 5)])
def test_kspace_by_hand(shape, slices):
    """|F^-1(F x + delta)| by NumPy; of slices, F is taken across all axes but the one of the largest spacing."""
    image, space = mr(shape), KSpace(0.3, slices)
    x, budget = tensor(image), limits(mr(shape))
    z = space.draw(x, budget, GENERATOR)
    torch.testing.assert_close(z.norm(dim=-1), torch.full(x.shape, 0.3, dtype=torch.float64))
    axes = (0, 1) if slices or len(shape) == 2 else (0, 1, 2)
    measured = np.fft.fftn(x[0, 0].numpy(), axes=axes)
    delta = (z[0, 0, ..., 0] + 1j * z[0, 0, ..., 1]).numpy() * measured
    expected = np.abs(np.fft.ifftn(measured + delta, axes=axes))
    np.testing.assert_allclose(space.decode(z, x, budget)[0, 0].numpy(), expected, atol=1e-9)
    # Parseval: what is added to the image is as large as what is added to k-space, here 0.3 of all there is.
    added = np.fft.ifftn(delta, axes=axes)
    assert np.square(np.abs(added)).sum() == pytest.approx(0.09 * np.square(x.numpy()).sum(), rel=1e-6)


def test_nothing_added_is_the_scan_bit_for_bit_and_what_was_not_measured_stays_0():
    image = mr((8, 6, 4))
    x, budget, space = torch.from_numpy(image.data)[None], limits(image), KSpace(0.5)
    assert torch.equal(space.decode(space.init(x, budget, GENERATOR), x, budget), x)
    # Two periods along the first axis: every odd sample of k-space is 0, and so it stays.
    doubled = torch.cat([x, x], 2).double()
    wide = limits(mr((16, 6, 4)))
    found = space.decode(space.draw(doubled, wide, GENERATOR), doubled, wide)
    assert float((found - doubled).abs().max()) > 1
    torch.testing.assert_close(found[:, :, :8], found[:, :, 8:])
    flat = torch.full((1, 1, 6, 5, 4), 7.0, dtype=torch.float64)
    changed = space.decode(space.draw(flat, limits(mr((6, 5, 4))), GENERATOR), flat, limits(mr((6, 5, 4))))
    assert float(changed.max() - changed.min()) < 1e-9 and 3.5 <= float(changed.min()) <= 10.5


def test_kspace_has_the_gradient_of_differences_and_empty_air_none_that_is_not_finite():
    image = mr((4, 3, 3))
    x, budget, space = tensor(image) + 1, limits(image), KSpace(0.3)
    z = space.draw(x, budget, GENERATOR).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: space.decode(z, x, budget), z, eps=1e-6, atol=1e-4)
    x[:, :, :2] = 0
    z = torch.zeros_like(z, requires_grad=True)
    (slope,) = torch.autograd.grad(space.decode(z, x, budget).sum(), z)
    assert bool(slope.isfinite().all()) and bool(slope.any())


def test_samples_change_by_their_share_at_most_and_steps_are_as_long():
    space, budget = KSpace(0.1), limits(mr())
    z = torch.randn(1, 1, 10, 9, 8, 2, generator=GENERATOR)
    found = space.project(z, tensor(mr()), budget)
    assert float(found.norm(dim=-1).max()) <= 0.1 * (1 + 1e-6)
    small = z * 0.01 / z.norm(dim=-1).max()
    torch.testing.assert_close(space.project(small, tensor(mr()), budget), small)
    step = unit_phasors(1e-32 * z)
    torch.testing.assert_close(step.norm(dim=-1), torch.ones(z.shape[:-1]))


KINDS = {
    "volume": lambda: (mr(), victims.textured(unit="intensity")),
    "slices": lambda: (mr((18, 17, 3)), victims.textured(2, unit="intensity")),
    "sequences": lambda: (mr(channels=2), dataclasses.replace(with_channels(2, 3), unit="intensity")),
    "slice": lambda: (mr((18, 17), affine=np.eye(4)), victims.textured(2, unit="intensity")),
}


@pytest.mark.parametrize("acquisition", ["3D", "2D"])
@pytest.mark.parametrize("kind", KINDS)
def test_mr_of_every_kind_is_attacked(kind, acquisition):
    image, victim = KINDS[kind]()
    only_mr(victim, image, {})
    outcome = attacked(image, victim, "kspace", None, acquisition=acquisition, steps=3)
    assert outcome.delta.any() and (outcome.x_adv >= 0).all()
    assert outcome.trace[-1].loss > outcome.trace[0].loss
    # No more energy than the share allows, in image or k-space.
    assert np.square(outcome.delta).sum() <= 0.05**2 * np.square(image.data).sum() * (1 + 1e-5)


def test_ct_colours_and_normalised_scans_are_refused_in_words():
    victim = victims.textured(unit="intensity")
    with pytest.raises(InputError, match=r"this is CT; use sa2 instead\.$"):
        only_mr(victims.textured(), mr(), {})
    with pytest.raises(InputError, match=r"this is CT; use sa2 instead\.$"):
        only_mr(victim, scan(), {})
    with pytest.raises(InputError, match=r"this is US; use sa2 instead\.$"):
        only_mr(victim, dataclasses.replace(mr(), header={"modality": "US"}), {})
    with pytest.raises(InputError, match=r"a colour picture; use sa2 instead\.$"):
        only_mr(victim, mr((9, 8), 3), {})
    normalised = mr()
    normalised.data[:] = (normalised.data - normalised.data.mean()) / normalised.data.std()
    with pytest.raises(InputError, match=r"magnitude images and this scan goes down to -1\.\d+; .*normalised\.$"):
        only_mr(victim, normalised, {})
    resampled = mr()
    resampled.data[0, 0] = -2.0  # a little undershoot
    only_mr(victim, resampled, {})
    assert recipes.get("kspace").check is only_mr


def test_values_below_0_keep_their_sign():
    image = mr()
    image.data[0, 0] *= -0.1
    x, budget, space = tensor(image), limits(image), KSpace(0.3)
    z = space.draw(x, budget, GENERATOR)
    found = space.decode(z, x, budget)
    complete = torch.fft.ifftn((1 + torch.view_as_complex(z)) * torch.fft.fftn(x, dim=(2, 3, 4)), dim=(2, 3, 4))
    torch.testing.assert_close(found, torch.where(x < 0, -1, 1) * complete.abs())


# ---------------------------------------------------------------- watermark


@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_haar_wavelets_are_orthonormal_and_come_back(n):
    matrix = haar_matrix(n)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(n, dtype=torch.float64))
    torch.testing.assert_close(matrix[0], torch.full((n,), n**-0.5, dtype=torch.float64))
    x = torch.randn(1, 2, 2 * n, 3 * n, generator=GENERATOR).double()
    coefficients = along_blocks(x, matrix)
    assert float(coefficients.square().sum()) == pytest.approx(float(x.square().sum()), rel=1e-12)
    torch.testing.assert_close(along_blocks(coefficients, matrix.T), x)


def test_haar_wavelets_by_hand():
    s = 2**-0.5
    expected = [[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, -0.5, -0.5], [s, -s, 0, 0], [0, 0, s, -s]]
    np.testing.assert_allclose(haar_matrix(4).numpy(), expected, atol=1e-15)


def test_the_word_is_what_it_says_and_repeats():
    dots = tile()
    assert dots.shape == (35 + 2 * MARGIN, 5 + 2 * MARGIN) and len(WORD) == 5
    assert int(dots.sum()) == sum(row.count("#") for row in WORD)
    columns = torch.arange(2 * dots.shape[0]) + 0.5
    found = word_at(columns, torch.arange(dots.shape[1]) + 0.5)
    assert torch.equal(found, torch.cat([dots, dots]))
    assert word_at(torch.tensor([MARGIN + 0.5]), torch.tensor([MARGIN + 4.5])).item() == 1  # the foot of a P


@pytest.mark.parametrize("sign", [1, -1])
def test_blending_by_hand(sign):
    """In every slice across the axis of 3 mm, dots of 3 mm on pixels of 2 mm, white or black ink of the window."""
    image = scan((20, 16, 3))
    x, budget, space = tensor(image), limits(image), Watermark("blend", 0.25, 3.0, 2)
    z = torch.tensor([[0.2, 0.6, 0.2 * sign]], dtype=torch.float64)
    found = space.decode(z, x, budget)[0, 0].numpy()
    dots = tile().double().numpy()
    for i, j, k in np.ndindex(*image.shape):
        column = int(np.floor((i + 0.5) * 2 / 3 + 0.2 * dots.shape[0])) % dots.shape[0]
        row = int(np.floor((j + 0.5) * 2 / 3 + 0.6 * dots.shape[1])) % dots.shape[1]
        value, shown = float(image.data[0, i, j, k]), float(np.clip(image.data[0, i, j, k], *WINDOW))
        ink = WINDOW[1] if sign > 0 else WINDOW[0]
        expected = value + 0.2 * dots[column, row] * (ink - shown)
        assert found[i, j, k] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("strength", [0.06, -0.06])
@pytest.mark.parametrize("level", [1, 2])
def test_hidden_bits_are_read_back_and_move_no_voxel_further_than_told(strength, level):
    image, n = scan((32, 24, 2)), 2**level
    image.data[:] = image.data.clip(*WINDOW)
    x, budget, space = tensor(image), limits(image), Watermark("wavelet", 0.06, 4.0, level)
    z = torch.tensor([[0.3, 0.4, strength]], dtype=torch.float64)
    found = space.decode(z, x, budget)
    width = WINDOW[1] - WINDOW[0]
    assert 0.03 * width < float((found - x).abs().max()) <= 0.06 * width + 1e-9
    # Read by hand: the difference of a block's quadrants, over n, lies on one of two lattices.
    signs = np.kron(np.array([[1, -1], [-1, 1]]), np.ones((n // 2, n // 2))) / n
    dots, step = tile().numpy(), 2 * 0.06 * n * width
    for k in range(2):
        for i, j in np.ndindex(32 // n, 24 // n):
            detail = (found[0, 0, n * i : n * i + n, n * j : n * j + n, k].numpy() * signs).sum()
            expected = dots[(i + round(0.3 * 39)) % 39, (j + round(0.4 * 9)) % 9]
            bit = round(detail / step * 2) % 2
            assert bit == (expected if strength > 0 else 1 - expected)
            assert detail / step * 2 == pytest.approx(round(detail / step * 2), abs=1e-6)


def test_hiding_leaves_what_is_beyond_whole_blocks_in_range():
    image = scan((10, 9), affine=np.eye(4))
    x, budget, space = tensor(image), limits(image), Watermark("wavelet", 0.1, 4.0, 2)
    found = space.decode(space.draw(x, budget, GENERATOR), x, budget)
    assert found.shape == x.shape and 0 < float((found - x).abs().max()) <= 10 * (1 + 1e-6)


@pytest.mark.parametrize("kind", ["blend", "wavelet"])
def test_a_mark_is_the_same_in_all_channels_and_bounded(kind):
    image = channels_scan(2, (16, 14, 3), dtype=np.dtype(np.float32))
    image.data[1] = image.data[0]
    attack = built("watermark", None, kind=kind, strength=0.2)
    draw = random_draw(attack, Case(image), with_channels(2, 3))
    assert draw is not None
    change = draw(0) - image.data
    assert np.array_equal(change[0], change[1]) and 0 < np.abs(change).max() <= 0.2 * 200 + 1e-3
    mixed = attacked(image, with_channels(2, 3), "watermark", None, kind=kind, steps=3)
    assert mixed.delta.any() and mixed.had_gradient is None


def test_places_and_strengths_are_drawn_within_their_limits():
    solver, seen = Placing(0.1), []
    oracle = type("Looking", (), {"value": lambda self, z: seen.append(z) or 0.0})()
    z, generator = torch.zeros(1, 3), torch.Generator().manual_seed(0)
    state = solver.init(z, limits(scan()), generator)
    for _ in range(40):
        z, state = solver.step(oracle, z, state)
    drawn = torch.cat(seen[1:])
    assert torch.equal(seen[0], torch.zeros(1, 3)) and len(seen) == 40
    assert ((drawn[:, :2] >= 0) & (drawn[:, :2] < 1)).all() and drawn[:, 0].std() > 0.2
    assert ((drawn[:, 2].abs() >= 0.05) & (drawn[:, 2].abs() <= 0.1)).all()
    assert 5 < int((drawn[:, 2] > 0).sum()) < 35
    recipe = recipes.get("watermark")
    assert recipe.access == "black" and not built("watermark", None).uses_gradient
    projected = Watermark("blend", 0.1, 4.0, 2).project(torch.tensor([[1.25, -0.25, -0.7]]), z, limits(scan()))
    torch.testing.assert_close(projected, torch.tensor([[0.25, 0.75, -0.1]]))


def test_scans_are_continued_to_whole_blocks_for_factors_too():
    x = torch.zeros(1, 1, 5, 6)
    assert Multiplied(4, 0.2).init(x, limits(scan()), GENERATOR).shape == to_blocks(x, 4).shape == (1, 1, 8, 8)
