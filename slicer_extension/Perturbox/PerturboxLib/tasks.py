"""Works for a background thread: connect, run a job, follow one that runs already. Events and what they tell:

connected: the schema · submitted, status: a job's status, with its whole trace · reconnecting: the Trouble of a server
that is away · downloading: {name, file, files, received, size or None} · result: a `Bundle` · trouble: a Trouble ·
over: the status of a job that was cancelled and left nothing, None if it wasn't even submitted.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from . import geometry, nrrd
from .background import Background, Event, Wishes
from .client import Client
from .trouble import Trouble, trouble

__all__ = ["Background", "Bundle", "Event", "Pace", "connect", "follow", "run"]

OVER = ("done", "cancelled", "failed", "interrupted")
# Of a server that is away for a while, as opposed to one that answers wrongly.
AWAY = frozenset({"no-server", "unknown-host", "proxy", "time-out", "lost", "unavailable"})
WRONG = frozenset({"truncated", "damaged", "server-error", "not-json", "odd-answer"})
PARTING_SECONDS = 0.7  # for a last word to the server while stopping
IMAGES = {
    "attack": {
        "perturbed": "adversarial",
        "perturbation": "perturbation",
        "clean": "clean_seg",
        "adversarial": "adversarial_seg",
        "difference": "difference_seg",
    },
    "segment": {"segmentation": "segmentation"},
    "margin": {},
    "certify": {"certified": "certified", "clean": "clean_seg"},
}
OPTIONAL = {"influence": "influence"}  # of attacks that took a gradient
RECORDS = {
    "attack": "result.json",
    "segment": "result.json",
    "margin": "margin.json",
    "certify": "certificate.json",
}
PAGES = {"attack": "report.html", "certify": "certificate.html"}
DETECTION = "detection.json"  # of attacks that detectors were asked about


@dataclass(frozen=True, eq=False)
class Bundle:
    """What a job left. record: result.json, margin.json or certificate.json; images by role: perturbed, perturbation,
    clean, adversarial, difference and, of attacks that took a gradient, influence; or segmentation; or clean and
    certified. report: HTML, "" for kinds that have none; status: the job's last; detection: detection.json where
    detectors were asked, else empty."""

    kind: str
    jobId: str
    record: dict
    images: dict[str, nrrd.Image]
    report: str = ""
    status: dict = field(default_factory=dict)
    detection: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Pace:
    """Seconds, and how often. poll: between two looks at a job; slowest: between two tries of a server that is away;
    silence: until that is said; patience: until it is given up; tries: of a server that answers wrongly."""

    poll: float = 1.0
    slowest: float = 10.0
    silence: float = 10.0
    patience: float = 3600.0
    answer: float = 10.0
    tries: int = 3


def connect(client: Client) -> Callable:
    """Ask what the server offers; `client` learns its limits."""

    def work(post, wishes: Wishes) -> None:
        own = _twin(client, wishes)
        try:
            offer = own.connect()
        finally:
            own.close()
        client.limits = own.limits
        post("connected", offer)

    return work


def run(client: Client, request: dict, files: dict, grid=None, pace: Pace | None = None):
    """Submit a job, watch it, fetch what it leaves. grid: (shape k j i, affine) that every image must have."""

    def work(post, wishes: Wishes) -> None:
        def goOn(sent: int, size: int) -> None:
            if wishes.cancelled:  # what has not arrived whole is no job yet
                raise trouble("stopped")

        own = _twin(client, wishes)
        try:
            try:
                job = own.submit(request, files, goOn)
            except Trouble as error:
                if error.code != "stopped" or wishes.stopped:
                    raise
                post("over", None)
                return
            post("submitted", job)
            _Follower(own, job["id"], post, wishes, pace or Pace()).follow(grid)
        finally:
            own.close()

    return work


def follow(client: Client, jobId: str, grid=None, pace: Pace | None = None) -> Callable:
    """Watch a job that was submitted before, fetch what it leaves. grid: as in `run`."""

    def work(post, wishes: Wishes) -> None:
        own = _twin(client, wishes)
        try:
            _Follower(own, jobId, post, wishes, pace or Pace()).follow(grid)
        finally:
            own.close()

    return work


def _twin(client: Client, wishes: Wishes) -> Client:
    own = client.twin()
    wishes.onStop(own.interrupt)
    return own


class _Follower:
    """One job, from its submission to its files. `wish`: to cancel, until the server has heard it."""

    def __init__(self, client: Client, jobId: str, post: Callable, wishes: Wishes, pace: Pace):
        self.client, self.jobId, self.post, self.wishes, self.pace = client, jobId, post, wishes, pace
        self.wish: bool | None = None

    def follow(self, grid) -> None:
        """Post all that happens, the end included; raises Trouble."""
        try:
            status = self.watch()
            state = status["state"]
            if state in ("failed", "interrupted"):
                raise problem(status)
            listing = self.listing() if state == "cancelled" else self.insist(self.client.files, self.jobId)
            if listing is None:
                self.post("over", status)
            else:
                self.post("result", self.fetch(status, listing, grid))
        finally:
            if self.wishes.stopped:
                self.part()

    def watch(self) -> dict:
        """The job's status once it is over."""
        trace: list = []
        since = 0
        while True:
            status = self.insist(self.look, since)
            progress = status["progress"]
            trace = trace + progress["trace"]
            since = progress["trace_next"]
            self.post("status", {**status, "progress": {**progress, "trace": trace}})
            if status["state"] in OVER:
                return {**status, "progress": {**progress, "trace": trace}}
            self.wishes.wait(self.pace.poll)

    def look(self, since: int) -> dict:
        """Pass a wish to cancel on, then ask how the job goes."""
        self.hear()
        if self.wish is not None:
            self.cancel(self.client)
        return self.client.status(self.jobId, since, self.pace.answer)

    def hear(self) -> None:
        """Take a wish over, so that it wakes this thread once."""
        taken = self.wishes.take()
        self.wish = self.wish if taken is None else taken

    def cancel(self, client: Client, **options) -> None:
        """Pass the wish on; a job that is over needs no cancelling."""
        try:
            client.cancel(self.jobId, bool(self.wish), **options)
        except Trouble as error:
            if error.code != "conflict":
                raise
        self.wish = None

    def part(self) -> None:
        """Pass on, at the last moment, a wish to cancel that the server hasn't heard."""
        self.hear()
        if self.wish is None:
            return
        last = self.client.twin()
        try:
            self.cancel(last, seconds=PARTING_SECONDS)
        except Trouble:  # whoever stops waits for nothing more
            pass
        finally:
            last.close()

    def insist(self, call: Callable, *arguments):
        """What a request gives, tried again while the server is away, and a few times where it answers wrongly."""
        begun, tries, wrong = time.monotonic(), 0, 0
        while True:
            try:
                return call(*arguments)
            except Trouble as error:
                self.wishes.check()
                wrong += error.code in WRONG
                if error.code in AWAY:
                    self.bear(error, time.monotonic() - begun)
                elif error.code not in WRONG or wrong >= self.pace.tries:
                    raise
            self.wishes.wait(min(self.pace.slowest, self.pace.poll * 2**tries))
            self.hear()
            tries = min(tries + 1, 20)

    def bear(self, error: Trouble, silent: float) -> None:
        """Say that the server is away, once it has been for so many seconds; raises when it has been for too long."""
        if silent > self.pace.patience:
            minutes = f"{self.pace.patience / 60:.0f}"
            raise trouble("given-up", error.detail, host=self.client.host, minutes=minutes) from None
        if silent >= self.pace.silence:
            self.post("reconnecting", error)

    def listing(self) -> list[dict] | None:
        """The files of a job that was cancelled; None if it left none."""
        try:
            return self.insist(self.client.files, self.jobId)
        except Trouble as error:
            if error.code == "conflict":
                return None
            raise

    def fetch(self, status: dict, listing: list[dict], grid) -> Bundle:
        """Download and decode a result; raises Trouble "mismatch" where an image isn't on the grid."""
        kind = status["kind"]
        if kind not in IMAGES:
            raise trouble("odd-answer", f"a job of kind '{kind}'", host=self.client.host)
        known = {file["name"]: file for file in listing}
        roles = {role: fileOf(known, stem) for role, stem in IMAGES[kind].items()}
        if kind == "attack":
            roles |= {role: f"{stem}.nii.gz" for role, stem in OPTIONAL.items() if f"{stem}.nii.gz" in known}
        record = fileOf(known, RECORDS[kind])
        report = [PAGES[kind]] if PAGES.get(kind) in known else []
        seen = [DETECTION] if kind == "attack" and DETECTION in known else []
        names = [record, *roles.values(), *report, *seen]

        def content(name: str, asNrrd: bool) -> bytes:
            def tell(received: int, size: int | None) -> None:
                about = {"name": name, "file": names.index(name) + 1, "files": len(names)}
                self.post("downloading", {**about, "received": received, "size": size})

            sha256 = str(known[name].get("sha256") or "")
            return self.client.download(self.jobId, name, asNrrd, tell, sha256)

        def volume(name: str) -> nrrd.Image:
            return nrrd.decode(content(name, True))

        told = document(self.insist(content, record, False), record)
        images: dict[str, nrrd.Image] = {}
        for role, name in roles.items():
            image = self.insist(volume, name)
            shape, affine = grid = grid or (image.array.shape, image.ijkToRas)
            if not geometry.sameGrid(image.array.shape, image.ijkToRas, shape, affine):
                came = f"{image.array.shape} {image.ijkToRas.tolist()}"
                raise trouble("mismatch", f"{name}: {came} instead of {tuple(shape)} {affine}")
            images[role] = image
        page = self.insist(content, report[0], False).decode("utf-8", "replace") if report else ""
        detection = detected(self.insist(content, DETECTION, False)) if seen else {}
        return Bundle(kind, self.jobId, told, images, page, status, detection)


