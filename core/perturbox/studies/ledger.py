"""What a study has done so far: one line for each piece, appended and synced before it counts.

Only the driver writes it. A line that a kill tore off is cut, and its piece is done again.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perturbox.types import InputError


def entries(raw: bytes, called: str) -> dict[str, dict[str, Any]]:
    """The whole lines of a ledger, by key; a line that is still being written is left out. Raises InputError, which
    names the file as `called`, for lines that are none of a ledger's."""
    done: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(raw[: raw.rfind(b"\n") + 1].split(b"\n")[:-1], 1):
        try:
            entry = json.loads(line)
            done[entry["key"]] = entry
        except (ValueError, KeyError, TypeError, RecursionError):
            raise InputError(
                f"{called}, line {number} is damaged; remove that line, and what it held is done again."
            ) from None
    return done


class Ledger:
    """done: entries {"key", "kind", "status", …} by key; a later line of a key replaces an earlier one."""

    def __init__(self, path: Path):
        self.path = path
        self.done: dict[str, dict[str, Any]] = {}
        whole = self._read()
        if path.exists() and path.stat().st_size != whole:
            with open(path, "r+b") as file:
                file.truncate(whole)
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 — kept open for the whole study

    def _read(self) -> int:
        """Bytes of whole lines; raises InputError for a file that isn't a ledger."""
        raw = self.path.read_bytes() if self.path.exists() else b""
        self.done = entries(raw, str(self.path))
        return raw.rfind(b"\n") + 1

    def add(self, entry: Mapping[str, Any]) -> None:
        line = json.dumps(entry, sort_keys=True, allow_nan=False, separators=(",", ":")).encode() + b"\n"
        self._file.write(line)
        os.fsync(self._file.fileno())
        self.done[entry["key"]] = json.loads(line)

    def close(self) -> None:
        self._file.close()
