"""Ctrl-C and SIGTERM: the first stops an attack after its step and keeps what it found, the second abandons it."""

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

import typer

from perturbox.cli import INTERRUPTED

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """A context in which signals set `requested` instead of ending the process; before the attack begins, they end it.

    announce: whether to say so at once (where no live display does).
    """

    def __init__(self, announce: bool):
        self.announce = announce
        self.requested = False
        self.begun = False
        self._before: dict[int, Any] = {}

    def asked(self) -> bool:
        """What a job polls each step."""
        self.begun = True
        return self.requested

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            print("Abandoned; nothing was written.", file=sys.stderr)
            raise typer.Exit(INTERRUPTED)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested or not self.begun:
            raise KeyboardInterrupt
        self.requested = True
        if self.announce:
            # A handler may interrupt a print, and Python's buffers don't allow another one within it.
            os.write(2, b"Stopping after this step; what it found is then measured and saved. Again to abandon it.\n")
