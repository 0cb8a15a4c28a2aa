"""Other packages for the length of a test, without what else they would pull in."""

import importlib
import subprocess
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def installed(
    folder: Path, requirement: str, modules: Sequence[str], absent: Mapping[str, Any] | None = None
) -> Iterator[list[Any]]:
    """The modules of a package that is installed into `folder`; skips the test where it can't be.

    The packages they lie in are entered empty, so that none of their __init__ runs. absent: {"module.name": value} in
    place of modules that are imported but not used.
    """
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    done = subprocess.run(
        [*command, "-c", str(ROOT / "constraints.txt"), requirement], capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        pytest.skip(f"{requirement} could not be installed: {reason}")
    stand_ins: dict[str, types.ModuleType] = {}
    for name in [*modules, *(absent or {})]:
        parts = name.split(".")
        for depth in range(1, len(parts)):
            package = types.ModuleType(".".join(parts[:depth]))
            package.__path__ = [str(folder.joinpath(*parts[:depth]))]
            stand_ins.setdefault(package.__name__, package)
    for name, value in (absent or {}).items():
        place, _, attribute = name.rpartition(".")
        stand_ins[place] = types.ModuleType(place)
        setattr(stand_ins[place], attribute, value)
    sys.modules |= stand_ins
    try:
        yield [importlib.import_module(name) for name in modules]
    finally:
        root = modules[0].split(".")[0]
        for name in [name for name in sys.modules if name.split(".")[0] == root]:
            del sys.modules[name]
