"""FAB: its projections against brute force, its steps by hand, and the smallest change of a linear victim."""

import numpy as np
import pytest
import torch
import victims
from attacking import attacked
from scipy import optimize
from test_identities import WEIGHTS, linear_case

from perturbox.attacks.budget import Budget
from perturbox.attacks.goals import Goal
from perturbox.attacks.oracle import Oracle
from perturbox.attacks.solvers import Solver, fab
from perturbox.attacks.solvers.fab import Fab, nearest
from perturbox.types import Case


def brute_force(slope, rise, low, high, norm) -> float:
    """The size of the smallest d with <slope, d> = rise in the box."""
    n = len(slope)
    if norm == "linf":  # the smallest t with -t <= d <= t
        both = np.block([[np.eye(n), -np.ones((n, 1))], [-np.eye(n), -np.ones((n, 1))]])
        cost, plane = np.r_[np.zeros(n), 1], np.r_[slope, 0][None]
        limits = [*zip(low, high, strict=True), (0, None)]
        found = optimize.linprog(cost, both, np.zeros(2 * n), plane, [rise], limits)
        assert found.status == 0
        return found.fun
    plane = {"type": "eq", "fun": lambda d: slope @ d - rise, "jac": lambda d: slope}
    start = np.clip(slope * rise / (slope @ slope), low, high)
    limits, exact = list(zip(low, high, strict=True)), {"ftol": 1e-14, "maxiter": 500}
    found = optimize.minimize(
        lambda d: d @ d, start, jac=lambda d: 2 * d, bounds=limits, constraints=[plane], method="SLSQP", options=exact
    )
    assert found.success
    return np.sqrt(found.fun)


def boxes(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 9))
    slope = rng.normal(0, 1, n) * (rng.random(n) < 0.8) + 1e-3
    low, high = -rng.exponential(1, n), rng.exponential(1, n)
    low[0] = 0.0 if seed % 3 == 0 else low[0]
    most, least = np.maximum(slope * low, slope * high).sum(), np.minimum(slope * low, slope * high).sum()
    return slope, (most if seed % 2 else least) * rng.uniform(0.02, 0.98), low, high


def tensors(*arrays):
    return (torch.from_numpy(np.asarray(a, float)) for a in arrays)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("chunk", [2, 2**22])
def test_the_nearest_point_of_a_plane_within_limits_is_that_of_brute_force(norm, chunk, monkeypatch):
    monkeypatch.setattr(fab, "CHUNK", chunk)
    for seed in range(24):
        slope, rise, low, high = boxes(seed)
        w, below, above = tensors(slope, low, high)
        d = nearest(w, rise, below, above, norm).numpy()
        assert slope @ d == pytest.approx(rise, rel=1e-9)
        assert (low - 1e-12 <= d).all() and (d <= high + 1e-12).all()
        size = np.abs(d).max() if norm == "linf" else np.linalg.norm(d)
        assert size == pytest.approx(brute_force(slope, rise, low, high, norm), rel=1e-4)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_plane_out_of_reach_is_approached_as_far_as_the_limits_go(norm):
    w, low, high = tensors([2.0, -1.0, 0.0, 3.0], [-1, -2, -3, 0], [4, 5, 6, 0])
    assert nearest(w, 1e6, low, high, norm).tolist() == [4, -2, 0, 0]
    assert nearest(w, -1e6, low, high, norm).tolist() == [-1, 5, 0, 0]
    assert nearest(w, 0.0, low, high, norm).tolist() == [0, 0, 0, 0]
    assert nearest(0 * w, 1.0, low, high, norm).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("norm, sides", [("linf", [1.0, -1.0]), ("l2", [1.2, -1.6])])
def test_without_limits_it_is_the_textbooks_projection(norm, sides):
    """On 3 a - 4 b = 10: (10 / 7)(1, -1), and (10 / 25)(3, -4); tiny slopes don't underflow."""
    (w,) = tensors([3.0, -4.0])
    expected = np.array(sides) * (10 / 7 if norm == "linf" else 1)
    inf = torch.full_like(w, torch.inf)
    assert nearest(w, 10.0, -inf, inf, norm).numpy() == pytest.approx(expected)
    small = (w * 1e-25).float()
    assert nearest(small, 10e-25, -inf.float(), inf.float(), norm).numpy() == pytest.approx(expected, rel=1e-5)


# ---------------------------------------------------------------- steps by hand

PLANE = torch.tensor([3.0, -4.0, 1.0, 0.0], dtype=torch.float64).view(1, 1, 2, 2)


