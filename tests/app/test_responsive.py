"""The server answers while it works: quick routes stay quick, who leaves costs nothing, and a full queue says so."""

import json
import threading
import time

import httpx
import pytest
import tiny

CALLS, P99_SECONDS = 200, 0.25
LONG = {"attack": "pgd", "steps": 5000}


@pytest.fixture
def big(server):
    """A scan on which an attack lasts for minutes; what a test leaves running is cancelled."""
    if not (server.studies / "big.nii.gz").exists():
        tiny.write_scan(server.studies / "big.nii.gz", shape=(64, 64, 48))
        assert server.http.post("/reload").status_code == 200
        assert server.http.post("/infer/tiny?image=big&output=json").status_code == 200  # the worker is up, too
    yield "big"
    cancel_all(server, "big")


def jobs(server, image: str, *states: str) -> list[dict]:
    told = server.http.get("/perturbox/jobs").json()["jobs"]
    return [job for job in told if job["image"] == image and (not states or job["state"] in states)]


def cancel_all(server, image: str) -> None:
    for job in jobs(server, image, "queued", "running"):
        server.http.post(f"/perturbox/jobs/{job['id']}/cancel")
    until(lambda: not jobs(server, image, "queued", "running", "cancelling"))


def until(condition, seconds: float = 120):
    """The condition's first true value."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(f"not so within {seconds} s")


def stepping(server, image: str) -> dict:
    """A job on that image that has begun to climb."""
    return until(lambda: next((job for job in jobs(server, image, "running") if job["progress"]["step"]), None))


def p99(server) -> float:
    """Seconds within which 99 of 100 sequential calls of /info/ are answered."""
    took = []
    for _ in range(CALLS):
        begun = time.perf_counter()
        assert server.http.get("/info/").status_code == 200
        took.append(time.perf_counter() - begun)
    return sorted(took)[int(0.99 * CALLS) - 1]


class Leaving(threading.Thread):
    """A stock inference in a client of its own, which can leave before it is answered."""

    def __init__(self, server, image: str):
        super().__init__(daemon=True)
        self.client = httpx.Client(base_url=server.url, headers=server.headers, timeout=600, trust_env=False)
        self.path = f"/infer/tiny-pgd?image={image}"
        self.form = {"params": (None, json.dumps({"steps": str(LONG["steps"])}))}
        self.answer: httpx.Response | None = None

    def run(self) -> None:
        try:
            with self.client.stream("POST", self.path, files=self.form) as answer:
                answer.read()
                self.answer = answer
        except (httpx.TransportError, RuntimeError, OSError):
            pass


def leave(server, image: str, seconds: float = 1.0) -> None:
    """Ask for a long inference and give up on it."""
    form = {"params": (None, json.dumps({"steps": str(LONG["steps"])}))}
    with (
        pytest.raises(httpx.ReadTimeout),
        httpx.Client(base_url=server.url, headers=server.headers, timeout=seconds, trust_env=False) as client,
    ):
        client.post(f"/infer/tiny-pgd?image={image}", files=form)


@pytest.mark.slow
def test_info_is_quick_while_an_attack_runs_through_the_job_api(server, big):
    asked = {"kind": "attack", "image": big, "victim": "tiny", **LONG}
    id = server.http.post("/perturbox/jobs", json=asked).json()["id"]
    stepping(server, big)
    taken = p99(server)
    assert server.http.get(f"/perturbox/jobs/{id}").json()["state"] == "running"
    server.http.post(f"/perturbox/jobs/{id}/cancel")
    until(lambda: server.http.get(f"/perturbox/jobs/{id}").json()["state"] == "cancelled")
    assert taken < P99_SECONDS


@pytest.mark.slow
def test_info_is_quick_while_an_attack_runs_through_stock_infer(server, big):
    asking = Leaving(server, big)
    asking.start()
    id = stepping(server, big)["id"]
    taken = p99(server)
    assert server.http.get(f"/perturbox/jobs/{id}").json()["state"] == "running"
    server.http.post(f"/perturbox/jobs/{id}/cancel")
    asking.join(30)
    asking.client.close()
    assert asking.answer is not None
    assert asking.answer.status_code == 409
    assert asking.answer.json()["error"] == "cancelled"
    assert taken < P99_SECONDS


def test_a_client_that_leaves_costs_nothing(server, big):
    before = {job["id"] for job in jobs(server, big)}
    leave(server, big)
    (job,) = [job for job in jobs(server, big) if job["id"] not in before]
    until(lambda: server.http.get(f"/perturbox/jobs/{job['id']}").json()["state"] == "cancelled", 30)
    assert server.http.post("/infer/tiny?image=case_a&output=json").status_code == 200


def test_a_full_queue_turns_stock_clients_away(server, big):
    waiting = server.http.get("/perturbox/schema").json()["limits"]["waiting"]
    asked = {"kind": "attack", "image": big, "victim": "tiny", **LONG}
    answers = [server.http.post("/perturbox/jobs", json=asked) for _ in range(waiting + 3)]
    assert answers[-1].status_code == 429
    answer = server.http.post("/infer/tiny?image=case_a")
    assert answer.status_code == 429
    assert "retry-after" in answer.headers
    assert set(answer.json()) == {"error", "detail", "what_to_do"}
    assert server.http.get("/info/").status_code == 200
    cancel_all(server, big)
    assert server.http.post("/infer/tiny?image=case_a&output=json").status_code == 200
