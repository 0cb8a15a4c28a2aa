"""Logs as JSON lines without patient data: our own words as they are, other code's only by where they were said.

MONAI Label writes whole requests, file names and image ids into its log, and those may name a patient. Such a line
keeps its level and origin, which say what happened to whoever knows the source, and loses its text.
"""

import hashlib
import json
import logging
import traceback
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any
from urllib.parse import parse_qs

logger = logging.getLogger("perturbox.server")

OURS = ("perturbox",)  # and all below
PLAIN = ("uvicorn", "uvicorn.error")  # words without a client's data
QUIET = (
    "monailabel",
    "timeloop",
    "multipart",
    "filelock",
    "watchdog",
    "urllib3",
    "httpx",
    "PIL",
    "asyncio",
    "schedule",
)
# What MONAI Label relays line by line from its background processes, whose lines are already in this form.
RELAYED = ("task_train", "task_scoring", "task_batch_infer")
CHATTER = ("/info/", "/perturbox/health")


class JsonLines(logging.Formatter):
    """A record as one line of JSON: time, level, logger, event, and its `facts`; exceptions without their messages."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if spoken(record.name):
            line["event"] = record.getMessage()
            line |= getattr(record, "facts", {})
        else:
            line["event"] = f"{PurePath(record.pathname).name}:{record.lineno}"
        if record.exc_info and record.exc_info[0] is not None:
            line |= located(record.exc_info[1])
        return json.dumps(line, default=str)


class Relay(logging.Formatter):
    """Lines of a background process: passed on if they are ours, else only counted as something it said."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if text.startswith('{"time": ') and text.endswith("}"):
            return text
        return json.dumps({"level": "info", "logger": record.name, "event": "output", "characters": len(text)})


class Relevant(logging.Filter):
    """Other code's remarks below a warning are dropped: without their text they tell nothing."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or spoken(record.name) or record.name in RELAYED


def install() -> None:
    """Make every handler there is write JSON lines without patient data; harmless to repeat."""
    named = [held for held in logging.root.manager.loggerDict.values() if isinstance(held, logging.Logger)]
    for held in [logging.root, *named]:
        for handler in held.handlers:
            handler.setFormatter(Relay() if held.name in RELAYED else JsonLines())
            if not any(isinstance(existing, Relevant) for existing in handler.filters):
                handler.addFilter(Relevant())
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("uvicorn.access").setLevel(logging.WARNING)  # `note_request` says it without names
    logging.getLogger("perturbox").setLevel(logging.INFO)


def spoken(name: str) -> bool:
    """Whether a logger's words may be written: ours and the web server's."""
    return name in PLAIN or any(name == own or name.startswith(f"{own}.") for own in OURS)


def pseudonym(name: str) -> str:
    """A short hash that lets an operator follow one image through the log without naming it."""
    return hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:8]


def located(error: BaseException | None) -> dict[str, Any]:
    """An exception by its type and place; its message may quote a file name."""
    if error is None:
        return {}
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    places = [f"{PurePath(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
    cause = error.__cause__ or error.__context__
    return {"exception": type(error).__name__, "where": places} | ({"cause": type(cause).__name__} if cause else {})


def note_request(scope: Any, status: int, seconds: float) -> None:
    """One line for a request: the route rather than the path, the image by its pseudonym."""
    route = getattr(scope.get("route"), "path", None) or "unmatched"
    if route in CHATTER and status == 200:
        return
    facts: dict[str, Any] = {"method": scope["method"], "route": route, "status": status, "ms": round(seconds * 1000)}
    facts["client"] = (scope.get("client") or ("?",))[0]
    asked = parse_qs(scope.get("query_string", b"").decode("latin-1"))
    names = [name for key in ("image", "id", "label") for name in asked.get(key, [])]
    if names:
        facts["image"] = pseudonym(names[0])
    logger.info("request", extra={"facts": facts})
