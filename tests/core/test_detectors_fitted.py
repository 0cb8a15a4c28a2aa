"""Fitted detectors: thresholds, what is held out, files and hostile ones, refusals, evaluation, the command line."""

import json
import re
import sys

import nibabel as nib
import numpy as np
import pytest
import tiny
import torch
import victims
from attacking import attacked, recipe_of
from detecting import fitted, reads, samples, scans, sklearn, with_dropout
from safetensors.torch import load_file, save_file
from scipy import stats

import perturbox as px
from perturbox.attacks.recipes.evade import InTurns, ToPass
from perturbox.cli import main
from perturbox.defenses import defend
from perturbox.detectors import get
from perturbox.detectors.evaluation import auroc, evaluate, least_rate, said
from perturbox.detectors.fitted import Detector
from perturbox.detectors.fitting import as_large, fit_detector
from perturbox.detectors.method import Layout
from perturbox.detectors.seen import look_at
from perturbox.job.detecting import patients_of
from perturbox.model.ensemble import ensemble_of
from perturbox.model.victim import as_input
from perturbox.types import InputError


def detector_of(raw, rate=0.05, name="entropy") -> Detector:
    """A detector whose clean scans had these raw numbers."""
    return Detector(get(name), "v", "0", ("a",), Layout({}, 1, 4), {}, np.asarray(raw, float), rate)


# ---------------------------------------------------------------- score and threshold


@pytest.mark.parametrize("count, rate, place", [(12, 0.05, 12), (19, 0.05, 19), (40, 0.1, 37), (99, 0.05, 95)])
def test_the_threshold_leaves_the_wanted_share_of_new_clean_scans_above_it(count, rate, place):
    """A new score is as likely to lie in any of the gaps between those of the clean scans."""
    made = detector_of(np.random.default_rng(0).permutation(count), rate, "one-class")
    assert made.threshold == place - 1 and made.alarms == pytest.approx((count + 1 - place) / (count + 1))
    assert made.alarms <= max(rate, 1 / (count + 1)) + 1e-12


def test_what_fits_too_well_is_as_odd_as_what_fits_too_badly():
    made = detector_of([1.0, 2.0, 3.0, 4.0, 5.0, 2.5, 3.5, 2.0, 4.0, 3.0])
    assert made.centre == 3.0 and made.spread == pytest.approx(1.4826)
    assert made.of_raw(-3.0) == made.of_raw(9.0) == pytest.approx(6 / 1.4826)
    assert detector_of(range(10), name="svm").of_raw(-3.0) == -3.0  # one-sided


def test_each_clean_scan_is_scored_by_a_fit_without_its_patient():
    names = [f"p{i // 2}" for i in range(24)]
    victim, images, found = fitted("kernel-density", 24, patients=names)
    seen = [look_at(victim, image, found.asked) for image in images]
    method = found.method
    for fold in (0, 3):
        out = {f"p{i}" for i in range(12)[fold::10]}
        parts = method.fit([one for one, name in zip(seen, names, strict=True) if name not in out], [])
        for number, name in enumerate(names):
            if name in out:
                assert found.clean[number] == pytest.approx(float(method.raw(parts, seen[number])), rel=1e-12)
    told = {key: value for key, value in found.facts.items() if key != "scans"}
    assert told == {"clean": 24, "patients": 12, "attacked": 0, "noise": 0, "seed": 0}


def test_a_scan_that_it_was_fitted_on_is_known_again(made):
    victim, images, found, path = made
    again = Detector.read(path).detect(victim, images[4])
    assert again.fitted_on and again.sentence.startswith("The detector was fitted on this very scan, so it can't say")
    other = images[4].with_data(images[4].data + np.float32(1))
    assert not found.detect(victim, other).fitted_on


def test_noise_is_as_large_as_the_attack_and_of_the_scan_it_was_made_of():
    images = scans(12, (40, 40))
    hit = images[7].with_data(images[7].data + np.float32(6))
    noisy = as_large(images[7], hit, np.random.default_rng(0))
    assert np.sqrt(np.mean((noisy.data - images[7].data) ** 2)) == pytest.approx(6, rel=0.03)
    assert np.array_equal(noisy.data, np.rint(noisy.data))  # as an integer file holds it
    found = fit_detector(victims.textured(2), "entropy", reads(images), reads([hit]))
    assert (found.facts["attacked"], found.facts["noise"]) == (1, 1)
    assert (found.facts["evaluation"]["negatives"], found.facts["evaluation"]["patients"]) == (13, 12)


