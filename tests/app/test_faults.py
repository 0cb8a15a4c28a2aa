"""What must not happen happens: dying workers, full disks, broken files, restarts. The server lives, and says why."""

import gzip
import os
import socket
import subprocess
import time
from pathlib import Path

import httpx
import nibabel as nib
import numpy as np
import psutil
import pytest
import tiny
from jobs_client import climbing, fetch_json, post, refused, status, submit, wait, wait_until
from serving import TINY, Server

LONG = {"image": "case_a", "steps": 10_000, "eps": 1.0}
FAULTY = Path(__file__).with_name("faulty.py")
AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])


def processes(server: Server) -> list[psutil.Process]:
    """The server's own process and all it started."""
    root = psutil.Process(server.process.pid)
    return [root, *root.children(recursive=True)]


def workers(server: Server) -> list[psutil.Process]:
    """The processes that compute: the most memory, below the server."""
    started = [process for process in processes(server)[1:] if "spawn_main" in " ".join(process.cmdline())]
    assert started, [process.cmdline() for process in processes(server)]
    return started


def scan_bytes(**changes) -> bytes:
    """The tiny scan as .nii.gz, with voxels changed by `change`."""
    voxels = changes.get("voxels", tiny.scan())
    return gzip.compress(nib.Nifti1Image(voxels, AFFINE).to_bytes())


def with_studies(folder: Path) -> Path:
    (folder / "studies").mkdir(parents=True, exist_ok=True)
    tiny.write_scan(folder / "studies" / "case_a.nii.gz")
    return folder


# ---------------------------------------------------------------- files


def nans() -> bytes:
    voxels = tiny.scan().astype(np.float32)
    voxels[3, 3, 3] = np.nan
    return scan_bytes(voxels=voxels)