class Told:
    """f(z) = 10 - <plane, z> on two by two pixels; the goal is reached where f is at most `enough`."""

    def __init__(self, enough=0.0, low=-100.0, high=100.0):
        self.looks, self.enough, self.last, self.limits = [], enough, 0.0, (low, high)
        self.oracle = Oracle(self.gradient, self.value, self.value, lambda z: z, self.reached, bounds=self.bounds)

    def value(self, z):
        self.looks.append(z.clone())
        self.last = 10 - float((PLANE * z).sum())
        return -self.last

    def gradient(self, z):
        return self.value(z), PLANE

    def reached(self):
        return self.last <= self.enough

    def bounds(self, z):
        return torch.full_like(z, self.limits[0]), torch.full_like(z, self.limits[1])


def flat_budget(norm, eps=50.0):
    return Budget.of(Case(victims.random_scan((2, 2), affine=np.eye(4))), eps, norm)


def begun(norm, period=100, eps=50.0, alpha_max=0.1):
    solver = Fab(norm, alpha_max, 1.05, 0.9, period)
    generator = torch.Generator().manual_seed(0)
    return solver, solver.init(torch.zeros_like(PLANE), flat_budget(norm, eps), generator)


def projected(point, norm, level=0.0):
    """point's projection on the plane where f = level, in NumPy."""
    w = PLANE.numpy().ravel()
    missing = 10 - level - w @ point
    return point + (missing / np.abs(w).sum() * np.sign(w) if norm == "linf" else missing / (w @ w) * w)