def test_a_supervised_detector_tells_what_it_learned():
    sklearn()
    victim, images = victims.textured(2), scans(14)
    hit = [image.with_data(image.data + np.float32(45)) for image in images]
    found = fit_detector(victim, "svm", reads(images), reads(hit))
    assert found.facts["evaluation"]["auroc"]["value"] > 0.95 and found.facts["noise"] == 14
    assert found.detect(victim, hit[3]).fires and not found.detect(victim, images[3]).fires


# ---------------------------------------------------------------- evaluation


def test_auroc_is_the_share_of_pairs():
    rng = np.random.default_rng(0)
    no, yes = rng.integers(0, 6, 23).astype(float), rng.integers(2, 8, 17).astype(float)
    pairs = np.mean([(a > b) + 0.5 * (a == b) for a in yes for b in no])
    assert auroc(no, yes) == pytest.approx(pairs, abs=1e-12)
    assert evaluate(no, yes)["auroc"]["low"] < pairs < evaluate(no, yes)["auroc"]["high"]


@pytest.mark.parametrize("n, bound", [(30, 0.095), (60, 0.049), (300, 0.00994)])
def test_what_so_few_negatives_cant_carry(n, bound):
    assert least_rate(n) == pytest.approx(bound, abs=5e-4)
    assert stats.beta.ppf(0.95, 1, n) == pytest.approx(least_rate(n), rel=1e-9)  # Clopper and Pearson's own
    found = evaluate(np.arange(n), np.arange(n) + 0.5, rates=(0.01, 0.05, 0.1))["found"]
    assert [row["resolvable"] for row in found] == [bound <= rate for rate in (0.01, 0.05, 0.1)]


def test_the_share_found_at_a_rate_and_its_interval():
    no, yes = np.arange(100.0), np.r_[np.full(8, 200.0), 50.0, 94.5]
    row = evaluate(no, yes, rates=(0.05,))["found"][0]
    assert row["threshold"] == 94 and row["alarms"] == 0.05 and row["share"] == 0.9
    assert row["low"] == pytest.approx(stats.beta.ppf(0.025, 9, 2)) and row["high"] == pytest.approx(
        stats.beta.ppf(0.975, 10, 1)
    )


def test_patients_not_scans_carry_an_evaluation():
    """Forty scans of four patients resolve nothing, and their interval is wider than that of forty patients."""
    rng = np.random.default_rng(1)
    whose = [f"p{i % 4}" for i in range(40)]
    offset = np.array([0.0, 1.0, 2.0, 3.0] * 10)
    no, yes = offset + rng.normal(0, 0.1, 40), offset + 1 + rng.normal(0, 0.1, 40)
    grouped, apart = evaluate(no, yes, (whose, whose)), evaluate(no, yes)
    assert grouped["patients"] == 4 and not any(row["resolvable"] for row in grouped["found"])
    assert grouped["auroc"]["value"] == apart["auroc"]["value"]
    widths = [one["auroc"]["high"] - one["auroc"]["low"] for one in (grouped, apart)]
    assert widths[0] != pytest.approx(widths[1], rel=0.05)
    assert "not resolvable: even if none of 4 patients gave one, the rate could be 52.7 %." in said(grouped)[-1]


# ---------------------------------------------------------------- the file


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(victim, scans, detector, its file)."""
    victim, images, found = fitted("lid", 16)
    path = tmp_path_factory.mktemp("detector") / "lid.safetensors"
    found.write(path)
    return victim, images, found, path


def test_a_file_gives_the_same_scores_to_the_last_bit_and_the_same_bytes(made, tmp_path):
    victim, images, found, path = made
    again = Detector.read(path)
    assert again.detect(victim, images[3]) == found.detect(victim, images[3])
    new = scans(30)[29]
    assert again.detect(victim, new) == found.detect(victim, new)
    again.write(str(tmp_path / "again.safetensors"))  # as docs/detectors.md does
    assert Detector.read(str(tmp_path / "again.safetensors")).threshold == found.threshold
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def changed(path, out, **told):
    """The same file with other words, or with `tensors` changed by a function."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        words = json.loads(file.metadata()["detector"])
    tensors = load_file(path)
    change = told.pop("tensors", None)
    if change is not None:
        tensors = change(tensors)
    words = {key: value for key, value in (words | told).items() if value is not None}
    save_file(tensors, out, metadata={"detector": json.dumps(words)})
    return out


