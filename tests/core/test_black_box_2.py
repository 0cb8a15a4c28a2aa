"""SPSA's Adam, the prior that Bandits learns, and attacks that only see decisions."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import victims
from attacking import attacked, built, same_bits

from perturbox.attacks.budget import Budget
from perturbox.attacks.goals import Goal
from perturbox.attacks.oracle import Oracle
from perturbox.attacks.runner import run
from perturbox.attacks.solvers.adam import adam
from perturbox.attacks.solvers.ascent import Ascent, chain, scale
from perturbox.attacks.solvers.bandits import Bandits
from perturbox.attacks.solvers.estimated import Estimated
from perturbox.attacks.solvers.hopskipjump import CLOSE, HopSkipJump, _Walker
from perturbox.types import Case, Effort


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def budget_of(shape, eps=10.0, norm="l2", roi=None, dtype=np.float32):
    affine = {"affine": np.eye(4)} if len(shape) == 2 else {}
    return Budget.of(Case(victims.random_scan(shape, dtype=np.dtype(dtype), **affine), roi=roi), eps, norm)


def closed(function):
    """An oracle of a model that only tells values; what it was asked."""
    asked = []

    def peek(z):
        asked.append(z.clone())
        return function(z)

    return Oracle(lambda z: pytest.fail("the model is closed"), peek, peek, lambda z: z, lambda: False), asked


@pytest.mark.parametrize("name, queries", [("spsa", 9 + 8 * 6), ("bandits", 9 + 8 * 2), ("hopskipjump", 9 + 1)])
def test_queries_are_as_many_as_said_and_the_seed_makes_the_result(name, queries):
    """One window, so that a query is one call; what seeks the smallest change looks at the clean scan beforehand."""
    image, victim = victims.random_scan((10, 10, 10)), victims.textured()
    goal, reference = Goal.parse("change", (), victim.labels), victim.predict(image)
    settings = {"pairs": 3} if name == "spsa" else {}
    found = []
    for seed in (1, 1, 2):
        effort, attack = Effort(), built(name, 8.0, steps=8, **settings)
        outcome = run(attack, victim.on(image, effort), Case(image), reference, goal, seed=seed)
        assert effort.backwards == 0 and effort.forwards == queries == 9 + 8 * attack.queries + (name == "hopskipjump")
        assert outcome.had_gradient is None and outcome.delta.any() and len(outcome.trace) == 9
        found.append(outcome)
    assert same_bits(found[0].x_adv, found[1].x_adv)
    assert [step.loss for step in found[0].trace] == [step.loss for step in found[1].trace]
    assert not same_bits(found[0].x_adv, found[2].x_adv)


# ---------------------------------------------------------------- SPSA


def test_adam_is_the_textbooks():
    rule, z = adam(), torch.zeros(4, 5, dtype=torch.float64)
    state, m, v = rule.init(z, None), 0.0, 0.0
    update, state = rule.apply(z, state)
    assert not update.any()  # a gradient of 0 before the first is no step
    gradients = [torch.randn(4, 5, generator=seeded(k), dtype=torch.float64) * 1e-9 for k in range(5)]
    for k, gradient in enumerate(gradients, start=1):
        update, state = rule.apply(gradient, state)
        g = gradient.numpy() / np.abs(gradients[0].numpy()).max()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        np.testing.assert_allclose(update, m / (1 - 0.9**k) / (np.sqrt(v / (1 - 0.999**k)) + 1e-8), rtol=1e-12)


def test_adam_does_not_depend_on_the_losss_scale():
    rule, z = adam(), torch.zeros(50)
    for factor in (2.0**-100, 2.0**60):
        plain, small = rule.init(z, None), rule.init(z, None)
        for k in range(4):
            gradient = torch.randn(50, generator=seeded(k))
            one, plain = rule.apply(gradient, plain)
            other, small = rule.apply(gradient * factor, small)
            assert torch.equal(one, other) and one.abs().max() > 0.5


def test_spsa_by_hand():
    """Two steps of two pairs: random signs over 2 x 2 pixels, differences of the cross-entropy, Adam, projection."""
    image = victims.random_scan((12, 12), scale=20.0, affine=np.eye(4), dtype=np.dtype(np.float32))
    victim = victims.textured(2, normalise=lambda x: x / 100)
    reference = torch.from_numpy(victim.predict(image)).long()[None]
    source = torch.from_numpy(image.data)[None]
    low, high = source.min(), source.max()

    def loss(z):
        with torch.no_grad():
            return float(F.cross_entropy(victim.network((source + z).double().float() / 100), reference))

    z, m, v, unit, draws = torch.zeros_like(source), 0.0, 0.0, None, seeded(0)
    expected = [loss(z)]
    for k in (1, 2):
        g = torch.zeros_like(z)
        for _ in range(2):
            u = torch.randn((1, 1, 6, 6), generator=draws).sign()
            u = u.repeat_interleave(2, 2).repeat_interleave(2, 3)
            g += u * (loss(z + 5 * u) - loss(z - 5 * u)) / 10 / 2
        unit = unit or float(g.abs().max())
        m, v = 0.9 * m + 0.1 * g / unit, 0.999 * v + 0.001 * (g / unit) ** 2
        z = z + 4 * (m / (1 - 0.9**k)) / ((v / (1 - 0.999**k)).sqrt() + 1e-8)
        z = z.clamp(-6, 6)
        z = (source + z).clamp(low, high) - source
        expected.append(loss(z))
    settings = {"loss": "ce", "alpha": 4.0, "pairs": 2, "sigma": 5.0, "coarse": 2}
    outcome = attacked(image, victim, "spsa", 6.0, steps=2, **settings)
    assert [step.loss for step in outcome.trace] == pytest.approx(expected, rel=1e-4)
    assert outcome.trace[1].linf == pytest.approx(4.0, abs=1e-3)


# ---------------------------------------------------------------- Bandits

SLOPE = torch.linspace(-1, 1.5, 24).view(1, 1, 6, 4).double()


def linear(z):
    return float((SLOPE * z).sum())


def quadratic(z):
    return float((SLOPE * z).sum() - 0.02 * z.square().sum())


@pytest.mark.parametrize("exponentiated", [False, True])
def test_the_prior_is_learnt_as_in_the_paper(exponentiated):
    """Two steps by hand; the second point is another, as it is in an attack."""
    exploration, rate, sigma = 0.7, 0.4, 2.0
    estimator = Bandits(sigma, exploration, rate, 2, exponentiated)
    z = 0.1 * SLOPE
    state = estimator.init(z, budget_of((6, 4)), seeded(5))
    oracle, asked = closed(quadratic)
    prior, largest, draws = np.zeros((3, 2)), 0.0, seeded(5)
    for k in range(2):
        z = z + k
        u = torch.randn((1, 1, 3, 2), generator=draws).double().numpy()[0, 0] / np.sqrt(6)
        values = []
        for side in (1, -1):
            q = np.kron(prior + side * exploration * u, np.ones((2, 2)))
            q = z.numpy()[0, 0] + sigma * q / np.sqrt(np.mean(q**2))
            np.testing.assert_allclose(asked[-1 if values else -2] if len(asked) > 2 * k + 1 else q, q)
            values.append(quadratic(torch.from_numpy(q)[None, None]))
        largest = max(largest, abs(values[0] - values[1]))
        g = u * (values[0] - values[1]) / largest
        if exponentiated:
            p = (prior + 1) / 2
            p = p * np.exp(rate * g) / (p * np.exp(rate * g) + (1 - p) * np.exp(-rate * g))
            prior = 2 * p - 1
        else:
            prior = prior + rate * g
        value, estimate, state = estimator.gradient(oracle, z, state)
        np.testing.assert_allclose(estimate[0, 0], np.kron(prior, np.ones((2, 2))), rtol=1e-6)
        assert value == pytest.approx(sum(values) / 2) and state.largest == pytest.approx(largest)
    assert len(asked) == 4 and np.abs(prior).max() > 0.05


def test_what_a_pair_tells_is_the_slope_within_sampling_error():
    """Of a linear model the first pair tells the sign of <u, slope>, with u ~ N(0, 1 / d): its mean is slope / |slope|
    sqrt(2 / (pi d))."""
    estimator, d, count = Bandits(1.0, 0.01, 1.0, 1, False), 24, 1500
    oracle, _ = closed(linear)
    total, state = torch.zeros_like(SLOPE), estimator.init(SLOPE, budget_of((6, 4)), seeded(0))
    for _ in range(count):
        _, estimate, _ = estimator.gradient(oracle, 0 * SLOPE, state)
        total += estimate / count
    expected = SLOPE / SLOPE.norm() * math.sqrt(2 / (math.pi * d))
    error = 1 / math.sqrt(d * count)
    assert float((total - expected).abs().max()) < 4 * error
    assert float((total - expected).square().mean().sqrt()) < 1.2 * error


def test_probes_lie_at_their_distance_and_nothing_is_learnt_outside_the_region():
    roi = np.zeros((6, 4), bool)
    roi[1:5, :3] = True
    budget = budget_of((6, 4), roi=roi)
    estimator = Bandits(3.0, 0.01, 0.01, 2, False)
    z = torch.zeros_like(SLOPE)
    oracle, asked = closed(quadratic)
    state = estimator.init(z, budget, seeded(0))
    for _ in range(3):
        _, estimate, state = estimator.gradient(oracle, z, state)
    assert not estimate[0, 0].numpy()[~roi].any() and estimate[0, 0].numpy()[roi].all()
    for point in asked:
        assert not point[0, 0].numpy()[~roi].any()
        assert np.sqrt(np.mean(point[0, 0].numpy()[roi] ** 2)) == pytest.approx(3.0)


def test_a_flat_model_teaches_nothing():
    estimator = Bandits(1.0, 1.0, 1.0, 2, True)
    oracle, _ = closed(lambda z: 0.25)
    state = estimator.init(SLOPE, budget_of((6, 4)), seeded(0))
    value, estimate, state = estimator.gradient(oracle, SLOPE, state)
    assert value == 0.25 and not estimate.any() and not state.prior.any()


@pytest.mark.parametrize("exponentiated, size", [(False, 0.01), (True, 1.0)])
def test_with_time_the_prior_points_uphill(exponentiated, size):
    estimator = Bandits(0.5, size, size, 2, exponentiated)
    oracle, _ = closed(linear)
    solver = Estimated(Ascent(chain(scale(0.0))), estimator)
    z, wanted = torch.zeros_like(SLOPE), F.avg_pool2d(SLOPE, 2).flatten()
    state = solver.init(z, budget_of((6, 4)), seeded(0))
    for _ in range(300):
        z, state = solver.step(oracle, z, state)
    prior = state[1].prior.flatten().double()
    if exponentiated:
        assert torch.equal(prior.sign(), wanted.sign()) and prior.abs().max() <= 1
    assert float(F.cosine_similarity(prior, wanted, dim=0)) > 0.9


# ---------------------------------------------------------------- decisions

NORMAL = torch.linspace(0.5, 2.0, 24).view(1, 1, 6, 4) * (-1.0) ** torch.arange(24.0).view(1, 1, 6, 4)


def walked(norm, steps, enough=30.0, eps=20.0, **changes):
    """All points asked about of a model that decides by <NORMAL, z> >= enough, and which of them reached it."""
    settings = {"probes": 20, "share": 0.1, "coarse": 1} | changes
    budget, last, looks = budget_of((6, 4), eps, norm), 0.0, []

    def value(z):
        nonlocal last
        last = float((NORMAL * z).sum())
        looks.append((z.clone(), last >= enough))
        return 0.0

    def no(*_):
        pytest.fail("only decisions are asked for")

    oracle = Oracle(no, value, no, no, lambda: last >= enough)
    solver, z = HopSkipJump(norm, **settings), torch.zeros_like(NORMAL)
    state = solver.init(z, budget, seeded(3))
    for _ in range(steps):
        z, state = solver.step(oracle, z, state)
        z = z.clamp(-eps, eps)
    return looks, budget


def test_it_starts_from_blocks_that_grow_until_one_reaches_the_goal():
    looks, _ = walked("linf", 100, enough=180.0)
    starts = [z for z, _ in looks[1 : 1 + next(k for k, (_, reached) in enumerate(looks[1:], 1) if reached)]]
    assert not looks[0][0].any() and len(starts) >= 3
    assert all(z.abs().unique().tolist() == [20.0] for z in starts)
    blocks = [z for z in starts if torch.equal(z[..., ::2], z[..., 1::2]) and torch.equal(z[:, :, ::2], z[:, :, 1::2])]
    assert 0 < len(blocks) < len(starts)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_smallest_change_of_a_half_space_is_approached(norm):
    """b / |w|_2 (as an RMS), or b / |w|_1."""
    looks, budget = walked(norm, 1500)
    exact = 30 / float(NORMAL.norm()) / math.sqrt(24) if norm == "l2" else 30 / float(NORMAL.abs().sum())
    sizes = [budget.size(z) for z, reached in looks if reached]
    assert 0.999 < min(sizes) / exact < 1.05


def walker(norm, shape=(6, 4), dtype=np.float32, eps=20.0, **changes):
    settings = HopSkipJump(norm, **({"probes": 3, "share": 0.1, "coarse": 1} | changes))
    dither = torch.rand((1, 1, *shape), generator=seeded(9))
    return _Walker(settings, budget_of(shape, eps, norm, dtype=dtype), seeded(1), dither)


def answered(walk, answers):
    """What a walk asks about, and returns, when it is told `answers`; points are clipped at 1.2 first."""
    points, point = [], next(walk)
    try:
        for answer in answers:
            points.append(point.clamp(-1.2, 1.2))
            point = walk.send((points[-1], answer))
    except StopIteration as end:
        return points, end.value
    raise AssertionError("it asked for more")


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_way_back_is_bisected_by_scaling_or_clamping(norm):
    """Anything above 0.3 of it would do: found to within 1/64."""
    z = NORMAL / 2
    points, found = answered(walker(norm).back(z), (True, False, True, True, False, False))
    shares = (0.5, 0.25, 0.375, 0.3125, 0.28125, 0.296875)
    assert CLOSE == 1 / 64
    for point, share in zip(points, shares, strict=True):
        torch.testing.assert_close(point, z * share if norm == "l2" else z.clamp(-share, share))
    assert torch.equal(found, points[3])


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("answers", [(True, False, False), (True, True, True), (False, False, False)])
def test_the_normal_is_the_papers_estimate(norm, answers):
    """mean of (phi - mean phi) u, or of +-u where all lie on one side; u is what the limits left of a direction."""
    z, delta = torch.ones(1, 1, 6, 4), 0.5
    points, normal = answered(walker(norm).normal(z, delta, 3), answers)
    draws = seeded(1)
    for point in points:
        u = (
            torch.randn(1, 1, 6, 4, generator=draws)
            if norm == "l2"
            else torch.rand(1, 1, 6, 4, generator=draws) * 2 - 1
        )
        expected = (z + delta * u / u.square().mean().sqrt()).clamp(-1.2, 1.2)
        torch.testing.assert_close(point, expected)
    u = np.stack([(point - z).double().numpy() / delta for point in points])
    phi = np.where(answers, 1.0, -1.0)
    weights = phi - phi.mean() if len(set(answers)) == 2 else phi
    np.testing.assert_allclose(normal, np.tensordot(weights, u, 1) / 3, rtol=1e-5, atol=1e-6)


def test_many_probes_point_along_the_normal():
    """With a share p of the sphere on the far side the estimate is parallel to the normal; at the boundary its length
    is that of E|N(0, 1)| per direction."""
    walk = walker("l2").normal(torch.zeros_like(NORMAL), 1.0, 3000)
    point = next(walk)
    with pytest.raises(StopIteration) as end:
        while True:
            point = walk.send((point, bool((NORMAL * point).sum() > 0)))
    found = end.value.value
    expected = NORMAL / NORMAL.norm() * math.sqrt(2 / math.pi)
    assert float((found - expected).abs().max()) < 4 / math.sqrt(3000)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_leap_is_halved_until_it_reaches_the_goal(norm):
    z, v = 0.1 * torch.ones(1, 1, 6, 4), NORMAL
    points, found = answered(walker(norm).leap(z, v, 0.8), (False, False, True))
    step = v.sign() if norm == "linf" else v / v.square().mean().sqrt()
    for k, point in enumerate(points):
        torch.testing.assert_close(point, (z + 0.8 / 2**k * step).clamp(-1.2, 1.2))
    assert torch.equal(found, points[2])
    points, found = answered(walker(norm).leap(z, v, 0.8), (False,) * 8)
    assert torch.equal(found, z)


def test_points_lie_on_the_files_steps_with_their_mean():
    walking = walker("linf", (40, 40), np.int16)
    z = torch.full((1, 1, 40, 40), -3.3)
    found = walking.on_file(z)
    assert found.unique().tolist() == [-4.0, -3.0]
    assert float(found.mean()) == pytest.approx(-3.3, abs=4 * math.sqrt(0.21) / 40)
    assert torch.equal(walking.on_file(found), found)
    smaller = walking.on_file(0.9 * z)
    assert bool((smaller.abs() <= found.abs()).all()) and not torch.equal(smaller, found)
    assert torch.equal(walker("linf", (40, 40)).on_file(z), z)


def test_nothing_but_the_decision_is_used():
    """Bit for bit the same whether values are the objective's, or nothing at all."""
    image, victim = victims.organ_scan(inside=60.0), victims.organ()
    goal, reference = Goal.parse("change", (), victim.labels), victim.predict(image)
    attack = built("hopskipjump", 40.0, "linf", 60, coarse=2)
    blind = dataclasses.replace(attack, objective=lambda view, x, task, progress: 0 * view(x).sum() + 7)
    outcomes = [run(a, victim.on(image), Case(image), reference, goal, seed=4) for a in (attack, blind)]
    assert same_bits(outcomes[0].x_adv, outcomes[1].x_adv) and outcomes[0].delta.any()
    assert [s.score for s in outcomes[0].trace] == [s.score for s in outcomes[1].trace]
    assert {s.loss for s in outcomes[1].trace} == {7.0} and len({s.loss for s in outcomes[0].trace}) > 5


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_an_organ_is_halved_with_what_it_needs(norm):
    """60 HU under a threshold of 49.5, in whole HU; half of the Dice is lost with 2 of 3 voxels."""
    image, victim, organ = victims.organ_scan(inside=60.0), victims.organ(), victims.ball((14, 12, 10))
    outcome = attacked(image, victim, "hopskipjump", 40.0, norm, steps=150, roi=organ, coarse=2, seed=1)
    sizes = {"linf": np.abs(outcome.delta).max(), "l2": np.sqrt(np.square(outcome.delta[0, organ]).mean())}
    assert outcome.best.score <= 0.49
    needed = 11.0 if norm == "linf" else 11.0 * math.sqrt(2 / 3)
    assert needed * 0.99 <= sizes[norm] <= 1.5 * needed


def test_where_no_start_reaches_the_goal_the_worst_is_returned():
    image, victim = victims.organ_scan(inside=60.0), victims.organ()
    outcome = attacked(image, victim, "hopskipjump", 5.0, "linf", steps=12)
    assert outcome.best.score == min(step.score for step in outcome.trace) == 1.0 and len(outcome.trace) == 13
    victim = victims.textured()
    image = victims.random_scan()
    outcome = attacked(image, victim, "hopskipjump", 3.0, "linf", steps=12)
    assert 0.5 < outcome.best.score == min(step.score for step in outcome.trace) < 1


def test_a_scan_that_reaches_the_goal_already_stays_as_it_is():
    image, victim = victims.random_scan((8, 8, 8)), victims.textured()
    outcome = attacked(image, victim, "hopskipjump", 8.0, steps=4, enough=lambda step: True)
    assert not outcome.delta.any() and len(outcome.trace) == 2  # and the attack is done
