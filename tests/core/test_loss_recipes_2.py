"""SEA, GAMA and Houdini: their losses written out by hand, their bounds and schedules."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import victims
from attacking import attacked, built, recipe_of

from perturbox.attacks.attack import Climb, Composed, Task, ascend
from perturbox.attacks.budget import Budget
from perturbox.attacks.goals import Goal
from perturbox.attacks.objectives import Voxels, cross_entropy
from perturbox.attacks.recipes.gama import Corner, Guided, dropping, probability_margin
from perturbox.attacks.recipes.houdini import LEAST, houdini_loss
from perturbox.attacks.recipes.sea import balanced_sums, jensen_shannon, js, mce, mce_bal, split
from perturbox.attacks.runner import run
from perturbox.attacks.solvers.apgd import Apgd
from perturbox.attacks.solvers.ascent import sign
from perturbox.attacks.spaces.additive import Additive
from perturbox.types import Case

REGIONS = torch.tensor([[0, 0], [1, 0], [1, 1]], dtype=torch.bool)


def field(classes: int = 4, labels: int = 4, seed: int = 0):
    """(logits "1 k 5 6", labels, weight) in double precision."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(1, classes, 5, 6, generator=generator).double()
    found = torch.randint(labels, (1, 5, 6), generator=generator)
    return logits, found, (torch.rand(1, 5, 6, generator=generator) < 0.7).double()


def nested():
    """The same for two yes-or-no channels, one inside the other."""
    return field(2, 3, seed=1)


def answers(logits, labels, regions=None):
    """Every answer at every voxel, in NumPy: (voxel index, distribution over its outcomes, the right outcome, its label
    among all labels)."""
    z = logits[0].numpy()
    for index in np.ndindex(*z.shape[1:]):
        y = int(labels[0][index])
        if regions is None:
            p = np.exp(z[(slice(None), *index)])
            yield index, p / p.sum(), y, y
        else:
            for c in range(z.shape[0]):
                p = 1 / (1 + np.exp(-z[(c, *index)]))
                right = int(regions[y, c])
                yield index, np.array([1 - p, p]), right, 2 * c + right


def averaged(values, weight, per_voxel=1):
    return sum(float(weight[0][index]) * value for index, value in values) / (per_voxel * float(weight.sum()))


KINDS = [(field, None, 1), (nested, REGIONS, 2)]


# ---------------------------------------------------------------- SEA


def kullback_leibler(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


@pytest.mark.parametrize("make, regions, channels", KINDS)
def test_jensen_shannon_by_hand(make, regions, channels):
    logits, labels, weight = make()
    found = []
    for index, p, right, _ in answers(logits, labels, regions):
        onehot = np.eye(len(p))[right]
        m = (p + onehot) / 2
        found.append((index, (kullback_leibler(p, m) + kullback_leibler(onehot, m)) / 2))
    expected = averaged(found, weight, channels)
    assert float(js(logits, labels, weight, (0, 1), False, regions)) == pytest.approx(expected, rel=1e-10)


def test_jensen_shannon_lies_between_0_and_ln_2():
    logits = torch.tensor([-200.0, -40.0, -3.0, 0.0, 3.0, 40.0, 200.0]).double()
    logits = torch.stack([logits, torch.zeros_like(logits)])[None]
    found = jensen_shannon(Voxels(logits, torch.zeros(1, 7, dtype=torch.int64), torch.ones(1, 7)))[0, 0]
    assert bool((found <= math.log(2)).all()) and bool((found >= 0).all()) and bool((found.diff() <= 0).all())
    assert float(found[0]) == math.log(2) and float(found[-1]) == 0
    assert float(found[3]) == pytest.approx(0.75 * math.log(4 / 3), rel=1e-12)  # p_y = 1/2
    yes = Voxels(logits[:, :1], torch.ones(1, 7, dtype=torch.int64), torch.ones(1, 7), torch.tensor([[0], [1]]).bool())
    torch.testing.assert_close(jensen_shannon(yes)[0, 0], found)


def test_the_gradient_of_jensen_shannon_vanishes_where_the_label_is_lost():
    """Its slope in z_y is p (1 - p) ln(p / (1 + p)) / 2; cross-entropy's goes to -1."""
    lengths = []
    for lead in (1.0, 5.0, 10.0, 20.0, 40.0, 300.0):
        z = torch.tensor([[[-lead], [0.0]]]).double().requires_grad_()
        label, weight = torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1)
        (slope,) = torch.autograd.grad(js(z, label, weight, (0,)), z)
        p = 1 / (1 + math.exp(lead))
        assert float(slope[0, 0, 0]) == pytest.approx(p * (1 - p) * math.log(p / (1 + p)) / 2, rel=1e-9)
        lengths.append(float(slope.norm()))
        (slope,) = torch.autograd.grad(cross_entropy(z, label, weight, (0,)), z)
        assert float(slope[0, 0, 0]) == pytest.approx(p - 1, rel=1e-12)
    assert lengths == sorted(lengths, reverse=True) and lengths[-1] < 1e-100


