"""From what HTTP says, a status or an exception, to a `Trouble`."""

import email.utils
import http.client
import json
import re
import socket
import ssl
import time
from urllib.parse import urljoin, urlsplit

from .trouble import Trouble, trouble

# Statuses for which a Perturbox server has sentences of its own, and the code of ours where it hasn't.
CODES = {
    403: "forbidden",
    409: "conflict",
    413: "too-large",
    415: "other-format",
    422: "bad-input",
    429: "busy",
    500: "server-error",
    502: "unavailable",
    503: "unavailable",
    504: "unavailable",
}


def explain(response, body: bytes, host: str, hadToken: bool, ours: str) -> Trouble:
    """The Trouble of an answer whose status isn't 2xx; body: its beginning."""
    status, headers = response.status_code, response.headers
    said = sentences(body)
    reason = said.get("error", "")
    detail = f"{response.request.method} {response.request.path_url}: {status} {body[:400].decode('utf-8', 'replace')}"
    words = {
        "host": host,
        "seconds": wait(headers.get("Retry-After", "")),
        "limit": "a proxy before it may set a limit",
    }
    if 300 <= status < 400:
        target = urlsplit(urljoin(response.url, headers.get("Location", "")))
        return trouble("redirect", detail, host=host, target=f"{target.scheme}://{target.netloc}")
    if status == 401:
        return trouble("token-wrong" if hadToken else "token-missing", detail, reason, host=host)
    if status == 404 and reason == "no-such-job":
        return trouble("job-gone", detail, reason)
    if status == 409 and reason == "other-version":
        return otherVersion(host, headers.get("Perturbox-API", "?"), ours, detail)
    code = "not-found" if status == 404 else CODES.get(status, "odd-answer")
    if said and code != "odd-answer":
        again = f"Try again in {words['seconds']} s." if headers.get("Retry-After") else said["what_to_do"]
        return Trouble(code, said["detail"], again, detail, reason)
    return trouble(code, detail, **words)


def sentences(body: bytes) -> dict[str, str]:
    """{error, detail, what_to_do} where a body is a Perturbox server's refusal, else {}."""
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    keys = ("error", "detail", "what_to_do")
    if not isinstance(found, dict) or not all(isinstance(found.get(key), str) and found[key] for key in keys):
        return {}
    return {key: found[key] for key in keys}


def wait(said: str) -> int:
    """Seconds of a Retry-After header, which may be a date; 5 where it says nothing."""
    if re.fullmatch(r"\d{1,6}", said.strip(), re.ASCII):
        return max(1, int(said))
    try:
        return max(1, round(email.utils.parsedate_to_datetime(said).timestamp() - time.time()))
    except (TypeError, ValueError):
        return 5


def otherVersion(host: str, theirs: str, ours: str, detail: str = "") -> Trouble:
    """The Trouble of a server that speaks another version of the API."""
    major = theirs.partition(".")[0]
    newer = major.isdecimal() and int(major) > int(ours)
    return trouble("newer-server" if newer else "older-server", detail, host=host, theirs=theirs[:20], ours=ours)


class Worded:
    """`with Worded(…):` turns every exception of HTTP inside into a Trouble, "stopped" after a cut."""

    def __init__(self, host: str, doing: str, seconds: float | None, reading: bool, line):
        self.host, self.doing, self.seconds, self.reading, self.line = host, doing, seconds, reading, line

    def __enter__(self) -> None:
        if self.line.isCut:
            raise trouble("stopped")

    def __exit__(self, kind, error, trace) -> None:
        if error is None or not isinstance(error, Exception):
            return
        if self.line.isCut:
            raise trouble("stopped") from None
        if not isinstance(error, Trouble):
            raise self.worded(error) from None

    def worded(self, error: Exception) -> Trouble:
        """An exception of requests, urllib3, http.client, ssl or socket as a Trouble."""
        from requests import exceptions as ours
        from urllib3 import exceptions as theirs

        whole = causes(error)
        detail = f"{self.doing}: {' ← '.join(type(found).__name__ for found in whole)}: {whole[-1]}"[:2000]

        def among(*kinds: type) -> bool:
            return any(isinstance(found, kinds) for found in whole)

        def say(code: str) -> Trouble:
            name = urlsplit(f"//{self.host}").hostname
            seconds = "?" if self.seconds is None else f"{self.seconds:.0f}"
            return trouble(code, detail, host=self.host, name=name, address=self.host, seconds=seconds)

        if among(MemoryError):
            return say("no-memory")
        if among(ours.InvalidURL, ours.InvalidHeader, theirs.LocationParseError, UnicodeError):
            return say("bad-address")
        if among(ours.ProxyError, theirs.ProxyError):
            return say("proxy")
        if among(socket.gaierror):
            return say("unknown-host")
        if among(ssl.SSLCertVerificationError):
            return say("certificate")
        if among(theirs.ConnectTimeoutError, theirs.NewConnectionError):
            return say("no-server")
        if (self.reading and self.line.isLate) or among(TimeoutError, theirs.ReadTimeoutError):
            return say("time-out")
        if among(ours.ContentDecodingError, theirs.DecodeError):
            return say("damaged")
        if self.reading:
            return say("truncated")
        if among(ConnectionError, http.client.RemoteDisconnected, ssl.SSLEOFError):
            return say("lost")
        if among(ssl.SSLError):
            return say("no-tls")
        if among(http.client.HTTPException):
            return say("odd-answer")
        return say("lost")


def causes(error: BaseException) -> list[BaseException]:
    """An exception and those inside it: its causes, contexts, reasons and arguments that are exceptions."""
    found: list[BaseException] = []
    waiting = [error]
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, BaseException) and all(one is not known for known in found):
            found.append(one)
            waiting += [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]
    return found
