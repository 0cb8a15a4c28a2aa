"""A study of detectors in which attacks are told to pass one: it is fitted on other patients' scans, known by its
contents, and what passes it is compared with the attack it is made of."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import victims
import yaml

pytest.importorskip("pyarrow", reason="studies need the extra 'study'")
pytest.importorskip("sklearn", reason="fitting detectors needs scikit-learn, of the extra 'study'")
import pandas as pd

import perturbox as px
from perturbox import io
from perturbox.detectors import shipped
from perturbox.detectors.fitted import Detector
from perturbox.detectors.shipped import place
from perturbox.load import load_victim
from perturbox.studies import detected, detected_words, pricing
from perturbox.studies.design import Study
from perturbox.studies.gather import _files
from perturbox.studies.plan import Plan, Target, kept_in
from perturbox.studies.pricing import price
from perturbox.studies.run import load, run_study
from perturbox.types import InputError

VICTIM = f"{victims.__file__}:seeded"
PATIENTS, EPS = 10, 40
TEXT = f"""\
schema: perturbox-study/1
name: passed
kind: detectors
models:
  net: {{victim: "{VICTIM}"}}
cases: {{images: "scan*.nii.gz"}}
attacks:
  - {{name: pgd, steps: 2}}
  - {{name: evade, steps: 2, settings: {{detector: mahalanobis, detector_weight: 0}}, label: evade 0}}
  - {{name: evade, steps: 2, settings: {{detector: mahalanobis, detector_weight: 5}}, label: evade 5}}
