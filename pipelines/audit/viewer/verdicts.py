"""`Verdicts`: what auditors say of records, kept in SQLite and exported as Parquet."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from schemas import UsageError
from schemas.verdicts import REJECT, VERDICT_SCHEMA

ACCEPT, AGAIN = "accept", "look again"
VERDICTS = (ACCEPT, REJECT, AGAIN)
_PATIENCE = 10.0  # seconds, with another auditor who writes
_MOST = 1000  # characters of a reason
_TABLE = """
CREATE TABLE IF NOT EXISTS verdicts (
  id INTEGER PRIMARY KEY,
  dataset TEXT NOT NULL, episode_id TEXT NOT NULL, step INTEGER NOT NULL,
  verdict TEXT NOT NULL CHECK (verdict IN ('accept', 'reject', 'look again')),
  reason TEXT NOT NULL, at REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS of_record ON verdicts (dataset, episode_id, step);
"""
# every verdict is kept; the newest of a record is the one that counts
_NEWEST = """
SELECT dataset, episode_id, step, verdict, reason FROM verdicts
WHERE id IN (SELECT max(id) FROM verdicts GROUP BY dataset, episode_id, step)
ORDER BY dataset, episode_id, step
"""


class Verdicts:
    """The verdicts of a file, which several auditors and processes may write at once.

    Raises:
        UsageError: if the file cannot be written, or is another thing.
    """

    def __init__(self, path: Path):
        self.path = path
        with self._open() as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.executescript(_TABLE)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with contextlib.closing(sqlite3.connect(self.path, timeout=_PATIENCE)) as db, db:
                yield db
        except sqlite3.Error as e:
            raise UsageError(
                f"{self.path}: verdicts cannot be kept there ({e}); give another --verdicts FILE"
            ) from e

    def say(self, row: Mapping[str, Any], verdict: str, reason: str = "") -> None:
        """A verdict on a record; earlier ones stay on file. Raises UsageError; ValueError if it is
        none of `VERDICTS`."""
        if verdict not in VERDICTS:
            raise ValueError(f"{verdict!r} is none of {VERDICTS}")
        name = (row["dataset"], row["episode_id"], row["step"])
        reason = " ".join(reason.split())[:_MOST]
        with self._open() as db:
            db.execute(
                "INSERT INTO verdicts (dataset, episode_id, step, verdict, reason, at)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (*name, verdict, reason, time.time()),
            )

    def of(self, row: Mapping[str, Any]) -> list[tuple[str, str]]:
        """(verdict, reason) of a record, the newest first."""
        name = (row["dataset"], row["episode_id"], row["step"])
        with self._open() as db:
            return db.execute(
                "SELECT verdict, reason FROM verdicts"
                " WHERE dataset = ? AND episode_id = ? AND step = ? ORDER BY id DESC",
                name,
            ).fetchall()

    def table(self) -> pa.Table:
        """The newest of every record, of `schemas.verdicts.VERDICT_SCHEMA`."""
        with self._open() as db:
            found = db.execute(_NEWEST).fetchall()
        rows = [dict(zip(VERDICT_SCHEMA.names, row, strict=True)) for row in found]
        return pa.Table.from_pylist(rows, VERDICT_SCHEMA)

    def parquet(self) -> bytes:
        """`table` as the file that `--exclude` reads."""
        sink = pa.BufferOutputStream()
        pq.write_table(self.table(), sink)
        return sink.getvalue().to_pybytes()
