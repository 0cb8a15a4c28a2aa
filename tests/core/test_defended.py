"""A model behind defences: the same model where a defence does nothing, attacked with and without knowledge of it, and
judged against what it says without it."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import test_ensemble_of_models
import tiny
import torch
import victims

import perturbox as px
from perturbox import io
from perturbox.cli import main
from perturbox.cli.words import structures_table
from perturbox.defenses import defend
from perturbox.job.craft import VALUES_ALONE
from perturbox.job.execute import Job, prepare, run_job
from perturbox.job.folder import replay, unlike, verify
from perturbox.judge import summary
from perturbox.judge.checks import warnings
from perturbox.judge.record import read_record
from perturbox.judge.summary import defense_means
from perturbox.model.bpda import bpda
from perturbox.model.defended import Defense, StandIn, seed_of
from perturbox.model.ensemble import ensemble_of
from perturbox.model.victim import Victim, as_input
from perturbox.types import InputError

CPU = torch.device("cpu")
TINY = f"{tiny.__file__}:volume"
NOTHING = Defense("nothing", lambda x, spacing, draws: x + 0.0, (StandIn("exact"), StandIn("identity")))
FIVE = {"attack": "apgd", "settings": {"loss": "dice"}, "eps": 12.0, "steps": 8}
SPECS = (
    "aegis:cutoff=0.15",
    "bit-depth:bits=6",
    "gaussian:sigma=0.7",
    "median",
    "tv:iterations=5",
    "dct:step=30",
    "lgs",
    "park",
    "smoothing:copies=3",
)


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    return tiny.write_scan(tmp_path_factory.mktemp("scan") / "ct.nii.gz")


@pytest.fixture(scope="module")
def attacked(scan, tmp_path_factory):
    """(spec, …) -> the result folder of an attack on the tiny model behind these defences."""
    known = {}

    def folder(*specs: str):
        if specs not in known:
            known[specs] = tmp_path_factory.mktemp("behind") / "R"
            with pytest.MonkeyPatch.context() as patch:
                if len(specs) < 2:  # one report is enough
                    patch.setattr("perturbox.job.execute.write_report", lambda *given: None)
                run_job(Job(str(scan), victim=TINY, defense=specs, **FIVE), known[specs])
        return known[specs]

    return folder


# ---------------------------------------------------------------- the same model


def models() -> list[Victim]:
    one, two = (test_ensemble_of_models.named(name, seed) for seed, name in enumerate(("one", "two")))
    piped = dataclasses.replace(one, spacing=(2.0, 2.0, 2.0), orientation="RAS")
    return [piped, ensemble_of([piped, two]), victims.textured(2), victims.textured(3)]


@pytest.mark.parametrize("index", range(4), ids=["3D", "ensemble", "slice by slice", "no grid"])
def test_a_defence_that_does_nothing_changes_nothing(index):
    plain = models()[index]
    image = test_ensemble_of_models.scan() if index < 2 else victims.random_scan()
    behind = defend(plain, NOTHING)
    assert np.array_equal(behind.predict(image), plain.predict(image)) and behind.plain is plain
    found = []
    for model in (plain, behind):
        x = as_input(image, CPU).requires_grad_()
        logits = model.on(image)(x)
        found.append((logits, *torch.autograd.grad(logits.square().sum(), x)))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    assert behind.sha256 != plain.sha256 and not behind.is_the_one(plain.weights_sha256)
    assert behind.visible == plain.visible


def test_the_first_defence_is_nearest_to_the_scan_and_chains_grow_outwards():
    plain, image = victims.textured(3), victims.random_scan()
    twice = Defense("twice", lambda x, spacing, draws: 2 * x)
    more = Defense("more", lambda x, spacing, draws: x + 1)
    for behind in (defend(plain, twice, more), defend(defend(plain, more), twice)):
        assert np.array_equal(behind.predict(image), plain.predict(image.with_data(2 * image.data + 1)))
        assert [one.name for one in behind.chain] == ["twice", "more"]


def test_forward_is_the_filter_and_backward_its_stand_in():
    plain, image = victims.textured(3), victims.random_scan()
    step = Defense("step", lambda x, s, g: 30 * torch.round(x / 30), (StandIn("double", lambda x, s, g: 2 * x),))
    x = as_input(image, CPU).requires_grad_()
    exact = (30 * torch.round(x / 30)).detach().requires_grad_()
    found, expected = defend(plain, step).on(image)(x), plain.on(image)(exact)
    assert torch.equal(found, expected)
    (grad,) = torch.autograd.grad(found.square().sum(), x)
    (known,) = torch.autograd.grad(expected.square().sum(), exact)
    assert torch.allclose(grad, 2 * known, rtol=1e-5)
    assert torch.equal(bpda(torch.ones(1), x.sum()[None]), torch.ones(1))


def test_copies_are_averaged_as_probabilities():
    plain, image = victims.textured(3), victims.random_scan()
    still = defend(plain, "smoothing:sigma=0:copies=3")
    x = as_input(image, CPU)
    assert torch.allclose(still.on(image)(x).softmax(1), plain.on(image)(x).softmax(1), atol=1e-5)
    noisy = defend(plain, "smoothing:sigma=5:copies=3")
    copies = noisy.filtered(x, image.spacing, seed_of(x))
    expected = torch.cat([plain.on(image)(copy[None]).softmax(1) for copy in copies]).mean(0)
    assert torch.allclose(noisy.on(image).judge(x)[0].softmax(0), expected, atol=1e-5)


def test_the_judge_draws_by_the_scan_and_an_attack_by_its_seed():
    image = victims.random_scan()
    noisy = defend(victims.textured(3), "smoothing:sigma=5:copies=2")
    x = as_input(image, CPU)
    assert torch.equal(noisy.on(image).judge(x), noisy.on(image).judge(x))
    bound = noisy.facing(0, 1).on(image)
    first, second = bound(x), bound(x)
    assert not torch.equal(first, second)  # new draws for each step
    assert torch.equal(first, noisy.facing(0, 1).on(image)(x)) and not torch.equal(first, noisy.on(image).judge(x))
    assert not torch.equal(first, noisy.facing(0, 2).on(image)(x))
    kept = noisy.facing(1, 1).on(image)
    assert torch.equal(kept(x), kept(x))
    given = []
    with noisy.network.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0].clone())):
        for scan in (x, x, x + 1):
            noisy.on(image).judge(scan)
    same, again, other = given[0], given[len(given) // 3], given[2 * len(given) // 3]
    assert torch.equal(same, again)
    assert float((other - same).std()) > 0.02  # of the same draws it would be nearly a constant


# ---------------------------------------------------------------- attacks


@pytest.mark.parametrize("spec", SPECS)
def test_who_knows_the_defence_does_no_less(attacked, spec):
    record = read_record(attacked(spec))
    mean, part = record["summary"]["defense"], record["defense"]
    assert mean["adaptive"] <= mean["oblivious"] + 0.01, mean
    assert [one["stand_in"] for one in part["candidates"]] == record["victim"]["defense"][0]["stand_ins"]
    assert part["stand_in"] == min(part["candidates"], key=lambda one: one["score"])["stand_in"]
    assert sum(one["backwards"] for one in part["candidates"]) == pytest.approx(2 * FIVE["steps"])
    adaptive = {name: row["dice"] for name, row in record["metrics"]["adversarial"].items()}
    assert part["dice"]["adaptive"] == adaptive


@pytest.mark.parametrize("spec", ["bit-depth:bits=6", "dct:step=30"])
def test_quantising_is_broken_by_who_knows_of_it(attacked, spec):
    mean = read_record(attacked(spec))["summary"]["defense"]
    assert mean["adaptive"] <= mean["undefended"] + 0.05 < 0.9


def test_the_reference_is_what_the_model_says_without_its_defence(attacked, scan):
    folder = attacked("median")
    victim, image = tiny.volume(CPU), io.read_scan(str(scan))
    behind, record = defend(victim, "median"), read_record(folder)
    clean, own = io.read_labels(folder / "clean_seg.nii.gz", image), behind.predict(image)
    assert np.array_equal(clean, victim.predict(image)) and not np.array_equal(clean, own)
    for name, value in victim.structures.items():
        both = int(((own == value) & (clean == value)).sum())
        expected = 2 * both / int((own == value).sum() + (clean == value).sum())
        assert record["defense"]["dice"]["clean"][name] == pytest.approx(expected)
    assert record["victim"]["sha256"] == behind.sha256 and record["reference"] == "clean_prediction"
    made = io.read_volume(folder / record["files"]["oblivious"]["path"])
    assert np.abs(made.data - image.data).max() <= FIVE["eps"]
    assert record["defense"]["dice"]["undefended"]["liver"] < 0.9


def test_a_folder_verifies_and_replays_and_a_touched_number_is_found(attacked, tmp_path):
    folder = attacked("gaussian:sigma=0.7", "smoothing:copies=2:sigma=5")
    assert verify(folder, trust=True) == []
    record = read_record(folder)
    assert record["defense"]["candidates"][0]["stand_in"] == "exact + new noise each step"
    replay(folder, tmp_path / "again", trust=True)
    assert unlike(folder, tmp_path / "again") == []
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Oblivious: the attack doesn’t know of it" in page and "Adaptive: the attack goes through it" in page
    shutil.copytree(folder, tmp_path / "touched")
    path = tmp_path / "touched" / "result.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["defense"]["dice"]["oblivious"]["liver"] = 0.1
    document["victim"]["defense"][0]["spec"] = "gaussian:sigma=0.7"
    path.write_text(json.dumps(document), encoding="utf-8")
    assert any("defense.dice.oblivious.liver" in line for line in verify(tmp_path / "touched", trust=True))


def test_both_attacks_stand_in_one_column_and_undefended_results_have_none(attacked, scan, tmp_path):
    record = read_record(attacked("lgs"))
    headers = [str(column.header) for column in structures_table(record).columns]
    assert headers[-1] == "Behind the defence: clean | oblivious | adaptive"
    assert "adaptive" not in "".join(headers[:-1]).lower()
    said = record["summary"]["headline"]
    assert "Behind lgs:strength=2.3" in said and "doesn't know of it" in said and "after one that does" in said
    assert any("with its own clean prediction without the defence" in line for line in warnings(record))
    plain = run_job(Job(str(scan), victim=TINY, attack="fgsm", eps=12.0), tmp_path / "R")
    assert "defense" not in plain and "defense" not in plain["victim"] and "oblivious" not in plain["files"]
    assert "columns" not in plain["summary"] and "defense" not in plain["summary"]


def test_an_attack_that_does_less_than_the_oblivious_one_is_named(attacked):
    record = dict(read_record(attacked("lgs")))
    dice = record["defense"]["dice"]
    record["defense"] = {**record["defense"], "dice": {**dice, "oblivious": dict.fromkeys(dice["clean"], 0.0)}}
    assert any(line.startswith("Masking? ") for line in warnings(record))


def test_an_attack_that_was_stopped_is_no_sign_of_masking(attacked):
    record = dict(read_record(attacked("lgs")))
    dice = record["defense"]["dice"]
    record["defense"] = {**record["defense"], "dice": {**dice, "oblivious": dict.fromkeys(dice["clean"], 0.0)}}
    record["stopped_early"] = "stopped at step 2 of 8"
    assert not any(line.startswith("Masking? ") for line in warnings(record))
    assert "after one that does, as far as it came before it was stopped (stand-in: " in summary.behind(record)
    record["stopped_early"] = None
    assert "after one that does (stand-in: " in summary.behind(record)


def test_attacks_without_gradients_and_on_surrogates(scan, tmp_path):
    common = {"victim": TINY, "eps": 12.0, "defense": ("gaussian",)}
    by_values = run_job(Job(str(scan), attack="square", steps=3, **common), tmp_path / "values")
    assert [one["stand_in"] for one in by_values["defense"]["candidates"]] == [VALUES_ALONE]
    through = run_job(Job(str(scan), attack="pgd", steps=2, surrogate=(TINY,), **common), tmp_path / "through")
    direct = run_job(Job(str(scan), attack="pgd", steps=2, **common), tmp_path / "direct")
    assert through["defense"]["dice"] == direct["defense"]["dice"]  # the surrogate is the victim itself


# ---------------------------------------------------------------- the faces


def test_python_stacks_defences_and_takes_ones_own(scan):
    behind = px.defend(px.load_victim(TINY), "bit-depth:bits=6")
    stacked = px.defend(behind, px.Defense("own", lambda x, spacing, draws: x * 1.0))
    assert stacked.name == "tiny behind own and bit-depth"
    result = px.attack(str(scan), stacked, "pgd", eps=12, steps=2)
    assert result.record["victim"]["defense"][0]["spec"] == "own"
    assert px.verify(result.folder, stacked) == []


def test_the_command_line_segments_and_refuses(scan, tmp_path, capsys):
    given = [str(scan), "--victim", TINY, "--out"]
    assert main(["segment", *given, str(tmp_path / "seg.nii.gz"), "--defense", "bit-depth:bits=2"]) == 0
    found = io.read_labels(tmp_path / "seg.nii.gz", io.read_scan(str(scan)))
    assert np.array_equal(found, defend(tiny.volume(CPU), "bit-depth:bits=2").predict(io.read_scan(str(scan))))
    capsys.readouterr()
    assert main(["attack", *given, str(tmp_path / "R"), "--defense", "zebra"]) == 2
    assert "Unknown defence 'zebra'; there are aegis, bit-depth, dct," in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "defense, said",
    [
        (
            Defense("hard", lambda x, s, g: torch.round(x / 9) * 9),
            "'hard' lets no gradient through and declares nothing",
        ),
        (Defense("apart", lambda x, s, g: x.detach() * 1), "'apart' lets no gradient through and declares nothing"),
        (Defense("wild", lambda x, s, g: x + torch.randn(x.shape, generator=g)), "'wild' answers the same scan differ"),
        (Defense("half", lambda x, s, g: x[..., ::2]), "'half' turns a scan of shape"),
    ],
    ids=["rounds", "detaches", "random", "shape"],
)
def test_what_no_adaptive_attack_could_test_is_refused(scan, defense, said):
    with pytest.raises(InputError, match=said):
        prepare(Job(str(scan), attack="pgd"), victim=defend(tiny.volume(CPU), defense))


def test_what_the_expert_left_out_is_in_no_mean(attacked):
    record = dict(read_record(attacked("lgs")))
    dice = record["defense"]["dice"]["adaptive"]
    assert record["summary"]["defense"]["adaptive"] == pytest.approx((dice["liver"] + dice["bone"]) / 2)
    assert defense_means({**record, "outlined": ["bone"]})["adaptive"] == dice["bone"]
