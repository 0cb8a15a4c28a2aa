"""A study end to end on a victim that answers in milliseconds: rows recomputed by hand, the same bytes after kills."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tiny
import yaml

from perturbox.load import load_victim
from perturbox.types import InputError

pytest.importorskip("pyarrow", reason="studies need the extra 'study'")
import psutil
import pyarrow.parquet as pq

from perturbox.studies.drive import Driver
from perturbox.studies.gather import make_plan
from perturbox.studies.plan import kept_in
from perturbox.studies.run import load, run_study

TEXT = """\
schema: perturbox-study/1
name: tiny
kind: worst-case
models:
  tiny: {{victim: "{victim}"}}
cases:
  images: "scan*.nii.gz"
attacks:
  - {{name: pgd, steps: 2}}
  - {{name: noise}}
eps: {{values: [10, 40]}}
keep_worst: 1
"""
VICTIM = f"{tiny.__file__}:volume"
TABLES = ("results", "models", "cases", "checks")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("study")
    for seed in range(3):
        tiny.write_scan(place / f"scan{seed}.nii.gz", seed=seed)
    (place / "study.yaml").write_text(TEXT.format(victim=VICTIM), encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def done(folder):
    """The study carried out once, by one worker."""
    told = []
    found = run_study(folder / "study.yaml", folder / "out", tell=told.append)
    assert [progress.done for progress in told] == list(range(1, 16))  # 3 clean looks, 2 attacks × 2 limits × 3 cases
    return found


@pytest.fixture(scope="module")
def rows(done):
    return pq.read_table(done.out / "results.parquet").to_pandas()


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_row_is_what_the_saved_file_does(folder, done, rows):
    """Every file is read by nibabel and segmented again; Dice by NumPy."""
    plan, _ = load(folder / "study.yaml")
    victim = load_victim(VICTIM)
    for craft in plan.crafts:
        (file,) = kept_in(done.out / "crafts", craft.key).iterdir()
        clean, saved = nib.load(plan.cases[craft.case].image), nib.load(file)
        change = np.abs(saved.get_fdata() - clean.get_fdata())
        assert change.max() <= craft.eps
        assert b"ADVERSARIAL" in bytes(saved.header["descrip"])
        from perturbox import io

        before, after = (victim.predict(io.read_volume(Path(path))) for path in (plan.cases[craft.case].image, file))
        for structure, value in victim.structures.items():
            a, b = before == value, after == value
            row = rows[
                (rows["case"] == craft.case)
                & (rows["eps"] == craft.eps)
                & (rows["attack"] == plan.study.attacks[craft.attack].called)
                & (rows["structure"] == structure)
            ].iloc[0]
            assert row["dice"] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()), abs=1e-12)
            assert row["linf"] == pytest.approx(change.max())
            assert row["reference"] == "clean_prediction"


def test_the_page_s_numbers_follow_from_the_parquet_alone(done, rows):
    """The worst attack of each case and its mean over cases, recomputed by pandas."""
    mean = rows.groupby(["eps", "case", "attack"])["dice"].mean().groupby(["eps", "case"]).min().groupby("eps").mean()
    told = {row["eps"]: row["mean"] for row in done.found["worst"]}
    assert told == pytest.approx(mean.to_dict(), abs=1e-12)
    record = json.loads((done.out / "study.json").read_text(encoding="utf-8"))
    assert record["found"]["worst"][0]["mean"] == pytest.approx(mean[10.0], abs=1e-12)
    page = (done.out / "report.html").read_text(encoding="utf-8")
    assert f"{mean[40.0]:.2f}" in done.said[0]
    assert "<script" not in page
    assert "://" not in page.replace("http://www.w3.org", "")
    card = yaml.safe_load((done.out / "card.yaml").read_text(encoding="utf-8"))
    assert card["result"] == done.said
    assert card["unreliable"] is False


def test_the_schema_names_units_and_holds_no_dates(done):
    schema = pq.read_schema(done.out / "results.parquet")
    assert schema.field("eps").metadata[b"meaning"] == b"in eps_unit"
    assert schema.metadata[b"study_sha256"].decode() == digest(done.out.parent / "study.yaml")
    effort = pq.read_table(done.out / "effort.parquet").to_pandas()
    assert len(effort) == 3 + 12 + 12
    assert (effort["status"] == "ok").all()


def test_the_worst_case_is_a_whole_result(done):
    from perturbox.job.folder import verify

    (place,) = (done.out / "worst").iterdir()
    assert verify(place) == []
    assert f"worst/{place.name}/report.html" in (done.out / "report.html").read_text(encoding="utf-8")


def test_the_same_command_does_nothing_twice(folder, done):
    before = {name: digest(done.out / f"{name}.parquet") for name in TABLES}
    crafts = {path: path.stat().st_mtime_ns for path in (done.out / "crafts").rglob("*.nii.gz")}
    again = run_study(folder / "study.yaml", done.out, workers=2)
    assert again is not None
    assert {name: digest(done.out / f"{name}.parquet") for name in TABLES} == before
    assert {path: path.stat().st_mtime_ns for path in (done.out / "crafts").rglob("*.nii.gz")} == crafts


def test_a_lost_file_is_made_again_and_a_torn_line_cut(folder, done, tmp_path):
    import shutil

    out = tmp_path / "out"
    shutil.copytree(done.out, out)
    lost = next((out / "crafts").rglob("*.nii.gz"))
    before = digest(lost)
    shutil.rmtree(lost.parent)
    ledger = out / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes()[:-20])
    assert run_study(folder / "study.yaml", out) is not None
    assert digest(lost) == before
    assert {name: digest(out / f"{name}.parquet") for name in TABLES} == {
        name: digest(done.out / f"{name}.parquet") for name in TABLES
    }


def test_what_cannot_be_done_is_failed_with_a_reason_and_the_study_goes_on(folder, tmp_path):
    """Hounsfield limits below a case's storage step: that case fails in every craft, the others are whole."""
    image = nib.load(folder / "scan0.nii.gz")
    coarse = nib.Nifti1Image((image.get_fdata() / 20).round().astype(np.int16), image.affine)
    coarse.header.set_slope_inter(20, 0)
    nib.save(coarse, tmp_path / "scan0.nii.gz")
    (tmp_path / "scan1.nii.gz").write_bytes((folder / "scan1.nii.gz").read_bytes())
    (tmp_path / "study.yaml").write_text(TEXT.format(victim=VICTIM).replace("[10, 40]", "[10]"))
    done = run_study(tmp_path / "study.yaml", tmp_path / "out")
    frame = pq.read_table(done.out / "results.parquet").to_pandas()
    failed = frame[frame["status"] == "failed"]
    assert set(failed["case"]) == {"scan0"}
    assert all("stores steps of" in reason for reason in failed["reason"])
    assert failed["dice"].isna().all()
    assert set(frame[frame["status"] == "ok"]["case"]) == {"scan1"}
    assert [finding.rule for finding in done.findings if finding.rule == "failed"] == ["failed"]