def problem(status: dict) -> Trouble:
    """Why a job failed or was interrupted, in the server's three sentences."""
    error = status.get("error")
    keys = ("error", "detail", "what_to_do")
    if not isinstance(error, dict) or not all(isinstance(error.get(key), str) for key in keys):
        return trouble("unfinished", str(error)[:400], state=status["state"])
    return Trouble(*(error[key] for key in keys), f"Job {status['id']}, {status['state']}.", error["error"])


def fileOf(known: dict, stem: str) -> str:
    """The file of that name, or of that name before its suffix, of several channels the first; raises Trouble
    "no-file"."""
    for name in known:
        if name == stem or ("/" not in name and name.partition(".")[0] in (stem, f"{stem}_0000")):
            return name
    raise trouble("no-file", f"There are {', '.join(known) or 'no files'}.", name=stem)


def detected(content: bytes) -> dict:
    """What is in detection.json; raises Trouble "bad-file" where its rows aren't what they should be."""
    found = document(content, DETECTION)
    rows = found.get("detections")
    for row in rows if isinstance(rows, list) else [None]:
        words = [row.get(key) for key in ("scan", "name", "sentence")] if isinstance(row, dict) else [None]
        if not all(isinstance(word, str) for word in words) or not isinstance(row.get("note", ""), str):
            raise trouble("bad-file", f"{DETECTION}: {str(row)[:200]}")
    return found


def document(content: bytes, name: str) -> dict:
    """The JSON object in a file; raises Trouble "bad-file" for anything else."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise trouble("bad-file", f"{name}: {error}") from None
    if not isinstance(found, dict):
        raise trouble("bad-file", f"{name}: {content[:200]!r}")
    return found
