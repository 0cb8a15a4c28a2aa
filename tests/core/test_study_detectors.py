"""A study of detectors end to end: attacks climb until the answer has fallen, every score is that of a fit without the
patient, and every number of the page follows from the tables."""

import hashlib
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import victims
import yaml

pytest.importorskip("pyarrow", reason="studies need the extra 'study'")
pytest.importorskip("sklearn", reason="fitting detectors needs scikit-learn, of the extra 'study'")
import pandas as pd
from sklearn.metrics import roc_auc_score
from sklearn.svm import SVC
from test_study_recomputed import near

from perturbox import io
from perturbox.detectors.evaluation import Scores, auroc, difference
from perturbox.detectors.fitting import fit_detector
from perturbox.load import load_victim
from perturbox.studies import detected, detected_words, scoring, sights
from perturbox.studies.checks import check
from perturbox.studies.columns import DETECTORS
from perturbox.studies.design import Study
from perturbox.studies.drive import Driver
from perturbox.studies.plan import Plan, Target, kept_in
from perturbox.studies.pricing import price
from perturbox.studies.run import load, run_study
from perturbox.studies.watch import Shelf
from perturbox.types import InputError

VICTIM = f"{victims.__file__}:seeded"
CASES, LIMITS, SUCCESS = 11, (15, 30, 60), 0.62
TEXT = f"""\
schema: perturbox-study/1
name: seen
kind: detectors
models:
  net: {{victim: "{VICTIM}"}}
cases: {{images: "scan*.nii.gz"}}
attacks:
  - {{name: pgd, steps: 2}}
  - {{name: hfc, steps: 2, settings: {{feature_weight: 0}}, label: hfc 0}}
  - {{name: hfc, steps: 2, settings: {{feature_weight: 5}}, label: hfc 5}}
eps: {{values: [60, 15, 30]}}
detectors: [mahalanobis, svm, entropy]
success: {SUCCESS}
features_on: "other*.nii.gz"
corruptions: [offset]
grades: [2]
keep_worst: 1
"""
TABLES = ("results", "models", "cases", "checks", "scores", "detectors")


def written(folder, text, name="study.yaml"):
    (folder / name).write_text(text)
    return folder / name


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("seen")
    for seed in range(CASES + 2):
        hu = np.random.default_rng(seed).normal(0, 60, (10, 9, 8)).round().astype(np.int16)
        name = f"scan{seed:02d}" if seed < CASES else f"other{seed}"
        nib.save(nib.Nifti1Image(hu, np.diag([2.0, 2.0, 3.0, 1.0])), place / f"{name}.nii.gz")
    written(place, TEXT)
    return place


@pytest.fixture(scope="module")
def done(folder):
    return run_study(folder / "study.yaml", folder / "out")


@pytest.fixture(scope="module")
def plan(folder):
    return load(folder / "study.yaml")[0]


@pytest.fixture(scope="module")
def ledger(done):
    lines = (json.loads(line) for line in (done.out / "ledger.jsonl").read_text().splitlines())
    return {line["key"]: line for line in lines}


@pytest.fixture(scope="module")
def tables(done):
    return {name: pd.read_parquet(done.out / f"{name}.parquet") for name in TABLES}


def digests(out):
    return {name: hashlib.sha256((out / f"{name}.parquet").read_bytes()).hexdigest() for name in TABLES}


def crafted(out, craft):
    (file,) = kept_in(out / "crafts", craft.key).iterdir()
    return file


# ---------------------------------------------------------------- climbing


def test_an_attack_climbs_to_the_first_limit_at_which_the_answer_falls(done, plan, ledger):
    """Each file of each ladder read and segmented again: all but the last leave more, the last less or it is the
    largest."""
    victim, fell = load_victim(VICTIM), 0
    for ladder in plan.ladders:
        entry = ledger[ladder.key]
        assert [rung.eps for rung in ladder.rungs] == list(LIMITS)
        assert entry["rungs"] == [rung.key for rung in ladder.rungs][: len(entry["rungs"])]
        clean = victim.predict(io.read_volume(Path(plan.cases[ladder.case].image)))
        dice = []
        for rung in ladder.rungs[: len(entry["rungs"])]:
            after = victim.predict(io.read_volume(crafted(done.out, rung)))
            masks = [(clean == value, after == value) for value in (1, 2)]
            dice.append(np.mean([2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in masks]))
        assert all(value > SUCCESS for value in dice[:-1])
        assert (dice[-1] <= SUCCESS) == (entry["fell"] == entry["rungs"][-1])
        assert entry["fell"] is not None or len(dice) == len(LIMITS)
        for rung in ladder.rungs[len(entry["rungs"]) :]:
            assert rung.key not in ledger
        fell += entry["fell"] is not None
    assert 0 < fell < len(plan.ladders)  # both kinds are looked at


