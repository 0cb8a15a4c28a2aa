"""C&W, DAG and L-BFGS: their losses and updates by hand, their solvers, and the optimum of linear victims."""

import numpy as np
import pytest
import torch
import victims
from attacking import attacked
from test_identities import WEIGHTS, linear_case
from test_minimal import everything_lost, outcome_threshold

from perturbox.attacks.goals import Goal
from perturbox.attacks.must_change import descend, missing, sought
from perturbox.attacks.objectives import Voxels
from perturbox.attacks.on_scan import Task
from perturbox.attacks.oracle import Oracle
from perturbox.attacks.recipes.cw import cw
from perturbox.attacks.recipes.dag import Permuted, along_the_largest, cycle
from perturbox.attacks.recipes.lbfgs import other_answer
from perturbox.attacks.solvers.lbfgs import Lbfgs, two_loop
from perturbox.attacks.solvers.tradeoff import Adam, Search, Tradeoff

REGIONS = torch.tensor([[0, 0], [1, 0], [1, 1]], dtype=torch.bool)


def scene_of(kind: str, targeted: bool) -> tuple[torch.Tensor, Task]:
    """(logits "1 k 4 5" in double precision, a scene): "softmax" of 4 classes, or "sigmoid" of two nested regions."""
    generator = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(1, 4 if kind == "softmax" else 2, 4, 5, generator=generator).double()
    labels = torch.randint(4 if kind == "softmax" else 3, (1, 4, 5), generator=generator)
    weight = (torch.rand(1, 4, 5, generator=generator) < 0.8).double()
    classes = (0, 3) if kind == "softmax" else (1,)
    return logits, Task(labels, weight, targeted, classes, REGIONS if kind == "sigmoid" else None)


def by_hand(logits: torch.Tensor, task: Task) -> list[tuple[tuple, float, np.ndarray, int]]:
    """Of every answer that must change: (place, lead of what must go, the voxel's logits, its label or channel)."""
    found = []
    for place in np.ndindex(4, 5):
        z, label = logits[0, :, *place].numpy(), int(task.labels[0, *place])
        if task.weight[0, *place] == 0:
            continue
        if task.regions is None:
            lead = z[label] - np.delete(z, label).max()
            if task.targeted or label in task.classes:
                found.append((place, -lead if task.targeted else lead, z, label))
        else:
            for channel in task.classes:
                inside = bool(REGIONS[label, channel])
                lead = z[channel] if inside else -z[channel]
                if task.targeted or inside:
                    found.append((place, -lead if task.targeted else lead, z, channel))
    return found


KINDS = [(kind, targeted) for kind in ("softmax", "sigmoid") for targeted in (False, True)]


@pytest.mark.parametrize("kind, targeted", KINDS)
def test_the_constraints_by_hand(kind, targeted):
    logits, task = scene_of(kind, targeted)
    voxels = Voxels(logits, task.labels, task.weight, task.regions)
    counted = sought(voxels, task.classes, targeted)
    told = sorted(lead for _, lead, _, _ in by_hand(logits, task))
    assert len(told) > 2 and counted.unique().tolist() == [0, 1]
    np.testing.assert_allclose(sorted(missing(voxels, targeted)[counted > 0].tolist()), told, rtol=1e-12)


@pytest.mark.parametrize("kappa", [0.0, 1.5])
@pytest.mark.parametrize("kind, targeted", KINDS)
def test_the_loss_of_cw_by_hand(kind, targeted, kappa):
    logits, task = scene_of(kind, targeted)
    loss = sum(max(lead, -kappa) for _, lead, _, _ in by_hand(logits, task))
    objective = cw(1.0, "l2", 10, kappa=kappa).objective
    assert float(objective(lambda x: x, logits, task, 0.0)) == pytest.approx(-loss, rel=1e-12)


