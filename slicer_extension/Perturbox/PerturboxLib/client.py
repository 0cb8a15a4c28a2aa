"""The job API of a Perturbox server. Every failure is a `Trouble`; nothing goes to a host that wasn't named.

A `Client` is for one thread; `twin()` makes another for a second one. `interrupt()` may be called from any thread.
"""

import hashlib
import ipaddress
import json
import re
import secrets
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from . import http_errors
from .trouble import Trouble, trouble
from .wire import Line, openSession

API = "1"
MOST_JSON = 64 * 2**20
BLOCK = 2**20
MONAI_LABEL = {"models", "labels", "strategies"}  # what GET /info/ of any MONAI Label server tells


@dataclass(frozen=True)
class Waits:
    """Seconds of silence that are borne. submit: a large scan is checked and copied before the answer; convert: a large
    volume is converted before its first byte comes."""

    connect: float = 5.0
    answer: float = 20.0
    submit: float = 300.0
    convert: float = 300.0


class Client:
    """A server by its address, like "gpu-ws:8000", and token; limits: what `connect` learnt of it.

    Raises Trouble "bad-address" or "token-wrong" for what can't be one.
    """

    def __init__(self, address: str, token: str = "", waits: Waits | None = None):
        self.address = normalised(address)
        self.waits = waits or Waits()
        self.token = token.strip()
        if not (self.token.isascii() and self.token.isprintable()):
            raise trouble("token-wrong", "It holds characters that no token has.", host=self.host)
        self.limits: dict = {}
        self._line = Line()
        self._session = None

    @property
    def host(self) -> str:
        """Host and port, for sentences."""
        return urlsplit(self.address).netloc

    @property
    def isLoopback(self) -> bool:
        """Whether the server can only be this machine."""
        name = urlsplit(self.address).hostname or ""
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return name == "localhost"

    @property
    def isPrivate(self) -> bool:
        """Whether nobody on the way can read what is sent."""
        return self.isLoopback or self.address.startswith("https://")

    def twin(self) -> "Client":
        """The same server, for another thread."""
        other = Client(self.address, self.token, self.waits)
        other.limits = self.limits
        return other

    def interrupt(self) -> None:
        """End whatever is under way; it, and all that is asked later, raises Trouble "stopped"."""
        self._line.cut()

    def close(self) -> None:
        """Close the connections; the next request opens them again."""
        if self._session is not None:
            self._session.close()
            self._session = None

    # The API

    def connect(self) -> dict:
        """What the server offers (GET /perturbox/schema), once it is clear that it speaks our version of the API."""
        try:
            offer = self._json("GET", "/perturbox/schema")
        except Trouble as error:
            raise self._other(error) if error.code in ("not-found", "odd-answer", "not-json") else error from None
        if not isinstance(offer.get("api"), str) or not all(
            isinstance(offer.get(key), kind) for key, kind in (("victims", list), ("attacks", list), ("models", dict))
        ):
            raise trouble("not-perturbox", f"GET /perturbox/schema: {str(offer)[:400]}", host=self.host)
        if offer["api"].partition(".")[0] != API:
            raise http_errors.otherVersion(self.host, offer["api"], API)
        limits = offer.get("limits")
        self.limits = limits if isinstance(limits, dict) else {}
        return offer

    def submit(self, request: dict, files: dict | None = None, progress=None) -> dict:
        """Queue a job; its status. files: {"image", "label" or "roi": (name, content)}, of several channels a list of
        these; progress(sent, all): bytes."""
        try:
            document = json.dumps(request, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise trouble("bad-input", f"{type(error).__name__}: {error}", host=self.host) from None
        body = Multipart({"request": document}, files or {}, progress)
        most = self.limits.get("upload_bytes")
        if most and len(body) > most:
            raise trouble("too-large", f"{len(body)} bytes", host=self.host, limit=f"{most / 2**20:.0f} MiB at most")
        headers = {"Content-Type": body.type}
        return self._status("POST", "/perturbox/jobs", seconds=self.waits.submit, data=body, headers=headers)

    def status(self, id: str, since: int = 0, seconds: float | None = None) -> dict:
        """A job and how it goes, without the first `since` entries of its trace."""
        return self._status("GET", _place(id), seconds=seconds, params={"since": since})

    def cancel(self, id: str, keep: bool = True, seconds: float | None = None) -> dict:
        """Ask a job to end; keep: after this step, with the best so far measured and saved."""
        return self._status("POST", f"{_place(id)}/cancel", seconds=seconds, json={"keep": keep})

    def resubmit(self, id: str) -> dict:
        """The same again as a new job; its status."""
        return self._status("POST", f"{_place(id)}/resubmit", seconds=self.waits.submit)

    def delete(self, id: str) -> None:
        """Forget a job that is over, and its files."""
        with self._ask("DELETE", _place(id), self.waits.answer):
            pass

    def jobs(self) -> list[dict]:
        """All jobs, newest first, without their traces."""
        return self._list("/perturbox/jobs", "jobs", "id")

    def files(self, id: str) -> list[dict]:
        """The result's files: name, bytes, sha256, media_type, formats."""
        return self._list(f"{_place(id)}/files", "files", "name")

    def health(self) -> dict:
        """Workers, jobs waiting and running."""
        return self._json("GET", "/perturbox/health")

    def download(self, id: str, name: str, asNrrd: bool = False, progress=None, sha256: str = "") -> bytes:
        """A file of the result; asNrrd: a volume as raw NRRD; progress(received, all or None) in bytes.

        Its length and hash are checked, the latter against `sha256` too where that is given (of the file as it lies on
        the server). Raises Trouble "truncated" or "damaged" where they don't agree.
        """
        path = f"{_place(id)}/files/{quote(name, safe='/')}"
        query = {"format": "nrrd"} if asNrrd else {}
        seconds = self.waits.convert if asNrrd else self.waits.answer
        with self._ask("GET", path, seconds, params=query) as response:
            told = re.search(r"[0-9a-f]{64}", response.headers.get("ETag", ""))
            content = self._read(response, progress=progress)
        known = {told[0]} if told else set()
        known |= {sha256} if sha256 else set()
        known |= set() if asNrrd else {hashlib.sha256(content).hexdigest()}
        if len(known) > 1:
            raise trouble("damaged", f"{name}: SHA-256 {' ≠ '.join(sorted(known))}")
        return content

    # What they are made of

    def _status(self, method: str, path: str, **options) -> dict:
        answer = self._json(method, path, **options)
        kinds = {"id": str, "kind": str, "state": str, "progress": dict}
        whole = all(isinstance(answer.get(key), kind) for key, kind in kinds.items())
        progress = answer["progress"] if whole else {}
        if not (isinstance(progress.get("trace"), list) and isinstance(progress.get("trace_next"), int)):
            raise trouble("odd-answer", f"{method} {path}: {str(answer)[:400]}", host=self.host)
        return answer

    def _list(self, path: str, key: str, needed: str) -> list[dict]:
        found = self._json("GET", path).get(key)
        entries = found if isinstance(found, list) else [None]
        if not all(isinstance(entry, dict) and isinstance(entry.get(needed), str) for entry in entries):
            raise trouble("odd-answer", f"GET {path}: {str(found)[:400]}", host=self.host)
        return found

    def _json(self, method: str, path: str, seconds: float | None = None, **options) -> dict:
        seconds = seconds or self.waits.answer
        with self._ask(method, path, seconds, **options) as response:
            content = self._read(response, MOST_JSON, 3 * seconds)
        try:
            document = json.loads(content)
        except ValueError as error:
            raise trouble("not-json", f"{method} {path}: {error}; {content[:400]!r}", host=self.host) from None
        if not isinstance(document, dict):
            raise trouble("odd-answer", f"{method} {path}: {content[:400]!r}", host=self.host)
        return document

    def _ask(self, method: str, path: str, seconds: float, headers: dict | None = None, **options):
        """A response with status 2xx whose body is yet to be read, to be closed by the caller."""
        if self._session is None:
            self._session = openSession(self._line, trustEnvironment=not self.isLoopback)
        headers = {
            "Perturbox-API": API,
            "Accept-Encoding": "identity",  # so that Content-Length counts what arrives
            "User-Agent": "Perturbox-Slicer",
            **(headers or {}),
        }
        with self._worded(f"{method} {path}", seconds):
            response = self._session.request(
                method,
                self.address + path,
                headers=headers,
                auth=self._authorise,
                timeout=(min(self.waits.connect, seconds), seconds),
                allow_redirects=False,
                stream=True,
                **options,
            )
            if 200 <= response.status_code < 300:
                return response
            with response:
                raise http_errors.explain(response, self._excerpt(response), self.host, bool(self.token), API)

    def _authorise(self, request):
        """Add the token; being there, it keeps requests from looking for one in the user's .netrc."""
        if self.token:
            request.headers["Authorization"] = f"Bearer {self.token}"
        return request

    def _read(self, response, most: int | None = None, seconds: float | None = None, progress=None) -> bytes:
        """The body of a response, all of it."""
        packed = response.headers.get("Content-Encoding", "identity") != "identity"
        said = "" if packed else response.headers.get("Content-Length", "")
        expected = int(said) if said.isdecimal() else None
        doing = f"body of {response.request.method} {response.request.path_url}"
        blocks, came = [], 0
        with self._worded(doing, seconds, reading=True), self._line.within(seconds):
            for block in response.iter_content(BLOCK):
                blocks.append(block)
                came += len(block)
                if progress is not None:
                    progress(came, expected)
                if most is not None and came > most:
                    raise trouble("odd-answer", f"more than {most} bytes", host=self.host)
            if self._line.isLate or self._line.isCut:  # which may look like the end
                raise TimeoutError("took too long")
            if expected is not None and came != expected:
                raise trouble("truncated", f"{came} of {expected} bytes")
            return b"".join(blocks)

    def _excerpt(self, response) -> bytes:
        """The beginning of a refusal's body, as far as it can be had."""
        try:
            return next(response.iter_content(2**16), b"")
        except Exception as error:  # the status has said enough
            return f"({type(error).__name__})".encode()

    def _worded(self, doing: str, seconds: float | None, reading: bool = False):
        return http_errors.Worded(self.host, doing, seconds, reading, self._line)

    def _other(self, error: Trouble) -> Trouble:
        """What answers at an address that has no schema."""
        try:
            isMonaiLabel = self._json("GET", "/info/").keys() >= MONAI_LABEL
        except Trouble:
            isMonaiLabel = False
        return trouble("wrong-app" if isMonaiLabel else "not-perturbox", error.detail, host=self.host)


def parts(files: dict) -> list:
    """(field, (name, content)) of each file, several in a list under one field."""
    return [(field, one) for field, sent in files.items() for one in (sent if isinstance(sent, list) else [sent])]


class Multipart:
    """A multipart/form-data body that is read piece by piece, so that a scan isn't held twice; `type` is its
    Content-Type."""

    def __init__(self, texts: dict[str, str], files: dict, progress=None):
        boundary = secrets.token_hex(16)
        self.type = f"multipart/form-data; boundary={boundary}"
        self._pieces: list[memoryview] = []
        for field, text in texts.items():
            self._add(f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{text}\r\n'.encode())
        for field, (name, content) in parts(files):
            named = f'name="{field}"; filename="{re.sub(r"[^A-Za-z0-9._ -]", "_", name)}"'
            kind = "Content-Type: application/octet-stream"
            self._add(f"--{boundary}\r\nContent-Disposition: form-data; {named}\r\n{kind}\r\n\r\n".encode())
            self._add(content)
            self._add(b"\r\n")
        self._add(f"--{boundary}--\r\n".encode())
        self._size, self._sent, self._progress = sum(map(len, self._pieces)), 0, progress

    def _add(self, content) -> None:
        self._pieces.append(memoryview(content).cast("B"))

    def __len__(self) -> int:
        return self._size

    def read(self, most: int = -1) -> bytes:
        """The next bytes, at most a block; requests calls it until nothing comes."""
        if not self._pieces:
            return b""
        piece = self._pieces[0]
        taken = piece[:BLOCK]  # not `most`: urllib3 asks for 16 kB, which is slow
        self._pieces[0] = piece[len(taken) :]
        if not len(self._pieces[0]):
            self._pieces.pop(0)
        self._sent += len(taken)
        if self._progress is not None:
            self._progress(self._sent, self._size)
        return bytes(taken)


def normalised(address: str) -> str:
    """An address as typed, with http:// if it has no scheme, without a slash at the end; raises Trouble
    "bad-address"."""
    text = address.strip().rstrip("/")
    text = text if "://" in text else f"http://{f'[{text}]' if _isIPv6(text) else text}"
    try:
        parts = urlsplit(text)
        typed = parts.hostname not in (None, "http", "https") and not parts.netloc.endswith(":")
        whole = parts.scheme in ("http", "https") and typed and parts.port != 0
    except ValueError:
        whole = False
    odd = re.search(r"[\s\\@?#]", text) or not text.isprintable()
    if not whole or odd:
        raise trouble("bad-address", address=address.strip()[:80])
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path}"


def _isIPv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False


def _place(id: str) -> str:
    return f"/perturbox/jobs/{quote(id, safe='')}"
