"""Scores, losses and gradients that can't be used: refused, left out and said, never taken for a model that held."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
import unusable
import victims
from attacking import RECIPES, attacked
from test_margins import job_on, three_tissues
from unusable import Layers, Regions, layered, nested

from perturbox.attacks import recipes
from perturbox.attacks.fitting import fit_features
from perturbox.attacks.goals import Goal
from perturbox.attacks.objectives import Loss
from perturbox.attacks.on_scan import ascend
from perturbox.attacks.runner import run
from perturbox.attacks.saturation import scale_of
from perturbox.attacks.usable import Usable
from perturbox.cli import main
from perturbox.job.execute import Job, run_job
from perturbox.job.folder import verify
from perturbox.job.margins import find_margin
from perturbox.judge.measure import measure
from perturbox.model.finite import UndefinedScores, is_finite, undefined_of
from perturbox.types import Case, Undefined, Volume

HERE = unusable.__file__


def job(image: Volume, folder, victim: str, **changes) -> Job:
    return dataclasses.replace(job_on(image, folder, "layers"), victim=f"{HERE}:{victim}", **changes)


def flat_scan() -> Volume:
    """The middle slice of `three_tissues`, with its corners."""
    data = three_tissues().data[:, :, :, 6].copy()
    data[0, 0, 0], data[0, -1, -1] = -1000.0, 1500.0
    return Volume(data, np.diag([2.0, 2.0, 1.0, 1.0]))


# ---------------------------------------------------------------- a clean prediction without numbers is refused


@pytest.mark.parametrize(
    ("victim", "image", "said"),
    [
        (layered(Layers(after=unusable.nan_at_1500)), three_tissues(), "NaN at 4 of 13,440 scores, in 1 of 2 windows"),
        (nested(Regions(after=unusable.nan_at_1500)), three_tissues(), "NaN at 3 of 10,080 scores, in 1 of 2 windows"),
        (layered(Layers(after=unusable.nan_at_1500), 2), flat_scan(), "NaN at 4 of 1,120 scores, in 1 of 2 windows"),
        (
            layered(Layers(after=unusable.nan_at_1500), 2),
            three_tissues(),
            "NaN at 4 of 13,440 scores, in 1 of 24 windows",
        ),
        (
            layered(Layers(after=unusable.infinite_above_1000)),
            three_tissues(),
            "infinite values at 1 of 13,440 scores, in 1 of 2 windows",
        ),
        (
            layered(Layers(after=unusable.half_precision)),
            three_tissues(),
            "NaN at 4 of 13,440 scores, in 1 of 2 windows",
        ),
    ],
    ids=["3D", "multi-label", "2D", "slice by slice", "infinite", "half precision"],
)
def test_a_prediction_that_is_no_numbers_is_refused_with_their_count(victim, image, said):
    with pytest.raises(UndefinedScores, match=f"layers returned {said}: .*float32"):
        victim.predict(image)
    found = victim.look(image)
    assert str(found.undefined) == said and np.argwhere(found.where).tolist() == [[n - 1 for n in image.shape]]


def test_finite_scores_whose_sum_overflows_are_finite():
    huge = torch.full((1, 2, 8), 3e38)
    assert not torch.isfinite(huge.sum()) and is_finite(huge)
    assert undefined_of(huge, [huge.flatten(1).sum(1)]) is None
    huge[0, 1, 3] = -torch.inf
    assert undefined_of(huge, [torch.tensor([1.0]), torch.tensor([torch.inf])]) == Undefined(
        "infinite values", 1, 16, 1, 2
    )


def test_resampling_spreads_what_is_undefined():
    """On a coarser grid a voxel's label is undefined where any undefined score has weight."""
    victim = layered(Layers(after=unusable.nan_at_1500), spacing=(4.0, 4.0, 6.0), orientation="RAS", antialias=False)
    image = three_tissues()
    image.data[0, -4:, -4:, -4:] = 1500.0
    where = victim.look(image).where
    assert where is not None and where[-4:, -4:, -4:].all() and where.sum() < 6**3