def test_only_one_driver_owns_a_folder(folder, done):
    from perturbox.studies.drive import claimed

    with claimed(done.out), pytest.raises(InputError, match="Another study runs in"):
        Driver(make_plan_of(folder), done.out).run()


def make_plan_of(folder):
    from perturbox.studies.reading import read_study

    return make_plan(read_study(folder / "study.yaml"), folder)


def test_a_folder_of_something_else_is_refused(folder, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="never overwritten"):
        run_study(folder / "study.yaml", tmp_path)


@pytest.mark.slow
def test_killed_ten_times_it_ends_in_the_same_bytes(folder, done, tmp_path):
    """Driver and workers in turn, at random moments; the same command goes on."""
    rng, out = np.random.default_rng(0), tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "perturbox",
        "study",
        str(folder / "study.yaml"),
        "--out",
        str(out),
        "--workers",
        "2",
    ]
    kills = 0
    while kills < 10:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(float(rng.uniform(5, 16)))
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        if kills % 3 == 2 and workers:
            workers[int(rng.integers(len(workers)))].kill()
            time.sleep(3)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
        for child in children:
            try:
                child.wait(20)
            except psutil.TimeoutExpired:
                child.kill()
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert {name: digest(out / f"{name}.parquet") for name in TABLES} == {
        name: digest(done.out / f"{name}.parquet") for name in TABLES
    }


