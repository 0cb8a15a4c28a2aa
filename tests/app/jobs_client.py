"""Jobs through plain HTTP, as a client of ours would have them."""

import json
import time
from pathlib import Path
from typing import Any

import httpx

OVER = ("done", "cancelled", "failed", "interrupted")
JOB_SECONDS = 180


def submit(http: httpx.Client, files: dict[str, Path | tuple[str, bytes]] | None = None, **body: Any) -> dict[str, Any]:
    """Submit a job, with files as multipart; returns its status, asserting that it was accepted."""
    answer = post(http, files, **body)
    assert answer.status_code == 202, answer.text
    return answer.json()


def post(http: httpx.Client, files: dict[str, Path | tuple[str, bytes]] | None = None, **body: Any) -> httpx.Response:
    if files is None:
        return http.post("/perturbox/jobs", json=body)
    sent = {field: (file.name, file.read_bytes()) if isinstance(file, Path) else file for field, file in files.items()}
    return http.post("/perturbox/jobs", data={"request": json.dumps(body)}, files=sent)


def status(http: httpx.Client, id: str, **query: Any) -> dict[str, Any]:
    answer = http.get(f"/perturbox/jobs/{id}", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def wait(http: httpx.Client, id: str, state: str | None = "done", seconds: float = JOB_SECONDS) -> dict[str, Any]:
    """The status once the job is over, which must be in this state (None: in any)."""
    found = wait_until(http, id, lambda found: found["state"] in OVER, seconds)
    assert state is None or found["state"] == state, json.dumps(found, indent=1)
    return found


def wait_until(http: httpx.Client, id: str, met, seconds: float = JOB_SECONDS) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while not met(found := status(http, id)):
        assert time.monotonic() < end, f"not reached in {seconds} s: {json.dumps(found, indent=1)}"
        time.sleep(0.1)
    return found


def climbing(found: dict[str, Any]) -> bool:
    """Whether an attack has taken its first steps; fails where it is over before."""
    assert found["state"] not in OVER, json.dumps(found, indent=1)
    return len(found["progress"]["trace"]) >= 2


def fetch(http: httpx.Client, id: str, name: str, folder: Path) -> Path:
    answer = http.get(f"/perturbox/jobs/{id}/files/{name}")
    assert answer.status_code == 200, answer.text
    path = folder / Path(name).name
    path.write_bytes(answer.content)
    return path


def fetch_json(http: httpx.Client, id: str, name: str = "result.json") -> Any:
    answer = http.get(f"/perturbox/jobs/{id}/files/{name}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(answer: httpx.Response, status: int) -> dict[str, str]:
    """The three sentences of a refusal, asserting that it is one."""
    assert answer.status_code == status, f"{answer.status_code}: {answer.text}"
    told = answer.json()
    assert set(told) == {"error", "detail", "what_to_do"} and all(isinstance(text, str) for text in told.values())
    assert told["detail"] and "Traceback" not in answer.text
    return told
