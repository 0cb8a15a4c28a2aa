"""SMIA: both terms written out by hand, the first step, what it is without the second term, and its Gaussian in mm."""

import numpy as np
import pytest
import torch
import victims
from attacking import attacked, built, multi_label, same_bits

from perturbox.attacks.budget import Budget
from perturbox.attacks.goals import Goal
from perturbox.attacks.objectives import LOSSES
from perturbox.attacks.on_scan import ModelOnScan, Previous, Task
from perturbox.attacks.recipes.smia import Stabilised, divergence
from perturbox.attacks.runner import run
from perturbox.types import Case

REGIONS = torch.tensor([[0, 0], [1, 0], [1, 1]], dtype=torch.bool)
FLOATS = np.dtype(np.float32)


def drawn(classes: int, seed: int = 0):
    """(logits, other logits "1 k 5 6", weight "1 5 6") in double precision."""
    generator = torch.Generator().manual_seed(seed)
    logits, other = (2 * torch.randn(1, classes, 5, 6, generator=generator).double() for _ in range(2))
    return logits, other, (torch.rand(1, 5, 6, generator=generator) < 0.7).double()


# ---------------------------------------------------------------- the second term


def test_the_divergence_of_chosen_classes_by_hand():
    logits, fixed, weight = drawn(4)
    soft = hard = 0.0
    for i, j in np.ndindex(5, 6):
        p, q = (np.exp(z[0, :, i, j].numpy()) / np.exp(z[0, :, i, j].numpy()).sum() for z in (logits, fixed))
        soft += float(weight[0, i, j]) * float((q * np.log(q / p)).sum())
        hard += float(weight[0, i, j]) * -float(np.log(p[q.argmax()]))
    count = float(weight.sum())
    assert float(divergence(logits, fixed, weight, None)) == pytest.approx(soft / count, rel=1e-12)
    assert float(divergence(logits, fixed, weight, None, hard=True)) == pytest.approx(hard / count, rel=1e-12)


def test_the_divergence_of_yes_or_no_answers_by_hand():
    logits, fixed, weight = drawn(2)
    p, q = 1 / (1 + np.exp(-logits.numpy())), 1 / (1 + np.exp(-fixed.numpy()))
    w, count = weight.numpy()[:, None], 2 * float(weight.sum())
    soft = (w * (q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p)))).sum() / count
    hard = (w * np.where(fixed.numpy() > 0, -np.log(p), -np.log(1 - p))).sum() / count
    assert float(divergence(logits, fixed, weight, REGIONS)) == pytest.approx(soft, rel=1e-12)
    assert float(divergence(logits, fixed, weight, REGIONS, hard=True)) == pytest.approx(hard, rel=1e-12)


@pytest.mark.parametrize("regions", [None, REGIONS])
def test_the_divergence_is_least_at_the_prediction_itself_and_leaves_it_alone(regions):
    logits, fixed, weight = drawn(2)
    assert float(divergence(fixed, fixed, weight, regions)) == pytest.approx(0, abs=1e-15)
    z, held = logits.clone().requires_grad_(), fixed.clone().requires_grad_()
    divergence(z, held, weight, regions).backward()
    assert held.grad is None
    # d KL / d logits = (p - q) w / n, with softmax and with sigmoid.
    act = (lambda t: t.softmax(1)) if regions is None else torch.sigmoid
    answers = 1 if regions is None else 2
    expected = (act(logits) - act(fixed)) * weight[:, None] / (answers * weight.sum())
    torch.testing.assert_close(z.grad, expected)


# ---------------------------------------------------------------- the whole objective


def viewed(image, victim, goal=None):
    goal = goal or Goal.parse("change", (), victim.labels)
    budget = Budget.of(Case(image), 6.0, "linf")
    return ModelOnScan.of(victim.on(image), image, victim.predict(image), goal, budget, torch.Generator())


@pytest.mark.parametrize("goal", ["change", "vanish"])
@pytest.mark.parametrize("make", [victims.textured, multi_label])
def test_the_objective_is_deviation_minus_distance_from_the_point_farther_along(make, goal):
    image, victim = victims.random_scan(dtype=FLOATS), make()
    targets = () if goal == "change" else (next(iter(victim.structures)),)
    view = viewed(image, victim, Goal.parse(goal, targets, victim.labels))
    loss, generator = LOSSES["ce"], torch.Generator().manual_seed(3)
    before, slope = (torch.randn(view.x.shape, generator=generator) for _ in range(2))
    x = view.x + torch.randn(view.x.shape, generator=generator)
    task = view.task
    objective = Stabilised(loss, 0.7, 1.3, 6.0, 0.0, False)
    first = float(objective(view, x, task, 0.0))
    assert first == pytest.approx(0.7 * float(task.gain(loss, view(x))), rel=1e-6)
    task = Task(**{**vars(task), "previous": Previous(view.x + before, slope)})
    # A Gaussian of 0 mm leaves the sign itself.
    ahead = view(view.x + before + 6.0 * slope.sign())
    expected = first - 1.3 * float(divergence(view(x), ahead, task.weight, task.regions))
    assert float(objective(view, x, task, 0.0)) == pytest.approx(expected, rel=1e-5)