@pytest.mark.parametrize("make, regions, channels", KINDS)
def test_masked_cross_entropy_by_hand(make, regions, channels):
    logits, labels, weight = make()
    told = list(answers(logits, labels, regions))
    kept = [(index, -math.log(p[y]) * (p.argmax() == y)) for index, p, y, _ in told]
    left = [(index, -math.log(p[y]) * (p.argmax() != y)) for index, p, y, _ in told]
    for targeted, values in ((False, kept), (True, left)):
        expected = averaged(values, weight, channels)
        assert float(mce(logits, labels, weight, (1,), targeted, regions)) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("loss", [mce, mce_bal], ids=["mce", "mce-bal"])
def test_wrong_voxels_have_no_part_in_masked_cross_entropy(loss):
    logits, labels, weight = field()
    z = logits.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(z, labels, weight, (1,)), z)
    wrong, counted = logits.argmax(1) != labels, weight > 0
    pulls = slope.abs().sum(1)
    assert wrong[counted].any() and not pulls[wrong].any() and bool((pulls[~wrong & counted] > 0).all())
    (slope,) = torch.autograd.grad(loss(z, labels, weight, (1,), True), z)  # towards: the other way round
    pulls = slope.abs().sum(1)
    assert not pulls[~wrong].any() and bool((pulls[wrong & counted] > 0).all())


@pytest.mark.parametrize("make, regions, channels", KINDS)
def test_balanced_masked_cross_entropy_by_hand(make, regions, channels):
    """Each label weighs one over its number of voxels; the sum over labels is a mean."""
    logits, labels, weight = make()
    counts, sums = {}, {}
    for index, p, y, label in answers(logits, labels, regions):
        w = float(weight[0][index])
        counts[label] = counts.get(label, 0.0) + w
        sums[label] = sums.get(label, 0.0) - w * math.log(p[y]) * (p.argmax() == y)
    assert len(set(counts.values())) > 1 and len(counts) == 4
    expected = np.mean([sums[label] / counts[label] for label in counts])
    assert float(mce_bal(logits, labels, weight, (1,), False, regions)) == pytest.approx(expected, rel=1e-10)


def test_labels_that_do_not_occur_have_no_share_in_the_balance():
    logits, labels, weight = field()
    labels[labels == 3] = 0
    kept = [float(mce(logits, labels, weight * (labels == c), (1,))) for c in range(3)]
    assert float(mce_bal(logits, labels, weight, (1,))) == pytest.approx(np.mean(kept), rel=1e-10)


def test_the_balance_is_that_of_the_whole_however_it_is_cut():
    logits, labels, weight = field()
    whole = balanced_sums(Voxels(logits, labels, weight), True)
    parts = [balanced_sums(Voxels(logits[:, :, s], labels[:, s], weight[:, s]), True) for s in (slice(2), slice(2, 5))]
    torch.testing.assert_close(sum(parts), whole)


def test_steps_are_split_3_3_4():
    assert [split(n) for n in (300, 20, 10, 7, 4, 1)] == [
        (90, 90, 120), (6, 6, 8), (3, 3, 4), (2, 2, 3), (1, 1, 2), (0, 0, 1),
    ]  # fmt: skip


def test_sea_shrinks_the_ball_and_keeps_the_worst_of_its_losses():
    image, victim = victims.random_scan(dtype=np.dtype(np.float32)), victims.textured()
    outcome = attacked(image, victim, "sea", 4.0, steps=10)
    assert [member.name for member in outcome.members] == ["js", "mce", "mce-bal"]
    rounds = [[step for step in outcome.trace if step.restart == k] for k in range(9)]
    assert [len(steps) - 1 for steps in rounds] == [3, 3, 4] * 3
    leaves = list(built("sea", 4.0, steps=10).leaves())
    assert [leaf.warm for leaf in leaves] == [None, "score", "score"] * 3
    # APGD's first step, of twice the limit, reaches the limit; a smaller ball starts where the larger one ended.
    assert [steps[1].linf for steps in rounds] == pytest.approx([8.0, 6.0, 4.0] * 3, rel=1e-5)
    assert [steps[0].linf for steps in rounds] == pytest.approx([0.0, 6.0, 4.0] * 3, rel=1e-5)
    assert all(max(step.linf for step in rounds[k]) <= (8.0, 6.0, 4.0)[k % 3] * (1 + 1e-6) for k in range(9))
    assert outcome.best.score == min(member.best.score for member in outcome.members) < 1
    assert np.abs(outcome.delta).max() <= 4.0 * (1 + 1e-6)
    for member in outcome.members:
        inside = [s.score for s in outcome.trace if s.member == member.name and s.linf <= 4.0 * (1 + 1e-6)]
        assert member.best.score == min(inside)


