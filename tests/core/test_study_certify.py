"""A study of certificates end to end: rows are what the saved maps hold and what `px.certify` says, every number of the
page follows from the rows, and what could certify nothing is refused before it runs."""

import hashlib
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import study_by_pandas as again
import tiny
import yaml
from scipy.stats import binom, norm

pytest.importorskip("pyarrow", reason="studies need the extra 'study'")
import pandas as pd
from test_study_recomputed import near

import perturbox as px
from perturbox.studies import certified
from perturbox.studies.checks import check
from perturbox.studies.design import Study
from perturbox.studies.plan import Plan
from perturbox.studies.pricing import price
from perturbox.studies.run import load, run_study
from perturbox.studies.watch import Shelf
from perturbox.types import InputError

SHAPE = (16, 16, 12)  # one window
VICTIM = f"{tiny.__file__}:volume"
TEXT = f"""\
schema: perturbox-study/1
name: certificates
kind: certify
models:
  tiny: {{victim: "{VICTIM}"}}
cases: {{images: "scan*.nii.gz", labels: "labels/{{name}}.nii.gz"}}
certify: {{sigma: [5, 40], tau: 0.7, n0: 4, n: 45}}
keep_worst: 2
"""
TABLES = ("results", "models", "cases", "checks")
COPIES = 4 + 45


def written(folder, text, name="study.yaml"):
    (folder / name).write_text(text)
    return folder / name


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three scans, and labels that are those of the noiseless scan, the liver a slice shorter."""
    place = tmp_path_factory.mktemp("certify")
    (place / "labels").mkdir()
    for seed in range(3):
        path = tiny.write_scan(place / f"scan{seed}.nii.gz", SHAPE, seed)
        image = nib.load(path)
        hu = np.asarray(image.dataobj)
        label = np.where(hu > 150, 2, np.where(hu > -40, 1, 0)).astype(np.uint8)
        label[..., 6] *= label[..., 6] != 1
        nib.save(nib.Nifti1Image(label, image.affine), place / "labels" / f"scan{seed}.nii.gz")
    written(place, TEXT)
    return place


@pytest.fixture(scope="module")
def done(folder):
    return run_study(folder / "study.yaml", folder / "out")


@pytest.fixture(scope="module")
def rows(done):
    return pd.read_parquet(done.out / "results.parquet")


def values(path):
    return np.asanyarray(nib.load(path).dataobj).astype(int)


def digests(out):
    return {name: hashlib.sha256((out / f"{name}.parquet").read_bytes()).hexdigest() for name in TABLES}


# ---------------------------------------------------------------- end to end


def test_a_row_is_what_the_saved_maps_hold(folder, done, rows):
    """Shares and Dice by NumPy from the certificate's own files, radius and votes by SciPy."""
    plan, _ = load(folder / "study.yaml")
    assert len(rows) == 3 * 2 * 2 and (rows["status"] == "ok").all()
    for asked in plan.certificates:
        place = done.out / "certificates" / asked.key[:2] / asked.key
        maps = {name: values(place / f"{name}.nii.gz") for name in ("certified", "clean_seg", "votes")}
        expert = values(folder / "labels" / f"{asked.case}.nii.gz")
        mine = rows[(rows["case"] == asked.case) & (rows["sigma"] == asked.sigma)].set_index("structure")
        for name, value in (("liver", 1), ("bone", 2)):
            told, found = mine.loc[name], maps["clean_seg"] == value
            assert told["certified"] == near((maps["certified"][found] == value).mean())
            assert told["abstained"] == near((maps["certified"][found] == 3).mean())
            assert told["certified"] + told["other"] + told["abstained"] == near(1)
            certain, label = maps["certified"] == value, expert == value
            assert told["dice"] == near(2 * (certain & label).sum() / (certain.sum() + label.sum()))
            assert told["dice_clean"] == near(2 * (found & label).sum() / (found.sum() + label.sum()))
            assert told["size"] == near(0.012 * found.sum()) and told["size_certified"] == near(0.012 * certain.sum())
            assert told["radius"] == near(asked.sigma * norm.ppf(0.7)) and told["values"] == np.prod(SHAPE)
            assert told["radius_rms"] == near(told["radius"] / np.sqrt(np.prod(SHAPE)))
            assert (told["n"], told["n0"], told["tests"]) == (45, 4, np.prod(SHAPE))
            assert np.array_equal(maps["certified"] != 3, maps["votes"] >= told["least_votes"])
            assert binom.sf(told["least_votes"] - 1, 45, 0.7) <= 0.001


