"""A small server that speaks the job API, in a thread, and misbehaves at one moment of a job as it is told to.

Moments: connect (the schema), submit, poll (the job's status), files (their list), download (any file), cancel, info.
"""

import contextlib
import hashlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PerturboxLib import nrrd

SHAPE = (3, 4, 5)  # k j i
GRID = np.array([[-0.8, 0, 0, 10], [0, -0.8, 0, 20], [0, 0, 3, -30], [0, 0, 0, 1.0]])
ID = "3f0c"
RECORD = {"schema": "perturbox-result/1", "stopped_early": None}
PAGE = "<!doctype html><p>Dice 0,41 – größer</p>"


def volumes() -> dict[str, np.ndarray]:
    """What an attack left, by file."""
    scan = np.arange(60, dtype=np.int16).reshape(SHAPE)
    clean = (scan > 30).astype(np.uint8)
    adversarial = (scan > 40).astype(np.uint8)
    return {
        "adversarial.nrrd": scan + 1,
        "perturbation.nii.gz": np.ones(SHAPE, np.float32),
        "clean_seg.nii.gz": clean,
        "adversarial_seg.nii.gz": adversarial,
        "difference_seg.nii.gz": (clean != adversarial).astype(np.uint8),
    }


class Job:
    """The one job of the server: `states` are told one after the other, the last for ever."""

    def __init__(self, kind: str = "attack", states=("queued", "running", "done")):
        self.kind, self.states, self.looks, self.error = kind, list(states), 0, None
        self.files: dict[str, bytes] = {}
        self.images: dict[str, bytes] = {}
        self.wishes: list[bool] = []
        if kind == "attack":
            self.images = {name: nrrd.encode(array, GRID) for name, array in volumes().items()}
            self.files = {"result.json": json.dumps(RECORD).encode(), "report.html": PAGE.encode()}
        elif kind == "segment":
            self.images = {"segmentation.nii.gz": nrrd.encode(volumes()["clean_seg.nii.gz"], GRID)}
            self.files = {"result.json": json.dumps({"noise": {"sigma": 9.5}}).encode()}
        else:
            self.files = {"margin.json": b'{"structures": {}}', "liver/result.json": b"{}"}

    @property
    def state(self) -> str:
        return self.states[min(self.looks, len(self.states)) - 1] if self.looks else self.states[0]

    def status(self, since: int = 0) -> dict:
        trace = [{"step": step, "dice": {"liver": 1 - step / 10}} for step in range(self.looks)]
        progress = {"phase": "Attacking", "step": self.looks, "steps": 20, "trace": trace[since:]}
        progress["trace_next"] = len(trace)
        told = {"id": ID, "kind": self.kind, "state": self.state, "progress": progress, "queue_position": None}
        return {**told, "error": self.error, "warnings": [], "image": "scan.nrrd", "request": {}, "links": {}}

    def source(self, name: str) -> bytes:
        """The file as it lies on the server, of which the hash is told."""
        return self.files.get(name) or b"as it lies there: " + self.images[name]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "Misbehaving"

    def do_GET(self):
        self.answer()

    do_POST = do_DELETE = do_GET

    def answer(self) -> None:
        moment, parts = self.moment()
        owner = self.server.owner
        owner.calls.append((moment, self.command, self.path, dict(self.headers)))
        fault = owner.faults.get(moment)
        if fault is not None:
            fault(self)
            return
        body = self.body()
        owner.bodies.append((moment, body))
        if owner.token and self.headers.get("Authorization") != f"Bearer {owner.token}":
            self.refuse(401, "unauthorized", "This server needs its token.", "Send it.")
        else:
            getattr(self, f"on_{moment}")(parts, body)

    def moment(self) -> tuple[str, list[str]]:
        parts = urlsplit(self.path).path.strip("/").split("/")
        if parts[0] == "info":
            return "info", parts
        if parts[:2] == ["perturbox", "schema"]:
            return "connect", parts
        if len(parts) == 2:
            return ("submit" if self.command == "POST" else "jobs"), parts
        if len(parts) == 3:
            return "poll", parts
        return {"files": "files" if len(parts) == 4 else "download"}.get(parts[3], parts[3]), parts

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def on_connect(self, parts, body):
        self.json({"api": "1.0", "victims": [{"name": "tiny"}], "attacks": [], "models": {}, "limits": owner_limits})

    def on_info(self, parts, body):
        self.json({"models": {}, "labels": {}, "strategies": {}, "name": "MONAI Label"})

    def on_submit(self, parts, body):
        self.json(self.server.owner.job.status(), 202)

    def on_poll(self, parts, body):
        job = self.server.owner.job
        job.looks += 1
        self.json(job.status(int(parse_qs(urlsplit(self.path).query)["since"][0])))

    def on_cancel(self, parts, body):
        job = self.server.owner.job
        if not job.wishes:
            job.states, job.looks = ["cancelling", "cancelled"], 0
        job.wishes.append(json.loads(body)["keep"])
        self.json(job.status(), 202)

    def on_files(self, parts, body):
        job = self.server.owner.job
        if not job.files and not job.images:
            self.refuse(409, "no-result", "This job is cancelled and left no result.", "Look at its status.")
            return
        names = [*job.files, *job.images]
        rows = [{"name": n, "bytes": 1, "sha256": hashlib.sha256(job.source(n)).hexdigest()} for n in names]
        self.json({"files": rows})

    def on_download(self, parts, body):
        job, name = self.server.owner.job, "/".join(parts[4:])
        if name not in job.files and name not in job.images:
            self.refuse(404, "no-such-file", f"This job's result has no file '{name}'.", "Choose another.")
            return
        packed = "format=nrrd" in self.path
        etag = f'"{hashlib.sha256(job.source(name)).hexdigest()}{"-nrrd" if packed else ""}"'
        self.send(job.images[name] if packed else job.source(name), headers={"ETag": etag})

    # What answers and faults are made of

    def send(self, body: bytes, status: int = 200, kind: str = "application/octet-stream", headers: dict | None = None):
        told = {"Content-Type": kind, "Content-Length": str(len(body)), "Perturbox-API": "1.0", **(headers or {})}
        told |= {"Connection": "close"} if self.close_connection else {}
        self.send_response(status)
        for name, text in told.items():
            if text is not None:
                self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def json(self, document, status: int = 200, headers: dict | None = None) -> None:
        self.send(json.dumps(document).encode(), status, "application/json", headers)

    def refuse(self, status: int, error: str, detail: str, what_to_do: str, headers: dict | None = None) -> None:
        self.close_connection = True
        self.json({"error": error, "detail": detail, "what_to_do": what_to_do}, status, headers)

    def log_message(self, *arguments) -> None:
        pass