BROKEN = {
    "truncated": ("scan.nii.gz", scan_bytes()[:-300], "truncated"),
    "text": ("scan.nii.gz", b"This is no scan.\n" * 100, "gzip"),
    "text in gzip": ("scan.nii.gz", gzip.compress(b"This is no scan.\n" * 100), "NIfTI"),
    "another format": ("scan.nrrd", scan_bytes(), ""),
    "bits flipped": ("scan.nii.gz", scan_bytes()[:900] + b"\xff" * 40 + scan_bytes()[940:], "damaged"),
    "NaN": ("scan.nii.gz", nans(), "NaN"),
    "constant": ("scan.nii.gz", scan_bytes(voxels=np.zeros((24, 22, 18), np.int16)), ""),
    "four axes": ("scan.nii.gz", scan_bytes(voxels=np.stack([tiny.scan()] * 3, -1)), ""),
    "a slice": ("scan.nii.gz", scan_bytes(voxels=tiny.scan()[:, :, 5]), ""),
    "no HU": ("scan.nii.gz", scan_bytes(voxels=(tiny.scan() // 10 + 100).astype(np.uint8)), ""),
    "no DICOM": ("scan.zip", b"PK\x05\x06" + b"\0" * 18, "holds no files"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_scan_is_refused_with_a_sentence(server, case):
    """At once (422), or by the job, which then says the same; the words name the client's file, never the server's."""
    name, content, said = BROKEN[case]
    answer = post(server.http, {"image": (name, content)}, kind="segment")
    if answer.status_code != 202:
        detail = refused(answer, 422)["detail"]
    else:
        found = wait(server.http, answer.json()["id"], "failed")
        assert found["error"]["error"] == "bad-input", found["error"]
        detail = found["error"]["detail"]
    assert said in detail and detail.endswith(".")
    assert str(server.home) not in detail and "/inputs/" not in detail


def test_a_label_on_another_grid_is_refused_by_the_job(server):
    label = gzip.compress(nib.Nifti1Image(np.ones((5, 5, 5), np.uint8), AFFINE).to_bytes())
    job = submit(server.http, {"image": ("a.nii.gz", scan_bytes()), "label": ("l.nii.gz", label)}, steps=1)
    error = wait(server.http, job["id"], "failed")["error"]
    assert error["error"] == "bad-input" and str(server.home) not in error["detail"]


def test_a_client_that_vanishes_leaves_nothing(server):
    """Half an upload, then silence: no file stays, no job begins, others are served."""
    before = len(server.http.get("/perturbox/jobs").json()["jobs"])
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /perturbox/jobs HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {server.token}\r\n"
        head += "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 9000000\r\n\r\n"
        connection.sendall(head.encode() + b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.nii"\r\n')
        connection.sendall(b"\r\n" + b"x" * 3_000_000)
    time.sleep(0.5)
    assert len(server.http.get("/perturbox/jobs").json()["jobs"]) == before
    assert list((server.home / "uploads").iterdir()) == []


# ---------------------------------------------------------------- workers


def test_a_killed_worker_is_replaced_and_its_job_says_why(server):
    http = server.http
    job = submit(http, **LONG)["id"]
    wait_until(http, job, climbing)
    for process in workers(server):
        process.kill()
    found = wait(http, job, "failed", 30)
    assert found["error"]["error"] == "worker-died" and found["error"]["what_to_do"]
    wait(http, submit(http, kind="segment", image="case_a")["id"])
    assert http.get("/perturbox/health").json()["workers"] == 1


@pytest.mark.slow
def test_models_that_break_end_their_own_jobs_only(start_server, tmp_path):
    victims = (TINY, f"{FAULTY}:hungry", f"{FAULTY}:stuck")
    server = start_server(with_studies(tmp_path / "server"), victims=victims)
    http = server.http
    hungry = submit(http, kind="segment", image="case_a", victim="hungry")["id"]
    healthy = submit(http, kind="segment", image="case_a", victim="tiny")["id"]
    assert wait(http, hungry, "failed")["error"]["error"] == "out-of-memory"
    wait(http, healthy)
    stuck = submit(http, kind="segment", image="case_a", victim="stuck")["id"]
    healthy = submit(http, kind="segment", image="case_a", victim="tiny")["id"]
    wait_until(http, stuck, lambda found: found["progress"]["phase"] == "Segmenting")
    asked = time.monotonic()
    assert http.post(f"/perturbox/jobs/{stuck}/cancel").json()["state"] == "cancelling"
    wait(http, stuck, "cancelled", 40)  # it can't stop, so its worker is ended after the grace of 10 s
    assert 5 < time.monotonic() - asked < 30
    wait(http, healthy)


# ---------------------------------------------------------------- beginnings and ends


@pytest.mark.slow
@pytest.mark.parametrize("end", ["SIGTERM", "SIGKILL"])
def test_a_restart_keeps_results_and_says_what_was_interrupted(start_server, tmp_path, end):
    folder = with_studies(tmp_path / "server")
    server = start_server(folder)
    done = wait(server.http, submit(server.http, image="case_a", steps=2)["id"])
    result = fetch_json(server.http, done["id"])
    running, waiting = (submit(server.http, **LONG)["id"] for _ in range(2))
    wait_until(server.http, running, climbing)
    before = processes(server)
    if end == "SIGTERM":
        server.stop()
    else:
        server.process.kill()
        server.process.wait()
    psutil.wait_procs(before, timeout=30)
    server = start_server(folder)
    http = server.http
    again = status(http, done["id"])
    assert again["state"] == "done" and again["progress"]["trace"] == done["progress"]["trace"]
    assert fetch_json(http, done["id"]) == result
    for id in (running, waiting):
        found = status(http, id)
        assert found["state"] == "interrupted" and found["error"]["error"] == "interrupted"
        assert list(found["links"]) == ["self", "resubmit", "delete"]
    resubmitted = http.post(f"/perturbox/jobs/{running}/resubmit").json()["id"]
    wait_until(http, resubmitted, climbing)
    http.post(f"/perturbox/jobs/{resubmitted}/cancel")


@pytest.mark.slow
def test_sigterm_ends_every_process_within_15_seconds(start_server, tmp_path):
    server = start_server(with_studies(tmp_path / "server"))
    job = submit(server.http, **LONG)["id"]
    wait_until(server.http, job, climbing)
    everything = processes(server)
    assert len(everything) >= 2
    asked = time.monotonic()
    server.process.terminate()
    _, alive = psutil.wait_procs(everything, timeout=15)
    seconds = time.monotonic() - asked
    assert not alive, [process.cmdline() for process in alive]
    assert seconds < 15
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{server.url}/info/", trust_env=False)


# ---------------------------------------------------------------- disks


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 24 MB, where this user may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("this machine has no mount command")
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a small disk: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_said_and_survived(start_server, tmp_path, small_disk):
    folder = with_studies(tmp_path / "server")
    (small_disk / "home").mkdir()
    (folder / "home").symlink_to(small_disk / "home")
    server = start_server(folder)
    http = server.http
    wait(http, submit(http, kind="segment", image="case_a")["id"])
    with (small_disk / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError, match="No space"):
        while True:
            filler.write(b"0" * 4096)
    answer = post(http, {"image": ("scan.nii.gz", scan_bytes())}, kind="segment")
    assert refused(answer, 503)["error"] == "disk-full"
    assert http.get("/info/").status_code == 200
    assert http.get("/perturbox/jobs").status_code == 200
    os.unlink(small_disk / "filler")
    wait(http, submit(http, {"image": ("scan.nii.gz", scan_bytes())}, kind="segment")["id"])
    wait(http, submit(http, image="case_a", steps=2)["id"])