def test_rows_are_of_the_limits_that_were_tried(plan, ledger, tables):
    rows = tables["results"][tables["results"]["corruption"].isna()]
    tried = {
        (plan.study.attacks[ladder.attack].called, ladder.case, rung.eps)
        for ladder in plan.ladders
        for rung in ladder.rungs
        if rung.key in ledger[ladder.key]["rungs"]
    }
    assert set(rows[["attack", "case", "eps"]].itertuples(index=False, name=None)) == tried
    assert len(rows) == 2 * len(tried) and (rows["status"] == "ok").all()


def test_hfc_without_weight_is_the_attack_beneath_it(done, plan):
    """And with a weight another: its features are those of the other scans, which were fitted once."""
    crafts = {(plan.study.attacks[c.attack].called, c.case, c.eps): c for c in plan.crafts}
    for case in plan.cases:
        files = [nib.load(crafted(done.out, crafts[name, case, 15])) for name in ("pgd", "hfc 0", "hfc 5")]
        base, same, other = (file.get_fdata() for file in files)
        assert np.array_equal(base, same) and not np.array_equal(base, other)
    (features,) = (done.out / "features").glob("*/*/features.safetensors")
    assert features.parent.name == plan.fit_key("net", "features")
    job = plan.job(crafts["hfc 5", "scan00", 15], "cpu", done.out / "features")
    assert job.settings["features"] == str(features)


# ---------------------------------------------------------------- scores


def seen_of(plan, done, ledger, kind, attack):
    """{case: what svm looked at} of one kind of scan."""
    found = {}
    for ladder in plan.ladders:
        if plan.study.attacks[ladder.attack].called == attack and ledger[ladder.key]["fell"] is not None:
            found[ladder.case] = sights.read(kept_in(done.out / "seen", ladder.key))[kind]["svm"]
    return found


def test_scores_are_those_of_a_detector_fitted_on_the_same_files(folder, done, plan, tables, ledger):
    """By `fit_detector`, from the saved files: the numbers of the clean scans, and AUROC against these alone."""
    victim = load_victim(VICTIM)
    clean = [lambda path=scan.image: io.read_volume(Path(path)) for scan in plan.cases.values()]
    fell = [ledger[ladder.key]["fell"] for ladder in plan.ladders if ladder.attack == 0]
    crafts = {craft.key: craft for craft in plan.crafts}
    hits = [lambda c=crafts[key]: io.read_volume(crafted(done.out, c)) for key in fell if key is not None]
    for name in ("mahalanobis", "entropy"):
        made = fit_detector(victim, name, clean, hits, noise="none", patients=list(plan.cases))
        scores = tables["scores"][tables["scores"]["detector"] == name]
        mine = scores[scores["kind"] == "clean"].sort_values("case")
        assert mine["raw"].tolist() == near(made.clean.tolist())
        assert mine["score"].tolist() == near(made.of_raw(made.clean).tolist())
        told = tables["detectors"].query("detector == @name and attack == 'pgd' and positives == 'attacked'")
        assert told["auroc_clean"].item() == near(made.facts["evaluation"]["auroc"]["value"])


