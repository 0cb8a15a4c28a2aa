"""What a detector sees of changes that aim at nothing: much of it puts a study in question, a little is a note."""

import pytest

pytest.importorskip("pyarrow", reason="studies need the extra 'study'")
from perturbox.studies.detected import false_sights

ABOUT = {"model": "m", "detector": "lid", "fitted_on": None, "attack": "pgd", "patients_fell": 10}


def row(positives, auroc, low):
    return {**ABOUT, "positives": positives, "auroc": auroc, "low": low}


@pytest.mark.parametrize(
    ("control", "much"),
    [(0.74, False), (0.76, True)],  # the attack lies 0.5 above chance, half of that is 0.75
)
def test_much_is_half_as_far_above_chance_as_the_attack(control, much):
    rows = [row("attacked", 1.0, 0.9), row("noise", control, 0.51)]
    assert false_sights(rows) == [(rows[1], much)]


def test_what_chance_explains_or_nobody_scored_is_not_seen():
    rows = [row("attacked", 1.0, 0.9), row("noise", 0.9, 0.5), row("rolled", None, None)]
    assert false_sights(rows) == []


def test_the_attack_is_that_of_the_same_detector():
    """Another one's AUROC says nothing: without its own the control counts as much."""
    rows = [{**row("attacked", 1.0, 0.9), "detector": "svm"}, row("noise", 0.55, 0.51)]
    assert false_sights(rows) == [(rows[1], True)]


def test_of_an_attack_that_broke_too_few_nothing_is_said_and_of_what_is_none_it_is():
    few = [{**row(kind, 0.9, 0.8), "patients_fell": 9} for kind in ("attacked", "noise")]
    ordinary = {**row("corruption", 0.9, 0.8), "attack": None, "patients_fell": None}
    assert false_sights([*few, ordinary]) == [(ordinary, True)]
