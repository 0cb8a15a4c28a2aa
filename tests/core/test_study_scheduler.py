"""A study on a Dask scheduler that was there before: the same bytes as by itself, whatever is lost on the way."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny

pytest.importorskip("pyarrow", reason="studies need the extra 'study'")

from perturbox.studies.run import run_study

TABLES = ("results", "models", "cases", "checks")
ROOT = Path(__file__).resolve().parents[2]
SOON = 600  # seconds, on busy cores
TEXT = f"""\
schema: perturbox-study/1
name: elsewhere
kind: curve
models:
  tiny: {{victim: "{tiny.__file__}:volume"}}
cases: {{images: "scan*.nii.gz"}}
attacks: [{{name: pgd, steps: 2}}]
eps: {{values: [5, 10, 40]}}
keep_worst: 0
"""
PIECES = 4 * (1 + 2 * 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A study, and its folder "here" as the embedded workers leave it."""
    place = tmp_path_factory.mktemp("scheduler")
    for seed in range(4):
        tiny.write_scan(place / f"scan{seed}.nii.gz", seed=seed)
    (place / "study.yaml").write_text(TEXT)
    assert run_study(place / "study.yaml", place / "here") is not None
    return place


def bytes_of(out: Path) -> dict[str, str]:
    return {name: hashlib.sha256((out / f"{name}.parquet").read_bytes()).hexdigest() for name in TABLES}


class Elsewhere:
    """A scheduler and workers on loopback, as somebody else would start them."""

    def __init__(self, folder: Path):
        self.folder, self.started = folder, []
        with socket.socket() as trial:
            trial.bind(("127.0.0.1", 0))
            self.port = trial.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"

    def start(self, *command: str) -> subprocess.Popen:
        environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'core'}:{ROOT / 'tests' / 'core'}"}
        log = (self.folder / f"log-{len(self.started)}").open("w")
        process = subprocess.Popen(
            [sys.executable, "-m", *command], stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=self.folder
        )
        log.close()
        self.started.append(process)
        return process

    def scheduler(self) -> subprocess.Popen:
        options = ["--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard"]
        return self.start("distributed.cli.dask_scheduler", *options)

    def worker(self) -> subprocess.Popen:
        options = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1"]
        return self.start("distributed.cli.dask_worker", self.address, *options)

    def study(self, folder: Path, out: Path) -> subprocess.Popen:
        options = ["--out", str(out), "--scheduler", self.address]
        return self.start("perturbox", "study", str(folder / "study.yaml"), *options)

    def said(self, process: subprocess.Popen) -> str:
        return (self.folder / f"log-{self.started.index(process)}").read_text()


@pytest.fixture
def elsewhere(tmp_path):
    place = Elsewhere(tmp_path)
    yield place
    for process in reversed(place.started):
        process.kill()
        process.wait()


def written(out: Path) -> int:
    """Pieces in the ledger."""
    ledger = out / "ledger.jsonl"
    return ledger.read_bytes().count(b"\n") if ledger.is_file() else 0


def wait_until(met, seconds: float = SOON) -> None:
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end, f"not in {seconds} s"
        time.sleep(0.01)


@pytest.mark.slow
def test_on_a_scheduler_elsewhere_it_is_the_same_study(folder, elsewhere, tmp_path):
    """Workers that come after the study has begun are used too."""
    elsewhere.scheduler()
    begun = elsewhere.study(folder, tmp_path / "out")
    elsewhere.worker()
    elsewhere.worker()
    assert begun.wait(SOON) == 0, elsewhere.said(begun)
    assert bytes_of(tmp_path / "out") == bytes_of(folder / "here")


@pytest.mark.slow
def test_a_lost_worker_is_made_up_for(folder, elsewhere, tmp_path):
    elsewhere.scheduler()
    first = elsewhere.worker()
    begun = elsewhere.study(folder, tmp_path / "out")
    wait_until(lambda: written(tmp_path / "out") >= 2)
    first.send_signal(signal.SIGKILL)
    elsewhere.worker()
    assert begun.wait(SOON) == 0, elsewhere.said(begun)
    assert bytes_of(tmp_path / "out") == bytes_of(folder / "here")


@pytest.mark.slow
def test_a_lost_scheduler_ends_it_in_a_sentence_and_the_same_command_goes_on(folder, elsewhere, tmp_path):
    """Nothing of what the scheduler took along counts as failed."""
    scheduler, worker = elsewhere.scheduler(), elsewhere.worker()
    begun = elsewhere.study(folder, tmp_path / "out")
    wait_until(lambda: written(tmp_path / "out") >= 2)
    scheduler.send_signal(signal.SIGKILL)
    assert begun.wait(SOON) == 2, elsewhere.said(begun)
    said = " ".join(elsewhere.said(begun).split())
    assert f"The Dask scheduler at '{elsewhere.address}' is gone; what is done is kept." in said
    assert "Traceback" not in said
    lines = [json.loads(line) for line in (tmp_path / "out" / "ledger.jsonl").read_text().splitlines()]
    assert 2 <= len(lines) < PIECES and all(line["status"] == "ok" for line in lines)
    worker.kill()
    elsewhere.scheduler()
    elsewhere.worker()
    again = elsewhere.study(folder, tmp_path / "out")
    assert again.wait(SOON) == 0, elsewhere.said(again)
    assert bytes_of(tmp_path / "out") == bytes_of(folder / "here")
