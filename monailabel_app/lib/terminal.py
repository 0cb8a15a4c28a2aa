"""What the operator reads on the terminal.

`perturbox serve` sends all else to a log file before it becomes this process, and hands the terminal on as an open
file; without one, what is said here goes to stderr with the rest.
"""

import os
import sys
from collections.abc import MutableMapping

TERMINAL, LOG = "PERTURBOX_TERMINAL", "PERTURBOX_LOG"

_handed: list[int] = []
_log: list[str] = []


def take(environment: MutableMapping[str, str]) -> None:
    """Take over the terminal; processes that are started from here neither inherit it nor hear of it."""
    number, log = environment.pop(TERMINAL, ""), environment.pop(LOG, "")
    if number.isdigit() and log:
        os.set_inheritable(int(number), False)
        _handed.append(int(number))
        _log.append(log)


def log() -> str | None:
    """The file that holds all else; None where that is stderr."""
    return _log[0] if _log else None


def say(line: str) -> None:
    """One line for the operator."""
    try:
        os.write(_handed[0], f"{line}\n".encode()) if _handed else print(line, file=sys.stderr, flush=True)
    except OSError:  # the terminal was closed, which ends no server
        _handed.clear()
