"""Records on disk: one SQLite table, one JSON document per record, so that history survives a restart."""

import json
import logging
import sqlite3
import threading
import time
from pathlib import Path

from perturbox.jobs.records import Record

logger = logging.getLogger(__name__)


class Store:
    """Records by id; every call is one transaction, and any thread may call.

    A file that isn't a database any more is set aside and a new one begun: `damaged`. Rows that can't be read, cut ones
    or those of a later version, stay in it, for a version that can: `unreadable`, their ids.
    """

    def __init__(self, path: Path):
        self._lock = threading.Lock()
        self.damaged = False
        self.unreadable: set[str] = set()
        try:
            self._database = self._open(path)
        except sqlite3.OperationalError:  # a full disk, a folder that can't be written to
            raise
        except sqlite3.DatabaseError:
            self._set_aside(path)
            self._database = self._open(path)

    def save(self, record: Record) -> None:
        """Write a record; raises sqlite3.Error where the disk doesn't take it."""
        document = json.dumps(record.to_json(), allow_nan=False)
        with self._lock:
            self._database.execute("INSERT OR REPLACE INTO record VALUES (?, ?)", (record.id, document))

    def delete(self, id: str) -> None:
        """Forget a record; raises sqlite3.Error where the database is locked or the disk full."""
        with self._lock:
            self._database.execute("DELETE FROM record WHERE id = ?", (id,))

    def load(self) -> list[Record]:
        """All records that can be read, oldest first."""
        with self._lock:
            rows = self._database.execute("SELECT id, document FROM record").fetchall()
        found = []
        for id, document in rows:
            try:
                record = Record.from_json(json.loads(document))
                if record.id != id or not record.sound:
                    raise ValueError
                found.append(record)
            except (ValueError, KeyError, TypeError, AttributeError):
                self.unreadable.add(str(id))
        if self.unreadable:
            logger.warning("%d records can't be read and are left as they are", len(self.unreadable))
        return sorted(found, key=lambda record: record.created)

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def _open(self, path: Path) -> sqlite3.Connection:
        database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        try:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("CREATE TABLE IF NOT EXISTS record (id TEXT PRIMARY KEY, document TEXT NOT NULL)")
            database.execute("SELECT id, document FROM record").fetchall()
        except sqlite3.Error:
            database.close()
            raise
        return database

    def _set_aside(self, path: Path) -> None:
        self.damaged = True
        aside = f"{path.name}.damaged-{int(time.time())}"
        for ending in ("", "-wal", "-shm"):
            place = path.with_name(path.name + ending)
            if place.exists():
                place.rename(path.with_name(aside + ending))
        logger.error("the records were damaged; they are kept as %s, and new ones begun", aside)
