"""Load on a real server: many clients at once, all kinds of requests, for minutes; nothing may break, be lost or grow.

    python benchmarks/server_load.py [--seconds 300] [--clients 20] [--page docs/benchmarks.md]

Starts `perturbox serve` with a model that answers in milliseconds on scans of 24 x 22 x 18 voxels, so that the server
and its queue are what is measured. Exit status 1 if a request ends in a 5xx or no answer, a job is lost or fails, or
memory grows by more than 10 % after the warm-up. With --page, the figures go to the end of that page.
"""

import argparse
import datetime
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests" / "core"), str(ROOT / "tests" / "app")]

import httpx  # noqa: E402
import psutil  # noqa: E402
import tiny  # noqa: E402
from serving import Server, start_server  # noqa: E402

import pages  # noqa: E402

OVER = ("done", "cancelled", "failed", "interrupted")
SCANS = ("case_a", "case_b")
STEPS = 2
WARM_UP, WINDOW, MOST_GROWTH = 0.3, 0.15, 0.10  # shares of the time; of the memory
PAUSE_SECONDS = (0.05, 0.4)
PATIENCE_SECONDS = 120


@dataclass
class Tally:
    """What all clients saw; any thread may add."""

    requests: dict[str, list[tuple[int, float]]] = field(default_factory=lambda: defaultdict(list))
    jobs: dict[str, str] = field(default_factory=dict)
    """Accepted jobs and the state each was last seen in."""
    odd: list[str] = field(default_factory=list)
    memory: list[tuple[float, int, int]] = field(default_factory=list)
    """(seconds, bytes of the server's process, bytes of its workers)."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, route: str, status: int, seconds: float) -> None:
        with self.lock:
            self.requests[route].append((status, seconds))

    def saw(self, id: str, state: str) -> None:
        with self.lock:
            self.jobs[id] = state

    def strange(self, words: str) -> None:
        with self.lock:
            self.odd.append(words)


class Client:
    """One user: does one thing after the other, with pauses."""

    def __init__(self, server: Server, tally: Tally, seed: int, end: float):
        self.tally, self.random, self.end = tally, random.Random(seed), end
        self.http = httpx.Client(base_url=server.url, headers=server.headers, timeout=60, trust_env=False)
        self.upload = (server.studies / f"{SCANS[0]}.nii.gz").read_bytes()

    def run(self) -> None:
        doings: list[tuple[int, Callable[[], None]]] = [
            (6, lambda: self.ask("GET", "/info/") and None),
            (4, lambda: self.ask("GET", "/datastore/") and None),
            (2, lambda: self.ask("GET", "/perturbox/jobs") and None),
            (2, lambda: self.ask("GET", "/perturbox/schema") and None),
            (2, lambda: self.ask("GET", "/perturbox/health") and None),
            (4, self.segment),
            (4, self.attack),
            (2, self.cancelled),
            (2, self.sent_along),
            (2, self.stock),
            (1, self.wrong),
        ]
        weights = [weight for weight, _ in doings]
        while time.monotonic() < self.end:
            self.random.choices(doings, weights)[0][1]()
            time.sleep(self.random.uniform(*PAUSE_SECONDS))
        self.http.close()

    def ask(
        self, method: str, path: str, route: str | None = None, expect: tuple[int, ...] = (200,), **sent: Any
    ) -> httpx.Response | None:
        """One request, counted under its route; None where no answer came. Other answers than expected are noted."""
        begun = time.monotonic()
        name = f"{method} {route or path}"
        try:
            answer = self.http.request(method, path, **sent)
        except httpx.HTTPError as error:
            self.tally.add(name, 0, time.monotonic() - begun)
            self.tally.strange(f"{name}: {type(error).__name__} {error}")
            return None
        self.tally.add(name, answer.status_code, time.monotonic() - begun)
        if answer.status_code not in expect:
            self.tally.strange(f"{name}: {answer.status_code} {answer.text[:200]}")
        return answer

    def submit(self, **sent: Any) -> str | None:
        answer = self.ask("POST", "/perturbox/jobs", expect=(202, 429), **sent)
        if answer is None or answer.status_code != 202:
            return None
        self.tally.saw(answer.json()["id"], "queued")
        return answer.json()["id"]

    def follow(self, id: str | None) -> str | None:
        """Poll until the job is over; its last state."""
        since, given_up = 0, time.monotonic() + PATIENCE_SECONDS
        while id is not None and time.monotonic() < given_up:
            answer = self.ask("GET", f"/perturbox/jobs/{id}", "/perturbox/jobs/{id}", params={"since": since})
            if answer is not None and answer.status_code == 200:
                since = answer.json()["progress"]["trace_next"]
                self.tally.saw(id, answer.json()["state"])
                if answer.json()["state"] in OVER:
                    return answer.json()["state"]
            time.sleep(0.2)
        return None

    def expect_done(self, id: str | None) -> bool:
        state = self.follow(id)
        if id is not None and state != "done":
            self.tally.strange(f"job {id} ended as {state}")
        return state == "done"

    def segment(self) -> None:
        id = self.submit(json={"kind": "segment", "image": self.random.choice(SCANS)})
        if self.expect_done(id):
            self.fetch(id, "segmentation.nii.gz", format="nrrd")

    def attack(self) -> None:
        body = {"image": self.random.choice(SCANS), "steps": STEPS, "seed": self.random.randrange(1000)}
        id = self.submit(json=body)
        if self.expect_done(id):
            self.fetch(id, "adversarial.nii.gz", format="nrrd")
            self.fetch(id, "result.json")
            self.ask("GET", f"/perturbox/jobs/{id}/files", "/perturbox/jobs/{id}/files")
            self.ask("GET", f"/perturbox/jobs/{id}/result.zip", "/perturbox/jobs/{id}/result.zip")
            self.ask("DELETE", f"/perturbox/jobs/{id}", "/perturbox/jobs/{id}", (204,))

    def fetch(self, id: str | None, name: str, **query: str) -> None:
        self.ask("GET", f"/perturbox/jobs/{id}/files/{name}", "/perturbox/jobs/{id}/files/{name}", params=query)

    def cancelled(self) -> None:
        id = self.submit(json={"image": SCANS[0], "steps": 5000, "eps": 0.5})
        time.sleep(self.random.uniform(0, 1))
        if id is not None:
            wish = {"keep": self.random.random() < 0.3}
            self.ask("POST", f"/perturbox/jobs/{id}/cancel", "/perturbox/jobs/{id}/cancel", (202, 409), json=wish)
            if (state := self.follow(id)) not in ("cancelled", "done"):
                self.tally.strange(f"cancelled job {id} ended as {state}")

    def sent_along(self) -> None:
        body = {"request": json.dumps({"kind": "segment"})}
        self.expect_done(self.submit(data=body, files={"image": ("scan.nii.gz", self.upload)}))

    def stock(self) -> None:
        params = {"image": self.random.choice(SCANS), "output": "json"}
        self.ask("POST", "/infer/tiny", expect=(200, 429), params=params, data={"params": "{}"})

    def wrong(self) -> None:
        self.ask("POST", "/perturbox/jobs", expect=(404,), json={"image": "nothing"})


def watch_memory(server: Server, tally: Tally, begun: float, end: float) -> None:
    root = psutil.Process(server.process.pid)
    while time.monotonic() < end:
        below = 0
        for process in root.children(recursive=True):
            try:
                below += process.memory_info().rss
            except psutil.Error:
                continue
        tally.memory.append((time.monotonic() - begun, root.memory_info().rss, below))
        time.sleep(0.5)


def load(seconds: float, clients: int, folder: Path) -> dict[str, Any]:
    """Run the load on a server of its own and return the figures."""
    (folder / "studies").mkdir(parents=True)
    for seed, name in enumerate(SCANS):
        tiny.write_scan(folder / "studies" / f"{name}.nii.gz", seed=seed)
    server = start_server(folder, token="a-token-for-the-load")
    tally, begun = Tally(), time.monotonic()
    end = begun + seconds
    try:
        users = [Client(server, tally, seed, end) for seed in range(clients)]
        threads = [threading.Thread(target=user.run) for user in users]
        threads.append(threading.Thread(target=watch_memory, args=(server, tally, begun, end)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        lost = not_over(server, tally)
    finally:
        ended = time.monotonic()
        server.stop()
    return figures(tally, lost, seconds, clients, time.monotonic() - ended)


def not_over(server: Server, tally: Tally) -> list[str]:
    """Accepted jobs that neither were deleted nor came to an end."""
    given_up = time.monotonic() + PATIENCE_SECONDS
    while True:
        jobs = {job["id"]: job["state"] for job in server.http.get("/perturbox/jobs").json()["jobs"]}
        waiting = [id for id, state in tally.jobs.items() if state not in OVER and jobs.get(id) not in OVER]
        if not waiting or time.monotonic() > given_up:
            return waiting
        time.sleep(0.5)


def figures(tally: Tally, lost: list[str], seconds: float, clients: int, stop_seconds: float) -> dict[str, Any]:
    routes = {}
    for route, seen in sorted(tally.requests.items()):
        times = sorted(spent for _, spent in seen)
        routes[route] = {
            "statuses": {str(status): count for status, count in sorted(Counter(s for s, _ in seen).items())},
            "p50_ms": 1000 * statistics.median(times),
            "p99_ms": 1000 * times[min(len(times) - 1, int(0.99 * len(times)))],
        }
    memory = {name: growth(tally, index, seconds) for index, name in ((1, "server"), (2, "workers"))}
    statuses = Counter(status for seen in tally.requests.values() for status, _ in seen)
    return {
        "date": datetime.date.today().isoformat(),
        "seconds": seconds,
        "clients": clients,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "volume": list(tiny.SHAPE),
        "steps": STEPS,
        "requests": sum(statuses.values()),
        "routes": routes,
        "jobs": dict(Counter(tally.jobs.values())),
        "lost": lost,
        "odd": tally.odd,
        "memory": memory,
        "stop_seconds": stop_seconds,
        "failures": [
            *(
                f"{count} requests ended in {status}"
                for status, count in statuses.items()
                if status == 0 or status >= 500
            ),
            *([f"{len(lost)} jobs lost"] if lost else []),
            *tally.odd[:20],
            *(
                f"{name} grew by {entry['growth']:.0%}"
                for name, entry in memory.items()
                if entry["growth"] > MOST_GROWTH
            ),
        ],
    }


def growth(tally: Tally, index: int, seconds: float) -> dict[str, float]:
    """Memory after the warm-up and at the end, medians over a while each."""
    first = [row[index] for row in tally.memory if WARM_UP <= row[0] / seconds < WARM_UP + WINDOW]
    last = [row[index] for row in tally.memory if row[0] / seconds >= 1 - WINDOW]
    warm, end = statistics.median(first), statistics.median(last)
    return {"warm_bytes": warm, "end_bytes": end, "growth": end / warm - 1}


def section(found: dict[str, Any]) -> str:
    """The figures as a section of docs/benchmarks.md."""
    shape = " × ".join(map(str, found["volume"]))
    lines = [
        pages.SERVER,
        "",
        f"{found['date']} · {found['cores']} cores (load {found['load_average']:.1f} at the end) · "
        f"`python benchmarks/server_load.py --seconds {found['seconds']:g} --clients {found['clients']}`",
        "",
        f"{found['clients']} clients for {found['seconds']:g} s on scans of {shape} voxels, attacks of "
        f"{found['steps']} steps, a model that answers in milliseconds: {found['requests']} requests, jobs "
        + ", ".join(f"{count} {state}" for state, count in sorted(found["jobs"].items()))
        + f", {len(found['lost'])} lost. Ended by SIGTERM in {found['stop_seconds']:.1f} s.",
        "",
        *(
            f"- Memory of the {name}: {entry['warm_bytes'] / 2**20:.0f} MiB after the warm-up, "
            f"{entry['end_bytes'] / 2**20:.0f} MiB at the end ({entry['growth']:+.1%})."
            for name, entry in found["memory"].items()
        ),
        f"- {'Nothing failed.' if not found['failures'] else 'Failed: ' + '; '.join(found['failures']) + '.'}",
        "",
        "| route | answers | p50, ms | p99, ms |",
        "|---|---|--:|--:|",
        *(
            f"| {route} | {', '.join(f'{count} × {status}' for status, count in row['statuses'].items())} "
            f"| {row['p50_ms']:.0f} | {row['p99_ms']:.0f} |"
            for route, row in found["routes"].items()
        ),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--page", type=Path, help="write the figures to the end of this page")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="perturbox-load-") as folder:
        found = load(options.seconds, options.clients, Path(folder) / "server")
    print(section(found))
    if options.page is not None:
        options.page.write_text(pages.with_section(options.page.read_text(), section(found)))
    for failure in found["failures"]:
        print(f"FAILED: {failure}", file=sys.stderr)
    return 1 if found["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
