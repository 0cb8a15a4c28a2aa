"""What the job API answers: the state of a job as plain JSON, and the models that describe it on the API page."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from lib.api.schema import Offer
from lib.words import for_clients
from perturbox.attacks import recipes
from perturbox.jobs import Problem, Record
from perturbox.plain import to_json

PREFIX = "/perturbox"
NO_DICOM = "DICOM can't be written yet: the perturbed scan comes as NRRD."


class ErrorAnswer(BaseModel):
    """Why a request was refused."""

    error: str = Field(description="A short code for programs.", examples=["bad-input"])
    detail: str = Field(description="What is wrong, in one sentence.")
    what_to_do: str = Field(description="What to do about it, in one sentence.")


class Point(BaseModel):
    """One step of the attack, as seen live on the network's grid."""

    step: int
    restart: int = 0
    loss: float | None = None
    score: float | None = Field(None, description="What the goal measures; lower is worse for the model.")
    dice: dict[str, float | None] = Field({}, description="Live Dice by structure; null where it isn't defined.")
    linf: float | None = Field(None, description="Largest change so far, in the scan's unit.")


class Progress(BaseModel):
    phase: str = Field(description="What is being done, in words.", examples=["Attacking with PGD"])
    step: int | None = None
    steps: int | None = None
    restart: int | None = None
    eta_s: float | None = Field(None, description="Seconds left, as far as known.")
    trace: list[Point] = []
    trace_next: int = Field(0, description="Send it as `since` next time to get only what is new.")


class Status(BaseModel):
    """A job and how it goes. Times are ISO 8601, UTC."""

    id: str
    kind: Literal["segment", "attack", "margin", "certify", "detect"]
    state: Literal["queued", "running", "cancelling", "done", "cancelled", "failed", "interrupted"]
    queue_position: int | None = Field(None, description="1 is next; null once it has started.")
    progress: Progress
    created: str
    started: str | None = None
    finished: str | None = None
    image: str = Field(description="What the client called the scan.")
    request: dict[str, Any] = Field(description="What was asked for, defaults filled in.")
    warnings: list[str] = []
    error: ErrorAnswer | None = None
    bytes: int = Field(0, description="Disk space of a job that is over.")
    links: dict[str, str] = Field(description="Where to go from here.")


class Jobs(BaseModel):
    jobs: list[Status] = Field(description="Jobs, newest first, without their traces.")
    total: int = Field(description="How many there are.")
    next: int | None = Field(None, description="The offset of those that come after; null where there are no more.")


class File(BaseModel):
    name: str
    bytes: int
    sha256: str
    media_type: str
    formats: list[str] = Field(description="What ?format= may ask for.")


class Files(BaseModel):
    files: list[File]


class Health(BaseModel):
    api: str
    workers: int
    queued: int
    running: int
    waiting_limit: int = Field(description="How many jobs may wait; more are refused with 429.")
    scheduler: str = Field(description='"embedded", or the address of an existing one.')


class StudyStatus(BaseModel):
    """A study that the operator shows, and how far it is."""

    name: str = Field(description="Of its folder, and in addresses.")
    state: Literal["done", "unfinished", "unreadable"]
    study: str | None = Field(None, description="What its file calls it.")
    kind: str | None = None
    question: str = ""
    done: int = Field(0, description="Pieces of work that are done: clean looks, perturbations, judgements.")
    all: int | None = Field(None, description="How many there are; null where that isn't known.")
    failed: int = Field(0, description="How many of those that are done have failed.")
    changed: str | None = Field(None, description="When the last piece was written down.")
    models: list[str] = []
    cases: int | None = None
    verdict: list[str] = Field([], description="What it found, most important first; empty until it is done.")
    problem: str | None = Field(None, description="Why it can't be read.")
    links: dict[str, str] = Field(description="Where to go from here.")


class Studies(BaseModel):
    studies: list[StudyStatus] = Field(description="Studies, by name.")
    total: int = Field(description="How many there are.")
    next: int | None = Field(None, description="The offset of those that come after; null where there are no more.")


