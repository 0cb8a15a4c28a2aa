"""Attacks that only ask for values."""

import numpy as np
import pytest
import torch
import victims
from attacking import attacked

from perturbox.attacks.budget import Budget
from perturbox.attacks.oracle import Oracle
from perturbox.attacks.solvers.random_search import Cubes
from perturbox.types import Case, Effort


def searching(shape, function, steps, share=0.8, eps=2.0, roi=None):
    """All points a search looks at, and its values."""
    image = victims.random_scan(shape)
    budget = Budget.of(Case(image, roi=roi), eps)
    seen = []

    def value(z):
        seen.append(z.clone())
        return function(z)

    x = torch.from_numpy(image.data)[None]
    oracle = Oracle(None, value, value, lambda z: z, lambda: False)
    solver = Cubes(steps, share)
    z = torch.zeros_like(x)
    state = solver.init(z, budget, torch.Generator().manual_seed(0))
    for _ in range(steps):
        z, state = solver.step(oracle, z, state)
    return seen, state


def test_stripes_come_first_then_cubes_of_one_sign():
    seen, _ = searching((8, 8, 8), lambda z: 0.0, 12)
    assert not seen[0].any()
    stripes = seen[1][0, 0]
    assert stripes.abs().unique().tolist() == [2.0] and (stripes == stripes[:1]).all()
    assert 10 < int((stripes[0] > 0).sum()) < 54
    for cube in seen[2:]:  # nothing rose, so each is one cube on the clean scan
        inside = torch.nonzero(cube[0, 0])
        size = inside.amax(0) - inside.amin(0) + 1
        assert len(inside) == int(size.prod()) and len(cube[cube != 0].unique()) == 1
        assert len(set(size.tolist())) == 1


def test_cubes_shrink_on_the_papers_schedule():
    solver, box = Cubes(10_000, 0.8), ((0, 100),) * 3
    volumes = [solver.side(k, box) ** 3 / 1e6 for k in (1, 11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001)]
    assert volumes == pytest.approx([0.8 / 2**j for j in range(10)], rel=0.12)
    assert Cubes(100, 0.001).side(90, ((0, 5),) * 3) == 1


def test_only_what_rises_is_kept():
    aim = torch.randn(1, 1, 6, 6, 6, generator=torch.Generator().manual_seed(3)).sign()
    seen, state = searching((6, 6, 6), lambda z: float((aim * z).sum()), 300)
    values = [float((aim * z).sum()) for z in seen]
    assert state.value == max(values) > 0.5 * float((aim * aim).sum()) * 2
    assert torch.equal(state.best, seen[int(np.argmax(values))])
    for k in range(2, 300):  # each proposal differs from the best so far by one cube
        best = seen[int(np.argmax(values[:k]))]
        moved = torch.nonzero((seen[k] != best)[0, 0])
        side = Cubes(300, 0.8).side(k, ((0, 6),) * 3)
        assert not len(moved) or int((moved.amax(0) - moved.amin(0)).max()) < side


def test_cubes_lie_in_the_regions_box():
    roi = np.zeros((10, 10, 10), bool)
    roi[2:6, 3:9, 5:8] = True
    seen, _ = searching((10, 10, 10), lambda z: 0.0, 60, roi=roi)
    touched = sum((z != 0).float() for z in seen[2:])[0, 0] > 0
    where = torch.nonzero(touched)
    assert where.amin(0).tolist() == [2, 3, 5] and where.amax(0).tolist() == [5, 8, 7]


@pytest.mark.parametrize("name, queries", [("square", 9), ("nes", 9 + 8 * 4)])
def test_no_gradient_is_ever_asked_for_and_queries_are_as_many_as_said(name, queries):
    """One window, so that a query is one call."""
    image, effort = victims.random_scan((10, 10, 10)), Effort()
    victim = victims.textured()
    reference = victim.predict(image)
    from attacking import built

    from perturbox.attacks.goals import Goal
    from perturbox.attacks.runner import run

    goal = Goal.parse("change", (), victim.labels)
    outcome = run(built(name, 8.0, steps=8), victim.on(image, effort), Case(image), reference, goal)
    assert effort.backwards == 0 and effort.forwards == queries
    assert outcome.had_gradient is None and outcome.delta.any()


def test_estimates_lead_uphill():
    image, victim = victims.random_scan((10, 10, 10)), victims.textured()
    outcome = attacked(image, victim, "nes", 8.0, steps=10, pairs=40, coarse=2)
    losses = [step.loss for step in outcome.trace]
    assert losses == sorted(losses) and losses[-1] > losses[0] + 0.005 and outcome.best.score < 0.95