@pytest.mark.parametrize("command", ["segment", "attack", "margin"])
def test_every_command_refuses_in_one_sentence(command, tmp_path, capsys):
    image = job(three_tissues(), tmp_path, "one_nan").image
    out = tmp_path / ("new.nii.gz" if command == "segment" else "new")
    assert main([command, image, "--victim", f"{HERE}:one_nan", "--force", "--out", str(out)]) == 2
    assert "NaN at 2 of 13,440 scores, in 2 of 2 windows" in capsys.readouterr().err.splitlines()[-1]
    assert not out.exists()


def test_a_surrogate_and_a_fit_are_refused_alike():
    image, broken = three_tissues(), layered(Layers(after=unusable.middle_is_nan), name="other")
    with pytest.raises(UndefinedScores, match="other returned NaN at 2 of"):
        attacked(image, victims.layers(), surrogates=[broken.on(image)])
    network = torch.nn.Sequential(victims.conv_net(3), torch.nn.Conv3d(3, 3, 1))
    network.register_forward_hook(lambda module, given, made: made * torch.nan)
    with pytest.raises(UndefinedScores, match="textured returned NaN"):
        fit_features(victims.textured(network=network), [victims.random_scan()], passes=1)


# ---------------------------------------------------------------- scores that become undefined under attack


def test_a_point_with_undefined_scores_is_no_result():
    """From 11 HU on, organ at 90 HU comes to where the network breaks down; up to there nothing breaks."""
    found = attacked(three_tissues(), unusable.overflowing(victims.CPU), "bim", eps=12.0, steps=4, alpha=3.0)
    assert [(step.linf, step.score, step.loss is None) for step in found.trace] == [
        (0.0, 1.0, False),
        (3.0, 1.0, False),
        (6.0, 1.0, False),
        (9.0, 1.0, False),
        (12.0, None, True),
    ]
    organ = int((three_tissues().data == 90).sum())
    said = "At 1 point that the attack looked at, from a change of 12 on, layers returned scores that are no finite"
    assert found.notes["scores"].startswith(said) and f"NaN at {4 * organ:,} of 13,440 scores" in found.notes["scores"]
    assert found.best.score == 1.0 and found.untested is None


def test_where_every_change_is_undefined_nothing_was_tested(tmp_path):
    asked = job(three_tissues(), tmp_path, "overflowing", attack="bim", steps=1, eps=12.0)
    result = run_job(asked, tmp_path / "R")
    assert result["budget"]["measured"]["linf"] == 0 and "for 1 of the 1 changed scan that" in result["untested"]
    assert result["verdicts"] == dict.fromkeys(("soft", "organ", "bone"), "not-tested")
    assert result["warnings"].count(result["untested"]) == 1 and verify(tmp_path / "R") == []
    assert [row["score"] for row in result["trace"]] == [1.0, None]


def test_a_saved_scan_with_undefined_labels_counts_them_as_unchanged():
    """Organ brought to 70 HU would be soft tissue, were its scores numbers; soft tissue brought to 20 HU is gone."""
    clean, victim = three_tissues(), unusable.overflowing(victims.CPU)
    changed = clean.data.copy()
    changed[clean.data == 90] = 70.0
    organ = int((clean.data == 90).sum())
    goal = Goal.parse("change", (), victim.labels)
    found = measure(clean, clean.with_data(changed), victim, goal, eps=20.0, norm="linf")
    said = f"layers returned NaN at {4 * organ:,} of 13,440 scores"
    assert found.notes[0].startswith(said) and found.numbers["untested"] == {"organ": found.notes[0]}
    assert found.numbers["verdicts"] == {"soft": "held", "organ": "not-tested", "bone": "held"}
    assert np.array_equal(found.clean_seg, found.adversarial_seg)
    changed[clean.data == 40] = 20.0
    found = measure(clean, clean.with_data(changed), victim, goal, eps=20.0, norm="linf")
    assert found.numbers["verdicts"] == {"soft": "vanished", "organ": "not-tested", "bone": "held"}


