"""MSA and ASMA: losses of blocks and of masks written out by hand, and the path of a few steps."""

import numpy as np
import pytest
import torch
import victims
from attacking import attacked, multi_label, recipe_of, same_bits
from test_loss_recipes_2 import REGIONS, field, nested

from perturbox.attacks.attack import Task
from perturbox.attacks.goals import Goal
from perturbox.attacks.oracle import Oracle
from perturbox.attacks.recipes.asma import Growing, Masked, rescaled
from perturbox.attacks.recipes.msa import Scales, pooled
from perturbox.attacks.solvers.ascent import rms_normalise
from perturbox.model.sliding import Window
from perturbox.types import Volume

KINDS = [(field, None), (nested, REGIONS)]


def onehot(labels, regions, channels):
    if regions is None:
        return torch.nn.functional.one_hot(labels, channels).movedim(-1, 1).double()
    return regions[labels].movedim(-1, 1).double()


# ---------------------------------------------------------------- MSA


def block_means(values, size):
    """ "... 5 6" -> means over blocks of a size per axis, in NumPy; what is left at the end is a block too."""
    rows, columns = (range(0, n, s) for n, s in zip(values.shape[-2:], size, strict=True))
    a, b = size
    means = [[values[..., i : i + a, j : j + b].mean((-2, -1)) for j in columns] for i in rows]
    return np.moveaxis(np.array(means), (0, 1), (-2, -1))


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("make, regions", KINDS)
def test_msa_by_hand(make, regions, targeted):
    """Three scales on a grid twice as coarse along its second axis; the scan stands for the logits."""
    logits, labels, weight = make()
    total = 0.0
    for size in ((1, 1), (2, 1), (4, 2)):
        z, y = (block_means(v[0].numpy(), size) for v in (logits, onehot(labels, regions, logits.shape[1])))
        w = block_means(weight[0].numpy(), size)
        if regions is None:
            found = -(y * (z - np.log(np.exp(z).sum(0)))).sum(0)
        else:
            p = 1 / (1 + np.exp(-z))
            found = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean(0)
        total += (found * w).sum() / w.sum()
    task = Task(labels, weight, targeted, (1,), regions, spacing=(1.5, 3.0))
    for _ in range(2):  # the second time with the labels it remembers
        found = float(Scales(3)(lambda x: x, logits, task, 0.0))
        assert found == pytest.approx(-total if targeted else total, rel=1e-10)
    assert task.memory["labels 1"][0].shape == (1, logits.shape[1], 3, 6)
    assert task.memory["labels 2"][0].shape == (1, logits.shape[1], 2, 3)


def test_scales_see_the_same_where_nothing_varies():
    logits = torch.tensor([1.0, -2.0, 0.5]).double().view(1, 3, 1, 1, 1).expand(1, 3, 5, 6, 7)
    labels, weight = torch.full((1, 5, 6, 7), 2), torch.ones(1, 5, 6, 7).double()
    task = Task(labels, weight, False, (1,), spacing=(1.0, 1.0, 2.5))
    one = -float(logits[0, :, 0, 0, 0].log_softmax(0)[2])
    assert float(Scales(4)(lambda x: x, logits, task, 0.0)) == pytest.approx(4 * one, rel=1e-12)


def test_blocks_are_in_mm_and_never_larger_than_the_grid():
    values = torch.arange(2 * 9 * 9).double().view(1, 1, 2, 9, 9)
    found = pooled(values, 4.0, (1.0, 1.0, 3.0))
    assert found.shape == (1, 1, 1, 3, 9)
    assert float(found[0, 0, 0, 0, 0]) == float(values[0, 0, :, :4, 0].mean())
    assert float(found[0, 0, 0, 2, 8]) == float(values[0, 0, :, 8:, 8].mean())