def test_a_worker_says_what_px_certify_says(folder, rows):
    mine = rows[(rows["case"] == "scan1") & (rows["sigma"] == 40)].set_index("structure")
    found = px.certify(folder / "scan1.nii.gz", VICTIM, sigma=40, tau=0.7, n0=4, n=45)
    for name, row in found.structures.items():
        assert mine.loc[name, "certified"] == row["same"] and mine.loc[name, "abstained"] == row["abstained"]
        assert mine.loc[name, "size_smoothed"] == row["chosen_size"]
    assert set(mine["certified_of_structures"]) == {found.record["certified_of_structures"]}


def test_the_smoothed_model_s_dice_is_that_of_what_was_tested(folder, rows):
    """The first four copies, drawn and segmented again here; the most frequent class, the lowest of several."""
    from perturbox import io
    from perturbox.load import load_victim

    victim, image = load_victim(VICTIM), io.read_volume(folder / "scan2.nii.gz")
    votes = np.zeros((3, *SHAPE), int)
    for number in range(4):
        noise = 40 * np.random.default_rng([0, number]).standard_normal(image.data.shape, dtype=np.float32)
        labels = victim.predict(image.with_data(image.data + noise))
        votes += np.arange(3)[:, None, None, None] == labels
    chosen, expert = votes.argmax(0), values(folder / "labels" / "scan2.nii.gz")
    mine = rows[(rows["case"] == "scan2") & (rows["sigma"] == 40)].set_index("structure")
    for name, value in (("liver", 1), ("bone", 2)):
        a, b = chosen == value, expert == value
        assert mine.loc[name, "dice_smoothed"] == near(2 * (a & b).sum() / (a.sum() + b.sum()))
    assert mine.loc["liver", "dice_smoothed"] < mine.loc["liver", "dice_clean"]


def test_the_page_s_numbers_follow_from_the_parquet_alone(done, rows):
    found = json.loads((done.out / "study.json").read_text())["found"]
    groups = dict(iter(rows.groupby(["model", "structure", "sigma"])))
    assert {(r["model"], r["structure"], r["sigma"]) for r in found["certificates"]} == set(groups)
    for told in found["certificates"]:
        part = groups[told["model"], told["structure"], told["sigma"]].groupby("patient")
        shares, dice = part["certified"].mean(), part["dice"].mean()
        ends, of_dice = again.ends(shares), again.ends(dice)
        assert (told["n"], told["certified"], told["low"], told["high"]) == (3, near(shares.mean()), *map(near, ends))
        assert told["dice"] == {"n": 3, "mean": near(dice.mean()), "low": near(of_dice[0]), "high": near(of_dice[1])}
        for name in ("abstained", "other", "dice_clean", "dice_smoothed", "radius"):
            assert told[name] == near(part[name].mean().mean())
    mean = rows.groupby(["sigma", "case"])["certified"].mean()
    worst = mean.loc[40.0].sort_values()
    assert [(r["case"], r["sigma"]) for r in found["worst_cases"]] == [(case, 40.0) for case in worst.index[:2]]
    assert found["votes"][0]["radius"] == [near(5 * norm.ppf(0.7))] * 2


def test_page_and_card_say_of_which_model_it_is(done, rows):
    page = (done.out / "report.html").read_text(encoding="utf-8")
    mean = rows.groupby(["sigma", "structure"])["certified"].mean()
    said = next(text for text in done.said if text.startswith("With noise of 40 HU"))
    assert f"{100 * mean[40.0, 'liver']:.1f} %" in said and "the smoothed tiny is certified on" in said
    assert (
        done.said[-1] == "Nothing is certified of tiny as it is used, without noise: the certificate is for the vote."
    )
    assert done.said[-1] in page and "share certified" in page and "<script" not in page
    (first, *_) = json.loads((done.out / "study.json").read_text())["worst"]
    assert f'href="{first["folder"]}/certificate.html"' in page
    assert (done.out / first["folder"] / "certificate.json").is_file()
    card = yaml.safe_load((done.out / "card.yaml").read_text())
    assert card["result"] == done.said and "stronger attack" not in card["residual_risk"]
    assert card["threat_model"]["certified_radius"] == {
        f"tiny, noise of {sigma} HU": f"{sigma * norm.ppf(0.7):.3g} HU" for sigma in (5, 40)
    }


