"""`ensemble` and `autoattack`: members find in company what they find alone; the worst of all or the first success is
the answer."""

import dataclasses
import json

import numpy as np
import pytest
import victims
from attacking import built, live_score, outcome_of, recipe_of, same_bits

from perturbox.attacks import recipes
from perturbox.attacks.attack import Composed
from perturbox.attacks.goals import Goal
from perturbox.attacks.recipes.ensemble import DEFAULT, all_members
from perturbox.job.execute import Job
from perturbox.job.margins import find_margin
from perturbox.types import InputError

MEMBERS = DEFAULT.split("+")


def of_member(outcome, name):
    return [
        dataclasses.replace(step, seconds=0, restart=0, member=None) for step in outcome.trace if step.member == name
    ]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_member_finds_what_it_finds_alone_and_the_worst_is_kept(norm):
    image, victim = victims.random_scan(), victims.textured()
    whole = outcome_of(built("ensemble", 6.0, norm=norm, steps=3), image, victim, seed=5)
    assert [member.name for member in whole.members] == MEMBERS
    scores = {}
    for name in MEMBERS:
        recipe, _, loss = name.partition(":")
        attack = built(recipe, 6.0, norm=norm, steps=3, **({"loss": loss} if loss else {}))
        alone = outcome_of(attack, image, victim, seed=5)
        steps = [dataclasses.replace(step, seconds=0, restart=0) for step in alone.trace]
        assert of_member(whole, name) == steps
        scores[name] = alone.best.score
        if name == whole.best.member:
            assert same_bits(alone.x_adv, whole.x_adv)
    assert whole.best.score == min(scores.values()) == scores[whole.best.member]
    assert len(set(scores.values())) > 1


def test_minima_of_structures_are_listed_apart_from_the_one_answer():
    image, victim = victims.random_scan(), victims.textured()
    whole = outcome_of(built("ensemble", 6.0, steps=3), image, victim)
    for value in (1, 2):
        lowest = min(member.lowest[value] for member in whole.members)
        assert lowest == min(step.dice[value] for step in whole.trace if step.linf == 0 or step.step > 0)
        assert lowest <= whole.best.dice[value]


def test_members_are_chosen_by_name_and_loss():
    attack = built("ensemble", 6.0, steps=4, members="fgsm:dice + pgd+square")
    assert list(attack.members) == ["fgsm:dice", "pgd", "square"]
    settings = {"members": "fgsm:dice + pgd+square", "eps": 6.0, "norm": "linf", "steps": 4}
    assert [one.parameters["loss"] for one in all_members(settings).values()] == ["dice", "dice-ce", "margin"]
    assert [member.steps for member in attack.members.values()] == [1, 4, 4]
    assert attack.rounds == 3 and attack.uses_gradient


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ("", "names no attack"),
        ("pgd+pgd", "names an attack twice"),
        ("pgd+vaffa", "did you mean 'vafa'"),
        ("pgd:tversky", "The setting 'loss' is one of dice-ce"),
        ("noise:ce", "has no setting 'loss'"),
        ("pgd+vafa", "vafa has a budget of its own"),
        ("pgd+ensemble", "can't have itself"),
        ("pgd+uap", "uap needs files of its own and can't be a member"),
        ("uap-natural", "uap-natural is crafted on other scans"),
        ("pgd+fab", "fab ends where the goal is reached"),
        ("autoattack", "autoattack ends where the goal is reached"),
    ],
)
def test_sets_that_make_no_sense_are_refused(members, said):
    with pytest.raises(InputError, match=said):
        built("ensemble", 6.0, members=members)


def test_the_default_set_contains_soft_dice_and_works_for_two_classes():
    assert "apgd:dice" in MEMBERS
    made = recipes.get("ensemble").build(6.0, "linf", 2, {})
    two = victims.organ()
    assert len(two.labels) == 2
    made.check(two, victims.random_scan())