def set_to(name, make):
    return lambda tensors: tensors | {name: make(tensors[name])}


HOSTILE = {
    "schema": {"schema": "perturbox-detector/9"},
    "no-schema": {"schema": None},
    "method": {"method": None},
    "groups": {"groups": []},
    "groups-of-numbers": {"groups": [1, 2, 3]},
    "layers": {"layers": {"0": 8.5}},
    "no-layers": {"layers": {}},
    "wide": {"layers": {"0": 9}},
    "rate": {"rate": 0},
    "rate-nan": {"rate": float("nan")},
    "facts": {"facts": [1]},
    "scans": {"facts": {"scans": 7}},
    "sha": {"sha256": 7},
    "few": {"tensors": set_to("clean", lambda t: t[:9].clone())},
    "nan": {"tensors": set_to("part|0|points", lambda t: t * float("nan"))},
    "infinite": {"tensors": set_to("clean", lambda t: t / 0)},
    "float32": {"tensors": set_to("clean", lambda t: t.float())},
    "shape": {"tensors": set_to("part|0|points", lambda t: t[:, :2].clone())},
    "length": {"tensors": set_to("part|0|points", lambda t: t[:5].clone())},
    "nobody": {"tensors": set_to("part|there", torch.zeros_like)},
    "lacks": {"tensors": lambda t: {k: v for k, v in t.items() if k != "part|known"}},
    "more": {"tensors": lambda t: t | {"part|more": torch.ones(1, dtype=torch.float64)}},
    "stranger": {"tensors": lambda t: t | {"stranger": torch.ones(1, dtype=torch.float64)}},
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_is_refused_in_a_sentence(what, made, tmp_path):
    path = changed(made[3], tmp_path / "bad.safetensors", **HOSTILE[what])
    with pytest.raises(InputError, match=r"^'.*bad\.safetensors' holds no detector, or is damaged; fit one with"):
        Detector.read(path)


def test_what_is_no_such_file_is_refused(made, tmp_path):
    with pytest.raises(InputError, match="There is no detector"):
        Detector.read(tmp_path / "none.safetensors")
    with pytest.raises(InputError, match="There is no detector"):
        Detector.read(tmp_path)
    pickled = tmp_path / "pickle.safetensors"
    torch.save({"a": torch.ones(1)}, pickled)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(made[3].read_bytes()[:-50])
    for path in (pickled, cut):
        with pytest.raises(InputError, match="holds no detector"):
            Detector.read(path)
    with pytest.raises(InputError, match=r"can't be used: Unknown detector '\.\./svm'"):
        Detector.read(changed(made[3], tmp_path / "path.safetensors", method="../svm"))


def test_layers_and_classes_that_the_model_lacks_are_refused(made, tmp_path):
    victim, images, _, path = made

    def renamed(tensors):
        return {key.replace("part|0|", "part|../0|"): tensor for key, tensor in tensors.items()}

    for told in ({"layers": {"../0": 8}, "tensors": renamed}, {"groups": ["x", "y", "z"]}):
        bad = Detector.read(changed(path, tmp_path / "bad.safetensors", **told))
        with pytest.raises(InputError, match="knows other layers or classes than textured has"):
            bad.detect(victim, images[0])


def test_a_detector_of_another_model_is_refused(made):
    _, images, found, _ = made
    with pytest.raises(InputError, match=r"fitted on another model \(textured\) than textured, or on other weights"):
        found.detect(victims.textured(2, network=victims.conv_net(2, seed=4)), images[0])


# ---------------------------------------------------------------- refusals


def refusal(call) -> str:
    with pytest.raises(InputError) as refused:
        call()
    assert str(refused.value).endswith((".", "?")) and "\n" not in str(refused.value)
    return str(refused.value)


REFUSED = {
    "unknown": ({"detector": "mahalanobi"}, "did you mean 'mahalanobis'?"),
    "few": ({"count": 9}, "9 clean patients are too few to set a threshold; give at least 10."),
    "patients": ({"patients": ["a"] * 12}, "1 clean patient is too few"),
    "unequal": ({"patients": ["a"]}, "1 patients are named for 12 clean scans"),
    "twice": ({"twice": True}, "Clean scan 2 is given twice"),
    "noise": ({"noise": "white"}, "The noise is one of equal-norm, none, not 'white'."),
    "rate": ({"rate": 0.7}, "above 0 and at most at 0.5, not at 0.7"),
    "unattacked": ({"detector": "svm"}, "svm learns from attacked scans too"),
    "hit-few": ({"detector": "svm", "hit": 3}, "Attacked scans of 3 patients are too few to learn from"),
    "other-size": ({"hit": 1, "shape": (9, 9)}, "Attacked scan 1 has the size of none of the clean scans"),
    "dropout": ({"detector": "bayesian"}, "textured has no dropout layers"),
    "layers": ({"detector": "entropy", "layers": ["0"]}, "entropy looks at no layers"),
    "no-layer": ({"layers": ["nine"]}, "The network has no layer 'nine'"),
    "single": ({"victim": "single"}, "has a single convolution, its prediction"),
    "defended": ({"victim": "defended"}, "without defences before it"),
    "ensemble": ({"victim": "ensemble"}, "made of several"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cant_be_fitted_is_refused_in_a_sentence(what):
    given, words = REFUSED[what]
    given = dict(given)
    victim = {
        None: lambda: victims.textured(2),
        "single": lambda: victims.textured(2, network=torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3, padding=1))),
        "defended": lambda: defend(victims.textured(2), "gaussian"),
        "ensemble": lambda: ensemble_of([victims.textured(2), victims.textured(2, name="b")]),
    }[given.pop("victim", None)]()
    images = scans(given.pop("count", 12))
    if given.pop("twice", False):
        images[1] = images[0]
    hit = scans(given.pop("hit", 0), given.pop("shape", (14, 12)))
    detector = given.pop("detector", "kernel-density")
    assert words in refusal(lambda: fit_detector(victim, detector, reads(images), reads(hit), **given))


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.delitem(sys.modules, "sklearn.covariance", raising=False)
    text = refusal(lambda: get("mahalanobis").fit(samples(12), []))
    assert text == (
        "Fitting this detector needs the extra 'study' (sklearn is missing); run `pip install 'perturbox[study]'`."
    )


def test_a_scan_without_any_known_class_is_refused():
    clean = samples(16)
    parts = get("lid").fit(clean, [])
    blank = samples(1)[0]
    blank.present[:] = False
    with pytest.raises(InputError, match="finds no class in this scan that the detector knows"):
        get("lid").raw(parts, blank)


@pytest.mark.parametrize(
    "pattern, words",
    [("(", "is no regular expression"), ("a", "one pair of brackets"), ("(x)", "matches nothing in case_1_a")],
)
def test_patterns_for_patients_are_refused_in_words(pattern, words):
    assert words in refusal(lambda: patients_of(["case_1_a", "case_1_b"], pattern))


def test_patients_are_what_the_brackets_match():
    assert patients_of(["case_1_a", "case_2_a", "case_1_b"], "case_([0-9])") == ["1", "2", "1"]
    assert patients_of(["a"], None) == []


# ---------------------------------------------------------------- an attack that knows of it


def test_without_its_weight_it_is_the_base_and_with_it_the_objective_is_lower_by_the_score(made, tmp_path):
    victim, images, found, path = made
    plain = attacked(images[2], victim, "pgd", 8.0, steps=2, loss="ce")
    told = {"base_settings": "loss=ce", "detector": str(path)}
    same, other = (attacked(images[2], victim, "evade", 8.0, steps=2, detector_weight=w, **told) for w in (0.0, 0.5))
    assert np.array_equal(plain.x_adv, same.x_adv) and [s.loss for s in plain.trace] == [s.loss for s in same.trace]
    score = float(found.score(victim.on(images[2]), as_input(images[2], victim.device)))
    start = attacked(images[2], victim, "evade", 0.0, steps=1, detector_weight=0.5, **told)
    bare = attacked(images[2], victim, "pgd", 0.0, steps=1, loss="ce")
    assert start.trace[0].loss == pytest.approx(bare.trace[0].loss - 0.5 * score, rel=1e-4)
    assert [s.loss for s in other.trace] != [s.loss for s in same.trace]


def test_at_equal_success_the_attack_that_knows_of_the_detector_scores_lower(tmp_path):
    """Of plain attacks at ever larger limits, the one that leaves hardly more Dice than the evading one, or as much."""
    victim, _, found = fitted("entropy", 16)
    found.write(tmp_path / "entropy.safetensors")
    new = victims.random_scan((24, 24), seed=77, affine=np.eye(4), dtype=np.dtype(np.float32))

    def outcome(name, eps, **settings):
        result = attacked(new, victim, name, eps, steps=30, **settings)
        seen = new.with_data(result.x_adv)
        clean, now = victim.predict(new), victim.predict(seen)
        there = [c for c in (1, 2) if (clean == c).any()]
        dice = np.mean([2 * ((clean == c) & (now == c)).sum() / ((clean == c).sum() + (now == c).sum()) for c in there])
        return dice, found.detect(victim, seen).score

    dice, score = outcome("evade", 12.0, detector=str(tmp_path / "entropy.safetensors"), detector_weight=0.03)
    assert dice < 0.95
    plain = [outcome("pgd", eps) for eps in (4.0, 5.0, 5.5, 6.0)]
    near = min(pair for pair in plain if pair[0] >= dice)
    assert near[0] < dice + 0.02 and near[1] > score + 0.3


@pytest.mark.parametrize("way", ["selective", "orthogonal"])
def test_one_at_a_time_keeps_what_the_detector_sees_least_of_among_what_is_wrong_enough(tmp_path, way):
    """At the same limit as a plain attack, which goes on to far less Dice and is seen far better."""
    victim, _, found = fitted("entropy", 16)
    found.write(tmp_path / "entropy.safetensors")
    new = victims.random_scan((24, 24), seed=77, affine=np.eye(4), dtype=np.dtype(np.float32))
    told = {"detector": str(tmp_path / "entropy.safetensors"), "way": way, "until": 0.95}
    plain = attacked(new, victim, "pgd", 12.0, steps=30)
    turns = attacked(new, victim, "evade", 12.0, steps=30, **told)
    kept = turns.best
    fooled = [step for step in turns.trace if step.score <= 0.95]
    assert kept.score <= 0.95 and kept.loss == max(step.loss for step in fooled)
    seen = [found.detect(victim, new.with_data(one.x_adv)).score for one in (plain, turns)]
    assert kept.loss == pytest.approx(-seen[1], abs=1e-4) and seen[1] < seen[0] - 0.3


def test_orthogonal_steps_leave_the_other_as_it_is(made):
    """The gradient that is followed is the part of its own that is at right angles to the other's."""
    victim, images, found, _ = made
    bound, x = victim.on(images[2]), as_input(images[2], victim.device).requires_grad_(True)

    class Judged:
        victim = bound

        def judge(self):
            return (self.score, {})

    model = Judged()

    def base(model, x, task, progress):
        return bound(x).square().mean()

    (up,) = torch.autograd.grad(base(model, x, None, 0), x)
    (hide,) = torch.autograd.grad(-found.score(bound, x), x)
    turns = InTurns(base, ToPass("none", {victim.name: found}), 1.0, until=0.5, orthogonal=True)
    for model.score, own, other in ((0.9, up, hide), (0.4, hide, up)):
        (followed,) = torch.autograd.grad(turns(model, x, None, 0.0), x)
        expected = own - (own * other).sum() / (other * other).sum() * other
        torch.testing.assert_close(followed, expected)
        assert abs(float((followed * other).sum())) < 1e-5 * float(followed.norm() * other.norm())


def test_it_is_refused_without_a_detector_and_with_that_of_another_model(made):
    victim, images, _, path = made
    with pytest.raises(InputError, match="evade needs a detector to pass"):
        recipe_of("evade", 8.0).check(victim, images[0])
    other = victims.textured(2, network=victims.conv_net(2, seed=4))
    with pytest.raises(InputError, match="fitted on another model"):
        recipe_of("evade", 8.0, detector=str(path)).check(other, images[0])
    with pytest.raises(InputError, match="evade adds to attacks that climb a loss"):
        recipe_of("evade", 8.0, base="hfc")


def test_what_it_costs_is_known(made):
    attack = recipe_of("evade", 8.0, detector=str(made[3])).attack
    assert next(attack.leaves()).queries == 2


# ---------------------------------------------------------------- Python and the command line


TINY = f"{tiny.__file__}:volume"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve clean scans and their attacked versions."""
    place = tmp_path_factory.mktemp("scans")
    for seed in range(12):
        hu = tiny.scan(seed=seed)
        nib.save(nib.Nifti1Image(hu, np.diag([2.0, 2.0, 3.0, 1.0])), place / f"case_{seed:02}.nii.gz")
        nib.save(
            nib.Nifti1Image((hu - 9).astype(np.int16), np.diag([2.0, 2.0, 3.0, 1.0])), place / f"hit_{seed:02}.nii.gz"
        )
    return place


def fit(folder, out, *more):
    line = ["fit-detector", "--victim", TINY, "--detector", "entropy", "--clean", str(folder / "case_*.nii.gz")]
    return main([*line, "--out", str(out), *more])


def test_the_command_line_fits_a_detector_and_asks_it(folder, tmp_path, capsys):
    out = tmp_path / "entropy.safetensors"
    assert fit(folder, out, "--attacked", str(folder / "hit_*.nii.gz")) == 0
    told = capsys.readouterr().out
    assert "Fitted Mean entropy of the answer on 12 clean scans of 12 patients by tiny." in told
    assert "about 7.7 % of clean scans like these do." in told and "For 5 % it needs 19 clean scans" in told
    assert re.search(r"AUROC 1\.00 .*12 attacked scans against 24 that aren't, of 12 patients\.", told)
    assert f"Detector: {out}" in told
    new = tiny.scan(seed=40)
    for name, hu in (("new", new), ("hit_new", (new - 9).astype(np.int16))):
        nib.save(nib.Nifti1Image(hu, np.diag([2.0, 2.0, 3.0, 1.0])), tmp_path / f"{name}.nii.gz")
    for name, fires in (("new", False), ("hit_new", True)):
        assert (
            main(["detect", str(tmp_path / f"{name}.nii.gz"), "--victim", TINY, "--detector", str(out), "--json"]) == 0
        )
        found = json.loads(capsys.readouterr().out)
        assert found["fires"] == fires and found["sentence"].startswith(
            "The detector" if fires else "The detector doesn't"
        )
        asked = px.detect(tmp_path / f"{name}.nii.gz", TINY, out)
        assert asked.to_json() == found
    assert main(["detect", str(tmp_path / "hit_new.nii.gz"), "--victim", TINY, "--detector", str(out)]) == 0
    assert capsys.readouterr().out.strip() == f"Mean entropy of the answer on tiny: {found['sentence']}"


def test_python_fits_the_same_detector_from_arrays_in_memory(folder, tmp_path):
    paths = sorted(folder.glob("case_*.nii.gz"))
    from_files = px.fit_detector(TINY, "entropy", paths)
    from_memory = px.fit_detector(TINY, "entropy", [nib.load(path) for path in paths])
    assert np.array_equal(from_files.clean, from_memory.clean) and len(from_files.clean) == 12


@pytest.mark.parametrize(
    "change, words",
    [
        (["--out", "d.txt"], "'d.txt' can't hold a detector; name --out something.safetensors."),
        (["--clean", "nothing_*.nii"], "--clean 'nothing_*.nii' matches no file"),
        (["--detector", "entropi"], "Unknown detector 'entropi'; did you mean 'entropy'?"),
        (["--patient", "case"], "needs one pair of brackets"),
    ],
)
def test_the_command_line_refuses_in_one_line(change, words, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert fit(folder, "e.safetensors", *change) == 2
    told = capsys.readouterr().err.strip()
    assert words in told and "\n" not in told


def test_what_would_be_overwritten_is_refused(folder, tmp_path, capsys):
    (tmp_path / "there.safetensors").write_text("mine")
    assert fit(folder, tmp_path / "there.safetensors") == 2
    assert (tmp_path / "there.safetensors").read_text() == "mine"


def test_the_list_of_detectors_as_a_table(capsys):
    assert main(["list", "detectors"]) == 0
    told = capsys.readouterr().out
    assert "mahalanobis" in told and "clean and attacked scans" in told and "Lee et al. 2018" in told


def test_dropout_gives_a_detector(tmp_path):
    victim, images, found = fitted("bayesian", 10, with_dropout())
    found.write(tmp_path / "b.safetensors")
    assert Detector.read(tmp_path / "b.safetensors").detect(victim, images[0]) == found.detect(victim, images[0])