def test_the_first_ball_is_as_large_as_told_and_the_second_halfway():
    for first, radii in ((2.0, [8.0, 6.0, 4.0]), (5.0, [20.0, 12.0, 4.0]), (1.0, [4.0, 4.0, 4.0])):
        attack = built("sea", 4.0, steps=10, first=first)
        assert [leaf.eps for leaf in attack.leaves()] == radii * 3 and attack.eps == 4.0


def test_a_start_can_be_warm_by_score():
    """Where masked cross-entropy is highest little is lost: a smaller ball starts at the lowest score instead."""
    image, victim = victims.random_scan(), victims.textured()
    first = Climb(ascend(mce), Additive(), Apgd(6, sign()), 24.0, "linf", 6)
    for by in ("loss", "score"):
        second = dataclasses.replace(built("bim", 24.0, steps=1), warm=by)
        goal = Goal.parse("change", (), victim.labels)
        chain = Composed({"first": first, "second": second}, 24.0)
        trace = run(chain, victim.on(image), Case(image), victim.predict(image), goal).trace
        before, start = trace[:7], trace[7]
        highest = max(before, key=lambda step: step.loss)
        lowest = min(before, key=lambda step: step.score)
        assert lowest.score < highest.score
        assert start.score == (highest if by == "loss" else lowest).score


# ---------------------------------------------------------------- GAMA


@pytest.mark.parametrize("make, regions, channels", KINDS)
def test_the_margin_between_probabilities_by_hand(make, regions, channels):
    logits, labels, weight = make()
    leads = [(i, max(np.delete(p, y)) - p[y]) for i, p, y, _ in answers(logits, labels, regions)]
    expected = averaged(leads, weight, channels)
    found = float(probability_margin(logits, labels, weight, (1,), False, regions))
    assert found == pytest.approx(expected, rel=1e-10) and -1 < found < 1


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("make, regions, channels", KINDS)
def test_gama_by_hand(make, regions, channels, targeted):
    """The scan stands for the logits themselves."""
    logits, labels, weight = make()
    clean = logits + torch.randn(logits.shape, generator=torch.Generator().manual_seed(5)).double()
    pairs = zip(answers(logits, labels, regions), answers(clean, labels, regions), strict=True)
    moved = averaged([(i, float(np.square(p - q).sum())) for (i, p, _, _), (_, q, _, _) in pairs], weight, channels)
    margin = float(probability_margin(logits, labels, weight, (1,), False, regions))
    task = Task(labels, weight, targeted, (1,), regions, clean)
    for progress, share in ((0.0, 1.0), (0.1, 0.6), (0.25, 0.0), (0.7, 0.0)):
        expected = (-margin if targeted else margin) + 50 * share * moved
        found = float(Guided(50.0, 0.25)(lambda x: x, logits, task, progress))
        assert found == pytest.approx(expected, rel=1e-9)


def test_gama_asks_for_the_clean_prediction_once_and_forgets_it():
    logits, labels, weight = field()
    looks = []

    def view(x):
        looks.append(x)
        return x

    task = Task(labels, weight, False, (1,), None, logits.clone())
    for progress in (0.0, 0.1, 0.2):
        Guided(50.0, 0.25)(view, logits, task, progress)
    assert len(looks) == 4 and sum(x is task.clean for x in looks) == 1
    assert task.memory["clean"].shape == logits.shape and not task.memory["clean"].requires_grad
    Guided(50.0, 0.25)(view, logits, task, 0.3)
    assert len(looks) == 5 and not task.memory


def test_gamas_step_drops_tenfold_twice():
    rule = dropping(16.0, 100)
    state, lengths = rule.init(torch.zeros(1), None), []
    for _ in range(100):
        update, state = rule.apply(torch.ones(1), state)
        lengths.append(float(update))
    assert lengths == pytest.approx([16.0] * 60 + [1.6] * 25 + [0.16] * 15)
    told = recipe_of("gama", 8.0, steps=100)
    assert told.parameters["alpha"] == 16.0 and told.parameters["weight"] == 50.0 and told.parameters["until"] == 0.25