@pytest.mark.parametrize("norm, alpha_max", [("linf", 0.1), ("l2", 0.1), ("linf", 1.0), ("l2", 1.0)])
def test_a_step_is_the_papers_convex_combination(norm, alpha_max):
    solver, state = begun(norm, alpha_max=alpha_max)
    told, z = Told(), np.array([1.0, 2.0, -1.0, 0.5])
    following, state = solver.step(told.oracle, torch.from_numpy(z).view(1, 1, 2, 2), state)
    d1, d2 = projected(z, norm) - z, projected(np.zeros(4), norm)
    order = np.inf if norm == "linf" else 2
    a1, a2 = np.linalg.norm(d1, order), np.linalg.norm(d2, order)
    a = min(a1 / (a1 + a2), alpha_max)
    assert alpha_max == 0.1 or 0.1 < a < 1
    expected = (1 - a) * (z + 1.05 * d1) + a * (1.05 * d2)
    expected[3] = 0.5 if norm == "linf" else (1 - a) * 0.5  # without a slope: free in linf, as a2 > 0.5
    np.testing.assert_allclose(following.numpy().ravel(), expected, rtol=1e-6)
    assert len(told.looks) == 1 and state.level == 0


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_way_past_the_boundary_is_clipped_to_the_range(norm):
    solver, state = begun(norm)
    told = Told(low=-0.9, high=2.0)
    following, _ = solver.step(told.oracle, torch.zeros_like(PLANE), state)
    # 3 a - 4 b + c = 10 with b at its limit; the slope of the fourth is 0.
    d = {"linf": [6.4 / 4, -0.9, 6.4 / 4, 0], "l2": [3 * 0.64, -0.9, 0.64, 0]}[norm]
    expected = np.clip(1.05 * np.array(d), -0.9, 2.0)
    np.testing.assert_allclose(following.numpy().ravel(), expected, rtol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_what_reached_the_goal_is_taken_back_and_projected_from_there(norm):
    solver, state = begun(norm)
    told, z = Told(), 1.02 * projected(np.zeros(4), norm)
    following, state = solver.step(told.oracle, torch.from_numpy(z).view(1, 1, 2, 2), state)
    assert len(told.looks) == 2
    np.testing.assert_allclose(told.looks[1].numpy().ravel(), 0.9 * z)
    level = 10 - 1.02 * 10  # of f where the goal was last reached
    assert state.level == pytest.approx(level)
    assert state.smallest == pytest.approx(flat_budget(norm).size(torch.from_numpy(z).view(1, 1, 2, 2)))
    d1, d2 = projected(0.9 * z, norm, level) - 0.9 * z, projected(np.zeros(4), norm, level)
    order = np.inf if norm == "linf" else 2
    a = min(np.linalg.norm(d1, order) / (np.linalg.norm(d1, order) + np.linalg.norm(d2, order)), 0.1)
    expected = (1 - a) * (0.9 * z + 1.05 * d1) + a * 1.05 * d2
    np.testing.assert_allclose(following.numpy().ravel(), expected, rtol=1e-6)


def test_what_still_reaches_the_goal_is_taken_back_once_more():
    solver, state = begun("l2")
    told = Told(enough=6.0)
    z = torch.from_numpy(projected(np.zeros(4), "l2")).view(1, 1, 2, 2)
    following, state = solver.step(told.oracle, z, state)
    torch.testing.assert_close(following, 0.81 * z)
    assert state.level == pytest.approx(1.0)  # f at 0.9 z


def test_the_boundary_is_where_the_goal_was_last_reached_and_below_where_it_was_not():
    solver, state = begun("l2")
    z = torch.zeros_like(PLANE)
    state = solver._told(4.0, True, z, state)
    assert state.level == 4.0
    assert solver._told(5.0, False, z, state).level == 4.0
    assert solver._told(3.0, False, z, state).level == pytest.approx(2.7)
    assert solver._told(4.5, True, z, state).level == 4.5


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_starts_share_the_steps_and_lie_half_as_far_out_as_the_smallest_change(norm):
    solver, state = begun(norm, period=3, eps=8.0)
    told, z = Told(enough=-1e9), torch.zeros_like(PLANE)
    for _ in range(7):
        z, state = solver.step(told.oracle, z, state)
    sizes = [flat_budget(norm).size(look) for look in told.looks]
    # Looks 0 to 2 are the first start's; 3 is its last point, 4 the second start, 8 the third.
    assert len(sizes) == 9 and sizes[0] == 0
    assert sizes[4] == pytest.approx(4.0) and sizes[8] == pytest.approx(4.0)
    assert not torch.equal(told.looks[4], told.looks[8])
    assert told.looks[4].unique().numel() == 4
    told.enough = 1e9
    z, state = solver.step(told.oracle, 0.01 * torch.ones_like(PLANE), state)
    assert state.smallest == pytest.approx(0.009)


# ---------------------------------------------------------------- victims


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("starts", [1, 2])
def test_the_smallest_change_of_a_linear_victim_is_found(norm, starts):
    image, victim, organ, distance = linear_case(gain=1.0)
    exact = {
        "linf": distance.max() / np.abs(WEIGHTS).sum(),
        "l2": np.sqrt(np.square(distance).sum() / (WEIGHTS @ WEIGHTS) / (2 * organ.sum())),
    }[norm]
    settings = {"roi": organ, "enough": lambda step: step.score == 0, "starts": starts}
    found = attacked(image, victim, "fab", 40.0, norm, steps=40 * starts, **settings)
    size = {"linf": np.abs(found.delta).max(), "l2": np.sqrt(np.square(found.delta[:, organ]).mean())}[norm]
    assert found.best.score == 0
    assert 0.9999 < size / exact < 1.05


@pytest.mark.parametrize("goal, needed", [("vanish", 10.5), ("grow", 49.5), ("change", 10.5)])
def test_goals_are_reached_with_what_they_need(goal, needed):
    """An organ at 60 HU under a threshold of 49.5, in a body at 0, in whole HU."""
    image, victim = victims.organ_scan(inside=60.0), victims.organ()
    outcome = attacked(image, victim, "fab", 80.0, steps=12, goal=Goal.parse(goal, ("organ",), victim.labels))
    assert outcome.best.score <= {"vanish": 0.1, "grow": 2 / 3, "change": 0.5}[goal]
    assert needed <= np.abs(outcome.delta).max() <= needed + 1.5


def test_the_range_of_values_is_known_without_the_norms_limit():
    """At a voxel of the scan's largest value nothing can be added, whatever eps is."""
    image, victim = victims.organ_scan(inside=60.0), victims.organ()
    seen = []

    class Looks(Solver):
        def init(self, z, budget, generator):
            return None

        def step(self, oracle, z, state):
            oracle.gradient(z)
            seen.append(oracle.bounds(z))
            return z, None

    from dataclasses import replace

    from attacking import built

    from perturbox.attacks.runner import run

    roi = np.zeros(image.shape, bool)
    roi[-1] = True
    goal = Goal.parse("change", (), victim.labels)
    attack = replace(built("fab", 5.0, "l2", 1), solver=Looks())
    run(attack, victim.on(image), Case(image, roi=roi), victim.predict(image), goal)
    low, high = (end[0, 0].numpy() for end in seen[0])
    assert not low[:-1].any() and not high[:-1].any()
    np.testing.assert_allclose(low[-1], (image.data.min() - image.data)[0, -1])
    np.testing.assert_allclose(high[-1], (image.data.max() - image.data)[0, -1])
