"""Recipes that climb another loss: their formulas written out by hand, and what they equal at special settings."""

import numpy as np
import pytest
import torch
import victims
from attacking import attacked, built, recipe_of

from perturbox.attacks.goals import Goal
from perturbox.attacks.objectives import Voxels, cross_entropy
from perturbox.attacks.oracle import Oracle
from perturbox.attacks.recipes.apgd import dlr_loss
from perturbox.attacks.recipes.cospgd import cosine, cospgd_loss
from perturbox.attacks.recipes.segpgd import segpgd_loss
from perturbox.attacks.runner import run
from perturbox.attacks.solvers.apgd import Apgd, checkpoints
from perturbox.attacks.solvers.ascent import sign
from perturbox.types import Case, InputError

REGIONS = torch.tensor([[0, 0], [1, 0], [1, 1]], dtype=torch.bool)


@pytest.fixture
def field():
    """(logits "1 4 5 6", labels, weight) in double precision."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(1, 4, 5, 6, generator=generator).double()
    labels = torch.randint(4, (1, 5, 6), generator=generator)
    return logits, labels, (torch.rand(1, 5, 6, generator=generator) < 0.7).double()


@pytest.fixture
def nested():
    """The same for two yes-or-no channels, one inside the other."""
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(1, 2, 5, 6, generator=generator).double()
    labels = torch.randint(3, (1, 5, 6), generator=generator)
    return logits, labels, (torch.rand(1, 5, 6, generator=generator) < 0.7).double()


def bce(logits, labels):
    y = REGIONS[labels].movedim(-1, 1).double()
    return y, torch.nn.functional.binary_cross_entropy_with_logits(logits, y, reduction="none")


# ---------------------------------------------------------------- SegPGD


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_segpgd_by_hand(field, progress):
    logits, labels, weight = field
    ce = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    right = (logits.argmax(1) == labels).double()
    share = progress / 2
    expected = (((1 - share) * right + share * (1 - right)) * ce * weight).sum() / weight.sum()
    assert float(segpgd_loss(progress)(*field, (1, 2))) == pytest.approx(float(expected), rel=1e-12)
    reversed_ = (((1 - share) * (1 - right) + share * right) * ce * weight).sum() / weight.sum()
    assert float(segpgd_loss(progress)(*field, (1, 2), True)) == pytest.approx(float(reversed_), rel=1e-12)


def test_segpgd_begins_as_masked_cross_entropy_and_ends_as_half_of_it(field):
    logits, labels, weight = field
    right = (logits.argmax(1) == labels).double()
    masked = cross_entropy(logits, labels, weight * right, (1,)) * (weight * right).sum() / weight.sum()
    assert float(segpgd_loss(0.0)(*field, (1,))) == pytest.approx(float(masked), rel=1e-12)
    assert float(segpgd_loss(1.0)(*field, (1,))) == pytest.approx(0.5 * float(cross_entropy(*field, (1,))), rel=1e-12)


def test_segpgd_with_yes_or_no_channels(nested):
    logits, labels, weight = nested
    y, ce = bce(logits, labels)
    right = ((2 * y - 1) * logits > 0).double()
    expected = ((0.8 * right + 0.2 * (1 - right)) * ce * weight[:, None]).sum() / (2 * weight.sum())
    assert float(segpgd_loss(0.4)(*nested, (0, 1), False, REGIONS)) == pytest.approx(float(expected), rel=1e-12)


def test_segpgd_moves_from_one_end_to_the_other_as_it_goes():
    image, victim = victims.random_scan(), victims.textured()
    outcome = attacked(image, victim, "segpgd", 0.0, steps=4, random_start=False)
    losses = [step.loss for step in outcome.trace]
    # Nothing may change, and all voxels are right: (1 - t / 2T) times one cross-entropy.
    assert losses == pytest.approx([losses[0] * (1 - t / 8) for t in range(5)], rel=1e-6)


# ---------------------------------------------------------------- CosPGD


def test_cospgd_by_hand(field):
    logits, labels, weight = field
    p = logits.softmax(1)
    onehot = torch.nn.functional.one_hot(labels, 4).movedim(-1, 1).double()
    cos = torch.nn.functional.cosine_similarity(p, onehot, dim=1)
    ce = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    for targeted, share in ((False, cos), (True, 1 - cos)):
        expected = (share * ce * weight).sum() / weight.sum()
        assert float(cospgd_loss(*field, (1,), targeted)) == pytest.approx(float(expected), rel=1e-12)


def test_cospgds_weights_have_no_gradient_of_their_own(field):
    logits, labels, weight = field
    z = logits.clone().requires_grad_()
    (found,) = torch.autograd.grad(cospgd_loss(z, labels, weight, (1,)), z)
    fixed = cosine(Voxels(logits, labels, weight))[:, 0] * weight
    again = (torch.nn.functional.cross_entropy(z, labels, reduction="none") * fixed).sum() / weight.sum()
    torch.testing.assert_close(found, torch.autograd.grad(again, z)[0])


def test_cospgd_with_yes_or_no_channels(nested):
    logits, labels, weight = nested
    y, ce = bce(logits, labels)
    right = torch.where(y > 0, logits.sigmoid(), 1 - logits.sigmoid())
    cos = right / (right**2 + (1 - right) ** 2).sqrt()
    expected = (cos * ce * weight[:, None]).sum() / (2 * weight.sum())
    assert float(cospgd_loss(*nested, (0, 1), False, REGIONS)) == pytest.approx(float(expected), rel=1e-12)


# ---------------------------------------------------------------- APGD


def test_dlr_by_hand(field):
    logits, labels, weight = field
    total = 0.0
    for i, j in np.ndindex(5, 6):
        z, y = logits[0, :, i, j].numpy(), int(labels[0, i, j])
        first, _, third = np.sort(z)[::-1][:3]
        total += float(weight[0, i, j]) * -(z[y] - max(z[k] for k in range(4) if k != y)) / (first - third)
    assert float(dlr_loss(*field, (1,))) == pytest.approx(total / float(weight.sum()), rel=1e-9)


def test_dlr_is_blind_to_shift_and_scale(field):
    logits, labels, weight = field
    assert float(dlr_loss(3 * logits + 7, labels, weight, (1,))) == pytest.approx(
        float(dlr_loss(*field, (1,))), rel=1e-9
    )


def test_dlr_on_two_classes_is_refused_in_words():
    made = recipe_of("apgd", 8.0, loss="dlr")
    with pytest.raises(InputError, match="dlr needs 3 classes and organ has 2; use loss=ce"):
        made.check(victims.organ(), victims.organ_scan())
    made.check(victims.textured(), victims.organ_scan())
    recipe_of("apgd", 8.0, loss="ce").check(victims.organ(), victims.organ_scan())


def test_checkpoints_are_those_of_the_paper():
    """p = 0, .22, .41, .57, .7, .8, .87, .93, .99 of 100 steps."""
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]


def apgd_by_hand(f, slope, x, low, high, eta, steps):
    """The algorithm with counters instead of checkpoints, in NumPy; returns every point that is evaluated."""
    interval, counter = max(int(0.22 * steps), 1), 0
    old, best, best_value = x, x, f(x)
    best_slope, known, halved, values, points = slope(x), f(x), False, [f(x)], [x]
    direction = slope(x)
    for i in range(steps):
        drift, old = x - old, x
        a = 0.75 if i else 1.0
        ahead = np.clip(x + eta * np.sign(direction), low, high)
        x = np.clip(x + a * (ahead - x) + (1 - a) * drift, low, high)
        value, direction = f(x), slope(x)
        points.append(x)
        values.append(value)
        if value > best_value:
            best, best_value, best_slope = x, value, direction
        counter += 1
        if counter == interval:
            rises = sum(values[-j] > values[-j - 1] for j in range(1, interval + 1))
            stuck = rises < 0.75 * interval or (not halved and known == best_value)
            halved, known, counter = stuck, best_value, 0
            interval = max(interval - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
            if stuck:
                eta, x, direction, values[-1] = eta / 2, best, best_slope, best_value
    return points


@pytest.mark.parametrize("seed", range(4))
def test_apgd_by_hand(seed):
    """A function with ridges, in a box: steps rise, overshoot, and are halved."""
    rng = np.random.default_rng(seed)
    matrix, middle = rng.normal(size=(6, 6)), rng.normal(size=6)

    def f(x):
        return float(-np.square(matrix @ (x - middle)).sum() + np.cos(9 * x).sum())

    def slope(x):
        return -2 * matrix.T @ (matrix @ (x - middle)) - 9 * np.sin(9 * x)

    eps, steps, visited = 1.5, 100, []
    expected = apgd_by_hand(f, slope, np.zeros(6), -eps, eps, 2 * eps, steps)

    def gradient(z):
        visited.append(z.numpy())
        return f(z.numpy()), torch.from_numpy(slope(z.numpy()))

    oracle = Oracle(gradient, f, f, lambda z: z.clamp(-eps, eps), lambda: False)
    solver = Apgd(steps, sign(), eta=2 * eps)
    z = torch.zeros(6).double()
    state = solver.init(z, None, torch.Generator())
    for _ in range(steps):
        z, state = solver.step(oracle, z, state)
    np.testing.assert_allclose(np.array(visited), np.array(expected[:steps]), atol=1e-9)
    assert state.eta < 2 * eps


def test_apgd_ends_at_the_corner_of_a_linear_problem():
    gradient = torch.tensor([1.0, -2.0, 0.5, -0.1])
    oracle = Oracle(lambda z: (float(gradient @ z), gradient), None, None, lambda z: z.clamp(-1, 1), lambda: False)
    solver = Apgd(10, sign(), eta=2.0)
    z, state = torch.zeros(4), solver.init(torch.zeros(4), None, torch.Generator())
    for _ in range(10):
        z, state = solver.step(oracle, z, state)
    assert z.tolist() == [1, -1, 1, -1]


def test_apgd_keeps_to_the_region_and_starts_with_twice_the_limit():
    image, victim = victims.random_scan(dtype=np.dtype(np.float32)), victims.textured()
    goal = Goal.parse("change", (), victim.labels)
    outcome = run(built("apgd", 5.0, steps=30), victim.on(image), Case(image), victim.predict(image), goal)
    losses = [step.loss for step in outcome.trace]
    assert outcome.trace[1].linf == pytest.approx(5.0) and max(losses) > losses[0]
    assert outcome.best.score < 0.95