def test_controls_with_undefined_scores_are_left_out():
    clean, victim = three_tissues(), unusable.overflowing(victims.CPU)
    changed = clean.data.copy()
    changed[clean.data == 40] = 25.0  # noise of 15 HU RMS on organ at 90 HU reaches 80
    changed[clean.data == 90] = 105.0
    goal = Goal.parse("change", (), victim.labels)
    found = measure(clean, clean.with_data(changed), victim, goal, eps=20.0, norm="linf")
    assert found.numbers["control"]["noise"]["dice"] == {"soft": None, "organ": None, "bone": None}
    assert sum("for a control (random noise)" in note for note in found.notes) == 3


@pytest.mark.parametrize(("name", "norm"), RECIPES)
def test_no_attack_goes_astray_where_scores_are_undefined(name, norm):
    """Whatever it does with a loss that is no number, its result is a scan within its limit."""
    image = victims.random_scan((12, 10, 8))
    plain = victims.textured(3)
    with torch.no_grad():
        highest = plain.on(image)(torch.from_numpy(image.data)[None]).max()
    plain.network[-1].register_forward_hook(lambda module, given, made: made.masked_fill(made > highest, torch.nan))
    found = attacked(image, plain, name, norm=norm, steps=3, eps=0.5 if norm == "l0" else 12.0)
    assert np.isfinite(found.x_adv).all()
    assert all(step.score is not None for step in [found.best]) and is_finite(torch.from_numpy(found.delta))


# ---------------------------------------------------------------- losses and gradients


def test_a_loss_that_is_no_number_counts_as_the_lowest_so_far():
    usable = Usable([], False)
    assert [usable.loss(value) for value in (math.nan, 3.0, -1.0, math.inf, 2.0, -math.inf)] == [
        0.0,
        3.0,
        -1.0,
        -1.0,
        2.0,
        -1.0,
    ]
    assert (usable.losses, usable.lost) == (6, 3)


def test_an_infinite_loss_stops_no_attack_and_is_said():
    image, victim = three_tissues(), victims.layers()
    worse = Loss("worse", lambda v: v.total(v.cross_entropy), lambda sums, classes: sums[0] / sums[1] * torch.inf)
    recipe = recipes.get("apgd").build(12.0, "linf", 4, {}).attack
    goal = Goal.parse("change", (), victim.labels)
    attack = dataclasses.replace(recipe, objective=ascend(worse))
    found = run(attack, victim.on(image), Case(image), victim.predict(image), goal)
    assert [step.loss for step in found.trace] == [None] * len(found.trace)
    assert np.isfinite(found.x_adv).all() and "loss was no finite number" in found.notes["loss"]
    assert found.untested is not None and "never a finite number" in found.untested


@pytest.mark.parametrize("dims", [2, 3])
def test_gradients_that_are_no_numbers_are_left_out_and_the_rest_followed(dims):
    """Below 85 HU a root has none: soft tissue stays, the organ at 90 HU, whose voxels have one, breaks at 16 HU."""
    image = three_tissues() if dims == 3 else flat_scan()
    victim = layered(Layers(after=unusable.root(85.0)), dims)
    found = attacked(image, victim, "bim", eps=16.0, steps=4, alpha=16.0)
    changed = np.unique(image.data[found.delta != 0])
    assert changed.min() >= 85 and 90 in changed
    share = math.floor(100 * float((image.data <= 90).mean()))  # once the organ has fallen to 74 HU
    assert f"at up to {share} % of the voxels" in found.notes["gradient"] and found.untested is None
    assert (found.x_adv[image.data == 90] == 74).all()