@pytest.mark.parametrize("victim", [victims.textured, multi_label], ids=["softmax", "sigmoid"])
def test_msa_at_one_scale_is_bim_on_cross_entropy(victim):
    image = victims.random_scan()
    msa = attacked(image, victim(), "msa", 6.0, steps=3, scales=1)
    bim = attacked(image, victim(), "bim", 6.0, steps=3, loss="ce")
    assert msa.delta.any() and same_bits(msa.x_adv, bim.x_adv)
    assert [step.loss for step in msa.trace] == [step.loss for step in bim.trace]
    assert not same_bits(msa.x_adv, attacked(image, victim(), "msa", 6.0, steps=3).x_adv)


# ---------------------------------------------------------------- ASMA


def iou_by_hand(logits, labels, regions):
    predicted = onehot(logits.argmax(1), None, logits.shape[1]) if regions is None else (logits > 0).double()
    labelled, found = onehot(labels, regions, logits.shape[1]), []
    for a, b in zip(predicted[0] > 0, labelled[0] > 0, strict=True):
        if (a | b).any():
            found.append(int((a & b).sum()) / int((a | b).sum()))
    return float(np.mean(found))


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("make, regions", KINDS)
def test_asmas_value_is_the_overlap_and_its_slope_that_of_the_masked_logits(make, regions, targeted):
    """The scan stands for the logits; a change of 1 is one tenth of the window."""
    logits, labels, weight = make()
    generator = torch.Generator().manual_seed(5)
    clean = logits + torch.randn(logits.shape, generator=generator).double()
    task = Task(labels, weight, targeted, (1,), regions, clean, visible=(-4.0, 6.0))
    z = logits.clone().requires_grad_()
    value = Masked(0.5, None)(lambda x: x, z, task, 0.0)
    iou = iou_by_hand(logits, labels, regions)
    assert 0.1 < iou < 0.9
    assert float(value.detach()) == pytest.approx(iou if targeted else 1 - iou, rel=1e-9)
    (slope,) = torch.autograd.grad(value, z)
    y = onehot(labels, regions, logits.shape[1])
    if regions is None:
        wrong, signs = (logits.argmax(1) != labels)[:, None], y
    else:
        signs = 2 * y - 1
        wrong = signs * logits < 0
    masked = signs * (wrong if targeted else ~wrong) * weight[:, None] * (1 if targeted else -1)
    torch.testing.assert_close(slope, masked - 0.5 * 2 * (logits - clean) / 10.0**2)


def test_channels_that_occur_nowhere_have_no_overlap_to_count():
    logits, labels, weight = field()
    logits[:, 3], labels[labels == 3] = -100.0, 0
    task = Task(labels, weight, True, (1,), None, logits)
    assert float(Masked(1.0, 1.0)(lambda x: x, logits, task, 0.0)) == pytest.approx(
        iou_by_hand(logits[:, :3], labels, None), rel=1e-9
    )


def test_channels_that_are_to_be_empty_and_are_have_been_reached():
    logits, labels, weight = nested()
    task = Task(torch.zeros_like(labels), weight, True, (0, 1), REGIONS, logits)
    z = (-logits.abs() - 1).requires_grad_()
    value = Masked(0.0, 1.0)(lambda x: x, z, task, 0.0)
    assert float(value.detach()) == 1 and not torch.autograd.grad(value, z)[0].any()


def unit_case(**changes):
    """A picture in [0, 1] and a network of it, with the gain that makes its classes depend on it."""
    data = np.random.default_rng(0).uniform(0, 1, (1, 12, 11)).astype(np.float32)
    data[0, 0, 0], data[0, -1, -1] = 0.0, 1.0
    image = Volume(data, np.eye(4), dtype=np.dtype(np.float32))
    settings = {"window": Window((12, 11), padding="constant"), "normalise": lambda x: 4 * x - 2}
    return image, victims.textured(2, **(settings | changes))


