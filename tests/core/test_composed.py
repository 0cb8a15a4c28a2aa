"""Attacks made of others, and those that seek the smallest change: what is kept, where they start, when they end."""

import dataclasses

import numpy as np
import pytest
import torch
import victims
from attacking import attacked, built, live_score, outcome_of

from perturbox.attacks.attack import Composed
from perturbox.attacks.budget import middle_limit
from perturbox.attacks.goals import Goal
from perturbox.attacks.runner import run
from perturbox.types import Case

MEDIS = ("weighted", "lovasz", "log-cosh", "dice-bce", "exp-log", "mix")


def test_the_worst_of_all_members_is_kept_and_each_member_is_told():
    image, victim = victims.random_scan(), victims.textured()
    members = {
        "fgsm": built("fgsm", 6.0),
        "pgd": built("pgd", 6.0, steps=3, restarts=2),
        "noise": built("noise", 6.0, steps=2),
    }
    whole = outcome_of(Composed(members, 6.0), image, victim)
    assert [member.name for member in whole.members] == ["fgsm", "pgd", "noise"]
    assert whole.best.score == min(member.best.score for member in whole.members)
    assert whole.best.member in ("fgsm", "pgd") and whole.best in whole.trace
    # The first member's share of the whole is what it does alone.
    alone = outcome_of(members["fgsm"], image, victim)
    assert [s.score for s in whole.trace if s.member == "fgsm"] == [s.score for s in alone.trace]
    # Rounds are counted through, and what is lowest for a structure may be another step than the best.
    assert sorted({s.restart for s in whole.trace}) == [0, 1, 2, 3]
    for member in whole.members:
        steps = [s for s in whole.trace if s.member == member.name and (member.name != "pgd" or s.step > 0)]
        assert member.best.score == min(s.score for s in steps)
        assert member.lowest == {value: min(s.dice[value] for s in steps) for value in (1, 2)}
    assert Composed(members, 6.0).rounds == 4


def test_a_warm_member_starts_where_the_objective_was_highest():
    image, victim = victims.random_scan(), victims.textured()
    first = built("pgd", 8.0, steps=4, random_start=False)
    second = dataclasses.replace(built("bim", 8.0, steps=1), warm="loss")
    trace = outcome_of(Composed({"first": first, "second": second}, 8.0), image, victim).trace
    before, after = trace[:5], trace[5:]
    assert after[0].loss == max(step.loss for step in before) > before[0].loss
    cold = outcome_of(
        Composed({"first": first, "second": dataclasses.replace(second, warm=None)}, 8.0), image, victim
    ).trace[5:]
    assert cold[0].loss == before[0].loss


def test_what_lies_beyond_the_whole_attacks_limit_is_only_a_way_there():
    image, victim = victims.random_scan(), victims.textured()
    wide, narrow = built("bim", 8.0, steps=4), dataclasses.replace(built("bim", 2.0, steps=1), warm="loss")
    outcome = outcome_of(Composed({"wide": wide, "narrow": narrow}, 2.0), image, victim)
    assert max(step.linf for step in outcome.trace) == 8.0
    assert np.abs(outcome.delta).max() == 2.0
    assert outcome.best.score == min(step.score for step in outcome.trace if step.linf <= 2.0)


def test_the_smallest_change_that_reaches_the_goal_is_kept():
    image, victim = victims.random_scan(), victims.textured()
    attack = dataclasses.replace(built("bim", 64.0, steps=12, alpha=5.0), keep="smallest", stop_on_success=False)
    outcome = outcome_of(attack, image, victim)
    reached = [step for step in outcome.trace if step.score <= 0.5 - 0.01]
    assert len(outcome.trace) == 13 and reached and reached[0].linf < outcome.trace[-1].linf
    assert outcome.best.linf == min(step.linf for step in reached) == np.abs(outcome.delta).max()
    resting = outcome_of(dataclasses.replace(attack, stop_on_success=True), image, victim)
    assert resting.trace[-1] is resting.best and resting.best.linf == outcome.best.linf


def test_what_never_reaches_the_goal_is_the_worst_found():
    image, victim = victims.random_scan(), victims.textured()
    attack = dataclasses.replace(built("bim", 1.0, steps=4), keep="smallest", stop_on_success=False)
    outcome = outcome_of(attack, image, victim)
    assert min(step.score for step in outcome.trace) > 0.5
    assert outcome.best.score == min(step.score for step in outcome.trace)