def test_gradients_that_are_no_numbers_anywhere_are_no_test():
    found = attacked(three_tissues(), layered(Layers(after=unusable.root(9000.0))))
    assert not found.delta.any() and found.untested is not None and "never a finite number" in found.untested


# ---------------------------------------------------------------- no gradient is no test


@pytest.mark.parametrize(
    "victim, image",
    [
        (layered(Layers(unusable.rounding)), three_tissues()),
        (layered(Layers(unusable.rounding), 2), flat_scan()),
        (layered(Layers(unusable.rounding), 2), three_tissues()),
        (nested(Regions(unusable.rounding)), three_tissues()),
        (layered(Layers(), normalise=unusable.rounding), three_tissues()),
    ],
    ids=["3D", "2D", "slice by slice", "multi-label", "in the pipeline"],
)
@pytest.mark.parametrize("name", ["pgd", "apgd", "deformation"])
def test_a_model_that_rounds_is_not_tested(victim, image, name):
    if image.dims not in recipes.get(name).dims:
        pytest.skip("another dimension")
    found = attacked(image, victim, name, eps=32.0 if name != "deformation" else None)
    assert found.untested is not None and found.untested.startswith("layers gives no gradient: it was 0 at every voxel")
    assert "square" in found.untested and "surrogate" in found.untested


def test_values_need_no_gradient():
    found = attacked(three_tissues(), layered(Layers(unusable.rounding)), "square", eps=32.0, steps=30)
    assert found.untested is None and found.best.score < 1


def test_an_attack_on_a_model_that_rounds_says_so_and_gives_no_wrong_advice(tmp_path):
    asked = job(three_tissues(), tmp_path, "flat", eps=32.0, allow_cut_gradient=True)
    result = run_job(asked, tmp_path / "R")
    assert set(result["verdicts"].values()) == {"not-tested"} and "gives no gradient" in result["untested"]
    told = " ".join(result["warnings"])
    assert "gives no gradient" in told and verify(tmp_path / "R") == []
    for wrong in ("raise the limit", "raise effort", "too large", "enough for a look"):
        assert wrong not in told


def test_its_margin_is_not_tested_and_through_a_surrogate_it_breaks(tmp_path):
    image = three_tissues()
    asked = job(image, tmp_path, "flat", steps=3)
    found = find_margin(dataclasses.replace(asked, allow_cut_gradient=True), tmp_path / "M", 32.0)
    for row in found["structures"].values():
        assert (row["verdict"], row["above"], row["breaks_at"]) == ("not-tested", None, None)
        assert "gives no gradient" in row["reason"] and found["warnings"].count(row["reason"]) == 1
    through = find_margin(dataclasses.replace(asked, surrogate=(f"{HERE}:plain",)), tmp_path / "T", 32.0)
    rows = through["structures"]
    assert [rows[name]["breaks_at"] for name in ("soft", "organ")] == [16.0, 16.0]
    assert rows["organ"]["verdict"] == "vanished" and rows["organ"]["reason"] is None
    assert (rows["bone"]["verdict"], rows["bone"]["above"]) == ("held", 32.0)
    assert [model["name"] for model in through["surrogates"]] == ["layers"] and verify(tmp_path / "T") == []


def test_the_command_line_prints_what_was_not_tested(tmp_path, capsys):
    image = job(three_tissues(), tmp_path, "flat").image
    common = ["margin", image, "--victim", f"{HERE}:flat", "--max-eps", "4", "--steps", "1", "--force"]
    assert main([*common, "--allow-cut-gradient", "--out", str(tmp_path / "M")]) == 0
    said = capsys.readouterr().out
    assert said.count("not tested") >= 3 and "> 4" not in said and "gives no gradient" in said
    assert main([*common, "--surrogate", f"{HERE}:plain", "--out", str(tmp_path / "T")]) == 0
    said = capsys.readouterr().out
    assert said.count("> 4 HU") == 3 and "gives no gradient" not in said
    kept = json.loads((tmp_path / "T" / "margin.json").read_text())
    assert kept["surrogates"][0]["spec"] == f"{HERE}:plain"


