"""Names that clients send: what an id, a tag, a task or a session may look like, so that none can become a path."""

import hashlib
import re
import uuid
from collections.abc import Mapping
from typing import Any

from lib.guard.errors import bad

# A datastore's ids are its file names without suffix: spaces, commas and umlauts do occur in them, DICOM UIDs too.
IMAGE = re.compile(r"[\w(\[][\w .,+=@#&'()\[\]~-]{0,199}")
TAG = re.compile(r"[A-Za-z0-9_][\w.-]{0,63}", re.ASCII)
TASK = re.compile(r"[A-Za-z0-9_][\w.+-]{0,127}", re.ASCII)
CHECKSUM = re.compile(r"((SHA256|SHA512|MD5):)?[0-9A-Fa-f]{32,128}")
# Trailing dots and spaces vanish on some file systems, which would make two names one.
TWO_IN_ONE = re.compile(r"\.\.|[. ]$")
PATTERNS = {
    **dict.fromkeys(("image", "id", "label"), IMAGE),
    **dict.fromkeys(("tag", "label_tag"), TAG),
    **dict.fromkeys(("model", "strategy", "method"), TASK),
    "check_sum": CHECKSUM,
}
LONGEST = 200  # characters, and bytes where it becomes a file's name
ALLOWED_ID = f"printable characters, at most {LONGEST}, and nothing that reads like a path"
ALLOWED = {
    IMAGE: "letters, digits, spaces and . , + = @ # & ' ( ) [ ] ~ - _, at most 200, no '..'",
    TAG: "letters, digits, '.', '-' and '_', at most 64",
    TASK: "letters, digits, '.', '+', '-' and '_', at most 128",
    CHECKSUM: "a SHA256, SHA512 or MD5 in hexadecimal digits",
}


def check(kind: str, name: str) -> str:
    """The name itself, if it may be one of that kind ("image", "tag", "model" …); raises a 422 otherwise."""
    pattern = PATTERNS[kind]
    if not isinstance(name, str) or not pattern.fullmatch(name) or TWO_IN_ONE.search(name):
        raise bad(f"This {kind.replace('_', ' ')} is not a name that the server can store.", f"Use {ALLOWED[pattern]}.")
    return name


def check_id(name: str, kind: str = "image") -> str:
    """The name itself, if a client may call an image so; raises a 422 otherwise.

    Slicer calls what it loads from DICOM "2: CT Abdomen". Such a name is looked up, and never a part of a path.
    """
    parts = name.split("/") if isinstance(name, str) else [""]
    fine = name and len(name) <= LONGEST and name.isprintable() and "\\" not in name and not name.startswith(("~", "-"))
    if not fine or any(part.strip() in ("", ".", "..") for part in parts):
        raise bad(f"This {kind} is not a name that the server can store.", f"Use {ALLOWED_ID}.")
    return name


def stored(name: str) -> str:
    """The name under which an image that a client calls so is kept: the same, where a file may have it."""
    if IMAGE.fullmatch(name) and not TWO_IN_ONE.search(name) and len(name.encode()) <= LONGEST:
        return name
    plain = re.sub(r"[^\w.,+=@#&'()\[\] -]", "_", name, flags=re.ASCII).strip(" .-+=@#&',)]").replace("..", "_")
    return f"{plain[:100] or 'image'}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def check_session(session: str) -> str:
    """A session's id in the form the server gives them; raises a 422 for anything else."""
    try:
        if str(uuid.UUID(session)) == session.lower():
            return session.lower()
    except (ValueError, AttributeError, TypeError):
        pass
    raise bad("This session id was not made by this server.", "Create a session first: PUT /session/ answers its id.")


def check_all(values: Mapping[str, Any]) -> None:
    """Check every argument of an endpoint that is a name; the endpoint handles missing ones."""
    for kind in PATTERNS.keys() - {"image", "id", "label"}:  # those are looked up
        value = values.get(kind)
        if isinstance(value, str) and value:
            check(kind, value)
    if values.get("session_id"):
        check_session(values["session_id"])