def test_the_same_bytes_whoever_does_it_and_after_a_loss(folder, done, tmp_path):
    again_done = run_study(folder / "study.yaml", tmp_path / "two", workers=2)
    assert digests(again_done.out) == digests(done.out)
    shutil.copytree(done.out, tmp_path / "out")
    lost = next(path for path in (tmp_path / "out" / "certificates").glob("*/*"))
    before = {name: (lost / name).read_bytes() for name in ("certified.nii.gz", "votes.nii.gz")}
    shutil.rmtree(lost)
    ledger = tmp_path / "out" / "ledger.jsonl"
    lines = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join(lines[:-2]) + lines[-2][:-30])
    assert run_study(folder / "study.yaml", tmp_path / "out") is not None
    assert digests(tmp_path / "out") == digests(done.out)
    assert before == {name: (lost / name).read_bytes() for name in before}
    done_again = [json.loads(line)["key"] for line in ledger.read_text().splitlines()[len(lines) - 2 :]]
    assert len(done_again) in (2, 3)  # the last two pieces, and the one whose folder was lost unless it is one of these


def test_another_noise_is_all_that_is_added(folder, done, tmp_path):
    shutil.copytree(done.out, tmp_path / "out")
    more = written(folder, TEXT.replace("[5, 40]", "[5, 20, 40]"), "more.yaml")
    before = len((tmp_path / "out" / "ledger.jsonl").read_text().splitlines())
    run_study(more, tmp_path / "out")
    added = [json.loads(line) for line in (tmp_path / "out" / "ledger.jsonl").read_text().splitlines()[before:]]
    assert [line["kind"] for line in added] == ["certificate"] * 3


def test_it_is_priced_and_shown(folder, done):
    plan, _ = load(folder / "study.yaml")
    cost = price(plan, 1)
    assert (cost.certificates, cost.copies, cost.crafts) == (6, 6 * COPIES, 0) and cost.cpu_hours > 0
    assert Plan.read(json.loads(json.dumps(plan.document()))) == plan
    shelf = Shelf(folder)
    look = shelf.look("out")
    assert (look.state, look.done, look.all, look.kind) == ("done", 9, 9, "certify")
    table = pd.read_parquet(done.out / "results.parquet")
    assert {name: len(set(map(str, column))) for name, column in table.items()} == {
        name: len({str(row[name]) for row in shelf.rows("out")}) for name in table
    }


# ---------------------------------------------------------------- units, failures, labels


def test_noise_in_percent_of_each_scan_s_range(folder, tmp_path):
    text = TEXT.replace("sigma: [5, 40]", "sigma: [1], unit: percent").replace('"scan*', '"scan0*')
    done = run_study(written(folder, text, "percent.yaml"), tmp_path / "out")
    low, high = np.percentile(values(folder / "scan0.nii.gz"), (1, 99))
    table = pd.read_parquet(done.out / "results.parquet")
    assert table["sigma_native"].tolist() == near([(high - low) / 100] * 2) and set(table["sigma"]) == {1.0}
    assert "With noise of 1 % of range the smoothed tiny" in done.said[0]


def test_without_labels_there_is_no_dice_and_what_cannot_be_done_is_failed(folder, tmp_path):
    """The tiny liver is too small to measure noise in."""
    text = TEXT.replace(', labels: "labels/{name}.nii.gz"', "").replace('"scan*', '"scan0*')
    done = run_study(written(folder, text, "plain.yaml"), tmp_path / "plain")
    table = pd.read_parquet(done.out / "results.parquet")
    assert table[["dice", "dice_smoothed", "dice_clean"]].isna().all(axis=None) and table["certified"].notna().all()
    done = run_study(
        written(folder, text.replace("sigma: [5, 40]", "sigma: [1], unit: sigma"), "noise.yaml"), tmp_path / "noise"
    )
    table = pd.read_parquet(done.out / "results.parquet")
    assert set(table["status"]) == {"failed"} and "noise can't be measured" in table["reason"].iloc[0]
    assert done.said[0].startswith("Nothing could be measured")


def test_a_model_that_misses_the_gate_is_struck_out(folder, tmp_path):
    done = run_study(written(folder, TEXT + "gate: {clean_dice: 0.999}\n", "gate.yaml"), tmp_path / "out")
    table = pd.read_parquet(done.out / "results.parquet")
    assert set(table["status"]) == {"gated"} and done.found["certificates"] == []


# ---------------------------------------------------------------- what is refused


def test_too_few_votes_are_refused_before_anything_runs(folder):
    with pytest.raises(InputError) as error:
        load(written(folder, TEXT.replace("n: 45", "n: 20"), "few.yaml"))
    needed = next(n for n in range(1, 99) if 0.7**n <= 0.001 / np.prod(SHAPE))
    assert str(error.value) == (
        "`certify`: 20 votes can't certify any of the 3,072 voxels of 'scan0' at tau 0.7 and alpha 0.001; give n: "
        f"{needed} or more, leave n out, or take a smaller tau or a larger alpha."
    )