owner_limits = {"upload_bytes": 2**20}


class Quiet(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 50

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.links: list[socket.socket] = []

    def process_request(self, request, client_address) -> None:
        self.links.append(request)
        super().process_request(request, client_address)

    def handle_error(self, request, client_address) -> None:
        pass  # clients that leave are what is tested


class Misbehaving:
    """`with Misbehaving(…) as server:`; faults: {moment: what is done instead of the answer}; calls, bodies: what was
    asked, as (moment, method, path, headers) and (moment, body)."""

    handler = Handler

    def __init__(self, job: Job | None = None, faults: dict[str, Callable] | None = None, token: str = ""):
        self.job, self.faults, self.token = job or Job(), dict(faults or {}), token
        self.calls: list[tuple] = []
        self.bodies: list[tuple] = []
        self.http: Quiet | None = None
        self.port = 0

    def start(self) -> "Misbehaving":
        """Listen, at the same port as before if it was stopped."""
        self.http = Quiet(("127.0.0.1", self.port), self.handler)
        self.port, self.http.owner = self.http.server_port, self
        self._thread = threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self._thread.join()
        for link in self.http.links:
            with contextlib.suppress(OSError):  # closed already
                link.shutdown(socket.SHUT_RDWR)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def count(self, moment: str) -> int:
        return sum(call[0] == moment for call in self.calls)

    __enter__ = start

    def __exit__(self, *_):
        self.stop()


# ---------------------------------------------------------------- faults: what a handler does instead of its answer


def silence(handler: Handler) -> None:
    """Never answer; the client must leave."""
    handler.connection.settimeout(20)
    while handler.connection.recv(2**16):
        pass


def hang_up(handler: Handler) -> None:
    """Close the connection without an answer."""
    handler.body()
    handler.close_connection = True


def reset(handler: Handler) -> None:
    """Break the connection off."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True
    handler.rfile.close()
    handler.connection.close()


def says(status: int, error: str = "", headers: dict | None = None, **sentences) -> Callable:
    """Refuse as a Perturbox server does; without `error` as a proxy would, with a page."""
    told = {"detail": f"Said {status}.", "what_to_do": f"Mend {status}.", **sentences}

    def fault(handler: Handler) -> None:
        handler.body()
        handler.close_connection = True
        if error:
            handler.refuse(status, error, told["detail"], told["what_to_do"], headers)
        else:
            page = f"<html><h1>{status}</h1></html>".encode()
            handler.send(page, status, "text/html", {"Perturbox-API": None, **(headers or {})})

    return fault


def gives(body: bytes, kind: str = "application/json", headers: dict | None = None) -> Callable:
    """Answer 200 with that body."""

    def fault(handler: Handler) -> None:
        handler.body()
        handler.send(body, 200, kind, headers)

    return fault


def raw(content: bytes) -> Callable:
    """Send these bytes, whatever they are, and close."""

    def fault(handler: Handler) -> None:
        handler.body()
        handler.close_connection = True
        handler.wfile.write(content)

    return fault


def cut_short(handler: Handler) -> None:
    """The right answer, but for its last bytes."""
    handler.close_connection = True
    whole = handler.wfile
    sent = bytearray()
    handler.wfile = type("Kept", (), {"write": lambda _, data: sent.extend(data), "flush": lambda _: None})()
    faults, handler.server.owner.faults = handler.server.owner.faults, {}
    try:
        handler.answer()
    finally:
        handler.server.owner.faults, handler.wfile = faults, whole
    whole.write(bytes(sent[:-7]))


def dribble(handler: Handler) -> None:
    """A body that never ends, a byte at a time."""
    handler.body()
    handler.close_connection = True
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    end = time.monotonic() + 20
    while time.monotonic() < end:
        handler.wfile.write(b" ")
        time.sleep(0.01)
