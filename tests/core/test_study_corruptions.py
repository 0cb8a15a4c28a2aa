"""A study of ordinary changes end to end: every row is what the changed scan does, every number of the page follows
from the Parquet file by pandas, and the check that objects has its fault and its honest twin."""

import hashlib
import json

import numpy as np
import pytest
import tiny

from perturbox.types import InputError

pytest.importorskip("pyarrow", reason="studies need the extra 'study'")
pytest.importorskip("torchio", reason="ordinary changes need the extra 'study'")
import pandas as pd
from test_study_statistics import HONEST, patients, rules, study

from perturbox import io
from perturbox.corruptions.change import corrupt
from perturbox.load import load_victim
from perturbox.studies.run import load, run_study

VICTIM = f"{tiny.__file__}:volume"
TEXT = f"""\
schema: perturbox-study/1
name: tiny
kind: corruptions
models:
  tiny: {{victim: "{VICTIM}"}}
cases:
  images: "scan*.nii.gz"
attacks:
  - {{name: pgd, steps: 2}}
eps: {{values: [10]}}
corruptions: [offset, slices, motion]
grades: [1, 4]
keep_worst: 0
"""
TABLES = ("results", "models", "cases", "checks")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("study")
    for seed in range(3):
        tiny.write_scan(place / f"scan{seed}.nii.gz", seed=seed)
    (place / "study.yaml").write_text(TEXT.replace(", motion", ", dose"))
    return place


@pytest.fixture(scope="module")
def told():
    return []


@pytest.fixture(scope="module")
def done(folder, told):
    return run_study(folder / "study.yaml", folder / "out", tell=told.append)


@pytest.fixture(scope="module")
def rows(done):
    return pd.read_parquet(done.out / "results.parquet")


def test_progress_counts_what_comes_after_the_attacks_too(done, told):
    """3 clean looks, 3 attacks, and a task for each case and change."""
    assert [(progress.done, progress.all) for progress in told] == [(n, 15) for n in range(1, 16)]


def test_a_row_is_what_the_changed_scan_does(folder, done, rows):
    victim = load_victim(VICTIM)
    for seed in range(3):
        image = io.read_volume(folder / f"scan{seed}.nii.gz")
        before = victim.predict(image)
        mine = rows[(rows["case"] == f"scan{seed}") & rows["corruption"].isin(["offset", "slices"])]
        assert len(mine) == 2 * 3 * 2  # changes × (two grades, one size) × structures
        attack = rows[(rows["case"] == f"scan{seed}") & rows["corruption"].isna()]["rms"].iloc[0]
        for (name, grade), part in mine.groupby(["corruption", "grade"], dropna=False):
            matched = pd.isna(grade)
            scan = corrupt(image, name, 1 if matched else int(grade), rms=attack if matched else None)
            after = victim.predict(scan)
            change = scan.data.astype(float) - image.data
            for structure, value in victim.structures.items():
                row = part[part["structure"] == structure].iloc[0]
                a, b = before == value, after == value
                assert row["dice"] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()), abs=1e-12)
                assert row["rms"] == pytest.approx(np.sqrt(np.mean(change**2)), rel=1e-12)
                assert row["linf"] == np.abs(change).max()
                assert row["attack"] == "pgd" if matched else pd.isna(row["attack"])
            if matched:
                assert np.sqrt(np.mean(change**2)) == pytest.approx(attack, rel=0.01)


def test_what_cannot_be_changed_is_failed_with_a_reason(rows):
    """The tiny liver is too small to measure noise in: dose has nothing to start from."""
    failed = rows[rows["status"] == "failed"]
    assert set(failed["corruption"]) == {"dose"} and len(failed) == 3 * 3 * 2
    assert all("there is no dose to lower" in reason for reason in failed["reason"])


