"""The server on a Dask scheduler that isn't its own: results, workers that are lost, workers that come later."""

import subprocess
import sys
import time

import pytest
import tiny
from jobs_client import climbing, fetch, submit, wait, wait_until
from serving import ROOT, TINY, clean_environment, free_port

from perturbox import io
from perturbox.job.execute import Job, run_job

pytestmark = pytest.mark.slow
SOON = 15


@pytest.fixture
def elsewhere(tmp_path):
    """(address of a scheduler, start_worker() -> its process), all on loopback and ended after the test."""
    address, started = f"tcp://127.0.0.1:{free_port()}", []

    def start(*command: str) -> subprocess.Popen:
        environment = clean_environment(PYTHONPATH=f"{ROOT / 'core'}:{ROOT / 'tests' / 'core'}")
        with (tmp_path / f"dask-{len(started)}.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *command], stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=tmp_path
            )
        started.append(process)
        return process

    def worker() -> subprocess.Popen:
        options = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1"]
        return start("distributed.cli.dask_worker", address, *options)

    port = address.rpartition(":")[2]
    start("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard")
    yield address, worker
    for process in reversed(started):
        process.kill()
        process.wait()


def test_a_job_elsewhere_equals_one_here_and_a_lost_worker_ends_its_own_only(elsewhere, start_server, tmp_path):
    address, start_worker = elsewhere
    (tmp_path / "studies").mkdir()
    scan = tiny.write_scan(tmp_path / "studies" / "case_a.nii.gz")
    first = start_worker()
    http = start_server(studies=tmp_path / "studies", arguments=("--scheduler", address)).http
    asked = {"image": "case_a", "eps": 6.0, "steps": 3, "seed": 1}

    id = submit(http, **asked)["id"]
    wait(http, id)
    run_job(Job(str(scan), TINY, eps=6.0, steps=3, seed=1), tmp_path / "here")
    there = io.read_volume(fetch(http, id, "adversarial.nii.gz", tmp_path))
    assert (there.data == io.read_volume(tmp_path / "here" / "adversarial.nii.gz").data).all()
    assert http.get("/perturbox/health").json()["workers"] == 1

    id = submit(http, image="case_a", steps=9000)["id"]
    wait_until(http, id, climbing)
    first.kill()
    killed = time.monotonic()
    lost = wait(http, id, "failed", SOON)
    assert lost["error"]["error"] == "worker-died" and time.monotonic() - killed < SOON

    waiting = submit(http, **asked)["id"]
    time.sleep(1)
    assert http.get(f"/perturbox/jobs/{waiting}").json()["state"] == "queued"
    start_worker()
    wait(http, waiting)
    assert http.get(f"/perturbox/jobs/{id}").json()["state"] == "failed"  # and it was not begun again
