"""ALMA-prox and PDPGD: proximal operators against brute force, multipliers and updates by hand, and the optimum of
linear victims."""

import numpy as np
import pytest
import torch
import victims
from attacking import attacked
from scipy.optimize import brentq
from test_identities import WEIGHTS, linear_case
from test_minimal import everything_lost, outcome_threshold
from test_minimal_2 import KINDS, WINDOW, by_hand, scene_of

from perturbox.attacks import slabs
from perturbox.attacks.goals import Goal
from perturbox.attacks.objectives import Voxels
from perturbox.attacks.oracle import Oracle
from perturbox.attacks.recipes import alma_prox, pdpgd
from perturbox.attacks.recipes.alma_prox import Multipliers, falling, grad, penalty, ratio
from perturbox.attacks.recipes.pdpgd import Duals
from perturbox.attacks.solvers.proximal import PROX, Proximal, prox_l2, prox_linf

FAR = torch.full((7,), torch.inf, dtype=torch.float64)


def problem(seed: int, bounded: bool):
    """(d, metric, low, high), seven numbers each."""
    rng = np.random.default_rng(seed)
    d, metric = rng.normal(0, 2, 7), rng.uniform(0.1, 3, 7)
    low, high = (-rng.uniform(0, 1.5, 7), rng.uniform(0, 1.5, 7)) if bounded else (-FAR.numpy(), FAR.numpy())
    return d, metric, low, high


def cost(norm, r, d, weight, metric):
    """Of points "... 7"."""
    size = np.abs(r).max(-1) if norm == "linf" else np.sqrt(np.square(r).sum(-1))
    return weight * size + 0.5 * (metric * np.square(r - d)).sum(-1)


@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("weight", [0.0, 0.3, 2.0, 5.0, 100.0])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_point_of_the_box_costs_less_than_the_proximal_one(norm, weight, bounded):
    """The cost is convex: a point that nothing near it improves is the optimum."""
    for seed in range(4):
        d, metric, low, high = problem(seed, bounded)
        told = [torch.from_numpy(value) for value in (metric, low, high)]
        found = PROX[norm](torch.from_numpy(d), weight, *told).numpy()
        assert (found >= low).all() and (found <= high).all()
        best = cost(norm, found, d, weight, metric)
        rng = np.random.default_rng(seed)
        near = found + rng.normal(size=(4000, 7)) * 10 ** rng.uniform(-5, 0.5, (4000, 1))
        others = np.concatenate([near, np.linspace(0, 1, 2001)[:, None] * found, np.zeros((1, 7))])
        limits = np.linspace(0, np.abs(d).max(), 4001)[:, None]
        others = np.concatenate([others, np.clip(d, -limits, limits)]).clip(low, high)
        assert best <= cost(norm, others, d, weight, metric).min() + 1e-9
        if weight == 100:
            assert not found.any()


@pytest.mark.parametrize("weight", [0.5, 3.0, 8.0])
def test_in_the_plain_metric_the_largest_change_shrinks_as_moreau_says(weight):
    """prox of w |.|_inf = d - (projection of d onto the L1 ball of radius w)."""
    d = problem(5, False)[0]
    ordered = np.sort(np.abs(d))[::-1]
    cut = (np.cumsum(ordered) - weight) / np.arange(1, 8)
    threshold = cut[np.nonzero(ordered > cut)[0][-1]]
    projected = np.sign(d) * np.maximum(np.abs(d) - threshold, 0)
    assert np.abs(projected).sum() == pytest.approx(weight)
    found = prox_linf(torch.from_numpy(d), weight, torch.ones_like(FAR), -FAR, FAR).numpy()
    np.testing.assert_allclose(found, d - projected, atol=1e-9)


def test_the_length_shrinks_as_the_secular_equation_says():
    d, metric, *_ = problem(6, False)
    norm = np.sqrt(np.square(d).sum())
    plain = prox_l2(torch.from_numpy(d), 1.5, torch.ones_like(FAR), -FAR, FAR).numpy()
    np.testing.assert_allclose(plain, d * (1 - 1.5 / norm), rtol=1e-9)
    length = brentq(lambda t: np.square(metric * d / (metric * t + 1.5)).sum() - 1, 1e-9, 100)
    found = prox_l2(torch.from_numpy(d), 1.5, torch.from_numpy(metric), -FAR, FAR).numpy()
    np.testing.assert_allclose(found, metric * d / (metric + 1.5 / length), rtol=1e-8)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_nothing_shrinks_to_nothing_and_stays_finite(norm):
    nothing = torch.zeros_like(FAR)
    for weight in (0.0, 1.0):
        assert torch.equal(PROX[norm](nothing, weight, torch.ones_like(FAR), nothing, nothing), nothing)
        assert torch.equal(PROX[norm](torch.ones_like(FAR), weight, torch.ones_like(FAR), nothing, nothing), nothing)