class StudyTable(StudyStatus):
    """A study with rows of its table, which are those of results.parquet, as far as it is."""

    columns: dict[str, str] = Field(description="Meaning or unit of each column that needs one.")
    rows: list[dict[str, Any]]
    total: int = Field(description="How many rows there are by now.")
    next: int | None = Field(None, description="The offset of the rows that come after.")


REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": said}
    for status, said in {
        401: "No token, or a wrong one.",
        404: "No such job, image, label, file or study.",
        409: "The job's state doesn't allow it, or client and server speak different versions.",
        413: "The upload is larger than the server takes.",
        415: "The body is neither JSON nor multipart/form-data.",
        422: "The request can't be used.",
        429: "The queue is full.",
        503: "The server is ending or its disk is full.",
    }.items()
}


def status(record: Record, offer: Offer, since: int | None = 0) -> dict[str, Any]:
    """A record as clients see it, without paths; since: trace entries the client has already, None for no trace."""
    job, order = record.order.job, record.order
    request: dict[str, Any] = {"kind": order.kind, "victim": offer.name(job.victim), "device": job.device}
    request |= {"force": job.force}
    if order.question is not None:
        request |= {**vars(order.question), "roi": job.roi is not None}
    elif order.kind not in ("segment", "detect"):
        request |= {key: getattr(job, key) for key in ("attack", "eps_unit", "norm", "steps", "goal", "seed")}
        request |= {"target": list(job.target), "settings": dict(job.settings)}
        request["surrogate"] = [offer.name(spec) for spec in job.surrogate]
    if order.detectors:
        request["detector"] = list(order.detectors)
    if job.defense:
        request["defense"] = list(job.defense)
    if order.kind == "margin":
        request["max_eps"] = order.max_eps
    if order.kind == "attack":
        request |= {
            "eps": recipes.get(job.attack).limit(job.eps),
            "label": job.label is not None,
            "label_map": job.label_map,
        }
        request["roi"] = job.roi is not None
    trace = record.progress.get("trace", [])
    keys = ("phase", "step", "steps", "restart", "eta_s")
    progress = {key: record.progress.get(key) for key in keys}
    progress["trace"] = [] if since is None else trace[since:]
    progress["trace_next"] = len(trace)
    answer = {
        "id": record.id,
        "kind": order.kind,
        "state": record.state,
        "queue_position": record.queue_position,
        "progress": progress,
        "created": moment(record.created),
        "started": moment(record.started),
        "finished": moment(record.finished),
        "image": order.name,
        "request": request,
        "warnings": [in_words(warning, record) for warning in warnings(record)],
        "error": None if record.problem is None else explained(record.problem, record),
        "bytes": record.bytes,
        "links": links(record),
    }
    plain = to_json(answer)
    assert isinstance(plain, dict)
    return plain


def warnings(record: Record) -> list[str]:
    """What the job warns of, and that DICOM does not come back as DICOM."""
    read = Path(record.order.job.image).suffix
    if record.state == "done" and record.order.kind in ("attack", "margin") and read in (".folder", ".dcm"):
        return [NO_DICOM, *record.warnings]
    return record.warnings


def links(record: Record) -> dict[str, str]:
    place = f"{PREFIX}/jobs/{record.id}"
    if not record.over:
        return {"self": place, "cancel": f"{place}/cancel"}
    found = {"self": place, "resubmit": f"{place}/resubmit", "delete": place}
    if record.state in ("done", "cancelled"):
        found |= {"files": f"{place}/files", "zip": f"{place}/result.zip"}
    return found


def explained(problem: Problem, record: Record) -> dict[str, str]:
    return {**problem.to_json(), "detail": in_words(problem.detail, record)}


def in_words(text: str, record: Record) -> str:
    """A sentence with the client's own name for a file where it tells the server's path, and fields for options."""
    job = record.order.job
    named = [(job.label, "the label"), (job.roi, "the ROI"), (job.image, record.order.name or "the scan")]
    for path, name in (*named, *((path, name) for name, path in record.order.detectors.items())):
        if path:
            text = text.replace(path, name)
    if len(folder := Path(job.image).parents) > 2 and folder[2].name == record.id:  # jobs/ID/inputs/image/scan.nii.gz
        text = text.replace(f"{folder[2]}/", "")
    return for_clients(text)


def moment(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
