"""Smallest changes against closed forms: on linear models that see no neighbours the optimum is known."""

import dataclasses

import numpy as np
import pytest
import torch
import victims
from attacking import attacked, built
from test_identities import WEIGHTS, linear_case

from perturbox.attacks.goals import Goal
from perturbox.attacks.oracle import Oracle
from perturbox.attacks.runner import run
from perturbox.attacks.solvers import Solver
from perturbox.attacks.solvers.deepfool import Back, Boundary
from perturbox.types import Case


def everything_lost(step) -> bool:
    return step.score == 0


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_deepfool_finds_the_smallest_change_of_a_linear_victim(norm):
    image, victim, organ, distance = linear_case(gain=1.0)
    exact = {
        "linf": distance.max() / np.abs(WEIGHTS).sum(),
        "l2": np.sqrt(np.square(distance).sum() / (WEIGHTS @ WEIGHTS) / (2 * organ.sum())),
    }[norm]
    found = attacked(image, victim, "deepfool", 40.0, norm, steps=40, roi=organ, enough=everything_lost, overshoot=0.02)
    size = {"linf": np.abs(found.delta).max(), "l2": np.sqrt(np.square(found.delta[:, organ]).mean())}[norm]
    assert found.best.score == 0
    assert 0.9999 < size / exact < 1.05


def test_one_step_reaches_every_boundary_of_a_linear_victim_at_once():
    """Each voxel is moved by its own distance along the weights: the orthogonal projection."""
    image, victim, organ, distance = linear_case(gain=1.0)
    attack = dataclasses.replace(built("deepfool", 100.0, "l2", steps=1, overshoot=0.0), solver=Boundary("l2", 0.0))
    goal = Goal.parse("change", (), victim.labels)
    outcome = run(attack, victim.on(image), Case(image, roi=organ), victim.predict(image), goal, enough=lambda s: False)
    assert len(outcome.trace) == 2
    wanted = -distance[None] * WEIGHTS[:, None] / (WEIGHTS @ WEIGHTS)
    moved = outcome.delta[:, organ] if outcome.best.step else None
    assert moved is None or np.abs(moved - wanted).max() < 1e-3
    assert outcome.trace[1].loss == pytest.approx(0, abs=1e-3) and outcome.trace[0].loss < -5


def test_the_way_back_is_bisected():
    """Reached at 8 of 10, anything above 3.2 would do: bisected to within 1/64 of it."""
    looks = []

    def value(z):
        looks.append(float(z))
        return 0.0

    def succeeded():
        return looks[-1] >= 3.2

    class Jump(Solver):
        def init(self, z, budget, generator):
            return None

        def step(self, oracle, z, state):
            oracle.value(z)
            return z + 8.0, None

    oracle = Oracle(lambda z: (value(z), z), value, value, lambda z: z, succeeded)
    solver = Back(Jump())
    z = torch.zeros(1)
    state = solver.init(z, None, torch.Generator())
    for _ in range(9):
        z, state = solver.step(oracle, z, state)
    assert looks == [0, 8, 4, 2, 3, 3.5, 3.25, 3.125, 3.1875]
    assert float(z) == pytest.approx((3.1875 + 3.25) / 2)


@pytest.mark.parametrize("goal, needed", [("vanish", 10.5), ("grow", 49.5), ("change", 10.5)])
def test_deepfool_reaches_other_goals_with_what_they_need(goal, needed):
    """An organ at 60 HU under a threshold of 49.5, in a body at 0."""
    image, victim = victims.organ_scan(inside=60.0), victims.organ()
    outcome = attacked(image, victim, "deepfool", 80.0, steps=16, goal=Goal.parse(goal, ("organ",), victim.labels))
    assert outcome.best.score <= outcome_threshold(goal) and outcome.best in outcome.trace
    assert needed <= np.abs(outcome.delta).max() <= needed + 1.5


def outcome_threshold(goal: str) -> float:
    return {"vanish": 0.1, "grow": 2 / 3, "change": 0.5}[goal]


def test_a_flat_objective_leaves_everything_as_it_is():
    oracle = Oracle(lambda z: (-1.0, torch.zeros_like(z)), None, None, lambda z: z, lambda: False)
    z = torch.ones(3)
    assert torch.equal(Boundary("l2", 0.02).step(oracle, z, None)[0], z)


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_finished_bisection_ends_the_attack(norm, dtype):
    """What is left of the steps would change nothing."""
    image, victim = victims.random_scan(dtype=np.dtype(dtype)), victims.textured()
    found, more = (attacked(image, victim, "deepfool", 60.0, norm, steps=steps) for steps in (60, 120))
    assert len(found.trace) == len(more.trace) < 50 and found.best.score < 0.5
    assert np.array_equal(found.x_adv, more.x_adv) and found.delta.any()
