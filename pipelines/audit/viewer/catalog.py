"""`Catalog`: a table's index in memory, to be searched by people who wait for the answer."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import files
from pipelines.audit.check import FINDING_SCHEMA
from pipelines.audit.lookup import Lookup
from pipelines.audit.opened import Opened
from schemas import UsageError
from schemas.columns import INDEX_SCHEMA

_CLOSED: dict[str, str | bool | int | float | list[str]] = {
    "autoload_known_extensions": "false",
    "enable_external_access": "false",
}
_COLUMNS = [
    "dataset",
    "version",
    "split",
    "episode_id",
    "step",
    "text",
    "text_key",
    "num_frames",
    "start",
    "fps",
    "is_first",
    "is_last",
    "clipped",
    "shard",
    "num_shards",
    "position",
    "source_uri",
    "source_range",
    "license",
]
_SAME = " AND ".join(f"{{0}}.{name} = records.{name}" for name in ("dataset", "episode_id", "step"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Query:
    """What is looked for; "" and None are anything.

    Attributes:
        text: words that the action text has, or a part of an episode's id, whatever their case.
        source, split, licence: exactly.
        frames: of a record, from and to.
        flag: the name of a check that found something.
        verdict: "accept", "reject", "look again", or "none" for records without one.
    """

    text: str = ""
    source: str = ""
    split: str = ""
    licence: str = ""
    frames: tuple[int, int] | None = None
    flag: str = ""
    verdict: str = ""


class Catalog:
    """The index, and what an audit found.

    Args:
        findings: a Parquet file that `unisim audit --parquet` wrote; None for none.
        tick: told how many parts of the index were read since it was last called.

    Raises:
        UsageError: if a part of the index, or `findings`, cannot be read.
    """

    def __init__(
        self,
        table: Opened,
        findings: str | None = None,
        tick: Callable[[int], None] = lambda parts: None,
    ):
        self._db = duckdb.connect(config=_CLOSED)
        self._lock = threading.Lock()
        self._db.execute("CREATE SEQUENCE numbers START 0 MINVALUE 0")
        empty = pa.schema([INDEX_SCHEMA.field(name) for name in _COLUMNS]).empty_table()
        self._db.register("part", empty)
        self._db.execute("CREATE TABLE records AS SELECT nextval('numbers') AS id, * FROM part")
        for part in Lookup(table).parts():
            self._db.register("part", _read(part))
            self._db.execute("INSERT INTO records SELECT nextval('numbers'), * FROM part")
            tick(1)
        self._db.register("part", _findings(findings))
        self._db.execute("CREATE TABLE findings AS SELECT * FROM part WHERE step IS NOT NULL")
        self._db.unregister("part")

    def search(
        self, query: Query, verdicts: pa.Table, first: int = 0, count: int = 25
    ) -> tuple[int, list[dict[str, Any]]]:
        """How many records there are, and some of them in the table's order.

        Args:
            verdicts: all, of `VERDICT_SCHEMA`.
        """
        where, values = _condition(query)
        with self._lock, self._db.cursor() as db:
            db.register("verdicts", verdicts)
            total = db.execute(f"SELECT count(*) FROM records WHERE {where}", values).fetchall()
            page = f"ORDER BY id LIMIT {count} OFFSET {first}"
            return total[0][0], _fetched(db, f"records WHERE {where} {page}", values)

    def row(self, number: int) -> dict[str, Any] | None:
        """The record of an id."""
        return next(iter(self._rows("id = ?", [number])), None)

    def numbered(self, dataset: str, episode: str, step: int) -> dict[str, Any] | None:
        """The record of a name."""
        where = "dataset = ? AND episode_id = ? AND step = ?"
        return next(iter(self._rows(where, [dataset, episode, step])), None)

    def episode(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """All records of a record's episode, by step."""
        where = "dataset = ? AND episode_id = ?"
        found = self._rows(where, [row["dataset"], row["episode_id"]])
        return sorted(found, key=lambda each: each["step"])

    def findings(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What an audit found of a record."""
        name = [row["dataset"], row["episode_id"], row["step"]]
        where = "dataset = ? AND episode_id = ? AND step = ?"
        with self._lock, self._db.cursor() as db:
            return _fetched(db, f"findings WHERE {where}", name)

    def choices(self, column: str) -> list[str]:
        """The values of a column of the records, or of the findings' checks, sorted."""
        known = {
            "dataset": "records",
            "split": "records",
            "license": "records",
            "check": "findings",
        }
        sql = f'SELECT DISTINCT "{column}" FROM {known[column]} ORDER BY 1'
        with self._lock, self._db.cursor() as db:
            return [value for (value,) in db.execute(sql).fetchall()]

    def _rows(self, where: str, values: list[Any]) -> list[dict[str, Any]]:
        with self._lock, self._db.cursor() as db:
            return _fetched(db, f"records WHERE {where} LIMIT 10000", values)


def _fetched(db: duckdb.DuckDBPyConnection, what: str, values: list[Any]) -> list[dict[str, Any]]:
    found = db.execute(f"SELECT * FROM {what}", values)
    names = [column[0] for column in found.description]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def _condition(query: Query) -> tuple[str, list[Any]]:
    """SQL with places for the values, and these."""
    parts, values = ["true"], []
    for column, value in (
        ("dataset", query.source),
        ("split", query.split),
        ("license", query.licence),
    ):
        if value:
            parts.append(f"{column} = ?")
            values.append(value)
    for word in query.text.split():
        parts.append("(contains(lower(text), lower(?)) OR contains(lower(episode_id), lower(?)))")
        values += [word, word]
    if query.frames is not None:
        parts.append("num_frames BETWEEN ? AND ?")
        values += query.frames
    if query.flag:
        same = _SAME.format("findings")
        parts.append(f'EXISTS (SELECT 1 FROM findings WHERE {same} AND findings."check" = ?)')
        values.append(query.flag)
    if query.verdict:
        same = _SAME.format("verdicts")
        if query.verdict == "none":
            parts.append(f"NOT EXISTS (SELECT 1 FROM verdicts WHERE {same})")
        else:
            parts.append(f"EXISTS (SELECT 1 FROM verdicts WHERE {same} AND verdict = ?)")
            values.append(query.verdict)
    return " AND ".join(parts), values


def _read(part: str) -> pa.Table:
    try:
        with files.local_copy(part) as local:
            return pq.ParquetFile(local).read(columns=_COLUMNS).select(_COLUMNS)
    except (OSError, ValueError, KeyError, pa.ArrowException) as e:
        said = str(e).splitlines()[0]
        raise UsageError(
            f"{part}: cannot be read ({said}); `unisim audit` says what is wrong"
        ) from e


def _findings(path: str | None) -> pa.Table:
    if path is None:
        return FINDING_SCHEMA.empty_table()
    try:
        return pq.read_table(path, schema=FINDING_SCHEMA)
    except (OSError, ValueError, pa.ArrowException) as e:
        raise UsageError(
            f"--findings {path}: cannot be read ({str(e).splitlines()[0]}); wanted a file that"
            " `unisim audit --parquet` wrote"
        ) from e