def test_every_number_follows_from_the_parquet_alone(done, rows):
    """Written again with nothing but pandas and SciPy, to 1e-12."""
    from scipy import stats

    good = rows[(rows["status"] == "ok") & rows["dice"].notna()].assign(drop=lambda t: t["dice_clean"] - t["dice"])
    record = json.loads((done.out / "study.json").read_text())["found"]
    assert len(record["corruptions"]) == 2 * (1 + 2 + 2 * 2)  # structures × (attack, as large, grades)
    for told in record["corruptions"]:
        part = good[(good["target"] == told["model"]) & (good["structure"] == told["structure"])]
        for key in ("corruption", "grade", "attack", "eps"):
            part = part[part[key].isna()] if told[key] is None else part[part[key] == told[key]]
        each = part.groupby("patient")[["dice", "rms", "dice_clean"]].mean()
        assert len(each) == told["n"] == 3
        assert each.mean().to_dict() == pytest.approx({key: told[key] for key in each}, abs=1e-12)
        values = each["dice"].to_numpy().round(12)
        if np.ptp(values):
            rng = np.random.default_rng(0)
            ends = stats.bootstrap((values,), np.mean, n_resamples=9999, rng=rng).confidence_interval
            assert (told["low"], told["high"]) == pytest.approx((ends.low, ends.high), abs=1e-12)
        else:
            assert told["low"] == told["high"] == pytest.approx(values[0], abs=1e-12)
    (beside,) = record["beside"]

    def fall(part):
        return part.groupby("patient")["drop"].mean().mean()

    attack = good[good["corruption"].isna()]
    same = good[good["corruption"].notna() & good["grade"].isna()]
    assert beside["drop"] == pytest.approx(fall(attack), abs=1e-12)
    assert beside["rms"] == pytest.approx(attack.groupby("patient")["rms"].mean().mean(), abs=1e-12)
    assert beside["same_rms"] == pytest.approx({n: fall(part) for n, part in same.groupby("corruption")}, abs=1e-12)
    assert beside["worst"] == max(beside["same_rms"], key=beside["same_rms"].get)
    graded = {key: fall(part) for key, part in good[good["grade"].notna()].groupby(["corruption", "grade"])}
    mildest = {}
    for (name, grade), drop in sorted(graded.items()):
        if drop >= fall(attack):
            mildest.setdefault(name, (grade, drop))
    assert {bad["corruption"]: (bad["grade"], bad["drop"]) for bad in beside["as_bad"]} == {
        name: (grade, pytest.approx(drop, abs=1e-12)) for name, (grade, drop) in mildest.items()
    }


def test_curves_and_verdicts_are_the_attack_s_alone(done, rows):
    assert (
        {row["attack"] for row in done.found["curves"]} == {"pgd"} == {row["attack"] for row in done.found["verdicts"]}
    )
    assert sum(row["cases"] for row in done.found["verdicts"]) == 3 * 2


def test_the_page_and_the_card_tell_it(done):
    page = (done.out / "report.html").read_text()
    assert "Ordinary changes beside the attack" in page and "as large as pgd, 10 HU" in page
    assert "<script" not in page
    beside = done.found["beside"][0]
    assert f"{beside['worst']} as large takes {beside['same_rms'][beside['worst']]:.2f}" in done.said[0]
    assert "ordinary_changes:\n  - offset" in (done.out / "card.yaml").read_text()
    assert "offset (MONAI), slices (TorchIO)" in page


@pytest.mark.slow
def test_the_same_study_gives_the_same_bytes_whoever_does_it(folder, done):
    def digests(out):
        return {name: hashlib.sha256((out / f"{name}.parquet").read_bytes()).hexdigest() for name in TABLES}

    again = run_study(folder / "study.yaml", folder / "again", workers=2)
    assert digests(again.out) == digests(done.out)
    ledger = folder / "again" / "ledger.jsonl"
    before = len(ledger.read_text().splitlines())
    (folder / "more.yaml").write_text((folder / "study.yaml").read_text().replace("[1, 4]", "[1, 3, 4]"))
    run_study(folder / "more.yaml", folder / "again")
    added = [json.loads(line)["kind"] for line in ledger.read_text().splitlines()[before:]]
    assert added == ["corruption"] * 9  # one grade of three changes in three cases


def test_what_happens_to_mr_is_refused_of_a_model_of_ct(folder):
    (folder / "wrong.yaml").write_text(TEXT.replace("offset, slices, ", ""))
    with pytest.raises(InputError, match="motion is something that happens to MR, so it says nothing of CT"):
        load(folder / "wrong.yaml")


@pytest.mark.parametrize(
    ("given", "piece"),
    [
        ("corruptions: [dose, motion]", "line 11: 'corruptions': dose happens to CT and motion to MR"),
        ("corruptions: [dsoe]", "line 11: 'corruptions': There is no corruption 'dsoe'; did you mean 'dose'?"),
        ("corruptions: [dose, dose]", "line 11: 'corruptions': 'dose' stands there twice"),
        ("grades: [0]", "line 11: 'grades.0' can't be 0"),
        ("grades: [2, 2]", "line 11: 'grades': '2' stands there twice"),
    ],
)
def test_wrong_changes_are_refused_with_their_line(folder, given, piece):
    (folder / "wrong.yaml").write_text(TEXT[: TEXT.index("corruptions: [")] + given + "\n")
    with pytest.raises(InputError) as error:
        load(folder / "wrong.yaml")
    assert piece in str(error.value) and "\n" not in str(error.value)


def test_changes_belong_to_their_kind(folder):
    (folder / "wrong.yaml").write_text(TEXT.replace("kind: corruptions", "kind: curve").replace(", motion", ""))
    with pytest.raises(InputError, match="belong to a study of kind corruptions"):
        load(folder / "wrong.yaml")


def test_an_ordinary_change_as_good_as_the_attack_is_objected_to():
    design = study("corruptions")

    def changed(dice, **told):
        return patients(dice=dice, corruption="slices", **told)

    assert rules(design, HONEST + changed(0.6, grade=None)) == {"ordinary-is-as-good": "loud"}
    assert rules(design, HONEST + changed(0.88, grade=None)) == {}
    assert (
        rules(design, HONEST + changed(0.3, grade=5, attack=None, eps=None)) == {}
    )  # larger than the attack: no fault
