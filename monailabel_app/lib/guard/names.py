"""Names that clients send: what an id, a tag, a task or a session may look like, so that none can become a path."""

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
        raise bad(f"This {kind.replace('_', ' ')} is no name the server knows how to keep.", f"Use {ALLOWED[pattern]}.")
    return name


def check_session(session: str) -> str:
    """A session's id in the form the server gives them; raises a 422 for anything else."""
    try:
        if str(uuid.UUID(session)) == session.lower():
            return session.lower()
    except (ValueError, AttributeError, TypeError):
        pass
    raise bad("This session id is none the server gives out.", "Create a session first: PUT /session/ answers its id.")


def check_all(values: Mapping[str, Any]) -> None:
    """Check whatever among an endpoint's arguments is a name; absent ones are the endpoint's to miss."""
    for kind in PATTERNS:
        value = values.get(kind)
        if isinstance(value, str) and value:
            check(kind, value)
    if values.get("session_id"):
        check_session(values["session_id"])
