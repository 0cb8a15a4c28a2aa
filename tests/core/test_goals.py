"""Each goal's scene and score by hand on small maps, and end to end on a victim whose answer is known."""

import numpy as np
import pytest
import torch
import victims

from perturbox.attacks import recipes
from perturbox.attacks.goals import Goal, dilate, structure_value
from perturbox.attacks.objectives import LOSSES
from perturbox.attacks.runner import run
from perturbox.types import Case, InputError

LABELS = {"background": 0, "liver": 1, "spleen": 2, "kidney": 3}


def goal(text: str = "change", *target: str) -> Goal:
    return Goal.parse(text, target, LABELS)


def line(*values: int) -> torch.Tensor:
    """A "1 *g" map of one row, 4 mm a voxel."""
    return torch.tensor(values).view(1, -1, 1)


ROW, SPACING = line(0, 0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 3), (4.0, 4.0)


def task(of: Goal) -> tuple[list[int], list[float], bool]:
    labels, weight, targeted = of.task(ROW, SPACING)
    return labels.flatten().tolist(), weight.flatten().tolist(), targeted


def test_change_leaves_the_reference_everywhere_or_around_named_targets():
    assert task(goal()) == (ROW.flatten().tolist(), [1.0] * 12, False)
    assert task(goal("change", "spleen")) == (ROW.flatten().tolist(), [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 0], False)


def test_vanish_puts_background_in_the_targets_place():
    labels, weight, targeted = task(goal("vanish", "liver"))
    assert labels == [0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 3]
    assert weight == [0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0]
    assert targeted


def test_become_puts_the_wanted_structure_there():
    labels, weight, targeted = task(goal("become=kidney", "liver", "spleen"))
    assert labels == [0, 0, 0, 0, 3, 3, 3, 0, 0, 0, 0, 3]
    assert weight == [0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0]
    assert targeted


def test_grow_spreads_the_target_over_its_surroundings():
    labels, weight, targeted = task(goal("grow", "liver"))
    assert labels == [0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 3]
    assert weight == [0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0]
    assert targeted


def test_grow_never_takes_from_another_target():
    labels, _, _ = task(goal("grow", "liver", "spleen"))
    assert labels == [0, 1, 1, 2, 1, 1, 2, 2, 2, 2, 0, 3]  # where both could grow, the one named last does


def test_the_reference_itself_is_left_alone():
    before = ROW.clone()
    for each in (goal("grow", "liver"), goal("vanish", "liver"), goal("become=kidney", "liver")):
        each.task(ROW, SPACING)
    assert torch.equal(ROW, before)


def test_a_dice_loss_averages_over_what_is_to_stand_there():
    assert goal("change", "liver").classes == (1,)
    assert goal().classes == (1, 2, 3)
    assert goal("grow", "liver").classes == (1,)
    assert goal("vanish", "liver").classes == (1, 0)
    assert goal("become=kidney", "liver").classes == (1, 3)


def test_surroundings_are_measured_in_millimetres():
    mask = torch.zeros(1, 31, 31, 31, dtype=torch.bool)
    mask[0, 15, 15, 15] = True
    grown = dilate(mask, 12.0, (1.0, 3.0, 5.0))
    extents = [np.flatnonzero(grown[0].any(tuple({0, 1, 2} - {axis})).numpy()) for axis in range(3)]
    assert [(e[0], e[-1]) for e in extents] == [(3, 27), (11, 19), (13, 17)]
    assert int(grown.sum()) == 25 * 9 * 5
    assert torch.equal(dilate(mask, 1.0, (5.0, 5.0, 5.0)), mask)


# ---------------------------------------------------------------- scores


REFERENCE = np.array([0, 1, 1, 1, 1, 2, 2, 0, 0, 0, 0, 0])
PREDICTION = np.array([1, 1, 1, 0, 2, 2, 2, 0, 0, 0, 0, 3])