# ---------------------------------------------------------------- the solver


class _Window:
    width = 50.0


@pytest.mark.parametrize("beta1", [0.0, 0.9])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_three_proximal_steps_by_hand(norm, beta1):
    slopes = np.random.default_rng(0).normal(0, 0.05, (3, 7))
    slopes[:, 2] = 0
    rates, ratios = [0.1, 0.05, 0.02], [1.0, 0.5, 2.0]
    r, mean, square = np.zeros(7), np.zeros(7), np.zeros(7)
    solver, asked = Proximal(norm, lambda k, found: (asked.append((k, found)), rates[k])[1], beta1, 0.8), []
    z = torch.zeros(7, dtype=torch.float64)
    state = solver.init(z, _Window(), torch.Generator())
    for k in range(3):
        g = -50 * slopes[k]
        mean, square = beta1 * mean + (1 - beta1) * g, 0.8 * square + 0.2 * g**2
        metric = np.maximum(np.sqrt(square / (1 - 0.8 ** (k + 1))), 1e-8)
        ahead = r - rates[k] * mean / (1 - beta1 ** (k + 1)) / metric
        limit = torch.full_like(FAR, 0.04 if norm == "linf" else torch.inf)
        told = (torch.from_numpy(ahead), rates[k] * ratios[k], torch.from_numpy(metric), -limit, limit)
        r = PROX[norm](*told).numpy()
        oracle = Oracle(
            lambda z, k=k: (0.0, torch.from_numpy(slopes[k])),
            None,
            None,
            lambda z: z.clamp(-2, 2),
            lambda k=k: k >= 1,
            lambda k=k: [{"ratio": ratios[k]}],
        )
        z, state = solver.step(oracle, z, state)
        np.testing.assert_allclose(z.numpy(), 50 * r, rtol=1e-9, atol=1e-12)
        assert r.any() and r[2] == 0
    assert asked == [(0, None), (1, 1), (2, 1)]


def test_the_step_size_falls_to_a_tenth_from_the_first_success():
    at = falling(0.5, 100)
    assert at(0, None) == at(50, None) == at(20, 20) == 0.5
    assert at(100, None) == at(100, 20) == at(100, 50) == pytest.approx(0.05)
    assert at(60, 20) == pytest.approx(0.5 * (80 / 9) / (40 + 80 / 9)) and at(80, 70) == at(80, None)


# ---------------------------------------------------------------- ALMA-prox


