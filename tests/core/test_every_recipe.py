"""What every recipe must keep, whatever its paper says: budget, region, storage, seeds, zero, shapes, channels, labels.

A recipe that can't work with a kind of case must say so in words, at once.
"""

import json

import mr
import numpy as np
import pytest
import torch
import victims
from attacking import (
    QUICK,
    RECIPES,
    attacked,
    built,
    channels_scan,
    live_score,
    multi_label,
    prepared,
    recipe_of,
    same_bits,
    with_channels,
)

from perturbox.attacks import recipes
from perturbox.attacks.attack import random_draw
from perturbox.attacks.budget import Budget
from perturbox.attacks.goals import Goal
from perturbox.judge.units import ones_of
from perturbox.types import Case, InputError

OWN = [name for name, recipe in recipes.discover().items() if recipe.own is not None]
SHAPE = (12, 11, 9)


def scan(shape=SHAPE, **changes):
    return victims.random_scan(shape, **changes)


def checked(image, victim, name, norm):
    """Refuses in words what the recipe can't work with."""
    recipe_of(name, 8.0, norm, **prepared(name, image, victim)).check(victim, image)


@pytest.mark.parametrize("name, norm", RECIPES)
def test_the_budget_holds_in_the_region_and_nothing_changes_outside_it(name, norm):
    """On a scan stored in halves from -1024, so that a step isn't 1 and 0 isn't 0."""
    stored = np.rint(np.random.default_rng(0).normal(2048, 120, (1, *SHAPE))).astype(np.int16)
    image = scan().with_data((0.5 * stored - 1024).astype(np.float32), slope=0.5, intercept=-1024.0)
    victim, roi = victims.textured(), np.zeros(SHAPE, bool)
    roi[2:10, 2:9, 1:8] = True
    eps = 0.4 if norm == "l0" else 8.0
    first, again = (attacked(image, victim, name, eps, norm, roi=roi, seed=3) for _ in range(2))
    assert first.delta.any()
    assert same_bits(first.x_adv[0][~roi], image.data[0][~roi])
    assert Budget.of(Case(image, roi=roi), eps, norm).size(torch.from_numpy(first.delta)[None]) <= eps
    assert image.data.min() <= first.x_adv.min() and first.x_adv.max() <= image.data.max()
    # What is returned is what the file will hold, and scores what it is said to.
    held = image.with_data(first.x_adv).stored()
    assert np.array_equal((0.5 * held.astype(np.float64) - 1024).astype(np.float32), first.x_adv)
    goal, reference = Goal.parse("change", (), victim.labels), victim.predict(image)
    assert live_score(victim, image, first.x_adv, reference, goal) == first.best.score
    assert first.best in first.trace
    # The seed makes the result.
    assert same_bits(first.x_adv, again.x_adv)
    assert [step.loss for step in first.trace] == [step.loss for step in again.trace]


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize("name, norm", RECIPES)
def test_a_limit_of_zero_is_the_identity(name, norm, dtype):
    image, victim = scan(dtype=np.dtype(dtype)), victims.textured()
    outcome = attacked(image, victim, name, 0.0, norm, steps=2)
    assert same_bits(outcome.x_adv, image.data)
    assert all(step.linf == 0 and step.score == 1 and np.isfinite(step.loss) for step in outcome.trace)


@pytest.mark.parametrize("name", [name for name in OWN if recipes.get(name).own.zero is not None])
def test_a_budget_of_its_own_of_zero_is_the_identity(name):
    own = recipes.get(name).own
    image, victim = scan(dtype=np.dtype(np.float32)), victims.textured()
    outcome = attacked(image, victim, name, None, steps=2, **{own.parameter: own.zero})
    assert same_bits(outcome.x_adv, image.data)
    draw = random_draw(built(name, None, **{own.parameter: own.zero}), Case(image), victim)
    assert draw is not None and same_bits(draw(0), image.data)


@pytest.mark.parametrize("name", OWN)
def test_a_budget_of_its_own_is_not_capped_unless_asked_and_has_a_control_of_its_own(name):
    image, victim = scan(), victims.textured()
    made = recipe_of(name, None)
    attack, told = made.attack, made.parameters
    assert attack.limit is None and told["eps"] is None and told["norm"] == "linf"
    capped = attacked(image, victim, name, 2.0)
    assert 0 < np.abs(capped.delta).max() <= 2.0
    assert np.abs(attacked(image, victim, name, None).delta).max() > 0
    draw = random_draw(attack, Case(image), victim)
    assert draw is not None
    assert (draw(1) != image.data).any() and same_bits(draw(1), draw(1)) and not same_bits(draw(1), draw(2))
    limited = random_draw(built(name, 2.0), Case(image), victim)
    assert limited is not None and 0 < np.abs(limited(1) - image.data).max() <= 2.0