def test_a_surrogate_without_a_gradient_is_named(tmp_path):
    image = three_tissues()
    blind = layered(Layers(unusable.rounding), name="blind")
    found = attacked(image, victims.layers(), surrogates=[blind.on(image)])
    assert found.untested is not None and found.untested.startswith("blind gives no gradient")


@pytest.mark.parametrize("count, tested", [(400, True), (30, False)])
def test_a_gradient_that_most_voxels_do_not_pass_is_a_warning_and_almost_none_is_no_test(count, tested):
    """All is rounded but `count` voxels of bone just above its limit."""
    image = three_tissues()
    image.data.reshape(-1)[500 : 500 + count] = 255.0
    found = attacked(image, layered(Layers(unusable.rounding_but(230.0, 280.0))), "bim", eps=16.0, steps=3)
    said = f"{math.floor(100 * (1 - count / image.data.size))} % of the voxels that"
    if tested:
        assert found.untested is None and found.notes["through"].startswith(f"{said} layers reads pass no gradient")
        assert np.array_equal(found.delta != 0, image.data == 255)
    else:
        assert found.untested is not None and f"almost no gradient: {said} it reads pass none" in found.untested
        assert found.notes == {}


# ---------------------------------------------------------------- scores too far apart


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("make, network", [(layered, Layers), (nested, Regions)])
def test_scores_times_ten_thousand_break_where_plain_ones_do(dims, make, network):
    image = three_tissues() if dims == 3 else flat_scan()
    plain = attacked(image, make(network(), dims), eps=16.0, steps=4)
    scaled = attacked(image, make(network(after=unusable.times_ten_thousand), dims), eps=16.0, steps=4)
    assert scaled.best.score <= plain.best.score + 0.02 < 0.5 and scaled.best.dice[2] == plain.best.dice[2] == 0.0
    (note,) = scaled.notes.values()
    assert "a masked gradient" in note and "which changes no label" in note and plain.notes == {}


def test_without_dividing_them_they_would_seem_to_hold(monkeypatch):
    """Why they are divided: 16 HU break soft tissue and organ, whose scores have no gradient as they are."""
    monkeypatch.setattr("perturbox.attacks.on_scan.scale_of", lambda *_: 1.0)
    found = attacked(three_tissues(), unusable.scaled(victims.CPU), "bim", eps=16.0, steps=4)
    assert found.best.score == 1.0 and found.untested is not None


def test_their_margin_says_so(tmp_path):
    found = find_margin(job(three_tissues(), tmp_path, "scaled", steps=3), tmp_path / "M", 32.0)
    assert [found["structures"][name]["breaks_at"] for name in ("soft", "organ")] == [16.0, 16.0]
    assert sum("a masked gradient" in warning for warning in found["warnings"]) == 1


def test_scores_are_divided_only_where_nearly_all_are_too_far_apart():
    weight = torch.ones(1, 100)
    logits = torch.zeros(1, 3, 100)
    logits[0, 1, 3:] = 1000.0  # three voxels still carry a gradient
    assert scale_of(logits, weight, False) == 1.0
    logits[0, 1, 2] = 1000.0
    assert scale_of(logits, weight, False) == 128.0  # the next power of two that brings the median to 8 or less
    logits[0, 1, 2:] = 81.0
    assert scale_of(logits, weight, False) == 16.0
    assert scale_of(logits, (logits[0, :1] + logits[0, 1:2] == 0).float(), False) == 1.0  # not where the loss looks
    assert scale_of(torch.full((1, 1, 100), -79.0), weight, True) == 1.0
    assert scale_of(torch.full((1, 1, 100), -81.0), weight, True) == 16.0
    assert scale_of(torch.tensor([[[3e38], [-3e38]]]), torch.ones(1, 1), False) == 2.0**126
    assert scale_of(torch.full((1, 2, 100), torch.nan), weight, False) == 1.0
