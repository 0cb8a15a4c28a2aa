"""Whatever fails after an attack, what it found is kept where the user wanted it; what can be known before is refused
before."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny

from perturbox import io, serve
from perturbox.cli import main
from perturbox.io.files import new_folder, require_new_folder
from perturbox.job import execute
from perturbox.job import margins as margin
from perturbox.job.execute import Job, Listener, run_job
from perturbox.job.folder import replay, verify
from perturbox.job.margins import find_margin
from perturbox.judge.record import Unfinished, read_record
from perturbox.report import write_report
from perturbox.types import InputError

HERE = Path(__file__).parent
TINY = f"{HERE / 'tiny.py'}:volume"


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    return tiny.write_scan(tmp_path_factory.mktemp("scan") / "scan.nii.gz")


@pytest.fixture
def run(capfd):
    """A command line -> (exit status, stdout, stderr)."""

    def run(*words) -> tuple[int, str, str]:
        capfd.readouterr()
        return (main([str(word) for word in words]), *capfd.readouterr())

    return run


def attack(scan, out, *more):
    return ("attack", scan, "--victim", TINY, "--eps", 12, "--steps", 2, "--out", out, *more)


def failing(error: BaseException, at: str = "Control"):
    """A listener under which everything up to a phase goes well."""

    def say(text: str) -> None:
        if text.startswith(at):
            raise error

    return Listener(say=say)


def the_attacks_find(scan, folder) -> bool:
    """Whether the folder's perturbed scan is what a run that went well saves."""
    expected = run_job(Job(str(scan), victim=TINY, eps=12, steps=2), folder.parent / "expected")
    kept, whole = (io.read_volume(place / "adversarial.nii.gz").data for place in (folder, folder.parent / "expected"))
    return np.array_equal(kept, whole) and expected["budget"]["measured"]["linf"] > 0


def test_what_an_attack_found_outlives_a_failing_control(scan, tmp_path):
    out = tmp_path / "kept"
    with pytest.raises(Unfinished, match="nothing is measured") as told:
        run_job(Job(str(scan), victim=TINY, eps=12, steps=2), out, failing(MemoryError()))
    assert isinstance(told.value.__cause__, MemoryError)
    assert the_attacks_find(scan, out)
    note = json.loads((out / "unfinished.json").read_text())
    assert (note["schema"], note["why"]) == ("perturbox-unfinished/1", "MemoryError")
    assert note["notice"] == "ADVERSARIAL - NOT FOR CLINICAL USE"
    assert (note["attack"]["parameters"]["eps"], note["seed"], len(note["trace"])) == (12, 0, 3)
    for reader in (read_record, verify, write_report, lambda folder: replay(folder, tmp_path / "again")):
        with pytest.raises(InputError, match="isn't measured: something failed after the attack"):
            reader(out)
    assert not (tmp_path / "again").exists()


def test_the_command_line_says_what_failed_and_what_is_kept(run, scan, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise MemoryError

    monkeypatch.setattr(execute, "measure", broken)
    status, out, err = run(*attack(scan, tmp_path / "kept"))
    assert (status, out) == (1, "")
    assert err.splitlines()[-1] == (
        "The memory ran out; crop the scan to the organ, or use a machine with more of it. "
        f"'{tmp_path / 'kept'}' keeps what the attack found, of which nothing is measured."
    )
    monkeypatch.undo()
    assert the_attacks_find(scan, tmp_path / "kept")


def test_a_disk_that_fills_while_measuring_keeps_the_perturbed_scan(run, scan, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path))

    monkeypatch.setattr(io, "write_labels", full)
    status, _, err = run(*attack(scan, tmp_path / "kept"))
    assert status == 2 and "the disk is full" in err and "keeps what the attack found" in err
    monkeypatch.undo()
    assert the_attacks_find(scan, tmp_path / "kept")


def test_what_is_abandoned_leaves_nothing(scan, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_job(Job(str(scan), victim=TINY, eps=12, steps=2), tmp_path / "never", failing(KeyboardInterrupt()))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [RuntimeError("no font"), InputError("no page."), MemoryError(), KeyboardInterrupt()])
def test_a_report_that_fails_is_a_warning(run, scan, tmp_path, monkeypatch, error):
    def broken(folder, full):
        raise error

    monkeypatch.setattr(execute, "write_report", broken)
    status, out, _ = run(*attack(scan, tmp_path / "R"))
    why = "no page" if isinstance(error, InputError) else type(error).__name__
    assert status == 0
    assert (
        f"Note: The report could not be written ({why}); the result is complete, "
        f"`perturbox report {tmp_path / 'R'}` tries again." in out.splitlines()
    )
    assert "report.html" not in out
    assert verify(tmp_path / "R") == []
    monkeypatch.undo()
    assert run("report", tmp_path / "R") == (0, f"Report: {tmp_path / 'R' / 'report.html'}\n", "")