def test_success_is_measured_from_the_clean_score_of_an_expert():
    """Half of what the model scores with the expert, not half of 1."""
    image, victim = victims.random_scan(), victims.textured()
    goal = Goal.parse("change", (), victim.labels)
    expert = victim.predict(image)
    expert[:5] = 0
    clean = live_score(victim, image, image.data, expert, goal)
    assert clean < 0.9
    attack = dataclasses.replace(built("bim", 64.0, steps=40, alpha=2.0), keep="smallest")
    outcome = run(attack, victim.on(image), Case(image), expert, goal)
    scores = [step.score for step in outcome.trace]
    assert scores[-1] <= 0.5 * clean - 0.01 < min(scores[:-1])


# ---------------------------------------------------------------- MedIS


def members_alone(eps, steps, image, victim):
    whole = built("medis", eps, steps=steps, refine=0)
    return whole, {
        name: outcome_of(Composed({"one": one}, eps, keep="smallest"), image, victim)
        for name, one in whole.members.items()
    }


@pytest.mark.parametrize("eps", [2.0, 64.0])
def test_fusion_succeeds_wherever_a_member_does_and_changes_least(eps):
    found = []
    for seed in range(3):
        image, victim = victims.random_scan(seed=seed), victims.textured()
        whole, alone = members_alone(eps, 6, image, victim)
        assert tuple(alone) == MEDIS
        fused = outcome_of(whole, image, victim)
        sizes = {name: np.abs(one.delta).max() for name, one in alone.items() if one.members[0].rank[0]}
        told = {member.name: member for member in fused.members}
        assert {name for name, member in told.items() if member.rank[0]} == set(sizes)
        assert all(told[name].size == size for name, size in sizes.items())
        found.append(len(sizes))
        if sizes:
            assert fused.best.score <= 0.49 and np.abs(fused.delta).max() == min(sizes.values())
            best = [alone[name].best.score for name, size in sizes.items() if size == min(sizes.values())]
            assert fused.best.score == min(best)
    assert max(found) > 0 or eps == 2.0


def test_refining_bisects_the_limit_and_never_makes_it_larger():
    image, victim = victims.random_scan(), victims.textured()
    plain = attacked(image, victim, "medis", 64.0, steps=4, refine=0)
    finer = attacked(image, victim, "medis", 64.0, steps=4, refine=4)
    before, after = np.abs(plain.delta).max(), np.abs(finer.delta).max()
    assert after < before == 48.0 and finer.best.score <= 0.49
    extra = finer.trace[len(plain.trace) :]
    assert {step.restart for step in extra} == {6, 7, 8, 9}
    assert max(step.linf for step in extra if step.restart == 6) == 24.0
    limits, held, broken = [24.0], 0.0, 48.0
    for round in (6, 7, 8):
        steps = [step for step in extra if step.restart == round]
        if reached := [step.linf for step in steps if step.score <= 0.49]:
            broken = min(reached)
        else:
            held = limits[-1]
        limits.append(np.floor((held + broken) / 2))
        assert max(step.linf for step in extra if step.restart == round + 1) <= limits[-1]
    assert after == broken or after < broken


def test_limits_to_try_next():
    assert middle_limit(0, 8, 1) == 4 and middle_limit(7, 8, 1) is None and middle_limit(6, 8, 1) == 7
    assert middle_limit(1.0, 2.0, 0.25) == 1.5 and middle_limit(0.3, 0.6, 0.1) == pytest.approx(0.4)


# ---------------------------------------------------------------- its losses


def test_exp_log_is_that_of_the_paper_and_rises_with_the_error():
    from perturbox.attacks.recipes.medis import exp_log

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 3, 4, 4, generator=generator).double()
    labels = torch.randint(3, (1, 4, 4), generator=generator)
    weight = torch.ones(1, 4, 4).double()
    p = logits.softmax(1)
    terms = []
    for c in (1, 2):
        y = (labels == c).double()
        dice = (2 * (p[:, c] * y).sum() + 1e-3) / (p[:, c].sum() + y.sum() + 1e-3)
        terms.append((-dice.log()) ** 2)
    cross = (-p.gather(1, labels[:, None]).log()) ** 2
    expected = 0.5 * torch.stack(terms).mean() + 0.5 * cross.mean()
    assert float(exp_log(logits, labels, weight, (1, 2))) == pytest.approx(float(expected), rel=1e-12)
    onehot = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).double()
    rising = [float(exp_log(scale * onehot, labels, weight, (1, 2))) for scale in (4, 1, 0, -1, -4)]
    assert rising == sorted(rising) and len(set(rising)) == 5