def test_a_learned_score_is_that_of_a_machine_that_never_saw_the_patient(done, plan, tables, ledger):
    """SVC by scikit-learn on the saved features, ten folds of the patients."""
    clean = {
        case: sights.read(kept_in(done.out / "seen", plan.sight_key(plan.clean_key("net", case))))["clean"]["svm"]
        for case in plan.cases
    }
    noise, hit = (seen_of(plan, done, ledger, kind, "pgd") for kind in ("noise", "attacked"))
    sets = {"clean": clean, "noise": noise, "attacked": hit}
    scores = tables["scores"].query("detector == 'svm' and fitted_on == 'pgd'")
    patients = list(plan.cases)
    for fold in range(10):
        out = set(patients[fold::10])

        def rows(kind, inside, out=out):
            return [sample for case, sample in sets[kind].items() if (case in out) == inside]

        calm, attacked = rows("clean", False) + rows("noise", False), rows("attacked", False)
        table = np.stack([next(iter(one.features.values())).numpy() for one in calm])
        there = np.stack([one.present.numpy() for one in calm])[..., None]
        count = there.sum(0).clip(1)
        means = (table * there).sum(0) / count
        variance = ((table - means) ** 2 * there).sum(0) / count
        scales = np.sqrt(variance + 1e-6 * variance.mean() + 1e-12)

        def vector(one, means=means, scales=scales):
            (features,) = one.features.values()
            return (((features.numpy() - means) / scales) * one.present.numpy()[:, None]).ravel()

        x = np.stack([vector(one) for one in (*calm, *attacked)])
        machine = SVC(kernel="rbf", class_weight="balanced").fit(x, [0] * len(calm) + [1] * len(attacked))
        for kind, by_case in sets.items():
            for case in out & set(by_case):
                told = scores[(scores["kind"] == kind) & (scores["case"] == case)]
                told = told[told["attack"].isna() | (told["attack"] == "pgd")]
                value = machine.decision_function([vector(by_case[case])])[0]
                assert (
                    told["raw"].item() == pytest.approx(value, abs=1e-6) and told["score"].item() == told["raw"].item()
                )


def test_what_was_seen_is_read_as_it_was_written(tmp_path):
    victim = load_victim(VICTIM)
    scan = victims.random_scan((10, 9, 8))
    found = sights.see(victim, {"clean": scan}, ["mahalanobis", "lid", "svm", "entropy", "shield"])
    sights.write(tmp_path, found)
    again = sights.read(tmp_path)
    for name, sample in found["clean"].items():
        same = again["clean"][name]
        assert list(same.features) == list(sample.features) and same.present.equal(sample.present)
        assert all(same.features[layer].equal(made) for layer, made in sample.features.items())
        assert (same.outputs is None) == (sample.outputs is None) == (name != "entropy")
    assert found["clean"]["mahalanobis"] is found["clean"]["lid"]  # two that look at the same look once


# ---------------------------------------------------------------- numbers of the page


def fallen(tables, attack):
    """By pandas, per case the first limit at which the mean of the structures is low enough; (those that fell, all)."""
    rows = tables["results"][tables["results"]["attack"] == attack]
    mean = rows.groupby(["case", "eps"])[["dice_against_clean", "rms", "dice", "dice_noise"]].mean().reset_index()
    low = mean[mean["dice_against_clean"] <= SUCCESS].sort_values("eps").groupby("case").head(1)
    return low, rows["case"].nunique()


def test_every_evaluation_follows_from_the_tables(done, tables):
    """By scikit-learn's AUROC from the scores, medians by pandas from the results."""
    scores, told = tables["scores"], tables["detectors"]
    attacked = told[told["positives"] == "attacked"]
    learned = {
        (row.detector, row.attack, None if pd.isna(row.fitted_on) else row.fitted_on) for row in attacked.itertuples()
    }
    assert learned == {
        *((name, attack, None) for name in ("mahalanobis", "entropy") for attack in ("pgd", "hfc 0", "hfc 5")),
        *(("svm", attack, base) for attack in ("hfc 0", "hfc 5") for base in ("pgd", attack)), ("svm", "pgd", "pgd"),
    }  # fmt: skip
    for row in told.itertuples():
        mine = scores[scores["detector"] == row.detector]
        mine = mine[mine["fitted_on"].isna() if pd.isna(row.fitted_on) else mine["fitted_on"] == row.fitted_on]
        if pd.isna(row.auroc):
            assert row.reason and (mine.empty or not len(fallen(tables, row.attack)[0]))
            continue
        own = mine["attack"].isna() | (mine["attack"] == row.attack)
        if row.positives == "corruption":
            yes = mine[(mine["corruption"] == row.corruption) & (mine["grade"] == row.grade)]
        else:
            yes = mine[own & (mine["kind"] == row.positives)]
        no = mine[own & (mine["kind"] != "attacked")] if row.positives == "attacked" else mine[mine["kind"] == "clean"]
        area = roc_auc_score([0] * len(no) + [1] * len(yes), [*no["score"], *yes["score"]])
        assert row.auroc == near(area) and (row.negatives, row.attacked) == (len(no), len(yes))
        assert row.low <= row.auroc <= row.high and row.least_rate == near(1 - 0.05 ** (1 / CASES))
        assert pd.isna(row.tpr_10) and pd.isna(row.tpr_1_low)  # so few patients resolve no rate
        if row.positives == "attacked":
            kinds = no.groupby("kind")["score"]
            for kind in ("clean", "noise", "rolled", "corruption"):
                part = kinds.get_group(kind)
                both = roc_auc_score([0] * len(part) + [1] * len(yes), [*part, *yes["score"]])
                assert getattr(row, f"auroc_{kind}") == near(both)
            low, scans = fallen(tables, row.attack)
            assert (row.fell, row.scans) == (len(low), scans)
            assert row.rms == near(low["rms"].median()) and row.eps == low["eps"].median()
            assert row.agreement == near(low["dice_against_clean"].median())
    assert set(told["positives"]) == {"attacked", "noise", "rolled", "corruption"}


