"""The server's secrets, kept in its memory alone: no worker inherits them and no file under /proc shows them.

They come by the environment, from which they are taken at the start; processes that MONAI Label starts in the
background are told them through their standard input.
"""

import ctypes
import json
import os
import re
import sys
from collections.abc import MutableMapping
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
    """Blot out a value where the process was given it, the block that /proc/PID/environ shows for as long as it
    lives."""
    if not sys.platform.startswith("linux"):
        return
    mark = f"{name}=".encode()
    entry = ctypes.POINTER(ctypes.c_void_p).in_dll(ctypes.CDLL(None), "environ")
    for place in range(len(os.environ) + 1000):
        address = entry[place]
        if not address:
            return
        held = ctypes.string_at(address)
        if held.startswith(mark):
            ctypes.memset(address + len(mark), ord("*"), len(held) - len(mark))
