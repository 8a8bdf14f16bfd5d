"""Findings as files for machines: JSON Lines and Parquet."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.audit.check import FINDING_SCHEMA, Finding
from pipelines.audit.statistics import Statistics
from schemas import UsageError
from schemas.table import dump_json

_ROWS = 10_000  # of a Parquet file at a time


class Output:
    """A context that writes findings as they come; a file stands under its name when all are in it.

    Args:
        jsonl, parquet: where to; None for nowhere.
    """

    def __init__(self, jsonl: Path | None, parquet: Path | None):
        self._paths = jsonl, parquet
        self._rows: list[dict] = []
        self._stack = contextlib.ExitStack()
        self._lines = self._table = None

    def __enter__(self) -> Output:
        jsonl, parquet = self._paths
        if jsonl:
            path = self._stack.enter_context(renamed(jsonl))
            self._lines = self._stack.enter_context(path.open("w", encoding="utf-8"))
        if parquet:
            path = self._stack.enter_context(renamed(parquet))
            self._table = self._stack.enter_context(pq.ParquetWriter(path, FINDING_SCHEMA))
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self._flush()
        self._stack.__exit__(*error)  # pyright: ignore[reportArgumentType]

    def add(self, finding: Finding) -> None:
        """One more."""
        row = dataclasses.asdict(finding)
        if self._lines:
            self._lines.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._rows.append(row)
        if len(self._rows) == _ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._table:
            self._table.write_table(pa.Table.from_pylist(self._rows, FINDING_SCHEMA))
        self._rows = []


@contextlib.contextmanager
def renamed(path: Path) -> Iterator[Path]:
    """A path beside it, which takes its name at the end."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as e:
        raise UsageError(f"{path}: cannot be written ({e.strerror or e})") from e
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """A whole file at once. Raises UsageError if it cannot be written."""
    with renamed(path) as temporary:
        temporary.write_bytes(data)


def write(path: Path, text: str) -> None:
    """As `write_bytes`, in UTF-8."""
    write_bytes(path, text.encode())


def write_statistics(path: Path, statistics: dict[str, Statistics]) -> None:
    """For a later audit's --against. Raises UsageError if it cannot be written."""
    write(path, dump_json({name: each.to_dict() for name, each in statistics.items()}))