def test_the_penalty_by_hand_and_its_slope():
    y = torch.tensor([2.0, 0.5, 0.0, -0.5, -3.0], dtype=torch.float64, requires_grad=True)
    rho, mu = torch.tensor(0.01, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
    by_formula = [0.3 * 2 + 0.3 * 0.01 * 4 + 1e-4 * 8 / 6, 0.15 + 0.003 * 0.25 + 1e-4 * 0.125 / 6]
    by_formula += [0.0, -0.15 / 1.5, -0.9 / 4]
    found = penalty(y, rho, mu)
    np.testing.assert_allclose(found.detach().numpy(), by_formula, rtol=1e-12)
    (derivative,) = torch.autograd.grad(found.sum(), y)
    torch.testing.assert_close(grad(y.detach(), rho, mu), derivative, rtol=1e-12, atol=0)
    assert float(grad(torch.tensor(0.0), rho, mu)) == pytest.approx(0.3)
    large = penalty(y, torch.tensor(4.0, dtype=torch.float64), mu)
    assert float(large[-1].detach()) == pytest.approx(-0.9 / (1 + 4 * 3))


@pytest.mark.parametrize("kind, targeted", KINDS)
def test_the_ratio_by_hand(kind, targeted):
    logits, task = scene_of(kind, targeted)
    found = ratio(Voxels(logits, task.labels, task.weight, task.regions), targeted)
    for place, lead, z, channel in by_hand(logits, task):
        best = np.sort(z)[::-1]
        below = 1.0
        if kind == "softmax":
            below = best[0] - ((best[2] + best[3]) / 2 if targeted else best[2])
        answer = channel if kind == "sigmoid" else 0
        assert float(found[0, answer, *place]) == pytest.approx((lead + 1e-4) / below, rel=1e-6)


def test_multipliers_by_hand():
    """Twelve steps of five voxels, one of which isn't counted, against the paper's rules voxel by voxel."""
    steps, share, counted = 12, 0.5, np.array([True, True, True, True, False])
    told = np.random.default_rng(1).normal(0.2, 1, (steps, 5))
    told[8:, 2:] -= 2.0
    told[:, 1] = 0.5  # never improves
    told[:, 0] = 0.7 * 0.9 ** np.arange(steps)  # always does
    mu, rho, w, found, before = np.ones(5), np.full(5, 0.01), 1.0, np.zeros(5, bool), told[0]
    tensor = lambda value: torch.from_numpy(value)[None, None]  # noqa: E731
    state = Multipliers.of(tensor(told[0]), tensor(counted), 1.0)
    left_out = set()
    for i, d in enumerate(told):
        changed = (d < 0) & counted
        found |= changed
        w = min(max(w / (1.02 if changed.sum() >= share * 4 else 0.98), 0.1), 1)
        y = w * d
        count = int((1 - share) * 4 * i / (steps - 1))
        active = counted.copy()
        if count:
            active &= y <= np.sort(y[counted])[::-1][count - 1]
        left_out.add(int(counted.sum() - active.sum()))
        if i == 0:
            before = y
        else:
            if (i + 1) % 10 == 0:
                better = found | (y * active <= 0.95 * before)
                rho = np.where(better, rho, 2 * rho)
                before, found = y, np.zeros(5, bool)
            rising = np.where(y >= 0, mu + 2 * mu * rho * y + rho**2 * y**2 / 2, mu / (1 - np.maximum(rho, 1) * y) ** 2)
            mu = np.clip(0.8 * mu + 0.2 * np.where(active, rising, 0), 1e-12, 1)
        state.follow(tensor(d), share, steps)
        assert state.scale == pytest.approx(w, rel=1e-12)
        assert np.array_equal(state.active[0, 0].numpy(), active)
        np.testing.assert_allclose(state.rho[0, 0].numpy(), rho, rtol=1e-12)
        np.testing.assert_allclose(state.mu[0, 0].numpy(), mu, rtol=1e-12)
    assert left_out == {0, 1} and set(rho) == {0.01, 0.02} and rho[1] == 0.02 and rho[0] == 0.01
    assert w < 1 and mu[:4].min() < 0.5 < mu.max()


@pytest.mark.parametrize("kind, targeted", KINDS)
def test_the_first_value_of_alma_prox_is_the_sum_of_the_penalties(kind, targeted):
    logits, task = scene_of(kind, targeted)
    leads = ratio(Voxels(logits, task.labels, task.weight, task.regions), targeted)
    told = np.array(
        [float(leads[0, channel if kind == "sigmoid" else 0, *place]) for place, _, _, channel in by_hand(logits, task)]
    )
    size = np.abs(told).mean() if kind == "sigmoid" else 1.0
    w = 1 / 1.02 if (told < 0).mean() >= 0.3 else 1.0
    y = w * told / size
    expected = np.where(y >= 0, y + 0.01 * y**2 + 1e-4 * y**3 / 6, y / (1 - np.minimum(y, 0))).sum()
    objective = alma_prox.Lagrangian(0.3, 5)
    point = logits.clone().requires_grad_()
    assert float(objective(lambda x: x, point, task, 0.0).detach()) == pytest.approx(-expected, rel=1e-9)
    assert task.memory["multipliers"].k == 1
    with torch.no_grad():  # a look without a gradient moves nothing
        objective(lambda x: x, logits, task, 1.0)
    assert task.memory["multipliers"].k == 1


# ---------------------------------------------------------------- PDPGD


def test_duals_by_hand():
    counted = np.array([True, True, True, False])
    tensor = lambda value: torch.from_numpy(value)[None, None]  # noqa: E731
    duals = Duals.of(tensor(counted), torch.zeros(1, 1, 4, dtype=torch.float64), 0.01)
    log = np.full(4, -np.log(0.01 * 3))

    def softmax(log):
        each = np.exp(log) * counted
        return each / (1 + each.sum())

    smooth = softmax(log)
    assert (1 - smooth.sum()) / smooth.sum() == pytest.approx(0.01)
    for k, leads in enumerate(np.array([[1.0, -2.0, 0.5, 3.0], [1.0, -0.1, -0.2, 3.0], [0.0, 1.0, -1.0, 3.0]])):
        smooth = smooth if k == 0 else 0.9 * smooth + 0.1 * softmax(log)
        assert duals.average() == pytest.approx(smooth.sum(), rel=1e-12)
        np.testing.assert_allclose(duals.smooth[0, 0].numpy(), smooth, rtol=1e-12)
        log = np.where(counted, log + 0.4 * np.sign(leads), log)
        duals.ascend(tensor(leads), 0.4)
        np.testing.assert_allclose(duals.log[0, 0].numpy(), log, rtol=1e-12)
    duals.ascend(tensor(np.ones(4)), 1000.0)
    assert float(duals.log.max()) == pytest.approx(-np.log(1e-12))


@pytest.mark.parametrize("kind, targeted", KINDS)
def test_the_objective_of_pdpgd_by_hand(kind, targeted):
    logits, task = scene_of(kind, targeted)
    leads = np.array([lead for _, lead, _, _ in by_hand(logits, task)])
    objective = pdpgd.Lagrangian(steps=5, rate=0.2, first=0.5)
    values = []
    for _ in range(2):
        point = logits.clone().requires_grad_()
        values.append(float(objective(lambda x: x, point, task, 0.0).detach()))
    log = np.full(len(leads), -np.log(0.5 * len(leads)))
    smooth = np.exp(log) / (1 + np.exp(log).sum())
    assert values[0] == pytest.approx(-np.log1p(np.exp(leads)).mean(), rel=1e-10)
    log = log + 0.2 * np.sign(leads)
    smooth = 0.9 * smooth + 0.1 * np.exp(log) / (1 + np.exp(log).sum())
    assert values[1] == pytest.approx(-(smooth * np.log1p(np.exp(leads))).sum() / smooth.sum(), rel=1e-10)
    assert task.memory["ratio"] == pytest.approx((1 - smooth.sum()) / smooth.sum())
    moved = task.memory["duals"].log
    assert float(moved.max() - moved.min()) == pytest.approx(2 * 0.2 * (1 + 0.75 * 0.9 + 0.1), rel=1e-9)


# ---------------------------------------------------------------- both


@pytest.mark.parametrize("kind, targeted", KINDS)
@pytest.mark.parametrize("made", [lambda: alma_prox.Lagrangian(0.6, 4), lambda: pdpgd.Lagrangian(4, 0.1, 0.01)])
def test_slab_by_slab_they_are_the_same(made, kind, targeted, monkeypatch):
    found = []
    for limit in (slabs.SLAB_BYTES, 150):
        monkeypatch.setattr(slabs, "SLAB_BYTES", limit)
        logits, task = scene_of(kind, targeted)
        objective, point = made(), logits.clone().requires_grad_()
        for _ in range(3):
            value = objective(lambda x: x, point, task, 0.0)
            (gradient,) = torch.autograd.grad(value, point)
        found.append((value.detach(), gradient))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    assert found[0][1].any()


CLOSED = {
    ("alma-prox", "linf"): {"steps": 110, "share": 1.0, "rate": 0.002},
    ("alma-prox", "l2"): {"steps": 150, "share": 1.0, "rate": 0.0005},
    ("pdpgd", "linf"): {"steps": 150, "rate": 0.01, "first": 1.0, "dual_rate": 0.2},
    ("pdpgd", "l2"): {"steps": 200, "rate": 0.01, "first": 1.0, "dual_rate": 0.1},
}


@pytest.mark.parametrize("name, norm", CLOSED)
def test_the_smallest_change_of_a_linear_victim_is_found(name, norm):
    image, victim, organ, distance = linear_case(gain=1.0)
    exact = {
        "linf": distance.max() / np.abs(WEIGHTS).sum(),
        "l2": np.sqrt(np.square(distance).sum() / (WEIGHTS @ WEIGHTS) / (2 * organ.sum())),
    }[norm]
    found = attacked(image, victim, name, 40.0, norm, roi=organ, enough=everything_lost, **CLOSED[name, norm])
    size = {"linf": np.abs(found.delta).max(), "l2": np.sqrt(np.square(found.delta[:, organ]).mean())}[norm]
    assert found.best.score == 0
    assert 0.9999 < size / exact < 1.05


SMALL = {"alma-prox": {"rate": 2.5 / WINDOW}, "pdpgd": {"rate": 5 / WINDOW}}


@pytest.mark.parametrize("goal, needed", [("vanish", 10.5), ("grow", 49.5), ("change", 10.5)])
@pytest.mark.parametrize("name", SMALL)
def test_other_goals_are_reached_with_what_they_need(name, goal, needed):
    """An organ at 60 HU under a threshold of 49.5, in a body at 0, in whole HU."""
    image, victim = victims.organ_scan(inside=60.0), victims.organ()
    wanted, roi = Goal.parse(goal, ("organ",), victim.labels), image.data[0] < 1000
    outcome = attacked(image, victim, name, 80.0, steps=60, goal=wanted, roi=roi, **SMALL[name])
    assert outcome.best.score <= outcome_threshold(goal) and outcome.best in outcome.trace
    assert needed <= np.abs(outcome.delta).max() <= 1.2 * needed + 1