def test_the_page_holds_them_and_claims_nothing_of_so_few(done, tables):
    found = json.loads((done.out / "study.json").read_text())["found"]
    page = (done.out / "report.html").read_text(encoding="utf-8")
    row = next(row for row in found["evaluations"] if row["positives"] == "attacked" and row["auroc"] is not None)
    assert f"<td>{row['auroc']:.2f} [{row['low']:.2f}, {row['high']:.2f}]</td>" in page
    assert "not resolvable" in page and "AUROC" in page and "<script" not in page
    assert {claim["answer"] for claim in found["claims"]} == {"can't be told"}
    assert f"{CASES} patients: nothing is claimed of pgd on fewer than 30." in page
    assert "too few to say who sees it (30 are asked for, of whom it must break 10)" in done.said[0]
    same = next(row for row in found["claims"] if row["claim"] == "hides" and row["attack"] == "hfc 0")
    assert (same["first"], same["value"], same["low"], same["high"]) == (same["second"], 0.0, 0.0, 0.0)
    low, scans = fallen(tables, "pgd")
    assert done.said[0].startswith(f"pgd breaks {len(low)} of {scans} patients (net) by a median RMS ")
    card = yaml.safe_load((done.out / "card.yaml").read_text())
    assert card["threat_model"]["broken_at_equal_success"]["net, pgd"] == f"{len(low)} of {scans} scans"
    assert (done.out / found["worst_cases"][0]["case"]).name.startswith("scan")
    assert sum(1 for _ in (done.out / "worst").glob("*/report.html")) == 1


def test_it_is_priced_and_shown(folder, done, plan, ledger):
    cost = price(plan, 1)
    assert (cost.crafts, cost.judgements, cost.looks) == (3 * 3 * CASES, 3 * 3 * CASES, CASES)
    assert Plan.read(json.loads(json.dumps(plan.document()))) == plan
    look = Shelf(folder).look("out")
    pieces = 1 + 2 * CASES + 3 * CASES + 2 * CASES  # features, clean looks and sights, ladders, changed ones
    assert (look.state, look.all) == ("done", pieces) and len(set(plan.pieces())) == pieces
    effort = pd.read_parquet(done.out / "effort.parquet")
    assert len(effort) == len(ledger) == pieces + 2 * sum(effort["kind"] == "craft")


# ---------------------------------------------------------------- again


@pytest.mark.slow
def test_the_same_bytes_whoever_does_it_and_after_a_loss(folder, done, plan, ledger, tmp_path):
    other = run_study(folder / "study.yaml", tmp_path / "two", workers=2)
    assert digests(other.out) == digests(done.out)
    shutil.copytree(done.out, tmp_path / "out")
    broken = next(ladder for ladder in plan.ladders if ledger[ladder.key]["fell"] is not None)
    shutil.rmtree(kept_in(tmp_path / "out" / "seen", broken.key))
    lines = (tmp_path / "out" / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "out" / "ledger.jsonl").write_bytes(b"".join(lines[:-7]) + lines[-7][:-30])
    assert run_study(folder / "study.yaml", tmp_path / "out") is not None
    assert digests(tmp_path / "out") == digests(done.out)


