"""Steps without a gradient keep their values bit for bit and get a stand-in's gradient; estimates agree with truth."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from perturbox.attacks.oracle import (
    Antithetic,
    Oracle,
    bpda,
    chosen_class,
    cleaned,
    resampled_nearest,
    rounded,
    thresholded,
)
from perturbox.attacks.solvers.ascent import Ascent, chain, scale
from perturbox.attacks.solvers.estimated import Estimated


def gradient_of(made, x, upstream):
    return torch.autograd.grad(made, x, upstream)[0]


@pytest.fixture
def x():
    return torch.randn(1, 3, 6, 5, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()


@pytest.fixture
def upstream():
    return torch.randn(1, 3, 6, 5, 4, generator=torch.Generator().manual_seed(1))


def test_values_are_exact_where_adding_a_difference_would_round(x):
    exact = torch.full_like(x, 1e-9)
    made = bpda(exact, x * 1e6)
    assert torch.equal(made, exact)
    assert gradient_of(made.sum(), x, None).unique().tolist() == [1e6]


def test_rounding(x, upstream):
    made = rounded(4 * x, 0.5)
    assert torch.equal(made, torch.round(8 * x.detach()) / 2)
    torch.testing.assert_close(gradient_of(made, x, upstream), 4 * upstream)


def test_threshold(x, upstream):
    made = thresholded(x, 0.3, 0.5)
    assert torch.equal(made, (x.detach() > 0.3).float())
    s = torch.sigmoid((x.detach() - 0.3) / 0.5)
    torch.testing.assert_close(gradient_of(made, x, upstream), upstream * s * (1 - s) / 0.5)


def test_argmax(x, upstream):
    made = chosen_class(x, 2.0)
    assert torch.equal(made.argmax(1), x.argmax(1)) and torch.equal(made.sum(1), torch.ones_like(made[:, 0]))
    p = (x.detach() / 2).softmax(1)
    expected = p * (upstream - (p * upstream).sum(1, keepdim=True)) / 2
    torch.testing.assert_close(gradient_of(made, x, upstream), expected)


def test_nearest_resampling(x):
    made = resampled_nearest(x, (9, 5, 8))
    assert torch.equal(made, F.interpolate(x, (9, 5, 8), mode="nearest-exact"))
    upstream = torch.randn(made.shape, generator=torch.Generator().manual_seed(2))
    smooth = F.interpolate(x, (9, 5, 8), mode="trilinear", align_corners=False)
    torch.testing.assert_close(gradient_of(made, x, upstream), gradient_of(smooth, x, upstream))


def test_keeping_the_largest_component(upstream):
    labels = torch.zeros(1, 6, 5, 4, dtype=torch.int64)
    labels[0, :3], labels[0, 5, 0, 0] = 1, 1
    onehot = F.one_hot(labels, 3).movedim(-1, 1).float().requires_grad_()

    def largest(one: np.ndarray) -> np.ndarray:
        parts, count = ndimage.label(one == 1)
        sizes = ndimage.sum_labels(one == 1, parts, range(1, count + 1))
        return np.where(parts == 1 + int(np.argmax(sizes)), 1, 0)

    made = cleaned(onehot, largest)
    assert made.argmax(1)[0, 5, 0, 0] == 0 and (made.argmax(1)[0, :3] == 1).all()
    torch.testing.assert_close(gradient_of(made, onehot, upstream), upstream)


# ---------------------------------------------------------------- estimates

SLOPE = torch.linspace(-1, 1, 60).view(1, 1, 5, 4, 3)


def quadratic(z: torch.Tensor) -> float:
    return float((SLOPE * z).sum() - 0.5 * z.square().sum())


def oracle_of(function) -> Oracle:
    def no_gradient(z):
        raise AssertionError("the model is closed")

    return Oracle(no_gradient, function, function, lambda z: z, lambda: False)


@pytest.mark.parametrize("directions", ["gaussian", "sign"])
def test_an_estimate_is_the_gradient_within_sampling_error(directions):
    """Of a quadratic, pairs of opposite points give u (u . g) exactly; its mean over n pairs is g with covariance
    (|g|^2 + g g^T) / n for Gaussian directions, less for signs."""
    z = 0.3 * torch.ones(1, 1, 5, 4, 3)
    true = SLOPE - z
    pairs, generator = 4000, torch.Generator().manual_seed(0)
    value, found, _ = Antithetic(pairs, 0.5, directions).gradient(oracle_of(quadratic), z, generator)
    error = (true.square().sum() / pairs).sqrt()
    assert float((found - true).abs().max()) < 5 * float(error)
    assert float((found - true).square().mean().sqrt()) == pytest.approx(float(error), rel=0.25)
    spread = 0.5 * 60 * 0.5**2  # what a point half a sigma away loses on average
    assert value == pytest.approx(quadratic(z) - spread, rel=0.05)


def test_blocks_share_a_direction():
    drawn = Antithetic(1, 1.0, coarse=2)._direction(torch.zeros(1, 2, 5, 4), torch.Generator().manual_seed(0))
    assert drawn.shape == (1, 2, 5, 4)
    assert torch.equal(drawn[:, :, ::2][:, :, :2], drawn[:, :, 1::2]) and torch.equal(drawn[..., ::2], drawn[..., 1::2])
    assert len(drawn.unique()) == 2 * 3 * 2


def test_a_solver_climbs_on_estimates_and_asks_for_as_many_values_as_it_says():
    asked = {"look": 0, "peek": 0}

    def look(z):
        asked["look"] += 1
        return quadratic(z)

    def peek(z):
        asked["peek"] += 1
        return quadratic(z)

    oracle = Oracle(lambda z: pytest.fail("the model is closed"), look, peek, lambda z: z, lambda: False)
    estimator = Antithetic(50, 0.1)
    solver = Estimated(Ascent(chain(scale(0.3))), estimator)
    z = torch.zeros(1, 1, 5, 4, 3)
    state = solver.init(z, None, torch.Generator().manual_seed(0))
    for _ in range(20):
        z, state = solver.step(oracle, z, state)
    assert quadratic(z) > 0.9 * quadratic(SLOPE) > 0
    assert asked == {"look": 20, "peek": 20 * estimator.queries}