def test_the_command_line_prices_and_reports(folder, done):
    def said(*words):
        return subprocess.run([sys.executable, "-m", "perturbox", "study", *words], capture_output=True, text=True)

    priced = said(str(folder / "study.yaml"), "--out", str(folder / "new"), "--dry-run")
    assert priced.returncode == 0
    assert "12 attacks and 12 judgements" in priced.stdout
    assert not (folder / "new").exists()
    again = said(str(folder / "study.yaml"), "--out", str(done.out))
    assert again.stdout.splitlines()[0] == done.said[0]
    wrong = said(str(folder / "scan0.nii.gz"), "--out", str(folder / "new"))
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines()[-1].endswith("isn't text; name a study file (YAML).")


def test_transfer_judges_every_file_by_every_model(folder, tmp_path):
    """The second model is the first with its limit elsewhere; the diagonal is the model's own attack."""
    (tmp_path / "two.py").write_text(
        f"import sys; sys.path.insert(0, {str(Path(tiny.__file__).parent)!r})\n"
        "import dataclasses, torch, tiny\n"
        "def other(device):\n"
        "    made = tiny.volume(device)\n"
        "    with torch.no_grad():\n"
        "        made.network.offsets[1] -= 0.05\n"
        "    return made\n"
    )
    text = TEXT.format(victim=VICTIM).replace("worst-case", "transfer").replace("  - {name: noise}\n", "")
    text = text.replace("cases:", '  other: {victim: "two.py:other"}\ncases:').replace("scan*", f"{folder}/scan*")
    (tmp_path / "study.yaml").write_text(text.replace("[10, 40]", "[40]"))
    done = run_study(tmp_path / "study.yaml", tmp_path / "out")
    frame = pq.read_table(done.out / "results.parquet").to_pandas()
    assert len(frame) == 2 * 2 * 3 * 2  # models × models × cases × structures
    effort = pq.read_table(done.out / "effort.parquet").to_pandas()
    assert (effort["kind"] == "craft").sum() == 2 * 3  # made once, judged everywhere
    drops = (frame["dice_clean"] - frame["dice"]).groupby([frame["surrogate"], frame["target"]]).mean()
    told = {(cell["surrogate"], cell["target"]): cell["drop"] for cell in done.found["matrix"]}
    assert told == pytest.approx(drops.to_dict(), abs=1e-12)
    # Noise is measured once for each target, with the size of its own attack, and stands in all of its rows.
    noise = frame.groupby(["target", "case", "structure"])["dice_noise"]
    assert (noise.nunique() == 1).all() and frame["dice_noise"].notna().all()
    assert frame.groupby("target")["dice_noise"].mean().nunique() == 2


def test_one_change_made_on_some_is_the_same_for_all_others(folder, tmp_path):
    text = TEXT.format(victim=VICTIM).replace("kind: worst-case", "kind: universal").replace("[10, 40]", "[40]")
    text = text.replace("  - {name: pgd, steps: 2}\n  - {name: noise}\n", "  - {name: uap, steps: 2}\n")
    text = text.replace('"scan*.nii.gz"', f"[{folder}/scan1.nii.gz, {folder}/scan2.nii.gz]")
    (tmp_path / "study.yaml").write_text(text + f"craft_on: [{folder}/scan0.nii.gz]\n")
    done = run_study(tmp_path / "study.yaml", tmp_path / "out")
    plan, _ = load(tmp_path / "study.yaml")
    changes = []
    for craft in plan.crafts:
        (file,) = kept_in(done.out / "crafts", craft.key).iterdir()
        changes.append(nib.load(file).get_fdata() - nib.load(plan.cases[craft.case].image).get_fdata())
    first, second = changes
    same = (first == second) | (first == 0) | (second == 0)  # padding and the ends of a scan's range don't change
    assert same.mean() > 0.9
    assert 0 < np.abs(first).max() <= 40
    assert len(done.found["curves"]) == 2