def test_the_first_step_is_that_of_bim_and_the_second_is_not():
    image, victim = victims.random_scan(dtype=FLOATS), victims.textured()
    plain = attacked(image, victim, "bim", 6.0, steps=3)
    smia = attacked(image, victim, "smia", 6.0, steps=3, a2=50.0)
    assert [step.score for step in smia.trace[:2]] == [step.score for step in plain.trace[:2]]
    assert smia.trace[0].loss == plain.trace[0].loss and smia.trace[1].loss != plain.trace[1].loss
    assert not same_bits(smia.x_adv, plain.x_adv)


@pytest.mark.parametrize("make", [victims.textured, multi_label])
@pytest.mark.parametrize("goal", ["change", "grow"])
def test_without_its_second_term_it_is_bim_bit_for_bit(make, goal):
    image, victim = victims.random_scan(), make()
    goal = Goal.parse(goal, (next(iter(victim.structures)),) if goal == "grow" else (), victim.labels)
    plain = attacked(image, victim, "bim", 12.0, steps=4, goal=goal)
    smia = attacked(image, victim, "smia", 12.0, steps=4, goal=goal, a2=0.0)
    assert plain.delta.any() and same_bits(plain.x_adv, smia.x_adv)
    assert [step.loss for step in plain.trace] == [step.loss for step in smia.trace]


def test_each_restart_begins_without_a_point_before():
    """Two rounds from the same start are the same, so nothing is left of the first in the second."""
    image, victim = victims.random_scan(dtype=FLOATS), victims.textured()
    attack = built("smia", 6.0, steps=3)
    goal, reference = Goal.parse("change", (), victim.labels), victim.predict(image)
    twice = type(attack)(**{**vars(attack), "restarts": 2})
    outcome = run(twice, victim.on(image), Case(image), reference, goal)
    losses = [step.loss for step in outcome.trace]
    assert len(losses) == 8 and losses[:4] == losses[4:]


def test_a_step_asks_for_one_prediction_more_and_says_so():
    assert built("smia", 6.0).queries == 1 and built("smia", 6.0, a2=0.0).queries == 0
    calls = []
    network = victims.conv_net(3)
    network.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    image, victim = victims.random_scan((12, 12, 12)), victims.textured(network=network)  # a single window
    reference = victim.predict(image)
    for a2, expected in ((1.0, 2 * 3 + 1), (0.0, 3 + 1)):
        calls.clear()
        attacked(image, victim, "smia", 6.0, steps=3, reference=reference, a2=a2)
        assert len(calls) == expected


# ---------------------------------------------------------------- the Gaussian


def test_the_gaussian_is_as_wide_in_mm_along_every_axis():
    """Of voxels of 1 x 2 x 4 mm, seen by a model of 3 mm whose axes are in another order."""
    affine = np.zeros((4, 4))
    affine[1, 0], affine[0, 1], affine[2, 2], affine[3, 3] = 1.0, 2.0, 4.0, 1.0
    image = victims.random_scan((61, 31, 15), affine=affine)
    view = viewed(image, victims.textured(orientation="RAS", spacing=(3.0, 3.0, 3.0)))
    assert view.task.scan_spacing == (1.0, 2.0, 4.0)
    assert view.task.spacing != view.task.scan_spacing
    slope = torch.zeros(1, 1, 61, 31, 15)
    slope[0, 0, 30, 15, 7] = -0.3  # the sign counts
    task = Task(**{**vars(view.task), "previous": Previous(view.x, slope)})
    moved = Stabilised(LOSSES["ce"], 1.0, 1.0, 10.0, 4.0, False).ahead(task) - view.x
    kernel = -moved[0, 0].double().numpy()
    assert kernel.sum() == pytest.approx(10.0, rel=1e-4)
    for axis, (step, middle) in enumerate(zip((1.0, 2.0, 4.0), (30, 15, 7), strict=True)):
        profile = kernel.sum(tuple({0, 1, 2} - {axis}))
        mm = step * (np.arange(len(profile)) - middle)
        assert (profile * mm).sum() / profile.sum() == pytest.approx(0, abs=1e-4)  # centred
        # By hand: samples of exp(-mm^2 / 2 sigma^2) out to 3 sigma, which sum to 1.
        samples = np.where(np.abs(mm) <= 12, np.exp(-(mm**2) / (2 * 4.0**2)), 0)
        np.testing.assert_allclose(profile, 10 * samples / samples.sum(), atol=1e-4)


def test_in_a_picture_the_gaussian_has_two_axes():
    image = victims.random_scan((21, 17), affine=np.diag([2.0, 2.0, 1.0, 1.0]))
    view = viewed(image, victims.textured(2))
    slope = torch.zeros(1, 1, 21, 17)
    slope[0, 0, 10, 8] = 1.0
    task = Task(**{**vars(view.task), "previous": Previous(view.x, slope)})
    kernel = (Stabilised(LOSSES["ce"], 1.0, 1.0, 1.0, 2.0, False).ahead(task) - view.x)[0, 0]
    one = np.exp(-np.square(np.arange(-3, 4)) / 2)
    np.testing.assert_allclose(kernel[7:14, 5:12].numpy(), np.outer(one, one) / one.sum() ** 2, atol=2e-5)


def test_hard_answers_reach_the_second_term():
    image, victim = victims.random_scan(dtype=FLOATS), victims.textured()
    soft, hard = (attacked(image, victim, "smia", 6.0, steps=2, answers=answers) for answers in ("soft", "hard"))
    assert soft.trace[0].loss == hard.trace[0].loss and soft.trace[1].loss != hard.trace[1].loss