def test_another_success_uses_the_crafts_that_are_there(folder, done, tables, tmp_path):
    """A looser one needs no new craft, and rows of limits beyond it are left out."""
    shutil.copytree(done.out, tmp_path / "out")
    before = len((tmp_path / "out" / "ledger.jsonl").read_text().splitlines())
    looser = TEXT.replace(f"success: {SUCCESS}", "success: 0.75").replace("keep_worst: 1", "keep_worst: 0")
    run_study(written(folder, looser, "looser.yaml"), tmp_path / "out")
    added = [json.loads(line) for line in (tmp_path / "out" / "ledger.jsonl").read_text().splitlines()[before:]]
    assert [line["kind"] for line in added] == ["ladder"] * 3 * CASES
    table = pd.read_parquet(tmp_path / "out" / "results.parquet")
    table = table[table["corruption"].isna()]
    mean = table.groupby(["attack", "case", "eps"])["dice_against_clean"].mean()
    for _, series in mean.groupby(["attack", "case"]):
        assert (series.iloc[:-1] > 0.75).all()
    assert len(table) < len(tables["results"][tables["results"]["corruption"].isna()])


def test_what_failed_is_told_and_tried_again_when_asked(done, plan, ledger):
    """A sight that failed, and a limit of a ladder that a scan's file couldn't hold."""
    sight, ladder = plan.sight_key(plan.clean_key("net", "scan03")), plan.ladders[4]
    broken = {**ledger, sight: {"key": sight, "kind": "sight", "status": "failed", "reason": "no memory"}}
    assert scoring.unseen(plan, broken) == ["no memory"] and scoring.unseen(plan, ledger) == []
    scores, unfitted = scoring.score(plan, broken, done.out / "seen", set())
    assert not unfitted.keys() & {("net", "entropy", None)} and "scan03" not in {row["case"] for row in scores}
    rung = {"key": ladder.rungs[0].key, "kind": "craft", "status": "failed", "reason": "too small"}
    for again, missing in ((False, []), (True, [ladder.key])):
        driver = Driver(plan, done.out, again=again)
        tasks = [task for task in driver.missing({**ledger, rung["key"]: rung}) if "ladder" in task.document]
        assert [key for task in tasks for key in task.keys] == missing
    entries = [one["craft"]["entry"] for one in tasks[0].document["ladder"]["rungs"]]
    assert entries[0] is None and all(entry["status"] == "ok" for entry in entries[1:] if entry)


def test_without_its_features_an_attack_is_not_made(folder, tmp_path):
    """Other scans that the model can't read: HFC's ladders fail with the reason, without a path, PGD's don't."""
    nib.save(nib.Nifti1Image(np.zeros((4, 4), np.int16), np.eye(4)), folder / "flat.nii.gz")
    text = TEXT.replace('"other*.nii.gz"', '"flat.nii.gz"').replace("keep_worst: 1", "keep_worst: 0")
    text = text.replace("corruptions: [offset]\ngrades: [2]\n", "").replace("[60, 15, 30]", "[60]")
    done = run_study(written(folder, text, "unfitted.yaml"), tmp_path / "out")
    lines = [json.loads(line) for line in (done.out / "ledger.jsonl").read_text().splitlines()]
    failed = [line for line in lines if line["status"] == "failed"]
    assert [line["kind"] for line in failed] == ["features"] + ["ladder"] * 2 * CASES
    assert all("features of clean scans couldn't be fitted: " in line["reason"] for line in failed[1:])
    assert not any(str(folder) in line["reason"] for line in failed)
    assert [row["attack"] for row in done.found["attempts"]] == ["pgd"]
    assert "unseen" in {finding.rule for finding in done.findings}


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("old", "new", "line", "piece"),
    [
        ("detectors: [mahalanobis, svm, entropy]\n", "", 1, "a detectors study needs `detectors`, as in"),
        ("[mahalanobis,", "[mahalanobi,", 12, "Unknown detector 'mahalanobi'; did you mean 'mahalanobis'?"),
        ("[mahalanobis,", "[svm,", 12, "'detectors': 'svm' stands there twice"),
        (f"success: {SUCCESS}", "success: 1", 13, "'success' can't be 1: input should be less than 1"),
        ('features_on: "other*.nii.gz"\n', "", 1, "hfc 0 hides among features of clean scans; name others"),
        ("keep_worst: 1", "criterion: {eps: 15, dice: 0.5}", 1, "`criterion` is of one limit"),
        ("kind: detectors", "kind: curve", 1, "`detectors` belongs to a study of kind detectors"),
        ("corruptions: [offset]", "corruptions: [offst]", 15, "There is no corruption 'offst'"),
        ("corruptions: [offset]\n", "", 1, "`grades` are of `corruptions`; name some"),
        ("eps: {values: [60, 15, 30]}\n", "", 1, "'eps' is missing"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_with_its_line(folder, old, new, line, piece):
    assert old in TEXT
    with pytest.raises(InputError) as error:
        load(written(folder, TEXT.replace(old, new, 1), "wrong.yaml"))
    assert f"wrong.yaml, line {line}: " in str(error.value) and piece in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "piece"),
    [
        ('"scan*.nii.gz"', '"scan0[0-8]*.nii.gz"', "`cases` has 9 patients; a detectors study needs 10 to fit"),
        ('"other*.nii.gz"', '"scan00.nii.gz"', "'scan00' of `features_on` and 'scan00' of `cases` are of the same"),
        ("svm, entropy", "bayesian", "The model 'net': textured has no dropout layers"),
        ("  - {name: hfc, steps: 2, settings: {feature_weight: 0}, label: hfc 0}\n"
         "  - {name: hfc, steps: 2, settings: {feature_weight: 5}, label: hfc 5}\n", "",
         "`features_on` is for hfc without `features` of its own"),
    ],
)  # fmt: skip
def test_what_cannot_answer_is_refused(folder, old, new, piece):
    assert old in TEXT
    with pytest.raises(InputError) as error:
        load(written(folder, TEXT.replace(old, new, 1), "wrong.yaml"))
    assert piece in str(error.value) and "\n" not in str(error.value)