@pytest.mark.parametrize(
    ("old", "new", "line", "piece"),
    [
        ("certify: {sigma: [5, 40], tau: 0.7, n0: 4, n: 45}\n", "", 1, "a certify study needs `certify`, as in"),
        ("sigma: [5, 40]", "sigma: []", 7, "'certify.sigma' can't be []"),
        ("sigma: [5, 40]", "sigma: [0]", 7, "'certify.sigma.0' can't be 0"),
        ("sigma: [5, 40]", "sigma: [5, 5]", 7, "'certify.sigma': '5.0' stands there twice"),
        ("tau: 0.7", "tau: 0.5", 7, "'certify.tau' can't be 0.5: input should be greater than 0.5"),
        ("tau: 0.7", "taus: 0.7", 7, "there is no key 'certify.taus'; did you mean 'tau'?"),
        ("n: 45", "n: 70000", 7, "'certify.n' can't be 70000"),
        ("n: 45", "n: 45, correction: none", 7, "'certify.correction' can't be 'none'"),
        ("keep_worst: 2", "eps: {values: [10]}", 1, "`eps` belongs to a study that attacks"),
        ("keep_worst: 2", "attacks: [{name: pgd}]", 1, "`attacks` belongs to a study that attacks"),
        ("keep_worst: 2", "corruptions: [offset]", 1, "`corruptions` and `grades` belong to"),
        ("kind: certify", "kind: curve", 1, "`certify` belongs to a study of kind certify"),
        ('"}', '", defense: [median]}', 4, "stands behind a defence"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_with_its_line(folder, old, new, line, piece):
    assert old in TEXT
    with pytest.raises(InputError) as error:
        load(written(folder, TEXT.replace(old, new, 1), "wrong.yaml"))
    assert f"wrong.yaml, line {line}: " in str(error.value) and piece in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_written_of_other_kinds_stays_as_it_was():
    """An older folder's study.json must still be that of its plan."""
    study = Study.model_validate(
        {
            "schema": "perturbox-study/1", "name": "s", "kind": "curve", "models": {"m": {"victim": "v"}},
            "cases": {"images": "x"}, "attacks": [{"name": "pgd"}], "eps": {"values": [1]},
        }
    )  # fmt: skip
    assert list(study.document()) == [
        "schema", "name", "kind", "question", "models", "cases", "attacks", "eps", "seeds", "threads", "target", "gate",
        "compare", "criterion", "craft_on", "corruptions", "grades", "keep_worst", "confidence",
    ]  # fmt: skip


# ---------------------------------------------------------------- rows written by hand


def row(**told):
    """A row of six patients' studies, all of it certified."""
    numbers = {"certified": 0.9, "other": 0.0, "abstained": 0.1, "dice_clean": 0.9, "dice_smoothed": 0.89, "dice": 0.85}
    keys = {"model": "m", "structure": "s", "sigma": 10.0, "case": "c", "patient": "p", "seed": 0, "status": "ok"}
    radius = {"radius": 6.7, "radius_rms": 0.01, "n": 100, "least_votes": 97, "sigma_native": 10.0, "reason": None}
    return {**keys, **numbers, **radius, **told}


def design():
    return Study.model_validate(
        {
            "schema": "perturbox-study/1", "name": "s", "kind": "certify", "models": {"m": {"victim": "v"}},
            "cases": {"images": "x"}, "certify": {"sigma": [10]},
        }
    )  # fmt: skip


def patients(n=6, **told):
    return [row(case=f"c{i}", patient=f"p{i}", **told) for i in range(n)]


@pytest.mark.parametrize(
    ("rows", "rules"),
    [
        (patients(), set()),
        (patients(5), {"few-patients"}),
        (patients(dice_smoothed=0.84), {"smoothing-costs"}),
        (patients(dice_smoothed=0.86), set()),
        (patients(certified=0.0, abstained=1.0), {"nothing-certified"}),
        ([*patients(), row(status="failed", reason="no memory")], {"failed"}),
        ([*patients(), row(status="gated", reason="n missed the gate")], {"gated"}),
    ],
)
def test_what_the_checks_object_to(rows, rules):
    assert {finding.rule for finding in check(design(), rows)} == rules


def test_scans_of_one_patient_are_one_and_absent_structures_none():
    rows = [*patients(4), row(case="c9", patient="p0", certified=0.7), row(case="c8", patient="p8", certified=None)]
    (told,) = certified.analyse(design(), rows)["certificates"]
    assert told["n"] == 4 and told["certified"] == near((0.8 + 3 * 0.9) / 4)
    assert told["patients"]["p0"] == near(0.8)
