"""What a queue is told and what it tells: an `Order`, its `Record`, and the `Problem` that ended it. All plain JSON."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from perturbox.attacks import recipes
from perturbox.certificates.smoothed import Question
from perturbox.job.execute import Job

KINDS = ("segment", "attack", "margin", "certify", "detect")
STATES = ("queued", "running", "cancelling", "done", "cancelled", "failed", "interrupted")
READING = "Reading the scan"  # a phase with a deadline of its own
MOST_COPIED = 10**11  # voxels of all noisy copies of one certificate together
OVER = ("done", "cancelled", "failed", "interrupted")


LATEST = 253_402_300_800.0  # the year 10000, which no date can say


@dataclass(frozen=True)
class Order:
    """What to do. The job's paths are the server's own files; name: what the client calls the scan, never a path;
    max_eps: for a margin; question: for a certificate; detectors: files by name, asked of the scan and of an attack's
    perturbed one; client: who asked, in a word."""

    kind: str
    job: Job
    max_eps: float = 32.0
    name: str = ""
    client: str = ""
    question: Question | None = None
    detectors: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Order":
        job = {**document["job"], "target": tuple(document["job"]["target"])}
        # Records of 0.1 hold an eps in any case, and whether the user gave it.
        if not job.pop("capped", True) and recipes.get(job["attack"]).own is not None:
            job["eps"] = None
        asked = document.get("question")
        return cls(**{**document, "job": Job(**job), "question": Question(**asked) if asked else None})


@dataclass(frozen=True)
class Problem:
    """Why something did not happen: a short code, what is wrong, and what to do about it, a sentence each."""

    error: str
    detail: str
    what_to_do: str

    def to_json(self) -> dict[str, str]:
        return dataclasses.asdict(self)


class Refused(Exception):
    """A request the queue turns down; status is the HTTP status that says the same."""

    def __init__(self, status: int, problem: Problem):
        super().__init__(f"{problem.detail} {problem.what_to_do}")
        self.status, self.problem = status, problem


@dataclass
class Record:
    """One order and what became of it. Times are seconds since the epoch; progress: phase, step, steps, restart, eta_s
    and the trace of live scores; bytes: of its whole folder, once it is over."""

    id: str
    order: Order
    created: float
    state: str = "queued"
    started: float | None = None
    finished: float | None = None
    progress: dict[str, Any] = field(default_factory=lambda: {"phase": "Waiting", "trace": []})
    problem: Problem | None = None
    warnings: list[str] = field(default_factory=list)
    bytes: int = 0
    queue_position: int | None = None

    @property
    def over(self) -> bool:
        return self.state in OVER

    @property
    def sound(self) -> bool:
        """Whether what was read back has a known state and times that are some."""
        times = [self.created, *(moment for moment in (self.started, self.finished) if moment is not None)]
        told = isinstance(self.progress, dict) and isinstance(self.progress.get("trace"), list)
        return told and self.state in STATES and all(0 <= moment < LATEST for moment in times)

    def to_json(self) -> dict[str, Any]:
        document = dataclasses.asdict(self)
        del document["queue_position"]
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Record":
        problem = document["problem"]
        return cls(
            **{
                **document,
                "order": Order.from_json(document["order"]),
                "problem": None if problem is None else Problem(**problem),
            }
        )
