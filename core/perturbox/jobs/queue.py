"""The queue: takes orders, hands them to workers in turn, and keeps every record true whatever happens to a worker."""

import logging
import shutil
import sqlite3
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed import Future, KilledWorker
from filelock import FileLock, Timeout

from perturbox.jobs import files, problems
from perturbox.jobs.cluster import Cluster
from perturbox.jobs.records import KINDS, READING, Order, Problem, Record, Refused
from perturbox.jobs.shelf import Shelf
from perturbox.types import InputError

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.1
EXPIRE_SECONDS = 60
UNSEEN_SECONDS = 120  # a started order without a message from its worker


@dataclass
class _Run:
    """An order at a worker. cancel_mode: "keep" or "drop" once it is to stop; last_notified: when its worker was last
    told so; cancel_requested_at: when its grace time began; ended: why the queue ended it, if it did."""

    future: Future
    beat: float
    address: str | None = None
    short_of_memory: bool = False
    cancel_mode: str | None = None
    last_notified: float = 0.0
    cancel_requested_at: float | None = None
    ended: Problem | None = None


class Queue:
    """Orders, their records and their results, under one `home` folder that no other queue may use meanwhile.

    waiting: orders that may wait, more are refused; keep_days, keep_bytes: what is over goes when it is older, or when
    all together takes more; grace: seconds an order has to stop before its worker is replaced; stuck_after: seconds of
    silence after which it is, read_after: while it reads its scan. Raises InputError where `home` is in use or the
    scheduler isn't there.
    """

    def __init__(
        self,
        home: Path,
        *,
        scheduler: str | None = None,
        device: str = "cpu",
        waiting: int = 32,
        keep_days: float = 7,
        keep_bytes: int = 20 * 2**30,
        grace: float = 10,
        stuck_after: float = 600,
        read_after: float = 180,
    ):
        self.home, self.device, self.waiting, self.grace, self.stuck_after = home, device, waiting, grace, stuck_after
        self.read_after = read_after
        self.keep_days, self.keep_bytes = keep_days, keep_bytes
        home.mkdir(parents=True, exist_ok=True)
        self._claim = FileLock(home / "lock")
        try:
            self._claim.acquire(timeout=0)
        except Timeout:
            raise InputError(f"Another server uses '{home}'; end it, or choose another --home.") from None
        self._changed = threading.Condition(threading.RLock())
        self._shelf = Shelf(home)
        self._runs: dict[str, _Run] = {}
        self._closing = False
        self._shelf.recover()
        try:
            self._cluster = Cluster(scheduler, device, self._on_event)
        except BaseException:
            self._claim.release()
            raise
        self._thread = threading.Thread(target=self._watch, name="jobs", daemon=True)
        self._thread.start()

    # What users ask for

    def submit(self, order: Order) -> Record:
        """Take an order in; its files are copied, so their originals may go. Raises Refused where the queue or the disk
        is full, InputError where a file isn't there."""
        if order.kind not in KINDS:
            raise InputError(f"There is no kind of job '{order.kind}'; choose {', '.join(KINDS)}.")
        with self._changed:
            self._refuse_if_full()
        id = uuid.uuid4().hex
        folder = self._shelf.folder(id)
        try:
            order = files.take_in(order, folder / "inputs")
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise Refused(
                503,
                Problem("disk-full", "The server can't store this scan now.", "Delete old jobs or try again later."),
            ) from error
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        record = Record(id, order, time.time())
        with self._changed:
            try:
                self._refuse_if_full()
            except Refused:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            self._shelf.records[id] = record
            self._shelf.save(record)
            self._shelf.log(record)
            self._changed.notify_all()
            return self._shelf.shown(record)

    def get(self, id: str) -> Record:
        """The record as it is now; raises Refused (404) for an id there is none of."""
        with self._changed:
            return self._shelf.shown(self._shelf.known(id))

    def list(self) -> list[Record]:
        """All records, newest first."""
        with self._changed:
            return [self._shelf.shown(record) for record in reversed(self._shelf.records.values())]

    def wait(self, id: str, timeout: float | None = None) -> Record:
        """The record once it is over, or as it is after `timeout` seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while not self._shelf.known(id).over and not self._closing:
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    break
                self._changed.wait(left)
            return self._shelf.shown(self._shelf.known(id))

    def cancel(self, id: str, keep: bool = False) -> Record:
        """End an order: drop it at its next window, or (keep) stop the attack after its step and measure what it found.

        Raises Refused (409) where it is over.
        """
        with self._changed:
            record = self._shelf.known(id)
            if record.over:
                raise Refused(409, Problem("over", f"This job is {record.state} already.", "Look at its result."))
            if record.state == "queued":
                self._end(record, "cancelled")
                return self._shelf.shown(record)
            run = self._runs[id]
            record.state = "cancelling"
            record.progress["phase"] = "Stopping after this step" if keep else "Stopping"
            # What is kept has still to be measured, in its own time.
            run.cancel_mode, run.cancel_requested_at, run.last_notified = (
                ("keep", None, 0.0) if keep else ("drop", time.monotonic(), 0.0)
            )
            self._shelf.save(record)
            self._changed.notify_all()
            return self._shelf.shown(record)

    def resubmit(self, id: str) -> Record:
        """Submit the same order once more, as a new job; raises Refused (409) while the first is not over."""
        with self._changed:
            record = self._shelf.known(id)
            if not record.over:
                raise Refused(409, Problem("not-over", f"This job is {record.state}.", "Wait for it or cancel it."))
            order = record.order
        return self.submit(order)

    def delete(self, id: str) -> None:
        """Forget an order and its files; raises Refused (409) where it isn't over."""
        with self._changed:
            record = self._shelf.known(id)
            if not record.over:
                raise Refused(409, Problem("not-over", f"This job is {record.state}.", "Cancel it first."))
            try:
                self._shelf.forget(record)
            except sqlite3.Error:
                raise Refused(503, problems.LOCKED) from None

    def result(self, id: str) -> Path:
        """The result folder; raises Refused (409) where there is none."""
        with self._changed:
            record = self._shelf.known(id)
            folder = self._shelf.folder(id) / "result"
            if not record.over or not folder.is_dir():
                what = "isn't finished" if not record.over else f"is {record.state} and left no result"
                raise Refused(409, Problem("no-result", f"This job {what}.", "Look at its status."))
            return folder

    def input(self, id: str) -> Path:
        """The job's own copy of the scan."""
        with self._changed:
            return Path(self._shelf.known(id).order.job.image)

    def health(self) -> dict[str, Any]:
        with self._changed:
            states = [record.state for record in self._shelf.records.values()]
        return {
            "workers": self._cluster.size,
            "queued": states.count("queued"),
            "running": states.count("running") + states.count("cancelling"),
            "waiting_limit": self.waiting,
            "scheduler": self._cluster.address,
        }

    def close(self) -> None:
        """End everything within seconds; what is waiting or running is recorded as interrupted."""
        with self._changed:
            if self._closing:
                return
            self._closing = True
            for record in self._shelf.records.values():
                if not record.over:
                    self._end(record, "interrupted", problems.INTERRUPTED)
            self._changed.notify_all()
        self._thread.join(timeout=2)
        self._cluster.close()
        self._shelf.close()
        self._claim.release()

    # What the watching thread does

    def _watch(self) -> None:
        expired = 0.0
        while not self._closing:
            try:
                self._start_next()
                self._finish()
                self._resend_cancel_requests()
                self._end_the_silent()
                with self._changed:
                    self._shelf.save_the_unsaved()
                    if time.monotonic() - expired > EXPIRE_SECONDS:
                        expired = time.monotonic()
                        self._shelf.expire(self.keep_days, self.keep_bytes)
                        files.trim_memory()
            except Exception:
                logger.exception("the queue stumbled and goes on")
                time.sleep(1)
            with self._changed:
                if not self._closing:
                    self._changed.wait(TICK_SECONDS)

    def _start_next(self) -> None:
        with self._changed:
            record = next((record for record in self._shelf.records.values() if record.state == "queued"), None)
        if record is None or len(self._runs) >= self._cluster.size:
            return
        # Files travel by path on one machine, by content otherwise.
        if self._cluster.embedded:
            where: dict[str, Any] = {"out": str(self._shelf.folder(record.id) / "result")}
        else:
            try:
                where = {"files": files.as_content(record.order)}
            except OSError:
                with self._changed:
                    self._end(record, "failed", problems.GONE)
                return
        with self._changed:
            if record.state != "queued":
                return
            future = self._cluster.start(record.id, record.order.to_json(), where)
            self._runs[record.id] = _Run(future, time.monotonic())
            record.state, record.started = "running", time.time()
            record.progress["phase"] = "Starting"
            self._shelf.save(record)
            self._shelf.log(record)

    def _finish(self) -> None:
        for id, run in list(self._runs.items()):
            if not run.future.done():
                continue
            answer = self._answer(id, run)
            with self._changed:
                record = self._shelf.records[id]
                del self._runs[id]
                record.warnings = answer.get("warnings", [])
                self._end(record, *self._verdict(record, run, answer))
            if answer.get("replace") and run.address is not None:
                self._cluster.replace(run.address)

    def _answer(self, id: str, run: _Run) -> dict[str, Any]:
        """What a worker's run came to; sets run.ended where it came to nothing."""
        if run.future.status == "finished":
            answer = run.future.result(timeout=60)
            try:
                if "archive" in answer:
                    files.unpack(answer.pop("archive"), self._shelf.folder(id) / "result")
            except OSError:
                return {"problem": problems.FULL.to_json()}
            return answer
        if run.ended is None:
            failed = run.future.status == "error" and not isinstance(run.future.exception(timeout=5), KilledWorker)
            run.ended = problems.FAILED if failed else problems.MEMORY if run.short_of_memory else problems.DIED
        return {}

    def _verdict(self, record: Record, run: _Run, answer: dict[str, Any]) -> tuple[str, Problem | None]:
        if "problem" in answer:
            return "failed", Problem(**answer["problem"])
        if "dropped" in answer or (record.state == "cancelling" and run.future.status != "finished"):
            return "cancelled", None
        if run.future.status == "finished":
            return ("cancelled" if record.state == "cancelling" and answer.get("stopped") else "done"), None
        return "failed", run.ended

    def _resend_cancel_requests(self) -> None:
        """Send cancel requests again: one can arrive before its order."""
        now = time.monotonic()
        with self._changed:
            runs = [
                (id, run)
                for id, run in self._runs.items()
                if run.cancel_mode and run.address and now - run.last_notified > 1
            ]
        for id, run in runs:
            run.last_notified = now
            self._cluster.ask(str(run.address), id, str(run.cancel_mode))

    def _end_the_silent(self) -> None:
        """Replace workers whose order neither stops in its grace time nor gives a sign of life; give up the orders of
        those that are gone."""
        now = time.monotonic()
        with self._changed:
            runs = [
                (run, self._shelf.records[id].progress["phase"] == READING)
                for id, run in self._runs.items()
                if run.ended is None
            ]
        for run, reading in runs:
            late = run.cancel_requested_at is not None and now - run.cancel_requested_at > self.grace
            silent = now - run.beat > (self.stuck_after if run.address else max(self.stuck_after, UNSEEN_SECONDS))
            lost = run.address is not None and self._cluster.lost(run.address)
            endless = reading and now - run.beat > self.read_after
            if not (late or silent or lost or endless):
                continue
            died = problems.MEMORY if run.short_of_memory else problems.DIED
            run.ended = died if lost else problems.UNREADABLE if endless else problems.STUCK
            run.future.cancel(force=True)
            if run.address is not None and not lost:
                self._cluster.replace(run.address)

    def _on_event(self, event: dict[str, Any]) -> None:
        """A word from a worker."""
        with self._changed:
            run, record = self._runs.get(event["id"]), self._shelf.records.get(event["id"])
            if run is None or record is None:
                return
            run.beat, run.address = time.monotonic(), event["worker"]
            run.short_of_memory |= "memory" in event
            progress = record.progress
            if "phase" in event and record.state == "running":
                progress["phase"] = event["phase"]
            if "eta_s" in event:
                progress["eta_s"] = event["eta_s"]
            if "point" in event:
                point = event["point"]
                progress["trace"].append(point)
                progress |= {"step": point["step"], "restart": point["restart"], "steps": event["steps"]}
            if "count" in event:
                progress["step"], progress["steps"] = event["count"]
            self._changed.notify_all()

    def _end(self, record: Record, state: str, problem: Problem | None = None) -> None:
        self._shelf.end(record, state, problem)
        self._changed.notify_all()

    def _refuse_if_full(self) -> None:
        if self._closing:
            raise Refused(503, Problem("closing", "The server is ending.", "Try again when it is back."))
        if sum(record.state == "queued" for record in self._shelf.records.values()) >= self.waiting:
            detail = f"{self.waiting} jobs are waiting already."
            raise Refused(429, Problem("queue-full", detail, "Try again when some are done."))
