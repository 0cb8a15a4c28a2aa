"""Background tasks as clients see them: progress, an end that ends the jobs too, a restart that says so."""

import signal
import time
from contextlib import suppress
from datetime import UTC, datetime

import psutil
import pytest
import tiny
from serving import ROOT, TINY, Server

TRAINABLE = f"{ROOT / 'tests' / 'app' / 'trainable.py'}:volume"
TOKEN, PASSWORD = "a-token-of-the-tasks", "the-password-of-a-pacs"
LONG = {"eps": "10", "steps": "5000"}
ROUTES = {
    "scoring": ("/scoring/robustness", "/scoring/"),
    "batch": ("/batch/infer/tiny-pgd?images=all", "/batch/infer"),
}


@pytest.fixture(scope="module")
def busy(tmp_path_factory):
    """A server whose store is changed: case_a, case_b and a picture, two victims, secrets in its environment."""
    from serving import start_server

    server = start(start_server, tmp_path_factory.mktemp("background"))
    yield server
    server.stop()


def start(start_server, folder):
    (folder / "studies").mkdir(exist_ok=True)
    for seed, name in enumerate(("case_a", "case_b")):
        tiny.write_scan(folder / "studies" / f"{name}.nii.gz", seed=seed)
    secrets = {"MONAI_LABEL_DICOMWEB_PASSWORD": PASSWORD}
    return start_server(folder, token=TOKEN, victims=(TINY, TRAINABLE), environment=secrets)


def until(what, seconds: float = 400):
    """What `what` returns once that is something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.1)
    raise AssertionError("it didn't happen")


def jobs(server: Server, *states: str) -> list[dict]:
    return [job for job in server.http.get("/perturbox/jobs").json()["jobs"] if job["state"] in states]


def over(server: Server, route: str) -> dict:
    def look():
        task = server.http.get(route).json()
        return task if task["status"] not in ("SUBMITTED", "RUNNING") else None

    return until(look)


def test_scoring_says_how_far_it_is(busy):
    assert busy.http.post("/scoring/robustness", json={"eps": "10", "steps": "2"}).status_code == 200
    seen = []

    def look():
        task = busy.http.get("/scoring/").json()
        seen.append(list(task.get("details", [])))
        return task if task["status"] not in ("SUBMITTED", "RUNNING") else None

    task = until(look)
    assert task["status"] == "DONE"
    first, second, last = task["details"]
    assert first.startswith("Scored image 1 of 2: worst-case Dice 0.") and second.startswith("Scored image 2 of 2: ")
    assert last.startswith("Scored 2 of 2 images, the lowest 0.")
    assert [first] in seen, "progress is told before the end"
    assert "case_" not in str(task["details"])


def test_a_batch_goes_on_after_an_image_that_cannot_be_done(busy):
    (busy.studies / "picture.nii.gz").write_bytes(b"no scan at all")
    until(lambda: "picture" in busy.http.get("/datastore/?output=all").json()["objects"])
    try:
        sent = {"eps": "10", "steps": "2", "label_tag": "attacked"}
        assert busy.http.post("/batch/infer/tiny-pgd?images=all", json=sent).status_code == 200
        task = over(busy, "/batch/infer")
    finally:
        (busy.studies / "picture.nii.gz").unlink()
    assert task["status"] == "DONE" and [line[:12] for line in task["details"]] == [
        f"Image {n} of 3" for n in (1, 2, 3)
    ]
    assert sum("could not be done" in line for line in task["details"]) == 1
    assert str(busy.studies) not in str(task["details"]) and "picture" not in str(task["details"])


@pytest.mark.parametrize("kind", list(ROUTES))
def test_stopping_a_task_ends_its_job_within_two_seconds(busy, kind):
    begin, status = ROUTES[kind]
    assert busy.http.post(begin, json=LONG).status_code == 200
    (job,) = until(lambda: jobs(busy, "running"))
    assert busy.http.delete(status).json()["status"] == "STOPPED"
    stopped = datetime.now(UTC)
    until(lambda: not jobs(busy, "queued", "running", "cancelling"))
    over = busy.http.get(f"/perturbox/jobs/{job['id']}").json()
    assert over["state"] == "cancelled"
    assert (datetime.fromisoformat(over["finished"]) - stopped).total_seconds() < 2
    assert busy.http.get(status).json()["status"] == "STOPPED"


def test_a_task_that_is_killed_leaves_no_job_either(busy):
    assert busy.http.post("/scoring/robustness", json=LONG).status_code == 200
    until(lambda: jobs(busy, "running"))
    (child,) = [p for p in psutil.Process(busy.process.pid).children() if "scoring" in p.cmdline()]
    child.kill()
    until(lambda: not jobs(busy, "queued", "running", "cancelling"))
    assert over(busy, "/scoring/")["status"] == "ERROR"


def test_no_process_of_the_server_shows_a_secret(busy):
    assert busy.http.post("/scoring/robustness", json=LONG).status_code == 200
    until(lambda: jobs(busy, "running"))
    processes = [psutil.Process(busy.process.pid), *psutil.Process(busy.process.pid).children(recursive=True)]
    kinds = " ".join(" ".join(process.cmdline()) for process in processes)
    assert "monailabel.interfaces.utils.app" in kinds and "multiprocessing" in kinds
    for process in processes:
        for file in ("environ", "cmdline"):
            with open(f"/proc/{process.pid}/{file}", "rb") as shown:
                content = shown.read()
            assert TOKEN.encode() not in content and PASSWORD.encode() not in content, process.cmdline()
    busy.http.delete("/scoring/")
    until(lambda: not jobs(busy, "queued", "running", "cancelling"))


def test_training_says_how_far_it_is_and_why_it_cannot_work(busy, tmp_path):
    client = busy.stock_client(tmp_path)
    client.train_start("adversarial_finetuning", {"victim": "trainable"})
    task = over(busy, "/train/")
    assert task["status"] == "ERROR"
    assert task["details"] == ["No image has a final label; label one in your viewer and submit it, then train."]


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_says_which_tasks_were_interrupted(start_server, tmp_path, end):
    server = start(start_server, tmp_path)
    assert server.http.post("/scoring/robustness", json=LONG).status_code == 200
    until(lambda: jobs(server, "running"))
    if end == signal.SIGKILL:
        children = psutil.Process(server.process.pid).children(recursive=True)
        server.process.kill()
        server.process.wait()
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
    else:
        server.stop(end)
    again = start(start_server, tmp_path)
    task = again.http.get("/scoring/").json()
    assert task["status"] == "INTERRUPTED" and task["request"]["method"] == "robustness"
    assert task["details"] == [
        "This task was interrupted: the server ended while it was waiting or running. Start it again."
    ]
    assert jobs(again, "interrupted")
    again.http.delete("/scoring/")
