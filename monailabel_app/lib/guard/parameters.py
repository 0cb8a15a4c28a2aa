"""Free parameters that clients send along (`params`, `info`): plain, finite, small, never a way around the address."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from lib.guard import names
from lib.guard.errors import Refusal, bad

MOST_CHARACTERS = 64 * 1024  # they are passed on a command line to background tasks
DEEPEST = 16
# What the address and the server decide; MONAI Label would let parameters override each of them.
RESERVED = frozenset(
    [
        "image",
        "images",
        "model",
        "session",
        "session_id",
        "file",
        "label",
        "method",
        "strategy",
        "path",
        "image_path",
        "bundle_path",
        "image_id",
        "id",
        "_id",
        "_image_id",
        "result_file_name",
        "local_rank",
    ]
)
# What says that an image is adversarial, and what the datastore keeps about its files.
MARKS = frozenset(["adversarial", "notice", "source", "job", "attack", "eps", "name", "path", "ext", "client_name"])
FREE_TEXT = ("client_id", "label_info", "user")
DEVICE = re.compile(r"(cpu|mps|cuda(:\d{1,2})?)?")
GPUS = re.compile(r"(all|\d{1,2}(,\d{1,2})*)?")
PATHLIKE = re.compile(r"[/\\\x00-\x1f]|\.\.")
WHOLE = ("max_workers", "max_batch_size")


def parse(text: str | None, field: str = "params") -> dict[str, Any]:
    """The JSON object in a form field; raises 422 for anything else, 413 for one that is too long."""
    if not text:
        return {}
    if len(text) > MOST_CHARACTERS:
        raise _too_long(field)
    try:
        document = json.loads(text, parse_constant=_refuse_constant)
    except Refusal:
        raise
    except (ValueError, RecursionError):
        raise bad(f"'{field}' is not JSON.", f"Send '{field}' as one JSON object, like {{}}.") from None
    return check_object(document, field)


def check_object(document: Any, field: str) -> dict[str, Any]:
    """The document itself, if it is a JSON object of finite numbers and sound text; raises a 422 otherwise."""
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise bad(f"'{field}' is not a JSON object.", f"Send '{field}' as one JSON object, like {{}}.")
    _check_plain(document, field, 0)
    if len(json.dumps(document)) > MOST_CHARACTERS:
        raise _too_long(field)
    return document


def check_request(document: Mapping[str, Any]) -> None:
    """Parameters of a task: none may name a file, a model or a place to write; devices must be devices."""
    for key, value in document.items():
        if key in RESERVED:
            raise bad(f"Parameters can't set '{key[:60]}'.", "Say it in the address of the request.")
        if key in ("label_tag", "y", "y_pred") and value not in (None, ""):
            names.check("tag", value)
        if key == "device":
            _check_word(key, value, DEVICE, "cpu, cuda or cuda:0")
        if key == "gpus":
            _check_word(key, value, GPUS, "all, or numbers like 0,1")
        if key in WHOLE and (isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 4096):
            raise bad(f"'{key}' is not a whole number from 0 to 4096.", f"Send '{key}' as a number, or leave it out.")
        if key not in FREE_TEXT:
            _check_no_path(key, value)


def check_info(document: Mapping[str, Any]) -> None:
    """Facts to keep with an image or label: those that mark it as adversarial are the server's own."""
    for key in document:
        if key in MARKS:
            raise bad(f"'{key[:60]}' is the server's own note on an image.", "Choose another key.")


def _check_word(key: str, value: Any, pattern: re.Pattern[str], allowed: str) -> None:
    for word in value if isinstance(value, list) else [value]:  # a choice may come as the list it was chosen from
        if word is not None and not (isinstance(word, str) and pattern.fullmatch(word)):
            raise bad(f"There is no {key} '{str(word)[:40]}' here.", f"Choose {allowed}.")


def _check_no_path(key: str, value: Any) -> None:
    if isinstance(value, str) and PATHLIKE.search(value):
        raise bad(f"The parameter '{key[:60]}' looks like a path.", "Send scans as image ids, sessions or uploads.")
    if isinstance(value, dict):
        for inner, held in value.items():
            _check_no_path(inner, held)
    if isinstance(value, list):
        for held in value:
            _check_no_path(key, held)


def _check_plain(value: Any, field: str, depth: int) -> None:
    if depth > DEEPEST:
        raise bad(f"'{field}' is nested too deeply.", f"Send at most {DEEPEST} levels.")
    if isinstance(value, float) and not math.isfinite(value):
        raise bad(f"'{field}' holds a number that is NaN or infinite.", "Send finite numbers, or null.")
    if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise bad(f"'{field}' holds text that is not Unicode.", "Send text as UTF-8.")
    if isinstance(value, dict):
        for key, held in value.items():
            _check_plain(key, field, depth + 1)
            _check_plain(held, field, depth + 1)
    if isinstance(value, list):
        for held in value:
            _check_plain(held, field, depth + 1)


def _refuse_constant(word: str) -> None:
    raise bad("The JSON holds NaN or Infinity, which JSON has not.", "Send finite numbers, or null.")


def _too_long(field: str) -> Refusal:
    return Refusal(413, f"'{field}' is longer than {MOST_CHARACTERS} characters.", "Send less.")
