"""The queue: what it hands out equals what the command line writes, and its records stay true whatever happens."""

import gzip
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import pytest
import tiny

from perturbox import io
from perturbox.io.files import atomic
from perturbox.job.execute import Job, run_job, segment
from perturbox.types import InputError

pytest.importorskip("distributed", reason="the queue needs the extra 'server'")
from perturbox.jobs import Order, Queue, Refused, worker
from perturbox.jobs.files import as_content, unpack

HERE = Path(__file__).parent
TINY, SOON = f"{HERE / 'tiny.py'}:volume", 60


def troubled(name: str) -> str:
    return f"{HERE / 'troubled.py'}:{name}"


def order(scan: Path, kind: str = "attack", victim: str = TINY, steps: int = 4, **changes) -> Order:
    settings = {"image": str(scan), "victim": victim, "attack": "pgd", "eps": 12.0, "steps": steps}
    return Order(kind, Job(**(settings | changes)), max_eps=16.0, name="case-7")


def until(condition, seconds: float = SOON):
    """The first true value of `condition()`."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)
    return value


@pytest.fixture(scope="module")
def scan(tmp_path_factory) -> Path:
    return tiny.write_scan(tmp_path_factory.mktemp("scan") / "scan.nii.gz")


@pytest.fixture(scope="module")
def queue(tmp_path_factory):
    queue = Queue(tmp_path_factory.mktemp("home"), waiting=3, grace=1, stuck_after=600)
    yield queue
    queue.close()


def same_arrays(a: Path, b: Path, names) -> None:
    for name in names:
        one, other = (io.read_volume(folder / name, unit="label", allow_constant=True).data for folder in (a, b))
        assert one.dtype == other.dtype and np.array_equal(one, other), name


def test_an_attack_is_the_one_the_command_line_makes(queue, scan, tmp_path):
    done = queue.wait(queue.submit(order(scan)).id, SOON)
    assert (done.state, done.problem) == ("done", None)
    expected = run_job(order(scan).job, tmp_path / "direct")
    names = ("adversarial.nii.gz", "perturbation.nii.gz", "clean_seg.nii.gz", "adversarial_seg.nii.gz")
    same_arrays(queue.result(done.id), tmp_path / "direct", names)
    assert [p["score"] for p in done.progress["trace"]] == [p["score"] for p in expected["trace"]]
    assert done.progress["trace"][-1]["dice"].keys() == {"liver", "bone"}
    assert done.progress["step"] == done.progress["steps"] == 4
    assert done.created <= done.started <= done.finished and done.bytes > 0
    assert done.warnings == expected["warnings"]


def test_a_segmentation_is_the_victims(queue, scan, tmp_path):
    done = queue.wait(queue.submit(order(scan, "segment")).id, SOON)
    assert done.state == "done"
    told = segment(order(scan, "segment").job, tmp_path / "segmentation.nii.gz")
    same_arrays(queue.result(done.id), tmp_path, ["segmentation.nii.gz"])
    assert told["volumes_ml"]["liver"] > 0


def test_a_margin_leaves_its_document(queue, scan):
    done = queue.wait(queue.submit(order(scan, "margin", steps=3)).id, SOON)
    assert done.state == "done" and (queue.result(done.id) / "margin.json").is_file()


def test_the_scan_may_go_once_it_is_submitted(queue, scan, tmp_path):
    copy = shutil.copy(scan, tmp_path / "DOE_JOHN.nii.gz")
    record = queue.submit(order(copy, "segment"))
    copy.unlink()
    assert queue.wait(record.id, SOON).state == "done"
    assert queue.input(record.id).name == "scan.nii.gz", "the job's files name no patient"


def test_bad_input_is_the_jobs_problem(queue, tmp_path):
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"no scan at all")
    failed = queue.wait(queue.submit(order(bad)).id, SOON)
    assert failed.state == "failed" and failed.problem.error == "bad-input"
    with pytest.raises(Refused, match="failed and left no result") as refused:
        queue.result(failed.id)
    assert refused.value.status == 409
    with pytest.raises(InputError, match="no longer there"):
        queue.submit(order(tmp_path / "gone.nii.gz"))


def test_cancelling_drops_it_at_the_next_window(queue, scan):
    record = queue.submit(order(scan, victim=troubled("slow"), steps=500))
    until(lambda: queue.get(record.id).progress.get("step"))
    asked = time.monotonic()
    assert queue.cancel(record.id).state == "cancelling"
    cancelled = queue.wait(record.id, SOON)
    assert cancelled.state == "cancelled" and time.monotonic() - asked < 2
    with pytest.raises(Refused, match="cancelled and left no result"):
        queue.result(record.id)
    with pytest.raises(Refused, match="cancelled already"):
        queue.cancel(record.id)


def test_cancelling_waits_for_no_prediction(scan, tmp_path):
    """A prediction takes eight seconds here, a window one; the grace time is longer than both."""
    queue = Queue(tmp_path, grace=60)
    try:
        record = queue.submit(order(scan, "segment", victim=troubled("slower")))
        until(lambda: queue.get(record.id).progress["phase"] == "Segmenting")
        asked = time.monotonic()
        queue.cancel(record.id)
        assert queue.wait(record.id, SOON).state == "cancelled" and time.monotonic() - asked < 4
    finally:
        queue.close()


def test_what_it_found_can_be_kept(queue, scan):
    record = queue.submit(order(scan, victim=troubled("slow"), steps=500))
    until(lambda: queue.get(record.id).progress.get("step", 0) >= 2)
    queue.cancel(record.id, keep=True)
    kept = queue.wait(record.id, SOON)
    told = json.loads((queue.result(kept.id) / "result.json").read_text())
    assert kept.state == "cancelled" and told["stopped_early"].endswith("of 500")


def test_a_full_queue_refuses_and_says_where_one_stands(queue, scan):
    first = queue.submit(order(scan, victim=troubled("slow"), steps=500))
    until(lambda: queue.get(first.id).state == "running")
    waiting = [queue.submit(order(scan, "segment")) for _ in range(3)]
    assert [queue.get(record.id).queue_position for record in waiting] == [1, 2, 3]
    with pytest.raises(Refused, match="3 jobs are waiting") as refused:
        queue.submit(order(scan))
    assert refused.value.status == 429
    assert queue.cancel(waiting[1].id).state == "cancelled"
    assert queue.get(waiting[2].id).queue_position == 2
    queue.cancel(first.id)
    assert queue.wait(waiting[2].id, SOON).state == "done"
    assert queue.get(waiting[0].id).finished < queue.get(waiting[2].id).finished


@pytest.mark.parametrize(
    ("habit", "code"), [("deadly", "worker-died"), ("greedy", "out-of-memory"), ("faulty", "internal")]
)
def test_a_job_that_fails_says_why_and_the_next_one_runs(queue, scan, habit, code):
    failed = queue.wait(queue.submit(order(scan, victim=troubled(habit))).id, SOON)
    assert (failed.state, failed.problem.error) == ("failed", code)
    assert "Doe" not in failed.problem.detail, "an exception's words may hold a name"
    assert queue.wait(queue.submit(order(scan, "segment")).id, SOON).state == "done"


@pytest.mark.parametrize("far", [False, True], ids=["by path", "by content"])
def test_a_worker_keeps_what_an_attack_found(scan, tmp_path, monkeypatch, far):
    def broken(*_, **__):
        raise MemoryError

    monkeypatch.setattr("perturbox.job.execute.measure", broken)
    asked, out = order(scan, steps=2), tmp_path / "result"
    where = {"files": as_content(asked)} if far else {"out": str(out)}
    answer = worker.carry_out("1", asked.to_json(), {**where, "threads": 1}, tell=lambda event: None)
    assert answer["problem"]["error"] == "out-of-memory" and answer["replace"] is True
    if far:
        unpack(answer["archive"], out)
    monkeypatch.undo()
    run_job(asked.job, tmp_path / "whole")
    same_arrays(out, tmp_path / "whole", ["adversarial.nii.gz"])
    assert json.loads((out / "unfinished.json").read_text())["why"] == "MemoryError"


def test_what_an_attack_found_is_kept_though_measuring_it_fails(queue, scan, tmp_path):
    failed = queue.wait(queue.submit(order(scan, victim=troubled("weary"), steps=2)).id, SOON)
    assert (failed.state, failed.problem.error) == ("failed", "out-of-memory")
    assert failed.problem.detail == (
        "The memory ran out. What the attack found is kept, but nothing of it is measured: see the job's files."
    )
    run_job(order(scan, steps=2).job, tmp_path / "whole")
    same_arrays(queue.result(failed.id), tmp_path / "whole", ["adversarial.nii.gz"])
    assert json.loads((queue.result(failed.id) / "unfinished.json").read_text())["why"] == "MemoryError"


def test_one_that_does_not_stop_in_its_grace_time_loses_its_worker(queue, scan):
    record = queue.submit(order(scan, victim=troubled("hung")))
    until(lambda: queue.get(record.id).progress["phase"].startswith("Looking"))
    asked = time.monotonic()
    queue.cancel(record.id)
    assert (
        queue.wait(record.id, SOON).state == "cancelled" and time.monotonic() - asked < 30
    )  # the network would hang for minutes
    assert queue.wait(queue.submit(order(scan, "segment")).id, SOON).state == "done"


def test_one_that_is_stuck_is_ended(scan, tmp_path):
    queue = Queue(tmp_path, stuck_after=2)
    try:
        failed = queue.wait(queue.submit(order(scan, victim=troubled("hung"))).id, SOON)
        assert (failed.state, failed.problem.error) == ("failed", "stuck")
    finally:
        queue.close()


def test_one_that_reads_for_too_long_is_given_up(scan, tmp_path):
    """Long before it counts as stuck; 512 MiB take longer to read than a fifth of a second."""
    slow = tmp_path / "slow.nii.gz"
    header = nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)).header.copy()
    header.set_data_shape((1024, 1024, 256))
    with gzip.open(slow, "wb", 1) as packed:
        packed.write(header.binaryblock + bytes(4))
        for number in range(512):
            packed.write(bytes([number % 256]) * 2**20)
    queue = Queue(tmp_path / "home", read_after=0.2)
    try:
        failed = queue.wait(queue.submit(order(slow, "segment")).id, SOON)
        assert (failed.state, failed.problem.error) == ("failed", "bad-input")
        assert failed.problem.detail == "Reading the scan took too long, so it was given up."
        assert queue.wait(queue.submit(order(scan, "segment")).id, SOON).state in ("done", "failed")
    finally:
        queue.close()


def test_a_full_disk_is_no_fault_of_the_scans(tmp_path):
    """/dev/full takes nothing; the sentence for the command line names the path, the server's doesn't."""
    with pytest.raises(InputError, match="no space left") as refused, atomic(tmp_path / "x.nii.gz") as temporary:
        temporary.symlink_to("/dev/full")
        with open(temporary, "wb", buffering=0) as file:
            file.write(b"x")
    problem = worker.explain(refused.value)
    assert problem.error == "disk-full" and str(tmp_path) not in problem.detail


def test_a_restart_keeps_history_and_calls_the_rest_interrupted(scan, tmp_path):
    queue = Queue(tmp_path)
    done = queue.wait(queue.submit(order(scan, "segment")).id, SOON)
    running = queue.submit(order(scan, victim=troubled("slow"), steps=500))
    waiting = queue.submit(order(scan, "segment"))
    until(lambda: queue.get(running.id).progress.get("step"))
    with pytest.raises(InputError, match="Another server uses"):
        Queue(tmp_path)
    began = time.monotonic()
    queue.close()
    assert time.monotonic() - began < 10
    queue = Queue(tmp_path, keep_days=1)
    try:
        assert queue.get(done.id).state == "done" and (queue.result(done.id) / "segmentation.nii.gz").is_file()
        assert [queue.get(r.id).state for r in (running, waiting)] == ["interrupted"] * 2
        assert queue.get(running.id).problem.error == "interrupted"
        again = queue.resubmit(waiting.id)
        assert again.id != waiting.id and queue.wait(again.id, SOON).state == "done"
        queue.delete(waiting.id)
        assert not (tmp_path / "jobs" / waiting.id).exists()
        with pytest.raises(Refused, match="no such job"):
            queue.get(waiting.id)
        old = queue._shelf.records[done.id]
        old.finished -= 2 * 86400
        queue._shelf.expire(queue.keep_days, queue.keep_bytes)
        assert [r.id for r in queue.list()] == [again.id, running.id]
        queue._shelf.expire(queue.keep_days, queue.get(again.id).bytes)
        assert [r.id for r in queue.list()] == [again.id]
    finally:
        queue.close()


KILLED_OUTRIGHT = """
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, {here!r})
from test_jobs import Queue, order, troubled, until
queue = Queue(Path({home!r}))
queue.submit(order(Path({scan!r}), victim=troubled("slow"), steps=500))
until(lambda: queue.list()[0].progress.get("step"))
print(queue._cluster._cluster.workers["cpu-0"].pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_server_killed_outright_leaves_no_worker_and_interrupted_jobs(scan, tmp_path):
    script = KILLED_OUTRIGHT.format(here=str(HERE), home=str(tmp_path), scan=str(scan))
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=5 * SOON)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    until(lambda: not psutil.pid_exists(int(ended.stdout)))
    queue = Queue(tmp_path)
    try:
        assert [r.state for r in queue.list()] == ["interrupted"]
    finally:
        queue.close()


def test_to_a_scheduler_elsewhere_files_travel_by_content(scan, tmp_path):
    from distributed import LocalCluster

    with pytest.raises(InputError, match="no Dask scheduler"):
        Queue(tmp_path / "none", scheduler="tcp://127.0.0.1:9")
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as elsewhere:
        queue = Queue(tmp_path / "home", scheduler=elsewhere.scheduler_address)
        try:
            done = queue.wait(queue.submit(order(scan)).id, SOON)
            assert done.state == "done"
            run_job(order(scan).job, tmp_path / "direct")
            same_arrays(queue.result(done.id), tmp_path / "direct", ["adversarial.nii.gz", "adversarial_seg.nii.gz"])
        finally:
            queue.close()