def test_gama_starts_in_a_corner():
    image = victims.random_scan(dtype=np.dtype(np.float32))
    x = torch.from_numpy(image.data)[None]
    for norm in ("linf", "l2"):
        budget = Budget.of(Case(image), 5.0, norm)
        starts = [Corner(True).init(x, budget, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
        assert torch.equal(starts[0], starts[1]) and not torch.equal(starts[0], starts[2])
        inside = (x + 5 <= budget.clip[1]) & (x - 5 >= budget.clip[0])
        assert bool(((starts[0].abs() == 5)[inside] == (norm == "linf")).all())
        assert budget.size(starts[0]) == pytest.approx(5.0, rel=1e-5)
        assert not Corner(False).init(x, budget, torch.Generator()).any()
    halves = (starts[0] > 0).float().mean()
    assert 0.4 < float(halves) < 0.6


# ---------------------------------------------------------------- Houdini


def phi(value):
    return (1 + math.erf(value / math.sqrt(2))) / 2


def hard_dice(logits, labels, weight, regions, channels):
    """Mean Dice of the chosen channels, with the loss's 0.001 that keeps an empty one finite."""
    z, y = logits[0], labels[0]
    dices = []
    for c in channels:
        predicted = z.argmax(0) == c if regions is None else z[c] > 0
        labelled = y == c if regions is None else regions[y, c]
        sums = [float((mask * weight[0]).sum()) for mask in (predicted & labelled, predicted, labelled)]
        dices.append((2 * sums[0] + 1e-3) / (sums[1] + sums[2] + 1e-3))
    return float(np.mean(dices))


@pytest.mark.parametrize("sigma", [1.0, 3.0])
@pytest.mark.parametrize("make, regions, channels", KINDS)
def test_houdini_by_hand(make, regions, channels, sigma):
    logits, labels, weight = make()
    # A margin is the difference of the logarithms of the probabilities, whichever way they are normalised.
    found = [
        (i, phi((math.log(max(np.delete(p, y))) - math.log(p[y])) / sigma))
        for i, p, y, _ in answers(logits, labels, regions)
    ]
    task = 1 - hard_dice(logits, labels, weight, regions, (0, 1))
    assert 0.05 < task < 1
    expected = averaged(found, weight, channels) * task
    for targeted in (False, True):
        loss = float(houdini_loss(sigma)(logits, labels, weight, (0, 1), targeted, regions))
        assert loss == pytest.approx(expected, rel=1e-9)


def test_houdinis_slope_is_a_gaussian_of_the_margin_times_the_task_loss():
    logits, labels, weight = field()
    z = logits.clone().requires_grad_()
    (slope,) = torch.autograd.grad(houdini_loss(1.0)(z, labels, weight, (1, 2)), z)
    task = 1 - hard_dice(logits, labels, weight, None, (1, 2))
    expected = torch.zeros_like(logits)
    for i, j in np.ndindex(5, 6):
        scores, y = logits[0, :, i, j], int(labels[0, i, j])
        rival = max((c for c in range(4) if c != y), key=lambda c: float(scores[c]))
        margin = float(scores[rival] - scores[y])
        pull = math.exp(-(margin**2) / 2) / math.sqrt(2 * math.pi) * task * float(weight[0, i, j] / weight.sum())
        expected[0, rival, i, j], expected[0, y, i, j] = pull, -pull
    torch.testing.assert_close(slope, expected, rtol=1e-9, atol=1e-12)


def test_an_intact_prediction_has_a_gradient_in_houdini():
    logits, _, weight = field()
    z, labels = logits.clone().requires_grad_(), logits.argmax(1)
    loss = houdini_loss(1.0)(z, labels, weight, (1, 2))
    (slope,) = torch.autograd.grad(loss, z)
    turned = torch.special.ndtr(Voxels(logits, labels, weight).margin)[:, 0]
    assert float(loss.detach()) == pytest.approx(LEAST * float((turned * weight).sum() / weight.sum()), rel=1e-9)
    assert bool((slope.abs().sum(1)[weight > 0] > 0).all())


def test_houdinis_noise_is_measured_in_logits():
    logits, labels, weight = field()
    one = float(houdini_loss(1.0)(logits, labels, weight, (1, 2)))
    assert float(houdini_loss(4.0)(4 * logits, labels, weight, (1, 2))) == pytest.approx(one, rel=1e-12)