eps: {{values: [{EPS}]}}
detectors: [mahalanobis, entropy]
success: 0.8
features_on: "other*.nii.gz"
keep_worst: 0
"""


def written(folder, text, name):
    (folder / name).write_text(text)
    return folder / name


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("passed")
    for seed in range(2 * PATIENTS):
        hu = np.random.default_rng(seed).normal(0, 60, (8, 8, 8)).round().astype(np.int16)
        name = f"scan{seed}" if seed < PATIENTS else f"other{seed}"
        nib.save(nib.Nifti1Image(hu, np.diag([2.0, 2.0, 3.0, 1.0])), place / f"{name}.nii.gz")
    written(place, TEXT, "study.yaml")
    return place


@pytest.fixture(scope="module")
def done(folder):
    return run_study(folder / "study.yaml", folder / "out")


@pytest.fixture(scope="module")
def plan(folder):
    return load(folder / "study.yaml")[0]


def keys(folder, text, name):
    plan = load(written(folder, text, name))[0]
    return {(plan.study.attacks[craft.attack].called, craft.case): craft.key for craft in plan.crafts}


def test_the_detector_is_the_one_that_is_fitted_on_the_other_scans(folder, done, plan):
    (file,) = (done.out / "features").glob("*/*/mahalanobis.safetensors")
    assert file.parent.name == plan.fit_key("net", "mahalanobis")
    mine = px.fit_detector(VICTIM, "mahalanobis", clean=[scan.image for scan in plan.features_on])
    found = Detector.read(file)
    assert found.threshold == mine.threshold
    victim, scan = load_victim(VICTIM), io.read_volume(folder / "scan0.nii.gz")
    assert found.detect(victim, scan).score == mine.detect(victim, scan).score
    craft = next(craft for craft in plan.crafts if plan.study.attacks[craft.attack].called == "evade 5")
    assert plan.job(craft, "cpu", done.out / "features").settings["detector"] == str(file)


def test_without_weight_it_is_the_attack_beneath_it_and_with_weight_another(done, plan):
    crafts = {(plan.study.attacks[craft.attack].called, craft.case): craft for craft in plan.crafts}
    moved = 0
    for case in plan.cases:
        base, same, other = (
            nib.load(next(kept_in(done.out / "crafts", crafts[name, case].key).iterdir())).get_fdata()
            for name in ("pgd", "evade 0", "evade 5")
        )
        assert np.array_equal(base, same)
        moved += not np.array_equal(base, other)
    assert moved == len(plan.cases)


def test_it_is_compared_with_the_attack_it_is_made_of(done, plan):
    assert detected.base_of(plan.study, "evade 5").called == "pgd"
    claims = [row for row in done.found["claims"] if row["claim"] == "hides"]
    assert {(row["attack"], row["from"]) for row in claims} == {("evade 0", "pgd"), ("evade 5", "pgd")}
    assert all(row["answer"] == detected.UNKNOWN for row in claims)  # ten patients carry no claim
    said = detected_words.methods(plan)
    assert "(the mahalanobis detector that evade passes) was fitted on 10 scans of other patients" in said
    rows = pd.read_parquet(done.out / "detectors.parquet")
    assert set(rows["attack"]) == {"pgd", "evade 0", "evade 5"}


def test_what_is_passed_counts_by_what_it_was_fitted_on_and_a_file_by_its_contents(folder, plan):
    here = {(plan.study.attacks[craft.attack].called, craft.case): craft.key for craft in plan.crafts}
    fewer = keys(folder, TEXT.replace('"other*.nii.gz"', '"other1*.nii.gz"'), "same.yaml")
    assert here == fewer  # the same scans by another pattern
    scans = io.read_volume(folder / "other10.nii.gz").data[0]
    nib.save(nib.Nifti1Image((scans + 1).astype(np.int16), np.eye(4)), folder / "more.nii.gz")
    more = keys(folder, TEXT.replace('"other*.nii.gz"', '["other*.nii.gz", more.nii.gz]'), "more.yaml")
    assert {name for name in here if here[name] != more[name]} == {n for n in here if n[0] != "pgd"}

    for number, name in enumerate(("one", "two")):
        scans = [str(path) for path in sorted(folder.glob("other*.nii.gz"))]
        fitted = px.fit_detector(VICTIM, "mahalanobis", clean=scans, rate=0.05 + number / 10)
        fitted.write(folder / f"{name}.safetensors")
    brought = TEXT.replace("detector: mahalanobis", "detector: one.safetensors").replace(
        'features_on: "other*.nii.gz"\n', ""
    )
    first = keys(folder, brought, "brought.yaml")
    (folder / "copy.safetensors").write_bytes((folder / "one.safetensors").read_bytes())
    assert keys(folder, brought.replace("one.", "copy."), "copied.yaml") == first
    second = keys(folder, brought.replace("one.", "two."), "other.yaml")
    assert {name[0] for name in first if first[name] != second[name]} == {"evade 0", "evade 5"}
    (folder / "one.safetensors").write_bytes((folder / "two.safetensors").read_bytes())  # retrained under its name
    assert keys(folder, brought, "brought.yaml") == second


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("detector: mahalanobis", "detector: svm", "evade 0 is to pass svm, which learns from attacked scans"),
        (
            'features_on: "other*.nii.gz"\n',
            "",
            "evade 0 is to pass a detector (mahalanobis) of clean scans; name others",
        ),
        ('"other*.nii.gz"', '"other12.nii.gz"', "`features_on` has 1 patient; the mahalanobis detector that evade"),
        ("keep_worst: 0", "keep_worst: 0\nconfidence: 0.8", "tells 95 % intervals; leave `confidence` out"),
        ("detector: mahalanobis", "detector: mine.safetensors", "the detector of evade 0; relative paths start at"),
        ("detector: mahalanobis", "detector: mine-loop", "there is no file"),
    ],
)
def test_what_can_not_be_passed_is_said(folder, old, new, said):
    text = TEXT.replace(old, new)
    text = text.replace('features_on: "other*.nii.gz"\n', "") if "mine" in new else text
    if "loop" in new:
        (folder / "mine-loop").symlink_to("mine-loop")
    with pytest.raises(InputError, match=r"^[^\n]*$") as error:
        load(written(folder, text, "wrong.yaml"))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        ("{name: hfc, steps: 2}", "hfc needs a file; give it in `settings`, as in features: FILE."),
        ("{name: evade, steps: 2}", "evade needs a file; give it in `settings`, as in detector: FILE."),
        ("{name: evade, steps: 2, settings: {detector: mahalanobis}}", "the detector of evade; relative paths start"),
    ],
)
def test_a_study_of_another_kind_fits_nothing(folder, attack, said):
    kept = [line for line in TEXT.splitlines() if not line.startswith(("  - ", "detectors", "success", "features_on"))]
    text = "\n".join(kept).replace("kind: detectors", "kind: curve").replace("attacks:", f"attacks: [{attack}]")
    with pytest.raises(InputError, match=said):
        load(written(folder, text, "curve.yaml"))


def test_a_study_of_another_kind_takes_one_that_is_shipped_for_all_its_models(tmp_path, monkeypatch):
    attack = {"name": "evade", "settings": {"detector": "entropy"}}

    def files(*victims_of_it):
        study = Study.model_validate(
            {
                "schema": "perturbox-study/1", "name": "n", "kind": "curve", "eps": {"values": [5]},
                "attacks": [attack],
                "models": {f"m{n}": {"victim": victim} for n, victim in enumerate(victims_of_it)},
                "cases": {"images": "*.nii.gz"},
            }
        )  # fmt: skip
        return _files(study, study.attacks[0], tmp_path)

    assert files("ct-organs") == files("ct-organs", "ct-organs") == {"detector": str(place("entropy", "ct-organs"))}
    (tmp_path / "entropy").write_bytes(b"a file goes before a name")
    assert files("ct-organs") == {"detector": str(tmp_path / "entropy")}
    (tmp_path / "entropy").unlink()
    with pytest.raises(InputError, match=r"there is no file '.*entropy', the detector of evade"):
        files("ct-organs", "ct-organs-hardened")
    for victim in ("one", "two"):  # each has one of its own
        (tmp_path / "shelf" / victim).mkdir(parents=True)
        (tmp_path / "shelf" / victim / "entropy.safetensors").touch()
    monkeypatch.setattr(shipped, "DETECTORS", tmp_path / "shelf")
    assert files("one") == {"detector": str(tmp_path / "shelf" / "one" / "entropy.safetensors")}
    with pytest.raises(InputError, match=r"there is no file '.*entropy', the detector of evade"):
        files("one", "two")


def test_it_is_priced_before_its_detector_exists(plan):
    cost = price(plan, 1, "cpu")
    assert cost.crafts == 3 * PATIENTS and cost.cpu_hours > 0


def test_the_start_the_page_and_the_worst_cases_are_priced_too(plan, monkeypatch):
    told = SimpleNamespace(seconds=1e4, afterwards=1e4, bytes=1)  # so that attacks themselves cost nothing
    monkeypatch.setattr(pricing, "estimate_attack", lambda *given, **how: told)
    monkeypatch.setattr(pricing, "START", 1e6)
    monkeypatch.setattr(pricing, "PAGE", 1e8)
    three = replace(plan, study=plan.study.model_copy(update={"keep_worst": 3}))
    found, without = price(three, 2), price(plan, 2)
    assert plan.study.keep_worst == 0 and without.cpu_hours * 3600 == pytest.approx(2e6 + 1e8, abs=1e3)
    assert without.hours * 3600 == pytest.approx(1e6 + 1e8, abs=1e3), "workers start at the same time"
    assert (found.cpu_hours - without.cpu_hours) * 3600 == pytest.approx(3 * pricing.HIDING * 1e4, abs=1e3)


def test_the_document_names_what_is_passed_as_the_file_does(plan):
    asked = yaml.safe_load(TEXT)["attacks"][2]["settings"]
    assert plan.document()["study"]["attacks"][2]["settings"] == asked
    assert Path(plan.features_on[0].image).is_absolute()


def test_a_plan_with_files_reads_as_it_was_written(folder):
    (folder / "any.safetensors").write_bytes(b"a plan hashes it and doesn't read it")
    text = TEXT.replace("detector: mahalanobis", "detector: any.safetensors").replace(
        'features_on: "other*.nii.gz"\n', ""
    )
    plan = load(written(folder, text, "files.yaml"))[0]
    assert plan.files == ({}, *[{"detector": str(folder / "any.safetensors")}] * 2)
    assert Plan.read(json.loads(json.dumps(plan.document()))) == plan


def test_methods_name_a_detector_that_learns_once():
    """Also where the first attack hides and the one beneath it is learned too."""
    about = yaml.safe_load(TEXT) | {"detectors": ["svm"]}
    about["attacks"].reverse()
    nets = {"net": Target("net", "x", "0" * 64, ("left", "right"), "HU")}
    told = detected_words.methods(Plan(Study.model_validate(about), nets, {}, {}, [], []))
    assert " svm learned attacked scans, with noise as large" in told and "svm and svm" not in told


def test_a_detector_is_one_word(folder):
    text = TEXT.replace("detector: mahalanobis", "detector: [mahalanobis]").replace(
        'features_on: "other*.nii.gz"\n', ""
    )
    with pytest.raises(InputError, match="the detector of evade 0 isn't a file's path; write"):
        load(written(folder, text, "list.yaml"))