def test_a_margin_keeps_its_finds_when_measuring_one_fails(scan, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise MemoryError

    monkeypatch.setattr(margin, "conclude", broken)
    with pytest.raises(Unfinished) as told:
        find_margin(Job(str(scan), victim=TINY, steps=3), tmp_path / "M", 16)
    assert isinstance(told.value.__cause__, MemoryError) and told.value.folder == tmp_path / "M"
    note = json.loads((tmp_path / "M" / "unfinished.json").read_text())
    found = {row["witness"]: row["breaks_at"] for row in note["structures"].values() if row["witness"]}
    assert found and note["why"] == "MemoryError" and not (tmp_path / "M" / "margin.json").exists()
    for witness, size in found.items():
        saved = io.read_volume(tmp_path / "M" / witness / "adversarial.nii.gz").data
        assert np.abs(saved - io.read_volume(scan).data).max() == size


def test_a_margin_whose_reports_fail_is_whole(scan, tmp_path, monkeypatch):
    def broken(folder, full):
        raise RuntimeError

    monkeypatch.setattr(execute, "write_report", broken)
    found = find_margin(Job(str(scan), victim=TINY, steps=3), tmp_path / "M", 16)
    witnesses = {row["witness"] for row in found["structures"].values()} - {None}
    assert sum("could not be written (RuntimeError)" in line for line in found["warnings"]) == len(witnesses) + 1 > 1
    assert verify(tmp_path / "M") == []


# ---- what is known before ----


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a place where not even root may write")
@pytest.mark.parametrize("name", ["/proc/x/y", f"{'n' * 260}", "/dev/null/x"])
def test_a_place_that_cannot_be_written_is_refused_at_once(run, scan, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("perturbox.cli.running.prepare", lambda *_: pytest.fail("the scan was read first"))
    monkeypatch.setattr("perturbox.cli.running.load_inputs", lambda *_: pytest.fail("the scan was read first"))
    monkeypatch.setattr("perturbox.cli.running.load_victim", lambda *_: pytest.fail("the model was loaded first"))
    commands = [
        ("attack", scan, "--out", name),
        ("margin", scan, "--out", name),
        ("segment", scan, "--out", f"{name}.nii.gz"),
        ("fit-features", scan, "--out", f"{name}.safetensors"),
        ("demo", "--out", name),
    ]
    for command in commands:
        status, out, err = run(*command)
        assert (status, out, err.count("\n")) == (2, "", 1), (command, err)
        assert re.search("can't be (made|used)", err), (command, err)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a place where not even root may write")
def test_a_servers_home_that_cannot_be_written_is_refused(run, monkeypatch, tmp_path):
    monkeypatch.setattr(serve, "require_monai_label", lambda: None)
    monkeypatch.setattr(serve, "become", lambda *_: pytest.fail("it was started"))
    monkeypatch.setenv(serve.HOME, str(tmp_path))
    status, _, err = run("serve", "--home", "/proc/x", "--port", 18_997)
    assert status == 2 and err.startswith("'/proc/x/jobs' can't be made") and err.count("\n") == 1


def test_no_result_can_take_the_place_of_a_link_or_of_this_folder(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    monkeypatch.chdir(tmp_path / "empty")
    for place in (tmp_path / "link", Path("."), tmp_path / "empty"):
        with pytest.raises(InputError, match="name a new folder in it"):
            require_new_folder(place)
    require_new_folder(Path("new"))
    assert list(Path(".").iterdir()) == []


def test_a_full_disk_is_refused_before_the_attack(run, scan, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10_000))
    status, _, err = run(*attack(scan, tmp_path / "R"))
    assert status == 2 and list(tmp_path.iterdir()) == []
    line = f"'{tmp_path / 'R'}' can't be used: the disk is full; free some space or choose another place."
    assert err == line + "\n"


def test_room_is_kept_while_the_attack_runs(tmp_path):
    with new_folder(tmp_path / "R", bytes=2**20) as draft:
        assert sum(file.stat().st_blocks * 512 for file in draft.iterdir()) >= 2**20
    assert list((tmp_path / "R").iterdir()) == []


# ---- Ctrl-C ----


def test_a_run_stopped_before_it_found_anything_is_not_tested(run, scan, tmp_path):
    result = run_job(Job(str(scan), victim=TINY, eps=12, steps=9), tmp_path / "R", Listener(stop=lambda: True))
    assert result["untested"] == "The attack was stopped at step 0, before it found anything."
    assert set(result["verdicts"].values()) == {"not-tested"}
    assert not any("raise the limit" in line for line in result["warnings"])
    assert verify(tmp_path / "R") == []


@pytest.mark.slow
def test_a_second_interrupt_ends_at_once_and_leaves_nothing(scan, tmp_path):
    command = ("attack", scan, "--victim", f"{HERE / 'troubled.py'}:slow", "--steps", 500, "--out", tmp_path / "R")
    line = [sys.executable, "-m", "perturbox", *map(str, command)]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env={**os.environ}) as process:
        assert process.stderr is not None
        for said in process.stderr:
            if said.startswith("step 0"):
                break
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
        asked = time.monotonic()
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 130 and time.monotonic() - asked < 2
    assert rest.splitlines()[-1] == "Abandoned; nothing was written."
    assert list(tmp_path.iterdir()) == []
