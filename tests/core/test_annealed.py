"""The default attack: its schedule in closed form, what it equals at special settings, and who takes it."""

import math

import numpy as np
import pytest
import torch
import victims
from attacking import attacked, recipe_of, same_bits

from perturbox import defaults
from perturbox.attacks import recipes
from perturbox.attacks.budget import Budget
from perturbox.attacks.goals import Goal
from perturbox.attacks.recipes import ensemble
from perturbox.attacks.recipes.annealed import BY_GOAL
from perturbox.attacks.solvers.ascent import chain, cosine, rms_normalise
from perturbox.job.inputs import Job
from perturbox.types import Case


@pytest.mark.parametrize("steps", [1, 7, 20])
def test_the_steps_fall_along_half_a_cosine(steps):
    """Their sum is a_0 (steps + 1) / 2, so that twice the limit always crosses the ball."""
    rule, gradient = cosine(8.0, steps), torch.ones(1, 1, 3, 3)
    state, sizes = rule.init(gradient, None), []
    for _ in range(steps):
        update, state = rule.apply(gradient, state)
        sizes.append(float(update.max()))
    assert sizes == pytest.approx([4 * (1 + math.cos(math.pi * k / steps)) for k in range(steps)], abs=1e-5)
    assert sizes[0] == 8 and sizes == sorted(sizes, reverse=True) and sum(sizes) == pytest.approx(4 * (steps + 1))


@pytest.mark.parametrize("dims", [2, 3])
def test_with_one_step_it_is_fgsm_on_soft_dice(dims):
    image, victim = victims.random_scan((17, 14, 10)[:dims], dtype=np.dtype(np.int16)), victims.textured(dims)
    one, fgsm = attacked(image, victim, "annealed", 7.3, steps=1), attacked(image, victim, "fgsm", 7.3, loss="dice")
    assert one.delta.any() and same_bits(one.x_adv, fgsm.x_adv)
    assert [(step.loss, step.score) for step in one.trace] == [(step.loss, step.score) for step in fgsm.trace]


def test_three_steps_by_hand():
    """On a scan in floating point, with soft Dice written out."""
    image = victims.random_scan((12, 12), scale=20.0, affine=np.eye(4), dtype=np.dtype(np.float32))
    victim = victims.textured(2, normalise=lambda x: x / 100)
    reference = torch.from_numpy(victim.predict(image)).long()[None]
    source, values = torch.from_numpy(image.data)[None], list(victim.structures.values())
    z, losses = torch.zeros_like(source), []
    for k in range(3):
        z.requires_grad_()
        p = victim.network((source + z) / 100).softmax(1)
        pairs = [(p[:, v], (reference == v).float()) for v in values if (reference == v).any()]
        loss = 1 - torch.stack([(2 * (a * b).sum() + 1e-3) / (a.sum() + b.sum() + 1e-3) for a, b in pairs]).mean()
        (gradient,) = torch.autograd.grad(loss, z)
        losses.append(float(loss.detach()))
        z = (z.detach() + 5.0 * (1 + math.cos(math.pi * k / 3)) * gradient.sign()).clamp(-5, 5)
        z = (source + z).clamp(source.min(), source.max()) - source
    outcome = attacked(image, victim, "annealed", 5.0, steps=3)
    assert [step.loss for step in outcome.trace[:3]] == pytest.approx(losses, rel=1e-4)


@pytest.mark.parametrize("goal", list(BY_GOAL))
def test_the_loss_is_the_goals(goal):
    """Bit for bit what naming the loss gives; another one gives something else."""
    image, victim = victims.random_scan(), victims.textured()
    names = list(victim.structures)
    wish = Goal.parse(f"become={names[1]}" if goal == "become" else goal, names[:1], victim.labels)
    chosen = attacked(image, victim, "annealed", goal=wish)
    other = next(loss for loss in ("dice", "ce") if loss != BY_GOAL[goal])
    assert same_bits(chosen.x_adv, attacked(image, victim, "annealed", goal=wish, loss=BY_GOAL[goal]).x_adv)
    assert not same_bits(chosen.x_adv, attacked(image, victim, "annealed", goal=wish, loss=other).x_adv)


def test_in_l2_the_first_step_measures_four_limits():
    assert recipe_of("annealed", 3.0, "l2", steps=10).parameters["alpha"] == 12.0
    assert recipe_of("annealed", 3.0).parameters["alpha"] == 6.0
    budget = Budget.of(Case(victims.random_scan()), 3.0, "l2")
    gradient = torch.randn(1, 1, *budget.region.shape[2:])
    rule = chain(rms_normalise(), cosine(12.0, 10))
    update, _ = rule.apply(gradient, rule.init(gradient, budget))
    assert float(budget.rms(torch.where(budget.region, update, 0))) <= 12.0 * (1 + 1e-5)


def test_several_starts_are_random_and_one_is_the_scan_itself():
    image, victim = victims.random_scan(), victims.textured()
    one = attacked(image, victim, "annealed", steps=2)
    two = attacked(image, victim, "annealed", steps=2, restarts=2)
    assert one.trace[0].linf == 0 and [s.restart for s in two.trace] == [0, 0, 0, 1, 1, 1]
    assert two.trace[0].linf > 0 and two.trace[0].loss != two.trace[3].loss


def test_one_place_says_what_the_default_is():
    found = recipes.discover()
    assert [name for name, recipe in found.items() if recipe.describe()["default"]] == [defaults.ATTACK]
    first = recipes.offered()[0]
    assert first.default and first.access == "white" and first.own is None
    assert {"linf", "l2"} <= set(first.norms) and first.dims == (2, 3) and first.targeted
    assert Job("x").attack == defaults.ATTACK and ensemble.DEFAULT.split("+")[0] == defaults.ATTACK
    assert Job("x").steps is None and first.steps == defaults.STEPS


@pytest.mark.parametrize("name", list(recipes.discover()))
def test_no_number_of_steps_means_the_recipes_own(name):
    recipe = recipes.get(name)
    built_ = recipe.build(None if recipe.own else 5.0, recipe.norms[0], None, {}, local=True)
    again = recipe.build(None if recipe.own else 5.0, recipe.norms[0], recipe.steps, {}, local=True)
    assert built_.parameters == again.parameters
    assert recipe.describe()["steps"] == recipe.steps and recipe.margin_steps == math.ceil(recipe.steps / 2)


def test_gradient_attacks_can_cross_their_ball_by_default():
    """Steps x step size reaches the limit, whatever it is."""
    for name, recipe in recipes.discover().items():
        if recipe.own is None and "l0" not in recipe.norms:
            parameters = recipe.build(7.0, recipe.norms[0], None, {}, local=True).parameters
            if (alpha := parameters.get("alpha")) is not None:
                assert alpha * parameters["steps"] >= 7.0 * (1 - 1e-6), name