@pytest.mark.parametrize("kind, targeted", KINDS)
def test_the_loss_of_lbfgs_is_the_cross_entropy_of_any_other_answer(kind, targeted):
    logits, task = scene_of(kind, targeted)
    loss = 0.0
    for place, _, z, channel in by_hand(logits, task):
        if kind == "softmax":
            p = (np.exp(z) / np.exp(z).sum())[channel]
        else:
            p = 1 / (1 + np.exp(-z[channel]))
            p = p if REGIONS[task.labels[0, *place], channel] else 1 - p
        loss -= np.log(p if targeted else 1 - p)
    found = descend("lbfgs", other_answer)(lambda x: x, logits, task, 0.0)
    assert float(found) == pytest.approx(-loss, rel=1e-10)


# ---------------------------------------------------------------- DAG


def test_dag_follows_the_paper_over_what_is_not_fooled_yet():
    logits, task = scene_of("softmax", False)
    logits.requires_grad_()
    value = Permuted()(lambda x: x, logits, task, 0.0)
    (slope,) = torch.autograd.grad(value, logits)
    order, expected, total = task.memory["order"].tolist(), torch.zeros_like(slope), 0.0
    for place, lead, z, label in by_hand(logits.detach(), task):
        if lead > 0:
            expected[0, order[label], *place] += 1
            expected[0, label, *place] -= 1
            total += z[order[label]] - z[label]
    assert 0 < int((expected != 0).sum()) < 2 * len(by_hand(logits.detach(), task))
    torch.testing.assert_close(slope, expected)
    assert float(value.detach()) == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("kind, targeted", [("softmax", True), ("sigmoid", False), ("sigmoid", True)])
def test_dag_needs_no_permutation_where_the_other_answer_is_known(kind, targeted):
    logits, task = scene_of(kind, targeted)
    loss = sum(max(lead, 0) for _, lead, _, _ in by_hand(logits, task))
    assert float(Permuted()(lambda x: x, logits, task, 0.0)) == pytest.approx(-loss, rel=1e-12)
    assert "order" not in task.memory


@pytest.mark.parametrize("classes", [2, 3, 14])
def test_a_permutation_leaves_no_class_where_it_is(classes):
    orders = [cycle(classes, torch.Generator().manual_seed(seed)).tolist() for seed in range(20)]
    for order in orders:
        assert sorted(order) == list(range(classes)) and all(order[k] != k for k in range(classes))
    assert classes == 2 or len({tuple(order) for order in orders}) > 1


class _Window:
    width = 500.0


def test_a_step_of_dag_changes_a_share_of_the_window_at_most():
    rule = along_the_largest(0.002)
    gradient = torch.tensor([[[1e-9, -4e-9, 2e-9]]])
    update, _ = rule.apply(gradient, rule.init(gradient, _Window()))
    torch.testing.assert_close(update, torch.tensor([[[0.25, -1.0, 0.5]]]))
    assert not rule.apply(torch.zeros(1, 1, 3), 1.0)[0].any()


@pytest.mark.parametrize("labels", ["runner-up", "permutation"])
def test_two_steps_of_dag_on_a_linear_victim(labels):
    """The gradient is the same at every voxel that holds, so each moves by the same until it's fooled."""
    image, victim, organ, distance = linear_case(gain=1.0)
    step = 4.0
    found = attacked(
        image, victim, "dag", 40.0, steps=2, roi=organ, gamma=step / 1800, labels=labels, enough=everything_lost
    )
    moved = -step * WEIGHTS / 3
    twice = distance > -moved @ WEIGHTS
    assert 0 < twice.sum() < len(distance)
    np.testing.assert_allclose(found.delta[:, organ], moved[:, None] * np.where(twice, 2, 1), atol=1e-3)


def test_dag_returns_its_best_iterate_where_it_misses_and_ends_where_it_does_not():
    image, victim, organ, distance = linear_case(gain=1.0)
    settings = {"steps": 12, "roi": organ, "gamma": 1 / 1800, "enough": everything_lost}
    missed = attacked(image, victim, "dag", 5.0, **settings)
    assert len(missed.trace) == 13 and missed.best.score == min(step.score for step in missed.trace)
    assert 0 < missed.best.score < 1 and 4.9 < np.abs(missed.delta).max() <= 5
    done = attacked(image, victim, "dag", 40.0, **settings)
    needed = distance.max() / (WEIGHTS @ WEIGHTS / 3)
    assert done.best.score == 0 and done.best.step == done.trace[-1].step == np.ceil(needed)


