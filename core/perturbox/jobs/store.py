"""Records on disk: one SQLite table, one JSON document per record, so that history survives a restart."""

import json
import sqlite3
import threading
from pathlib import Path

from perturbox.jobs.records import Record


class Store:
    """Records by id; every call is one transaction, and any thread may call."""

    def __init__(self, path: Path):
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("CREATE TABLE IF NOT EXISTS record (id TEXT PRIMARY KEY, document TEXT NOT NULL)")

    def save(self, record: Record) -> None:
        """Write a record; raises sqlite3.Error where the disk doesn't take it."""
        document = json.dumps(record.to_json(), allow_nan=False)
        with self._lock:
            self._database.execute("INSERT OR REPLACE INTO record VALUES (?, ?)", (record.id, document))

    def delete(self, id: str) -> None:
        with self._lock:
            self._database.execute("DELETE FROM record WHERE id = ?", (id,))

    def load(self) -> list[Record]:
        """All records, oldest first."""
        with self._lock:
            rows = self._database.execute("SELECT document FROM record").fetchall()
        return sorted((Record.from_json(json.loads(row[0])) for row in rows), key=lambda record: record.created)

    def close(self) -> None:
        with self._lock:
            self._database.close()
