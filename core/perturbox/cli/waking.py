"""A sign of life: one line before PyTorch is imported, which takes seconds.

It goes to the terminal. If stderr is no terminal it goes to stdout, because a program that reads stderr finds a
refusal there, in one line.
"""

import os
import sys
from collections.abc import Iterable
from pathlib import Path


def waking(text: str, needed: Iterable[str | Path | None] = (), new: Path | None = None) -> None:
    """Say what begins, unless it begins at once or is about to be refused, for a refusal stands alone.

    needed: files and folders that must be there. new: the file or folder that the command makes.
    """
    if "torch" in sys.modules or not all(Path(path).exists() for path in needed if path is not None):
        return
    if new is not None and os.path.lexists(new) and not (new.is_dir() and not any(new.iterdir())):
        return
    print(f"{text} …", file=sys.stderr if sys.stderr.isatty() else sys.stdout, flush=True)