# ---------------------------------------------------------------- solvers


def test_adam_is_adam():
    r = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
    theirs = r.clone().requires_grad_()
    optimiser = torch.optim.Adam(
        [theirs], lr=0.01, eps=1e-8 * 0.5
    )  # ours measures slopes in the first one, here 4 x 0.5^3
    adam = Adam(0.01)
    state = adam.init(r)
    for _ in range(5):
        (theirs**4).sum().backward()
        optimiser.step()
        optimiser.zero_grad()
        r, state = adam.step(r, 0.0, 4 * r**3, lambda r: r, state)
    torch.testing.assert_close(r, theirs.detach(), rtol=1e-12, atol=0)


class _Told:
    """A minimiser that goes nowhere and writes down what it is asked."""

    def __init__(self):
        self.asked = []

    def init(self, r):
        return 0

    def step(self, r, value, slope, project, state):
        self.asked.append((float(r), value, float(slope), float(project(r))))
        return r + 0.5, state + 1


def test_the_trade_off_by_hand_and_its_search():
    """width 4; the loss is 3 - z, its gradient -1; whatever has c >= 0.02 succeeds."""
    told = _Told()
    solver = Tradeoff(told, steps=100, searches=5, first=0.001)
    assert solver.each == 20 and Tradeoff(told, 25, 9, 1.0).each == 10 and Tradeoff(told, 4, 9, 1.0).each == 4
    state, z, tried, path = Search(0.001, 4.0, 0), torch.zeros(1), [0.001], []
    for _ in range(100):
        c = state.c
        oracle = Oracle(
            lambda z: (float(z) - 3, torch.ones(1)), None, None, lambda z: z.clamp(max=4), lambda c=c: c >= 0.02
        )
        path.append(float(z))
        z, state = solver.step(oracle, z, state)
        if state.c != tried[-1]:
            tried.append(state.c)
    assert path[:3] == [0, 2, 4] and path[20] == 0
    assert told.asked[1] == pytest.approx((0.5, 0.25 + 0.001 * 1, 1 - 0.001 * 4, 0.5))
    assert told.asked[3][3] == 1  # 6 is projected to 4, a whole window
    failed, sufficed = 0.01, np.sqrt(0.01 * 0.1)
    assert tried == pytest.approx([0.001, 0.01, 0.1, sufficed, np.sqrt(failed * sufficed), tried[-1]])
    assert tried[-1] == pytest.approx(np.sqrt(np.sqrt(failed * sufficed) * sufficed))


def test_a_search_that_succeeds_only_on_its_way_has_failed():
    solver = Tradeoff(_Told(), steps=20, searches=1, first=1.0)
    for good, c in ((3, 10.0), (15, 0.1)):
        state, z, look = Search(1.0, 1.0, 0), torch.zeros(1), 0
        for look in range(20):
            ask = lambda look=look, good=good: look == good  # noqa: E731
            oracle = Oracle(lambda z: (0.0, torch.ones(1)), None, None, lambda z: z, ask)
            z, state = solver.step(oracle, z, state)
        assert state.c == pytest.approx(c) and state.looks == 0


