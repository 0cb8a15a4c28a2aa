"""What runs in a worker process: one order at a time, told as it goes, dropped between two windows when asked to."""

import dataclasses
import errno
import logging
import os
import shutil
import statistics
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch

from perturbox.job.estimate import JUDGING
from perturbox.jobs import files, problems
from perturbox.jobs.records import READING, Order, Problem
from perturbox.judge.record import Unfinished
from perturbox.load import load_victim
from perturbox.model.memory import limit_memory
from perturbox.model.victim import Victim
from perturbox.types import InputError

TOPIC = "perturbox"
BEAT_SECONDS = 1.0
MEMORY_SHARE = 0.85  # of a worker's limit: more than this, and a death is put down to memory
FREE_SHARE = 0.15  # of the machine's memory: less than this, and models nobody uses are dropped

Tell = Callable[[dict[str, Any]], None]
logger = logging.getLogger(__name__)
_asked: dict[str, str] = {}
_models: dict[tuple[str, str], Victim] = {}  # least recently used first


class Dropped(BaseException):
    """The order was cancelled and nothing of it is wanted; like Ctrl-C no failure, after which something is kept."""


async def ask(id: str, how: str) -> None:
    """Ask the order of that id in this process to end: "drop" at the next window, "keep" what it has found."""
    _asked[id] = how


def warm_up() -> None:
    """Import what the first order needs, at low priority, so that the server stays responsive."""
    import perturbox.job.margins  # noqa: F401

    os.nice(max(0, 10 - os.nice(0)))


def carry_out(id: str, document: Mapping[str, Any], where: Mapping[str, Any], tell: Tell | None = None) -> dict:
    """Run one order on a worker; returns {"warnings"}, or {"problem"} where it could not be done, or {"dropped"}.

    where: {"out": folder} where the server's files are seen from here, else {"files": {field: (name, bytes)}}, and the
    result comes back as {"archive": bytes}; {"threads"}: of torch; {"memory"}: the worker's limit in bytes.
    """
    order = Order.from_json(document)
    tell = tell or _teller(id)
    torch.set_num_threads(where["threads"])
    limit_memory(where.get("memory"))
    try:
        with _watched_memory(tell, where.get("memory")), tempfile.TemporaryDirectory(prefix="perturbox-") as scratch:
            if "out" in where:
                return _run(id, order, Path(where["out"]), tell)
            result = Path(scratch) / "result"
            order = _unpacked(order, where["files"], Path(scratch))
            try:
                answer = _run(id, order, result, tell)
            except Unfinished as error:
                answer = _failed(error)
            return {**answer, "archive": files.pack(result)}
    except Dropped:
        return {"dropped": True}
    except Exception as error:
        return _failed(error)
    finally:
        _asked.pop(id, None)
        _give_back()


def _run(id: str, order: Order, out: Path, tell: Tell) -> dict:
    from perturbox.jobs.kinds import do

    reporter = _Reporter(id, tell)
    reporter.say("Loading the model")
    victim = load_cached(order.job.victim, order.job.device)
    reporter.say(READING)
    hook = victim.network.register_forward_pre_hook(lambda *_: reporter.check())
    try:
        result = do(order, out, reporter.listener(victim), victim)
    except Unfinished:  # what the attack found is kept
        raise
    except InputError:
        shutil.rmtree(out, ignore_errors=True)
        if id in _asked:  # stopped before there was anything to keep
            raise Dropped from None
        raise
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    finally:
        hook.remove()
    return {"warnings": list(result["warnings"]), "stopped": result.get("stopped_early") or None}


