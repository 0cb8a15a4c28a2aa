"""A daemon thread for what takes long, and a queue of what it has to say. It touches neither MRML nor Qt.

A work is a function of (post, wishes). It ends with exactly one event in `ENDS`, or in silence if it was stopped.

Slicer's event loop is C++ that never lets go of Python's lock: another thread runs only while Python runs in the main
one. So `drain`, which a timer calls, waits for a moment while there is work, and the thread gets its turn.
"""

import contextlib
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .trouble import Trouble, trouble

ENDS = ("connected", "result", "trouble", "over")
TURN_SECONDS = 0.02  # short enough for no one to see, long enough for a request to be answered
LATEST = ("status", "reconnecting", "downloading")  # of these in a row only the last is kept: each tells all


@dataclass(frozen=True)
class Event:
    """What happened, by name; `tasks` says what data each name has."""

    name: str
    data: Any = None


class Wishes:
    """What a work is asked to do while it runs: stop, now and in silence, or cancel its job."""

    def __init__(self):
        self._changed = threading.Condition()
        self._keep: bool | None = None
        self._calls: list[Callable[[], None]] = []
        self._resting = False
        self.stopped = False

    def stop(self) -> None:
        with self._changed:
            self.stopped = True
            calls, self._calls = self._calls, []
            self._changed.notify_all()
        for call in calls:
            call()

    def onStop(self, call: Callable[[], None]) -> None:
        """Have something called, in the thread that stops."""
        with self._changed:
            if not self.stopped:
                self._calls.append(call)
                return
        call()

    def cancel(self, keep: bool) -> None:
        with self._changed:
            self._keep = keep
            self._changed.notify_all()

    @property
    def cancelled(self) -> bool:
        return self._keep is not None

    def take(self) -> bool | None:
        """The request to cancel, once: whether to keep the best result; None if nobody asked."""
        with self._changed:
            keep, self._keep = self._keep, None
            return keep

    def wait(self, seconds: float) -> None:
        """Sleep, but not through a wish. Raises Trouble "stopped"."""
        with self.resting(), self._changed:
            self._changed.wait_for(lambda: self.stopped or self.cancelled, seconds)
        self.check()

    @contextlib.contextmanager
    def resting(self):
        """`with wishes.resting():` while the work has nothing to do."""
        self._rest(True)
        try:
            yield
        finally:
            self._rest(False)

    def _rest(self, resting: bool) -> None:
        with self._changed:
            self._resting = resting
            self._changed.notify_all()

    def end(self) -> None:
        """The work is over."""
        self._rest(True)

    def giveTurn(self, seconds: float) -> None:
        """Wait so long, in another thread, that the work gets on; less where it rests or is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._resting or self.stopped, seconds)

    def check(self) -> None:
        if self.stopped:
            raise trouble("stopped")


class _Events:
    def __init__(self):
        self._lock = threading.Lock()
        self._waiting: deque[Event] = deque()
        self._closed = False

    def post(self, name: str, data: Any = None) -> None:
        with self._lock:
            if self._closed:
                return
            if name in LATEST and self._waiting and self._waiting[-1].name == name:
                self._waiting.pop()
            self._waiting.append(Event(name, data))

    def take(self) -> Event | None:
        with self._lock:
            return self._waiting.popleft() if self._waiting else None

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._waiting.clear()


class Background:
    """One work at a time in a daemon thread; to be used from one thread, the GUI's."""

    def __init__(self):
        self._events, self._wishes = _Events(), Wishes()
        self._threads: list[threading.Thread] = []

    @property
    def running(self) -> bool:
        """Whether a work is under way that wasn't stopped."""
        return bool(self._threads) and self._threads[-1].is_alive() and not self._wishes.stopped

    def start(self, work: Callable, *arguments) -> None:
        """Call work(post, wishes, *arguments) in a thread; what ran before is stopped, its events are dropped."""
        self.stop()
        self._events, self._wishes = _Events(), Wishes()
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        told = (work, self._events.post, self._wishes, arguments)
        self._threads.append(threading.Thread(target=_carryOut, args=told, name="Perturbox", daemon=True))
        self._threads[-1].start()

    def drain(self) -> Iterator[Event]:
        """What has happened, oldest first; waits for a moment while there is work. What isn't taken stays for the next
        call."""
        if self.running:
            self._wishes.giveTurn(TURN_SECONDS)
        yield from iter(self._events.take, None)

    def cancel(self, keep: bool = True) -> None:
        """Have the job cancelled on the server; keep: after its step, with the best so far. The work goes on to its
        end."""
        self._wishes.cancel(keep)

    def stop(self) -> None:
        """End the work without waiting for it: nothing more comes of it, its thread is gone within two seconds. Its job
        goes on, unless `cancel` was called before."""
        self._events.close()
        self._wishes.stop()

    def wait(self, seconds: float) -> bool:
        """Wait for all threads to end; whether they did."""
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)


def _carryOut(work: Callable, post: Callable, wishes: Wishes, arguments: tuple) -> None:
    try:
        work(post, wishes, *arguments)
    except Trouble as error:
        post("trouble", error)
    except MemoryError:
        post("trouble", trouble("no-memory"))
    except Exception as error:
        post("trouble", trouble("internal", traceback.format_exc(), kind=type(error).__name__))
    finally:
        wishes.end()