def test_the_two_loops_are_the_dense_update():
    """H <- (1 - s y'/s'y) H (1 - y s'/s'y) + s s'/s'y, from H = s'y/y'y."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(6, 6))
    a = a @ a.T + np.eye(6)
    moves = rng.normal(size=(3, 6))
    pairs = [(s, a @ s) for s in moves]
    s, y = pairs[-1]
    h = np.eye(6) * (s @ y) / (y @ y)
    for s, y in pairs:
        v = np.eye(6) - np.outer(y, s) / (s @ y)
        h = v.T @ h @ v + np.outer(s, s) / (s @ y)
    g = rng.normal(size=6)
    found = two_loop(torch.from_numpy(g), tuple((torch.from_numpy(s), torch.from_numpy(y)) for s, y in pairs))
    np.testing.assert_allclose(found.numpy(), h @ g, rtol=1e-10)


@pytest.mark.parametrize("limit", [10.0, 0.8])
def test_lbfgs_finds_the_minimum_in_a_box(limit):
    """A badly scaled quadratic whose minimum lies inside, or on four sides of the box."""
    scale = torch.tensor([1.0, 30.0, 2.0, 100.0, 5.0], dtype=torch.float64)
    a = torch.diag(scale) + 0.5
    centre = torch.tensor([3.0, -1.0, 0.5, 2.0, 0.1], dtype=torch.float64)

    def project(r):
        return r.clamp(-limit, limit)

    solver, r = Lbfgs(5, 0.1), torch.zeros(5, dtype=torch.float64)
    state = solver.init(r)
    for _ in range(150):
        found = solver.step(r, float((r - centre) @ a @ (r - centre)), 2 * a @ (r - centre), project, state)
        if found is None:
            break
        r, state = found
    assert state.base is not None
    slope = 2 * a @ (state.base - centre)
    held = (state.base.abs() == limit) & (slope * state.base < 0)
    assert int(held.sum()) == (0 if limit > 3 else 4)
    assert float(slope[~held].abs().max()) < 1e-5


def test_lbfgs_gives_up_where_nothing_is_to_gain():
    r = torch.zeros(3)
    assert Lbfgs(5, 0.1).step(r, 0.0, torch.zeros(3), lambda r: r, Lbfgs(5, 0.1).init(r)) is None
    assert Lbfgs(5, 0.1).step(r, 0.0, torch.ones(3), torch.zeros_like, Lbfgs(5, 0.1).init(r)) is None


# ---------------------------------------------------------------- whole attacks

CLOSED = {
    "cw": {"steps": 150, "searches": 1, "first": 1e-5, "rate": 0.0003, "kappa": 0.3},
    "lbfgs": {"steps": 60, "searches": 4, "first": 1e-5, "stride": 0.003},
}


@pytest.mark.parametrize("name", CLOSED)
def test_the_smallest_euclidean_change_of_a_linear_victim_is_found(name):
    image, victim, organ, distance = linear_case(gain=1.0)
    exact = np.sqrt(np.square(distance).sum() / (WEIGHTS @ WEIGHTS) / (2 * organ.sum()))
    found = attacked(image, victim, name, 40.0, "l2", roi=organ, enough=everything_lost, **CLOSED[name])
    assert found.best.score == 0
    assert 0.9999 < np.sqrt(np.square(found.delta[:, organ]).mean()) / exact < 1.05


WINDOW = 2500  # of the scan below, in HU
SMALL = {
    "cw": {"rate": 2 / WINDOW, "first": 1e-4, "searches": 2, "steps": 30},
    "lbfgs": {"stride": 4 / WINDOW, "first": 3e-4, "searches": 3, "steps": 30},
    "dag": {"gamma": 1.01 / WINDOW, "steps": 60},
}


@pytest.mark.parametrize("goal, needed", [("vanish", 10.5), ("grow", 49.5), ("change", 10.5)])
@pytest.mark.parametrize("name", SMALL)
def test_other_goals_are_reached_with_what_they_need(name, goal, needed):
    """An organ at 60 HU under a threshold of 49.5, in a body at 0, in whole HU."""
    image, victim = victims.organ_scan(inside=60.0), victims.organ()
    roi = image.data[0] < 1000  # without the bone, which nothing small can change
    settings = SMALL[name] if goal != "grow" or name == "dag" else SMALL[name] | {"steps": 60}
    wanted = Goal.parse(goal, ("organ",), victim.labels)
    outcome = attacked(image, victim, name, 80.0, goal=wanted, roi=roi, **settings)
    assert outcome.best.score <= outcome_threshold(goal) and outcome.best in outcome.trace
    assert needed <= np.abs(outcome.delta).max() <= 1.2 * needed + 1
