"""All records and the folders that belong to them: in memory, on disk, and gone when they are too old.

Not for several threads at once: its queue holds a lock.
"""

import dataclasses
import logging
import shutil
import sqlite3
import time
from pathlib import Path

from perturbox.jobs import files, problems
from perturbox.jobs.records import Problem, Record, Refused
from perturbox.jobs.store import Store
from perturbox.judge.record import UNFINISHED

logger = logging.getLogger(__name__)

# Of a job that was cancelled, a result that holds one of these is worth keeping; of one that failed, also what isn't
# measured, which whoever cancels doesn't ask for.
KEPT = ("result.json", "margin.json", "certificate.json")


class Shelf:
    """Records by id, oldest first, and their folders under `home`."""

    def __init__(self, home: Path):
        self.place = home / "jobs"
        self.place.mkdir(parents=True, exist_ok=True)
        home.chmod(0o700)  # also where an earlier version left it open to others
        self._store = Store(home / "jobs.sqlite")
        if self._store.damaged and any(self.place.iterdir()):  # results whose records are lost
            self.place.rename(self.place.with_name(f"jobs.damaged-{int(time.time())}"))
            self.place.mkdir()
        self.records = {record.id: record for record in self._store.load()}
        self._unsaved: set[str] = set()
        self._began, self._ticked = time.time(), time.monotonic()  # a clock that is set forward makes nothing old

    def close(self) -> None:
        self._store.close()

    def save_the_unsaved(self) -> None:
        """Try again to write what the disk didn't take."""
        for id in list(self._unsaved):
            self.save(self.records[id])

    def recover(self) -> None:
        """After a start: what was waiting or running is interrupted, and its half-made results go."""
        for record in self.records.values():
            if not record.over:
                self.end(record, "interrupted", problems.INTERRUPTED)
            for draft in self.folder(record.id).glob(".result-*"):
                shutil.rmtree(draft, ignore_errors=True)
        for folder in self.place.iterdir():
            if folder.name not in self.records and folder.name not in self._store.unreadable:
                shutil.rmtree(folder, ignore_errors=True)

    def end(self, record: Record, state: str, problem: Problem | None = None) -> None:
        """Record how an order ended."""
        record.state, record.problem, record.finished = state, problem, time.time()
        record.progress["phase"] = state.capitalize()
        record.progress.pop("eta_s", None)
        result = self.folder(record.id) / "result"
        kept = KEPT if state == "cancelled" else (*KEPT, UNFINISHED)
        if state != "done" and not any((result / name).is_file() for name in kept):
            shutil.rmtree(result, ignore_errors=True)
        record.bytes = files.size(self.folder(record.id))
        self.save(record)
        self.log(record)

    def expire(self, days: float, most_bytes: int) -> None:
        """Forget what is over and older than that, and the oldest where all together take more."""
        over = [record for record in self.records.values() if record.over]
        oldest = self._began + (time.monotonic() - self._ticked) - days * 86400
        total = sum(record.bytes for record in over)
        for record in over:
            if (record.finished or record.created) < oldest or total > most_bytes:
                total -= record.bytes
                try:
                    self.forget(record)
                except sqlite3.Error as error:
                    logger.error("a record can't be deleted: %s", error)
                    return

    def forget(self, record: Record) -> None:
        """Delete an order's record and files; raises sqlite3.Error, and keeps both, where the record can't be."""
        self._store.delete(record.id)
        shutil.rmtree(self.folder(record.id), ignore_errors=True)
        self.records.pop(record.id)
        self._unsaved.discard(record.id)

    def save(self, record: Record) -> None:
        """Write a record, now or, where the disk is full, later: what is in memory stays true meanwhile."""
        try:
            self._store.save(record)
            self._unsaved.discard(record.id)
        except sqlite3.Error as error:
            if record.id not in self._unsaved:
                logger.error("a record can't be saved: %s", error)
            self._unsaved.add(record.id)

    def known(self, id: str) -> Record:
        """The record; raises Refused (404) for an id there is none of."""
        if id not in self.records:
            raise Refused(404, Problem("no-such-job", "There is no such job.", "It may have expired; list the jobs."))
        return self.records[id]

    def shown(self, record: Record) -> Record:
        """A copy that stays as it is, with the place in the queue."""
        progress = {**record.progress, "trace": list(record.progress["trace"])}
        position = None
        if record.state == "queued":
            waiting = [other.id for other in self.records.values() if other.state == "queued"]
            position = waiting.index(record.id) + 1
        return dataclasses.replace(record, progress=progress, queue_position=position)

    def folder(self, id: str) -> Path:
        """Where an order's files lie."""
        return self.place / id

    def log(self, record: Record) -> None:
        """One line per change of state, with nothing of the patient in it."""
        job, spent = record.order.job, (record.finished or time.time()) - (record.started or record.created)
        logger.info(
            "job=%s kind=%s victim=%s attack=%s client=%s state=%s seconds=%.1f problem=%s",
            record.id,
            record.order.kind,
            Path(job.victim).name,
            job.attack,
            record.order.client.replace(" ", "-") or "-",
            record.state,
            spent,
            record.problem.error if record.problem else "-",
        )
