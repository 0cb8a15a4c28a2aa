"""The command line on a tiny victim: what it leaves, what it says, and how it refuses and stops."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tiny
from bad_inputs import BAD_INPUTS

from perturbox import zoo
from perturbox.cli import main

TINY = f"{Path(__file__).parent / 'tiny.py'}:volume"
FLAT = f"{Path(__file__).parent / 'tiny.py'}:flat"


@pytest.fixture
def run(capfd):
    """run(*arguments) -> (exit status, stdout, stderr)"""

    def run(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        status = main([str(argument) for argument in arguments])
        return (status, *capfd.readouterr())

    return run


@pytest.fixture
def scan(tmp_path) -> Path:
    return tiny.write_scan(tmp_path / "ct.nii.gz")


@pytest.fixture(scope="module")
def attacked(tmp_path_factory) -> Path:
    """A folder with ct.nii.gz and its result in R: 10 HU, 6 steps, seed 3."""
    folder = tmp_path_factory.mktemp("attacked")
    tiny.write_scan(folder / "ct.nii.gz")
    arguments = ["attack", folder / "ct.nii.gz", "--victim", TINY, "--eps", 10, "--steps", 6, "--seed", 3]
    assert main([*map(str, arguments), "--out", str(folder / "R")]) == 0
    return folder


def values(path: Path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj).astype(int)


# ---------------------------------------------------------------- what it leaves


def test_an_attack_writes_an_integer_scan_within_its_limit(attacked):
    source, saved = nib.load(attacked / "ct.nii.gz"), nib.load(attacked / "R" / "adversarial.nii.gz")
    assert saved.get_data_dtype() == source.get_data_dtype() == np.int16
    assert np.array_equal(saved.affine, source.affine)
    delta = values(attacked / "R" / "adversarial.nii.gz") - values(attacked / "ct.nii.gz")
    assert np.abs(delta).max() == 10
    assert np.array_equal(delta, values(attacked / "R" / "perturbation.nii.gz"))


def test_the_printed_dice_are_those_of_the_saved_files(run, attacked):
    clean, adversarial = (values(attacked / "R" / f"{which}_seg.nii.gz") for which in ("clean", "adversarial"))
    status, out, err = run("replay", attacked / "R", "--out", attacked / "again", "--trust")
    assert status == 0
    for name, value in (("liver", 1), ("bone", 2)):
        a, b = clean == value, adversarial == value
        dice = 2 * (a & b).sum() / (a.sum() + b.sum())
        (row,) = [line for line in out.splitlines() if line.startswith(f" {name} ")]
        assert f" {dice:.3f} " in row
        change = 12e-3 * (int(b.sum()) - int(a.sum()))
        assert f"{abs(change):.1f} (" in row
    assert "mean Dice 1.00 →" in out.splitlines()[0] and "broke liver" in out.splitlines()[0]
    assert "The result is the recorded one: every voxel, every number and the trace." in out
    assert np.array_equal(values(attacked / "again" / "adversarial_seg.nii.gz"), adversarial)
    assert "step 6 of 6 · mean Dice" in err


def test_the_same_seed_gives_the_same_files_and_another_does_not(run, attacked, tmp_path):
    """Of an attack that draws its start; the default draws nothing."""
    options = ["--victim", TINY, "--eps", 10, "--steps", 6]

    def adversarial(name: str, seed: int, *more: str) -> bytes:
        out = tmp_path / name
        assert run("attack", attacked / "ct.nii.gz", *options, *more, "--seed", seed, "--out", out)[0] == 0
        return (out / "adversarial.nii.gz").read_bytes()

    assert adversarial("default", 3) == (attacked / "R" / "adversarial.nii.gz").read_bytes()
    first = adversarial("first", 3, "--attack", "pgd")
    assert first == adversarial("again", 3, "--attack", "pgd") != adversarial("other", 4, "--attack", "pgd")


def test_verify_counts_what_holds_and_names_what_does_not(run, attacked, tmp_path):
    status, out, _ = run("verify", attacked / "R", "--trust")
    assert status == 0
    recorded, forgery, holds = out.splitlines()
    found = re.fullmatch(
        r"All ([1-9]\d\d+) values that can be recomputed hold\. 6 files are those that were saved\.", holds
    )
    assert found is not None
    assert re.match(r"[1-9]\d+ values are only recorded, such as the trace", recorded) and "not forgery" in forgery
    result = json.loads((attacked / "R" / "result.json").read_text())
    result["metrics"]["adversarial"]["liver"]["dice"] += 0.01
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in (attacked / "R").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "result.json").write_text(json.dumps(result))
    status, out, _ = run("verify", copy, "--trust")
    assert status == 1
    first, second, *_, last = out.splitlines()
    assert first.startswith("metrics.adversarial.liver.dice: result.json says")
    assert second.startswith("report.html: isn't what the rest of this folder gives")  # it shows the other number
    assert last == f"2 things don't hold, of {found[1]} values that can be recomputed and 6 files."


def test_code_that_came_with_a_folder_is_loaded_only_if_the_user_says_so(run, attacked, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(attacked / "R", copy)
    (copy / "model.py").write_text("raise SystemExit('it ran')")
    record = json.loads((copy / "result.json").read_text(encoding="utf-8"))
    record["victim"]["spec"] = f"{copy / 'model.py'}:volume"
    (copy / "result.json").write_text(json.dumps(record), encoding="utf-8")
    for command in (["verify", copy], ["replay", copy, "--out", tmp_path / "again"]):
        status, _, err = run(*command)
        assert (
            status == 2 and "Python code that came with the folder" in err and "--trust" in err and "it ran" not in err
        )
    assert not (tmp_path / "again").exists()


def test_report_is_written_again(run, attacked):
    page = (attacked / "R" / "report.html").read_text(encoding="utf-8")
    (attacked / "R" / "report.html").unlink()
    assert run("report", attacked / "R") == (0, f"Report: {attacked / 'R' / 'report.html'}\n", "")
    assert (attacked / "R" / "report.html").read_text(encoding="utf-8") == page


def test_settings_targets_and_goals_reach_the_attack(run, scan, tmp_path):
    more = ["--attack", "mi-fgsm", "--set", "decay=0.5", "--set", "loss=ce", "--target", "liver", "--goal", "vanish"]
    roi = np.zeros(tiny.SHAPE, np.uint8)
    roi[4:12] = 1
    nib.save(nib.Nifti1Image(roi, nib.load(scan).affine), tmp_path / "roi.nii.gz")
    more += ["--roi", tmp_path / "roi.nii.gz", "--eps", 12, "--steps", 3]
    status, out, _ = run("attack", scan, "--victim", TINY, *more, "--out", tmp_path / "R")
    assert status == 0
    attack = json.loads((tmp_path / "R" / "result.json").read_text())["attack"]
    assert attack["name"] == "mi-fgsm"
    assert {key: attack["parameters"][key] for key in ("decay", "loss", "eps", "steps", "norm", "goal", "target")} == {
        "decay": 0.5, "loss": "ce", "eps": 12.0, "steps": 3, "norm": "linf", "goal": "vanish", "target": ["liver"],
    }  # fmt: skip
    changed = values(tmp_path / "R" / "perturbation.nii.gz") != 0
    assert changed.any() and not changed[roi == 0].any()
    assert "Goal vanish: volume of the targets" in out


def test_an_expert_outline_becomes_the_reference(run, scan, tmp_path):
    labels = np.where(values(scan) > 200, 7, 0).astype(np.uint8)
    nib.save(nib.Nifti1Image(labels, nib.load(scan).affine), tmp_path / "label.nii.gz")
    expert = ["--label", tmp_path / "label.nii.gz", "--label-map", "bone=7"]
    status, out, _ = run("attack", scan, "--victim", TINY, "--attack", "fgsm", *expert, "--out", tmp_path / "R")
    assert status == 0
    result = json.loads((tmp_path / "R" / "result.json").read_text())
    assert result["reference"] == "label"
    assert 0 < result["metrics"]["clean"]["bone"]["dice"] < 1
    assert "Dice and HD95 are against the expert's outline" in out
    assert np.array_equal(values(tmp_path / "R" / "reference_seg.nii.gz"), np.where(labels == 7, 2, 0))


def test_segment_writes_labels_and_prints_volumes(run, scan, tmp_path):
    status, out, _ = run("segment", scan, "--victim", TINY, "--out", tmp_path / "seg.nii.gz")
    assert status == 0
    labels = values(tmp_path / "seg.nii.gz")
    for name, value in (("liver", 1), ("bone", 2)):
        assert f" {name} " in out and f" {(labels == value).sum() * 12e-3:.1f} " in out
    assert np.array_equal(nib.load(tmp_path / "seg.nii.gz").affine, nib.load(scan).affine)
    before = (tmp_path / "seg.nii.gz").read_bytes()
    status, _, err = run("segment", scan, "--victim", TINY, "--out", tmp_path / "seg.nii.gz")
    assert status == 2 and "exists already" in err
    assert (tmp_path / "seg.nii.gz").read_bytes() == before


def test_slice_by_slice_victims_work_too(run, scan, tmp_path):
    assert run("attack", scan, "--victim", FLAT, "--attack", "fgsm", "--eps", 10, "--out", tmp_path / "R")[0] == 0
    result = json.loads((tmp_path / "R" / "result.json").read_text())
    assert result["victim"]["dims"] == 2 and result["budget"]["measured"]["linf"] == 10


def test_margin_states_bounds_that_verify(run, scan, tmp_path):
    status, out, _ = run("margin", scan, "--victim", TINY, "--max-eps", 16, "--steps", 8, "--out", tmp_path / "M")
    assert status == 0
    found = json.loads((tmp_path / "M" / "margin.json").read_text())["structures"]
    assert found["bone"]["breaks_at"] is None and found["bone"]["above"] == 16
    assert 4 <= found["liver"]["breaks_at"] <= 12  # the liver lies 8 HU above the victim's limit
    rows = {line.split()[0]: line for line in out.splitlines() if line.startswith(" ") and line.strip()}
    assert f"≤ {found['liver']['breaks_at']:g} HU" in rows["liver"]
    assert "> 16 HU" in rows["bone"]
    assert "no proof of safety" in out
    status, out, _ = run("verify", tmp_path / "M", "--trust")
    assert status == 0 and re.match(r"All \d+ values that can be recomputed hold\. \d+ files", out.splitlines()[-1])


def test_the_demo_leaves_its_case_with_the_result_and_overwrites_nothing(run, tmp_path, monkeypatch):
    affine = np.diag([*tiny.SPACING, 1.0])
    monkeypatch.setattr("perturbox.job.demo.phantom_case", lambda seed: (tiny.scan(seed=seed), tiny.scan() > 0, affine))
    monkeypatch.setitem(zoo.BUILT_IN, "ct-organs", tiny.volume)
    monkeypatch.chdir(tmp_path)
    for folder in ("demo", "demo-2"):
        status, out, _ = run("demo")
        assert status == 0
        assert f"Open {folder}/report.html in a browser." in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo", "demo-2"]
    delta = values(tmp_path / "demo" / "adversarial.nii.gz") - values(tmp_path / "demo" / "phantom_ct.nii.gz")
    assert np.abs(delta).max() == 10
    assert (tmp_path / "demo" / "phantom_labels.nii.gz").is_file()


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("arguments", "words"), [case[1:] for case in BAD_INPUTS], ids=[case[0] for case in BAD_INPUTS]
)
def test_bad_input_is_refused_in_one_line_and_leaves_nothing(run, arguments, words, tmp_path, monkeypatch):
    monkeypatch.setitem(zoo.BUILT_IN, "ct-organs", tiny.volume)
    given = arguments(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    status, out, err = run(*given)
    assert (status, out) == (2, "")
    assert err.endswith("\n") and len(err.splitlines()) == 1, err
    assert all(word.lower() in err.lower() for word in words), err
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


NO_RESULT = "'nowhere' is no result folder: it has no result.json; give one that an attack wrote."
MISTAKES = {
    "atack x": "There is no command 'atack'; did you mean 'attack'?",
    "zebra": "There is no command 'zebra'; see `perturbox --help`.",
    "attack": "IMAGE is missing; see `perturbox attack --help`.",
    "attack x": "--out is missing; see `perturbox attack --help`.",
    "attack x --epz 3": "There is no option '--epz'; did you mean '--eps'?",
    "attack x --zebra": "There is no option '--zebra'; see `perturbox attack --help`.",
    "attack x --out": "--out needs a value; see `perturbox attack --help`.",
    "attack x --out R --eps=ten": "--eps needs a number, not 'ten'; see `perturbox attack --help`.",
    "margin x --out R --steps 1.5": "--steps needs a whole number, not '1.5'; see `perturbox margin --help`.",
    "list atacks": "There is no list of 'atacks'; did you mean 'attacks'?",
    "list attacks vaffa": "Unknown attack 'vaffa'; did you mean 'vafa'?",
    "list victims pgd": "Only attacks are told one by one; leave out 'pgd'.",
    "list zebras": "There is no list of 'zebras'; choose attacks, victims, corruptions, defenses, detectors.",
    "attack x --out R --target a,": "--target holds an empty name; write the structures as liver,spleen.",
    "attack x --out R --set loss": "'loss' isn't understood; write a setting as --set name=value.",
    "attack x --out R --set a=1 --set a=1": "The setting 'a' is given twice; keep one of them.",
    "attack x --out R --label-map a=1": "--label-map says how to read --label; give --label too, or leave both out.",
    "verify nowhere": NO_RESULT,
    "report nowhere": NO_RESULT,
    "replay nowhere --out R": NO_RESULT,
    "segment x --out seg.png": "'seg.png' can't hold a label map; name --out something.nii.gz.",
}


@pytest.mark.parametrize(("line", "refusal"), MISTAKES.items(), ids=list(MISTAKES))
def test_mistakes_on_the_line_itself_are_refused_in_our_words(run, line, refusal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(*line.split()) == (2, "", refusal + "\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("limit", ["0", "-4", "nan", "inf"])
def test_margin_refuses_impossible_limits(run, scan, limit):
    status, _, err = run("margin", scan, "--victim", TINY, f"--max-eps={limit}", "--out", scan.parent / "M")
    assert status == 2 and len(err.splitlines()) == 1 and "--max-eps" in err
    assert not (scan.parent / "M").exists()


def test_an_internal_error_is_one_line_and_a_log(run, scan, tmp_path, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("the tiny\nhamster stopped")

    monkeypatch.setattr("perturbox.cli.running.execute", broken)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    arguments = ["attack", scan, "--victim", TINY, "--out", tmp_path / "R"]
    status, out, err = run(*arguments)
    (log,) = tmp_path.glob("perturbox-error-*.log")
    assert (status, out) == (1, "")
    assert err == (
        "Stopped by an internal error (RuntimeError: the tiny hamster stopped); "
        f"the details are in {log}, please report it with them.\n"
    )
    assert "Traceback" in log.read_text() and f"attack {scan}" in log.read_text()
    log.unlink()
    status, _, err = run(*arguments, "--debug")
    assert status == 1 and "Traceback" in err and err.endswith("(RuntimeError: the tiny hamster stopped).\n")
    assert not list(tmp_path.glob("*.log")) and not (tmp_path / "R").exists()


def test_running_out_of_memory_is_said_in_words(run, scan, tmp_path, monkeypatch):
    def greedy(*arguments):
        raise MemoryError

    monkeypatch.setattr("perturbox.cli.running.execute", greedy)
    status, _, err = run("attack", scan, "--victim", TINY, "--out", tmp_path / "R")
    assert (status, err) == (1, "The memory ran out; crop the scan to the organ, or use a machine with more of it.\n")


def test_help_and_version_need_no_heavy_modules():
    code = (
        "import sys; from perturbox.cli import main\n"
        "assert main(['--help']) == main(['attack', '--help']) == main(['--version']) == 0\n"
        "assert not {'torch', 'monai', 'SimpleITK', 'nibabel', 'scipy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" and "Traceback" not in done.stdout and "perturbox 0." in done.stdout


# ---------------------------------------------------------------- stopping


def environment() -> dict[str, str]:
    core = str(Path(__file__).resolve().parents[2] / "core")
    return {**os.environ, "PYTHONPATH": core, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}


def started(scan: Path, out: Path) -> subprocess.Popen:
    """An attack of many steps in a process of its own, once its first step is done."""
    command = [sys.executable, "-m", "perturbox", "attack", str(scan), "--victim", TINY, "--steps", "20000"]
    process = subprocess.Popen(
        [*command, "--eps", "10", "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=environment(),
    )
    for line in process.stderr:
        if line.startswith("step 0 of 20000"):
            return process
    raise AssertionError(f"the attack ended with status {process.wait()}")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to send")
def test_the_first_interrupt_keeps_the_best_so_far_and_says_so(run, scan):
    out = scan.parent / "R"
    process = started(scan, out)
    process.send_signal(signal.SIGINT)
    said, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    result = json.loads((out / "result.json").read_text())
    assert re.fullmatch(r"stopped at step \d+ of 20000", result["stopped_early"])
    assert "Stopping after this step; what it found is then measured and saved." in told
    largest = np.abs(values(out / "perturbation.nii.gz")).max()
    found = "; this is the best change until then." if largest else ", before anything was found"
    assert f"The attack was {result['stopped_early']}{found}" in said
    # A random start that no gradient has looked at yet is no find, so stopping at once leaves the scan as it was.
    assert largest <= 10 and (largest > 0 or "step 1 of" in result["stopped_early"])
    assert run("verify", out, "--trust")[0] == 0


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to send")
def test_the_second_interrupt_abandons_and_leaves_nothing(scan):
    process = started(scan, scan.parent / "R")
    process.send_signal(signal.SIGTERM)
    for line in process.stderr:
        if line.startswith("Stopping"):
            break
    process.send_signal(signal.SIGINT)
    said, told = process.communicate(timeout=120)
    assert process.returncode == 130 and said.startswith("Starting ") and said.count("\n") == 1
    assert told.splitlines()[-1] == "Abandoned; nothing was written."
    assert [path.name for path in scan.parent.iterdir()] == ["ct.nii.gz"]
