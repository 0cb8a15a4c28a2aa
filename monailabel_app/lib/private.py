"""The server's secrets, kept in its memory alone: no worker inherits them and no file under /proc shows them.

They come by the environment, from which they are taken at the start; processes that MONAI Label starts in the
background are told them through their standard input.
"""

import ctypes
import json
import re
import sys
from collections.abc import MutableMapping
from pathlib import Path
from typing import IO

from monailabel.config import settings

SECRET = re.compile(r"(PERTURBOX|MONAI_LABEL|MONAI_ZOO)_(\w+_)?(TOKEN|PASSWORD|API_KEY)")
TOLD = "PERTURBOX_SECRETS_BY_STDIN"

_kept: dict[str, str] = {}


def take(environment: MutableMapping[str, str]) -> None:
    """Move the secrets out of this process's environment; those of a background process are read from its input."""
    if environment.pop(TOLD, None):
        _kept.update(json.loads(sys.stdin.readline() or "{}"))
    for name in [name for name in environment if SECRET.fullmatch(name)]:
        _kept[name] = environment[name]
        _overwrite(name)
        del environment[name]
    for name, value in _kept.items():
        if hasattr(settings, name):
            setattr(settings, name, value)


def keep(name: str, value: str) -> str:
    """Remember a secret made here, unless there is one of that name; the one that is kept."""
    return _kept.setdefault(name, value)


def get(name: str) -> str | None:
    return _kept.get(name) or None


def kept() -> dict[str, str]:
    return dict(_kept)


def tell(input: IO[str]) -> None:
    """Write all of them to a background process's input, for its `take`."""
    input.write(json.dumps(_kept) + "\n")
    input.close()


def _overwrite(name: str) -> None:
    """Blot out a value in the block that the process was started with, which /proc/PID/environ shows all its life."""
    if not sys.platform.startswith("linux"):
        return
    # After the name in brackets come fields 3 and on; 50 and 51 are where the block begins and ends (proc(5)).
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    begin, end = int(fields[47]), int(fields[48])
    block = b"\0" + ctypes.string_at(begin, end - begin)
    at = block.find(f"\0{name}=".encode())
    if at >= 0:
        value = at + len(name) + 2
        ctypes.memset(begin + value - 1, ord("*"), block.find(b"\0", value) - value)