def test_the_margin_of_an_ensemble_is_never_above_that_of_a_member(tmp_path):
    from perturbox import io

    image, victim = victims.random_scan(), victims.textured()
    io.write_volume(tmp_path / "scan.nii.gz", image)
    found = {}
    for attack, settings in {"ensemble": {"members": "fgsm+pgd"}, "fgsm": {}, "pgd": {}}.items():
        job = Job(tmp_path / "scan.nii.gz", "tiny", attack, steps=3, settings=settings, seed=2)
        margin = find_margin(job, tmp_path / attack, max_eps=96.0, victim=victim)
        found[attack] = {name: row["breaks_at"] for name, row in margin["structures"].items()}
        for name, row in margin["structures"].items():
            result = json.loads((tmp_path / attack / row["witness"] / "result.json").read_text())
            assert result["budget"]["measured"]["linf"] == row["breaks_at"] and result["verdicts"][name] != "held"
    for name, margin in found["ensemble"].items():
        assert margin == min(found["fgsm"][name], found["pgd"][name])


# ---------------------------------------------------------------- AutoAttack


def test_autoattack_ends_with_the_first_success():
    image, victim = victims.random_scan(), victims.textured()
    attack = built("autoattack", 64.0, steps=8)
    outcome = outcome_of(attack, image, victim)
    assert [member.name for member in outcome.members] == ["apgd-ce"]
    assert outcome.best.score <= 0.49 < min(step.score for step in outcome.trace[:-1])
    assert outcome.trace[-1] == outcome.best


def test_autoattack_tries_all_where_none_succeeds_and_keeps_the_worst():
    image, victim = victims.random_scan(), victims.textured()
    outcome = outcome_of(built("autoattack", 2.0, steps=2, queries=6), image, victim)
    assert [member.name for member in outcome.members] == ["apgd-ce", "apgd-dlr", "fab", "square"]
    assert [len(of_member(outcome, name)) for name in ("apgd-ce", "apgd-dlr", "square")] == [3, 3, 7]
    within = [step.score for step in outcome.trace if step.linf <= 2.0 and step.step > 0]
    assert outcome.best.score == min(within) > 0.5


def test_autoattack_goes_on_when_told():
    image, victim = victims.random_scan(), victims.textured()
    outcome = outcome_of(built("autoattack", 64.0, steps=8, queries=4, go_on=True), image, victim)
    assert len(outcome.members) == 4
    assert outcome.best.score == min(member.best.score for member in outcome.members)


def test_success_of_an_attack_that_ends_with_the_first_is_half_the_clean_score():
    image, victim = victims.random_scan(), victims.textured()
    goal = Goal.parse("change", (), victim.labels)
    expert = victim.predict(image)
    expert[:5] = 0
    whole = Composed({"bim": built("bim", 64.0, steps=40, alpha=2.0)}, 64.0, keep="first")
    clean = live_score(victim, image, image.data, expert, goal)
    scores = [step.score for step in outcome_of(whole, image, victim, reference=expert).trace]
    assert scores[-1] <= 0.5 * clean - 0.01 < min(scores[:-1]) and clean < 0.9


def test_dlr_on_two_classes_is_refused_in_a_sentence():
    two = victims.organ()
    with pytest.raises(InputError, match=r"needs 3 classes and .* has 2; use second=margin"):
        recipe_of("autoattack", 6.0).check(two, victims.random_scan())
    recipe_of("autoattack", 6.0, second="margin").check(two, victims.random_scan())


def test_queries_are_five_for_each_step_unless_told():
    assert built("autoattack", 6.0, steps=7).members["square"].steps == 35
    assert recipe_of("autoattack", 6.0, steps=7).parameters["queries"] == 35
    assert built("autoattack", 6.0, steps=7, queries=3).members["square"].steps == 3
    assert np.isclose(built("autoattack", 6.0, steps=7).eps, 6.0)