# ---------------------------------------------------------------- claims, from scores by hand


def design(**more):
    return Study.model_validate(
        {
            "schema": "perturbox-study/1", "name": "s", "kind": "detectors", "models": {"m": {"victim": "v"}},
            "cases": {"images": "x"}, "eps": {"values": [5, 10]}, "detectors": ["entropy"], "features_on": ["y"],
            "attacks": [{"name": "pgd"}, {"name": "hfc"}], **more,
        }
    )  # fmt: skip


def made(attacked, hidden, patients=40, fell=40, spread=0.1):
    """(rows, scores): both attacks broke the first `fell` patients, at 10; their scores lie so far above clean ones."""
    rng, rows, scores = np.random.default_rng(0), [], []
    common = {"target": "m", "surrogate": "m", "status": "ok", "corruption": None, "structure": "s", "seed": 0}
    common |= {"dice_clean": 0.9, "dice_noise": 0.9, "dice_rolled": 0.9, "volume_clean": 1.0, "reason": None}
    about = {"model": "m", "detector": "entropy", "fitted_on": None, "corruption": None, "grade": None, "seed": 0}
    for number in range(patients):
        who = {"case": f"c{number}", "patient": f"p{number}"}
        scores.append({**about, **who, "kind": "clean", "attack": None, "eps": None, "score": rng.normal(0, spread)})
        for attack, shift in (("pgd", attacked), ("hfc", hidden)):
            for eps, dice in ((5.0, 0.9), (10.0, 0.4 if number < fell else 0.8)):
                numbers = {"eps": eps, "eps_native": 2 * eps, "rms": eps, "dice": dice, "dice_against_clean": dice}
                rows.append(
                    {**common, **who, "attack": attack, **numbers, "linf": eps, "verdict": "held", "repeats": True}
                )
            for kind, more in (("attacked", shift), ("noise", 0), ("rolled", 0)) if number < fell else ():
                score = rng.normal(more, spread)
                scores.append({**about, **who, "kind": kind, "attack": attack, "eps": 10.0, "score": score})
    return rows, scores