def test_log_cosh_and_dice_bce():
    from perturbox.attacks.objectives import soft_dice
    from perturbox.attacks.recipes.medis import dice_bce, log_cosh

    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(1, 3, 4, 4, generator=generator).double()
    labels, weight = torch.randint(3, (1, 4, 4), generator=generator), torch.ones(1, 4, 4).double()
    dice = float(soft_dice(logits, labels, weight, (1, 2)))
    assert float(log_cosh(logits, labels, weight, (1, 2))) == pytest.approx(np.log(np.cosh(dice)), rel=1e-12)
    p, y = logits.softmax(1), torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).double()
    bce = torch.nn.functional.binary_cross_entropy(p, y)
    assert float(dice_bce(logits, labels, weight, (1, 2))) == pytest.approx(dice + float(bce), rel=1e-9)


def test_the_lovasz_extension_is_the_jaccard_loss_at_its_corners_and_convex_between():
    from perturbox.attacks.recipes.medis import _lovasz_of

    generator = torch.Generator().manual_seed(0)
    label = torch.randint(2, (50,), generator=generator).double()
    wrong = torch.rand(50, generator=generator) < 0.3
    # A hinge error of 1 where wrong and 0 where right: the extension there is 1 - IoU itself.
    score = torch.where(wrong, torch.zeros(50), 2 * label - 1).double()
    predicted = torch.where(wrong, 1 - label, label)
    iou = int(((predicted == 1) & (label == 1)).sum()) / int(((predicted == 1) | (label == 1)).sum())
    assert float(_lovasz_of(score, label)) == pytest.approx(1 - iou, rel=1e-12)
    a, b = torch.randn(50, generator=generator).double(), torch.randn(50, generator=generator).double()
    middle = float(_lovasz_of((a + b) / 2, label))
    assert middle <= (float(_lovasz_of(a, label)) + float(_lovasz_of(b, label))) / 2 + 1e-12


def test_boundary_weights_are_those_of_a_window_in_mm():
    from perturbox.attacks.recipes.medis import Weighted

    mask = torch.zeros(1, 1, 12, 10)
    mask[..., 4:8, 3:7] = 1
    found = Weighted(5.0)._around(mask, (1.0, 2.5))  # 5 voxels along the first axis, 3 along the second
    expected = torch.zeros(12, 10)
    for i in range(12):
        for j in range(10):
            expected[i, j] = mask[0, 0, max(0, i - 2) : i + 3, max(0, j - 1) : j + 2].mean()
    torch.testing.assert_close(found[0, 0], expected)


def test_the_yes_or_no_loss_keeps_its_gradient_however_sure_the_model_is():
    from perturbox.attacks.objectives import Voxels
    from perturbox.attacks.recipes.medis import _yes_or_no

    generator = torch.Generator().manual_seed(2)
    logits = (3 * torch.randn(1, 4, 3, 3, generator=generator)).double().requires_grad_()
    labels, weight = torch.randint(4, (1, 3, 3), generator=generator), torch.ones(1, 3, 3).double()
    p, y = logits.softmax(1), torch.nn.functional.one_hot(labels, 4).movedim(-1, 1)
    expected = -(y * p.log() + (1 - y) * (1 - p).log())
    found = _yes_or_no(Voxels(logits, labels, weight))
    torch.testing.assert_close(found, expected)
    slopes = [torch.autograd.grad(loss.sum(), logits)[0] for loss in (found, expected)]
    torch.testing.assert_close(*slopes)
    # Two classes, the labelled one 30 logits behind, in single precision: each answer's slope is still 1.
    sure = torch.tensor([30.0, 0.0]).view(1, 2, 1, 1).requires_grad_()
    found = _yes_or_no(Voxels(sure, torch.ones(1, 1, 1, dtype=torch.int64), torch.ones(1, 1, 1)))
    assert found.flatten().tolist() == [30.0, 30.0]
    assert torch.autograd.grad(found.sum(), sure)[0].flatten().tolist() == [2.0, -2.0]


def test_what_members_hold_in_memory_is_known_to_the_estimate():
    from perturbox.job.estimate import estimate_attack
    from perturbox.job.execute import Job, prepare

    image, victim = victims.random_scan(), victims.textured()
    pgd, medis = (
        estimate_attack(prepare(Job("", attack=name, steps=2), image=image, victim=victim)) for name in ("pgd", "medis")
    )
    logits = 4 * len(victim.labels) * image.data.size
    assert medis.bytes - pgd.bytes >= (40 - 4) * logits * 0.99