@pytest.mark.parametrize("goal", ["vanish", "grow"])
def test_asma_by_hand(goal):
    """The paper's loop, in its own units: raw steps on a picture in [0, 1]."""
    image, victim = unit_case()
    tau, beta, steps = 0.002, 0.01, 5
    wanted = Goal.parse(goal, ("right",), victim.labels)
    reference = torch.from_numpy(victim.predict(image)).long()[None]
    labels, weight, targeted = wanted.task(reference, (1.0, 1.0))
    assert targeted and bool((labels != reference).any())
    x0 = torch.from_numpy(image.data)[None]
    x, factor, overlaps, points = x0.clone(), tau, [], []
    for step in range(steps + 1):
        x.requires_grad_()
        logits = victim.network(4 * x - 2)
        wrong = logits.argmax(1) != labels
        overlaps.append(iou_by_hand(logits.detach(), labels, None))
        points.append(float((x - x0).detach().abs().max()))
        raised = (logits.gather(1, labels[:, None])[:, 0] * wrong * weight).sum()
        (slope,) = torch.autograd.grad(raised - (x - x0).square().sum(), x)
        factor = beta * overlaps[-1] + tau if step else tau
        x = (x + factor * slope).clamp(0, 1).detach()
    outcome = attacked(
        image, victim, "asma", 1.0, steps=steps, goal=wanted, normalise=False, tau=tau, beta=beta, window=1.0
    )
    assert points[-1] > 0.02 and len(set(overlaps)) > 2
    assert [step.linf for step in outcome.trace] == pytest.approx(points, abs=1e-6)
    assert [step.loss for step in outcome.trace] == pytest.approx(overlaps, abs=1e-6)


def test_raw_steps_in_hu_are_those_on_a_scan_divided_by_its_window():
    image, victim = unit_case()
    hu = image.with_data(200 * image.data)
    wide = unit_case(normalise=lambda x: 4 * (x / 200) - 2)[1]
    raw = {"normalise": False, "tau": 0.002, "beta": 0.01}
    goal = Goal.parse("grow", ("right",), victim.labels)
    one = attacked(image, victim, "asma", 1.0, steps=4, goal=goal, window=1.0, **raw)
    for window in (200.0, None):  # a victim without a window tells the scan's own range apart
        other = attacked(hu, wide, "asma", 200.0, steps=4, goal=goal, window=window, **raw)
        assert np.abs(one.trace[-1].linf) > 0.01
        assert [s.linf / 200 for s in other.trace] == pytest.approx([s.linf for s in one.trace], abs=1e-5)


def test_asmas_steps_grow_with_the_overlap_and_dont_depend_on_the_models_scale():
    for gain in (1.0, 1e6, 1e-12):
        values = iter([0.9, 0.5, 0.25])
        oracle = Oracle(lambda z: (next(values), gain * torch.tensor([[[3.0, -4.0]]])), None, None, None, None)  # noqa: B023
        solver = Growing(0.1, 2.0, rms_normalise())
        z = torch.zeros(1, 1, 2)
        budget = type("Two", (), {"count": 2})
        state, lengths = solver.init(z, budget, torch.Generator()), []
        for _ in range(3):
            ahead, state = solver.step(oracle, z, state)
            lengths.append(float((ahead - z).square().mean().sqrt()))
            z = ahead
        assert lengths == pytest.approx([0.1, 1.1, 0.6], rel=1e-5)
        assert float(z[0, 0, 0] / z[0, 0, 1]) == pytest.approx(-0.75, rel=1e-5)


def test_a_raw_step_is_the_gradient_times_the_square_of_the_window():
    budget = type("Seen", (), {"visible": (-100.0, 100.0)})
    for window, square in ((None, 4e4), (5.0, 25.0)):
        rule = rescaled(window)
        update, _ = rule.apply(torch.ones(1), rule.init(torch.zeros(1), budget))
        assert float(update) == square


def test_asmas_settings_are_the_papers_where_it_does_not_normalise():
    told = recipe_of("asma", 11.0, steps=25).parameters
    assert (told["tau"], told["beta"]) == (pytest.approx(0.1), pytest.approx(1.0))
    told = recipe_of("asma", 11.0, steps=25, normalise=False).parameters
    assert (told["tau"], told["beta"], told["penalty"]) == (1e-7, pytest.approx(1e-6), 1.0)