@pytest.mark.parametrize("as_map", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_scores_by_hand(as_map):
    prediction, reference = as_map(PREDICTION), as_map(REFERENCE)
    assert goal("change", "liver").score(prediction, reference) == pytest.approx(2 * 2 / 7)
    assert goal("change", "liver", "spleen").score(prediction, reference) == pytest.approx((4 / 7 + 4 / 5) / 2)
    # The kidney appeared, and that counts as 0.
    assert goal().score(prediction, reference) == pytest.approx((4 / 7 + 4 / 5 + 0) / 3)
    assert goal("vanish", "liver").score(prediction, reference) == pytest.approx(3 / 4)
    assert goal("vanish", "liver", "spleen").score(prediction, reference) == pytest.approx(6 / 6)
    assert goal("grow", "spleen").score(prediction, reference) == pytest.approx(2 / 3)
    assert goal("become=spleen", "liver").score(prediction, reference) == pytest.approx(3 / 4)


def test_structures_neither_map_holds_have_no_dice_and_do_not_count():
    flat = np.array([0, 1, 1, 0])
    assert goal().dice(flat, flat) == {1: 1.0, 2: None, 3: None}
    assert goal().score(flat, flat) == 1.0
    assert goal("change", "kidney").score(flat, flat) == 1.0


def test_a_perfect_attack_scores_as_low_as_can_be():
    nothing = np.zeros_like(REFERENCE)
    assert goal("change", "liver").score(nothing, REFERENCE) == 0
    assert goal("vanish", "liver").score(nothing, REFERENCE) == 0
    assert goal("become=spleen", "liver").score(np.full_like(REFERENCE, 2), REFERENCE) == 0


def test_thresholds_are_those_of_the_rules_in_words():
    rules = {text: goal(text, "liver") for text in ("change", "vanish", "grow", "become=spleen")}
    assert [(g.threshold, g.rule) for g in rules.values()] == [
        (0.5, "mean Dice over the targets at most half of its clean value"),
        (0.1, "volume of the targets at most 10 % of its clean value"),
        (2 / 3, "volume of the targets at least 1.5 times its clean value (inverse ratio at most 2/3)"),
        (0.5, "at most half of the targets' voxels not given to the wanted structure"),
    ]
    larger = np.array([1] * 6 + [0] * 6)
    assert rules["grow"].score(larger, REFERENCE) == pytest.approx(rules["grow"].threshold)


# ---------------------------------------------------------------- parsing


def test_without_names_every_structure_is_meant():
    assert goal() == Goal("change", (1, 2, 3), False)
    assert goal("change", "spleen", "liver") == Goal("change", (2, 1), True)
    assert goal("become=kidney", "liver") == Goal("become", (1,), True, 3)
    assert goal("change", "liver", "liver").targets == (1,)


def test_structures_that_are_not_there_fall_away():
    assert goal().present(np.array([0, 1, 3])) == Goal("change", (1, 3), False)


@pytest.mark.parametrize(
    "text, target, words",
    [
        ("chnge", (), "Unknown goal 'chnge'; choose change, vanish, grow or become=STRUCTURE."),
        ("", (), "Unknown goal ''"),
        ("vanish", (), "The goal 'vanish' needs --target"),
        ("become=spleen", (), "needs --target"),
        ("become", ("liver",), "e.g. --goal become=spleen"),
        ("change=liver", ("liver",), "e.g. --goal become=spleen"),
        ("become=liver", ("liver",), "can't become itself; choose another one than 'liver'"),
        ("become=splen", ("liver",), "no structure 'splen'; did you mean 'spleen'?"),
        ("change", ("Liver",), "no structure 'Liver'; did you mean 'liver'?"),
        ("change", ("femur",), "no structure 'femur'; it knows liver, spleen, kidney."),
        ("change", ("background",), "no structure 'background'"),
    ],
)
def test_what_is_not_understood_is_said_in_one_sentence(text, target, words):
    with pytest.raises(InputError) as refusal:
        Goal.parse(text, target, LABELS)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_names_that_start_with_capitals_are_suggested_too():
    with pytest.raises(InputError, match="did you mean 'Left Kidney'"):
        structure_value("left kidny", {"background": 0, "Left Kidney": 1, "Spleen": 2})


# ---------------------------------------------------------------- end to end


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "text, eps, best",
    [
        ("change", 20.0, 0.0),
        ("vanish", 20.0, 0.0),
        ("become=soft", 20.0, 0.0),
        ("become=bone", 170.0, 0.0),
        ("grow", 70.0, 0.2),
    ],
)
def test_an_attack_reaches_its_goal(text, eps, best, loss):
    """An organ at 90 HU in soft tissue of 40 HU: 16 HU take it away, 160 HU make it bone, 35 HU make it grow."""
    image = victims.organ_scan((20, 18, 14), inside=90.0, outside=40.0)
    victim = victims.layers()
    reference = victim.predict(image)
    wanted = Goal.parse(text, ["organ"], victim.labels)
    attack = recipes.get("pgd").build(eps, "linf", 10, {"loss": loss, "random_start": False}).attack
    outcome = run(attack, victim.on(image), Case(image), reference, wanted)
    found = victim.predict(image.with_data(outcome.x_adv))
    assert wanted.score(reference, reference) > wanted.threshold
    assert wanted.score(found, reference) == outcome.best.score <= max(best, 1e-9)
    assert np.abs(outcome.delta).max() <= eps


def test_nothing_beyond_the_surroundings_of_named_targets_is_pushed():
    image = victims.organ_scan((40, 12, 10), inside=90.0, outside=40.0)
    victim = victims.layers()
    reference = victim.predict(image)
    attack = recipes.get("fgsm").build(20.0, "linf", 1, {}).attack
    outcome = run(attack, victim.on(image), Case(image), reference, Goal.parse("vanish", ["organ"], victim.labels))
    changed = np.flatnonzero(np.abs(outcome.delta[0]).max((1, 2)))
    organ = np.flatnonzero((reference == 2).any((1, 2)))
    assert changed[0] == organ[0] - 6 and changed[-1] == organ[-1] + 6  # 12 mm of 2 mm voxels
