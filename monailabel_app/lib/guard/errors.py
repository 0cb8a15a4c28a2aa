"""What a client is told when something goes wrong: JSON {error, detail, what_to_do} and the status that says the same.

`explain` knows every exception; what it doesn't foresee becomes a 500 with a number to look up in the log, never a
traceback.
"""

import errno
import logging
import math
import uuid
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import requests
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from monailabel.interfaces.exception import (
    ImageNotFoundException,
    LabelNotFoundException,
    MONAILabelError,
    MONAILabelException,
)
from starlette.exceptions import HTTPException

from lib.words import for_clients
from perturbox.jobs import Problem, Refused
from perturbox.types import InputError

logger = logging.getLogger("perturbox.server")

KNOWN = {
    401: ("unauthorized", "Send the header 'Authorization: Bearer' with the server's token."),
    403: ("forbidden", "Ask whoever runs this server for access."),
    404: ("not-found", "Check the address and the names in it against /openapi.json, /info/ and /datastore/."),
    405: ("method-not-allowed", "See /openapi.json for the methods of this address."),
    406: ("not-offered", "Ask whoever runs this server to switch it on."),
    409: ("conflict", "Look at the present state first, then ask again."),
    413: ("too-large", "Send less, or ask whoever runs this server to raise the limit."),
    415: ("unsupported-media-type", "Send one of the formats named."),
    422: ("bad-input", "Correct the request; /openapi.json describes it."),
    429: ("busy", "Wait until running work is done, then try again."),
    503: ("unavailable", "Try again in a moment; if it stays so, tell whoever runs this server."),
}
NEEDED = "the PACS or the identity provider"
MALFORMED = 400  # what FastAPI calls a body that can't be parsed; one word for bad input is enough


class Refusal(HTTPException):
    """A request that is turned down: status, a sentence that says why, and one that says what to do."""

    def __init__(self, status: int, detail: str, what_to_do: str = "", error: str = "", headers: Any = None):
        super().__init__(status, detail, headers)
        known = KNOWN.get(status, ("refused", "See /openapi.json."))
        self.problem = Problem(error or known[0], detail, what_to_do or known[1])


def bad(detail: str, what_to_do: str = "") -> Refusal:
    """A request that says something impossible (422)."""
    return Refusal(422, detail, what_to_do)


def missing(what: str, what_to_do: str = "") -> Refusal:
    """A request for something that isn't there (404)."""
    return Refusal(404, what, what_to_do)


def explain(error: BaseException) -> tuple[int, Problem]:
    """The status and the three sentences for any exception; logs those it doesn't foresee, without their text."""
    if isinstance(error, Refusal):
        return error.status_code, error.problem
    if isinstance(error, Refused):
        return error.status, error.problem
    if isinstance(error, RequestValidationError):
        return 422, _problem(422, _validation(error))
    if isinstance(error, HTTPException):
        status = 422 if error.status_code == MALFORMED else error.status_code
        detail = error.detail if isinstance(error.detail, str) else "The request can't be served."
        detail = _ended(detail.lstrip("+ "))  # as MONAI Label marks some
        return status, _problem(status, detail)
    if isinstance(error, InputError):
        wrong, _, to_do = for_clients(str(error)).partition("; ")
        return 422, Problem("bad-input", _ended(wrong), _sentence(to_do) or KNOWN[422][1])
    if isinstance(error, (ImageNotFoundException, LabelNotFoundException)):
        return 404, _problem(404, _sentence(error.msg))  # type: ignore[attr-defined]
    if isinstance(error, MONAILabelException) and error.error is MONAILabelError.INVALID_INPUT:  # type: ignore[attr-defined]
        return 422, _problem(422, _sentence(error.msg))  # type: ignore[attr-defined]
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return 503, Problem("out-of-memory", "The server ran out of memory.", "Send a smaller scan, or try later.")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return 503, Problem("disk-full", "The server's disk is full.", "Delete old jobs or try again later.")
    if isinstance(error, requests.HTTPError) and error.response is not None:
        status = error.response.status_code
        return 503, _problem(
            503, f"A server that this one needs, the PACS or the identity provider, answered {status}."
        )
    if isinstance(error, requests.RequestException):
        return 503, _problem(503, f"A server that this one needs, {NEEDED}, did not answer.")
    number = uuid.uuid4().hex[:12]
    logger.error("unforeseen", exc_info=error, extra={"facts": {"number": number}})
    return 500, Problem("internal", f"Internal error, number {number} in the server's log.", "Report it, please.")


def response(error: BaseException) -> JSONResponse:
    """The answer that tells of an exception."""
    status, problem = explain(error)
    headers = dict(getattr(error, "headers", None) or {})
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="perturbox"'
    if status == 429:
        headers.setdefault("Retry-After", "5")
    return JSONResponse(printable(problem.to_json()), status, headers)


async def handle(request: Any, error: Exception) -> JSONResponse:
    """`response` as an exception handler of FastAPI."""
    return response(error)


HANDLED = (HTTPException, RequestValidationError, InputError, Refused, MONAILabelException)


def plain(value: Any) -> Any:
    """The same as plain JSON: undefined numbers become null, numpy's types Python's."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(held) for key, held in value.items()}
    if isinstance(value, (list, tuple, set, deque)):
        return [plain(held) for held in list(value)]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    return value


def printable(value: Any) -> Any:
    """Strings that UTF-8 can carry: a client's broken surrogate, quoted back, must not break the answer."""
    return {key: text.encode("utf-8", "replace").decode("utf-8") for key, text in value.items()}


def _problem(status: int, detail: str) -> Problem:
    error, what_to_do = KNOWN.get(status, ("refused", "See /openapi.json."))
    return Problem(error, detail, what_to_do)


def _validation(error: RequestValidationError) -> str:
    first = error.errors()[0]
    place = [str(part) for part in first.get("loc", ())]
    where = f"'{'.'.join(place[1:])}' in the {place[0]}" if len(place) > 1 else f"The {(place or ['request'])[0]}"
    more = len(error.errors()) - 1
    return f"{where} is refused: {first.get('msg', 'invalid')[:300]}" + (f" (and {more} more)." if more else ".")


def _sentence(text: str) -> str:
    text = text.strip()
    return _ended(text[:1].upper() + text[1:])


def _ended(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "?", "!")) or not text else f"{text}."