class _Reporter:
    """Tells the queue how it goes, at most once a second but for steps and phases, and looks whether to end."""

    def __init__(self, id: str, tell: Tell):
        self.id, self.tell = id, tell
        self.last = 0.0
        self.begun = time.monotonic()
        self.prediction: float | None = None
        self.times: list[float] = []
        self.end: float | None = None

    def check(self) -> None:
        if _asked.get(self.id) == "drop":
            raise Dropped
        if time.monotonic() - self.last > BEAT_SECONDS:
            self.send({})

    def send(self, event: dict[str, Any]) -> None:
        self.last = time.monotonic()
        left = None if self.end is None else 5.0 * round(max(0.0, self.end - self.last) / 5)
        self.tell({"id": self.id, "eta_s": left, **event})

    def say(self, phase: str) -> None:
        if _asked.get(self.id) == "drop":
            raise Dropped
        now = time.monotonic()
        if phase.startswith("Attacking") and self.prediction is None:
            self.prediction = now - self.begun
        if phase.startswith("Segmenting"):
            self.begun = now
        self.send({"phase": phase})

    def listener(self, victim: Victim):
        from perturbox.attacks.outcome import Step
        from perturbox.job.execute import Listener

        names = {value: name for name, value in victim.labels.items()}

        def step(step: Step) -> None:
            self.expect(step.steps - step.step, (self.prediction or 0.0) * (JUDGING - 1))
            self.send({"point": step.describe(names), "steps": step.steps})
            self.check()

        def count(what: str, done: int, total: int) -> None:
            self.expect(total - done, 0.0)
            self.send({"phase": what, "count": [done, total]})
            self.check()

        return Listener(self.say, step, lambda: self.id in _asked, count)

    def expect(self, left: int, afterwards: float) -> None:
        """Expect the end after so many more parts, at the pace of the last five, and so many seconds after them."""
        self.times = [*self.times[-5:], time.monotonic()]
        if len(self.times) > 3:
            pace = statistics.median(b - a for a, b in zip(self.times, self.times[1:], strict=False))
            self.end = self.times[-1] + pace * max(0, left) + afterwards


def load_cached(spec: str, device: str) -> Victim:
    """The victim, loaded once per process; others make room where memory is short."""
    key = (spec, device)
    victim = _models.pop(key, None)
    if victim is None:
        if psutil.virtual_memory().available < FREE_SHARE * psutil.virtual_memory().total:
            _models.clear()
            _give_back()
        victim = load_victim(spec, device, trust=True)  # whoever started the server named it, and trusted it there
    _models[key] = victim
    return victim


def _failed(error: BaseException) -> dict[str, Any]:
    """The answer of an order that an exception ended."""
    return {"problem": explain(error).to_json(), "replace": _is_memory(error.__cause__ or error)}


def explain(error: BaseException) -> Problem:
    """An exception as a problem that tells nothing of files or code; where it happened goes to the worker's log."""
    if _is_full(error) or _is_full(error.__cause__):
        return problems.FULL
    if isinstance(error, Unfinished) and error.__cause__ is not None:
        why = explain(error.__cause__)
        kept = "What the attack found is kept, but nothing of it is measured: see the job's files."
        return Problem(why.error, f"{why.detail} {kept}", why.what_to_do)
    if isinstance(error, InputError):
        return Problem("bad-input", str(error), "Change the request as the sentence says and submit it again.")
    if _is_memory(error):
        return Problem(
            "out-of-memory",
            "The memory ran out.",
            "Crop the scan to the organ, ask for fewer windows at once, or use a machine with more memory.",
        )
    # Where, but not what it said: an exception's words may quote a file.
    logger.error("job failed: %s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
    return Problem(
        "internal", f"An internal error stopped it ({type(error).__name__}).", "Report it with the server's log."
    )


def _is_full(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _is_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def _teller(id: str) -> Tell:
    from distributed import get_worker

    worker = get_worker()
    about = {"worker": worker.address, "pid": os.getpid()}
    return lambda event: worker.log_event(TOPIC, {"id": id, **about, **event})


@contextmanager
def _watched_memory(tell: Tell, limit: int | None) -> Iterator[None]:
    """Tell when this process comes near its limit, so that its death can be explained."""
    done = threading.Event()

    def watch() -> None:
        process = psutil.Process()
        while not done.wait(0.2):
            if limit and process.memory_info().rss > MEMORY_SHARE * limit:
                tell({"memory": "short"})
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _give_back() -> None:
    """Return freed memory to the system and the device, so that it doesn't grow from job to job."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    files.trim_memory()


def _unpacked(order: Order, content: Mapping[str, tuple[str, bytes]], scratch: Path) -> Order:
    """The order with the files that came along written to `scratch`."""
    paths = {}
    for field, (name, data) in content.items():
        place = scratch / field / name
        place.parent.mkdir()
        if name.endswith((".folder", files.CHANNELS)):
            files.unpack(data, place)
        else:
            place.write_bytes(data)
        paths[field] = str(place)
    return dataclasses.replace(order, job=dataclasses.replace(order.job, **paths))