@pytest.mark.parametrize(
    ("given", "sees", "hides"),
    [
        (made(1.0, 0.0), "not found", "found"),  # of hfc
        (made(1.0, 1.0), "found", "not found"),
        (made(0.2, 1.0), "found", "not found"),
        (made(1.0, 0.0, patients=29, fell=29), "can't be told", "can't be told"),
        (made(1.0, 0.0, fell=9), "can't be told", "can't be told"),
    ],
)
def test_what_is_claimed(given, sees, hides):
    study = design()
    rows, scores = given
    found = detected.analyse(study, rows, scores, {})
    answers = {(row["attack"], row["claim"]): row["answer"] for row in found["claims"]}
    assert (answers["hfc", "sees"], answers["hfc", "hides"]) == (sees, hides) and ("pgd", "hides") not in answers
    (first, second) = found["attempts"]
    assert first["rms"] == 5.0 and first["eps"] == 10.0  # 10 HU of 2 HU each
    assert first["patients_fell"] == second["fell"] == sum(s["kind"] == "attacked" for s in scores) / 2
    plan = Plan(study, {"m": Target("m", "v", "x", ("s",), "HU")}, {}, {}, [], [])
    said = detected_words.verdict(plan, found)
    if sees != "can't be told":
        assert f"seen by {int(sees == 'found')} of 1 fitted detector" in said[1]
        assert f"it hides, in part at least, from {int(hides == 'found')} of them, compared with pgd" in said[1]
        assert said[-1].startswith("No detector sees changes as large that aim at nothing")
        rates = next(row for row in found["evaluations"] if row["attack"] == "pgd")
        assert rates["tpr_10"] is not None and rates["tpr_5"] is None  # 40 patients resolve 7.2 %
    else:
        assert "too few to say who sees it" in said[1] and len(said) == 2
    sentences = [detected_words.claim(row) for row in found["claims"]]
    assert all(row["answer"] in sentence for row, sentence in zip(found["claims"], sentences, strict=True))
    assert set(DETECTORS) >= set(found["evaluations"][0])


def test_a_detector_that_could_not_be_fitted_is_the_reason_given():
    """Not too few patients, of whom there are enough."""
    study, why = design(), "entropy isn't finite on three scans"
    rows, _ = made(1.0, 0.0)
    found = detected.analyse(study, rows, [], {("m", "entropy", None): why})
    plan = Plan(study, {"m": Target("m", "v", "x", ("s",), "HU")}, {}, {}, [], [])
    assert detected_words.verdict(plan, found)[0].endswith(f": no detector could be asked ({why}).")
    sees = [detected_words.claim(row) for row in found["claims"] if row["claim"] == "sees"]
    assert sees and all(sentence.endswith(f"sees it: can't be told; {why}.") for sentence in sees)


def test_a_detector_that_sees_noise_too_is_objected_to():
    rows, scores = made(1.0, 1.0)
    shifted = [{**one, "score": one["score"] + 2 * (one["kind"] == "noise")} for one in scores]
    study = design()

    def rules(scores):
        return {(f.rule, f.level) for f in check(study, rows, detected.analyse(study, rows, scores, {}))}

    assert ("sees-no-attack", "loud") in rules(shifted) and ("sees-no-attack", "loud") not in rules(scores)
    assert not {rule for rule, _ in rules(scores)} & {"few-patients", "nothing-broken", "more-is-less"}
    few, of_few = made(1.0, 1.0, fell=3)
    found = detected.analyse(study, few, of_few, {})
    assert "nothing-broken" in {finding.rule for finding in check(study, few, found)}


def test_a_difference_of_areas_is_that_of_the_patients_both_have():
    """By pairs counted one by one; the same scores differ by 0 in every resample, opposite ones by 1 or -1."""
    names = [f"p{i}" for i in range(6)]
    low, high = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [1.1, 1.2, 1.3, 1.4, 1.5, 1.6]
    whose = (names, names)
    seen, hidden = Scores(low, high, whose), Scores(high, low, whose)
    assert difference(seen, seen) | {"first": 1.0} == {
        "first": 1.0, "second": 1.0, "value": 0.0, "low": 0.0, "high": 0.0, "patients": 6,
    }  # fmt: skip
    assert [difference(seen, hidden)[key] for key in ("value", "low", "high")] == [1.0, 1.0, 1.0]
    mixed = Scores(low, [0.35, 0.15, 9.0], (names, ["p0", "p1", "p7"]))  # p7 is attacked in one alone
    told = difference(seen, mixed)
    pairs = [(x, y) for x in low[:2] for y in (0.35, 0.15)]
    assert told["patients"] == 2 and told["second"] == near(np.mean([y > x for x, y in pairs]))
    assert told["first"] == near(auroc(np.array(low[:2]), np.array(high[:2])))
    with pytest.raises(ValueError, match="no patient"):
        difference(seen, Scores(low, [1.0], (names, ["x"])))