@pytest.mark.parametrize("name, norm", RECIPES)
def test_flat_slices_and_padding_stay_as_they_are_and_nothing_becomes_nan(name, norm):
    image = scan((14, 12, 10))
    image.data[..., :4] = 7.0
    image.data[0, :, :2, 4:] = -1024
    network = torch.nn.Sequential(torch.nn.InstanceNorm3d(1), *victims.conv_net(3))
    outcome = attacked(image, victims.textured(network=network), name, 0.4 if norm == "l0" else 8.0, norm, steps=3)
    assert np.isfinite(outcome.x_adv).all()
    assert all(np.isfinite(step.loss) and np.isfinite(step.score) for step in outcome.trace)
    assert not outcome.delta[0, :, :2, 4:].any()


def four_files():
    """Four files whose steps and ranges differ, each channel told in percent of its own range."""
    image = mr.scan(SHAPE)
    return image.in_units(ones_of("percent", image), "percent"), mr.four(victims.CPU)


@pytest.mark.parametrize(
    "kind", ["picture", "slices", "colours", "sequences", "regions", "flat regions", "four files", "scored regions"]
)
@pytest.mark.parametrize("name, norm", RECIPES)
def test_every_kind_of_case_is_attacked_or_refused_in_words(name, norm, kind):
    flat = {"affine": np.eye(4)}
    image, victim = {
        "picture": lambda: (scan((18, 17), **flat), victims.textured(2)),
        "slices": lambda: (scan((18, 17, 3)), victims.textured(2)),
        "colours": lambda: (channels_scan(3, (18, 17), **flat), with_channels(3, 2)),
        "sequences": lambda: (channels_scan(2, SHAPE), with_channels(2, 3)),
        "regions": lambda: (scan(), multi_label()),
        "flat regions": lambda: (scan((18, 17), **flat), multi_label(2)),
        "four files": four_files,
        "scored regions": lambda: (scan(unit="intensity"), mr.zscored(victims.CPU)),
    }[kind]()
    eps = 0.4 if norm == "l0" else 12.0
    if image.dims not in recipes.get(name).dims:
        return
    try:
        checked(image, victim, name, norm)
    except InputError as refusal:
        assert str(refusal).endswith(".") and "\n" not in str(refusal)
        return
    outcome = attacked(image, victim, name, eps, norm, steps=2)
    assert outcome.delta.any() and outcome.x_adv.shape == image.data.shape
    assert np.isfinite(outcome.x_adv).all() and all(np.isfinite(step.loss) for step in outcome.trace)


@pytest.mark.parametrize("goal", ["vanish", "grow", "become=left"])
@pytest.mark.parametrize("name, norm", [pair for pair in RECIPES if recipes.get(pair[0]).targeted])
def test_goals_other_than_change_are_climbed(name, norm, goal):
    image, victim = scan(), victims.textured()
    wanted = Goal.parse(goal, ("right",), victim.labels)
    outcome = attacked(image, victim, name, 0.4 if norm == "l0" else 12.0, norm, steps=3, goal=wanted)
    assert np.isfinite(outcome.x_adv).all() and all(np.isfinite(step.loss) for step in outcome.trace)
    assert outcome.best.score <= outcome.trace[-1].score
    assert outcome.best in outcome.trace or not outcome.delta.any()  # none did more than the unchanged scan


@pytest.mark.parametrize("name, norm", RECIPES)
def test_parameters_read_back_from_a_file_make_the_same_attack(name, norm):
    recipe = recipes.get(name)
    told = json.loads(json.dumps(recipe_of(name, 0.4 if norm == "l0" else 8.0, norm, 3).parameters))
    settings = {key: told[key] for key in told if key not in ("eps", "norm", "steps")}
    again = recipe.build(told["eps"], told["norm"], told["steps"], settings, local=True)
    assert again.parameters == told and again.recipe is recipe
    assert (again.attack.norm, again.attack.limit) == (told["norm"], told["eps"])


def test_quick_settings_are_those_of_recipes_there_are():
    for name, settings in QUICK.items():
        assert set(settings) <= {entry["name"] for entry in recipes.get(name).parameters}
