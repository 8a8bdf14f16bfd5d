"""`Index`: a table's index, searched with conditions in SQL and read as it streams by.

The conditions may come with a checkpoint from elsewhere, so they are evaluated by a DuckDB that can
open no file and load no extension; it sees the index and nothing else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset

from schemas import UsageError
from schemas.columns import INDEX_SCHEMA
from schemas.verdicts import rejected
from trainer.data import files
from trainer.data.table import Span, Table

_ALIASES = "*, dataset AS source, license AS licence"
_CLOSED: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "autoload_known_extensions": "false",
}
_ROWS, _FILES = 1 << 18, 128  # of the index at a time
Watch = Callable[[int], None]
"""Told how many more of the index's files have been read."""


def unwatched(_files: int) -> None:
    """A watch that looks away."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """Some rows of the index.

    Attributes:
        rows: int64 `[n]`, their numbers in the table.
        num_frames: uint8 `[n]`.
        is_first: bool `[n]`, whether an episode begins with them.
    """

    rows: np.ndarray
    num_frames: np.ndarray
    is_first: np.ndarray


class Index:
    """The index of a table, or of several as one.

    Args:
        where: a condition in SQL on the index's columns (`schemas.columns.INDEX_SCHEMA`); "source"
            and "licence" are other names of "dataset" and "license". Empty is true.
        exclude: a Parquet file of auditors' verdicts; rows with the verdict "reject" are left out.
        watch: told of what has been read.

    Raises:
        UsageError: if the condition is none, or the verdicts cannot be read.
    """

    def __init__(self, table: Table, where: str = "", exclude: str = "", watch: Watch = unwatched):
        self._table, self._where, self._watch = table, where, watch
        self._rejects = _rejects(exclude) if exclude else None
        with duckdb.connect(config=_CLOSED) as db:
            self._filtered(db, db.from_arrow(INDEX_SCHEMA.empty_table())).fetchall()

    def find(self, split: str, dataset: str) -> Iterator[Found]:
        """The rows of a split of a dataset that fulfil the condition and were not rejected, a piece
        at a time and in no order.

        Raises:
            UsageError: if the index is damaged, or is not the manifest's.
        """
        for span in self._table.spans_of(split, dataset):
            for part in self._parts(span):
                with duckdb.connect(config=_CLOSED) as db:
                    rows = self._filtered(db, db.from_arrow(part))
                    if self._rejects is not None:
                        rows = rows.join(db.from_arrow(self._rejects), _SAME, how="anti")
                    yield from _placed(span, self._read(span, rows))

    def rejected(self, split: str, dataset: str) -> np.ndarray:
        """int64 `[n]`, sorted: the rows that auditors rejected, whatever the condition."""
        if self._rejects is None:
            return np.zeros(0, np.int64)
        found = [np.zeros(0, np.int64)]
        for span in self._table.spans_of(split, dataset):
            for part in self._parts(span):
                with duckdb.connect(config=_CLOSED) as db:
                    rejects = db.from_arrow(self._rejects)
                    rows = db.from_arrow(part).join(rejects, _SAME, how="semi")
                    found += [f.rows for f in _placed(span, self._read(span, rows))]
        return np.sort(np.concatenate(found))

    def _filtered(self, db, index):
        """The relation with the condition. Raises UsageError."""
        if not self._where.strip():
            return index
        try:
            return index.project(_ALIASES).filter(self._where)
        except (duckdb.Error, RuntimeError) as e:
            raise self._refused(e) from e

    def _refused(self, reason: Exception) -> UsageError:
        said = " ".join(str(reason).split("LINE 1:")[0].split())
        return UsageError(
            f"--where {self._where!r}: {said}; wanted a condition such as"
            " \"source = 'bridge' and num_frames >= 8\""
        )

    def _parts(self, span: Span) -> Iterator[pyarrow.dataset.Dataset]:
        """The index of a span, a few files at a time."""
        filesystem = files.locate(span.root)[0]
        paths = [files.locate(part)[1] for part in span.index_files()]
        for first in range(0, len(paths), _FILES):
            some = paths[first : first + _FILES]
            try:
                index = pyarrow.dataset.dataset(some, schema=INDEX_SCHEMA, filesystem=filesystem)
                yield index.filter(pyarrow.dataset.field("split") == span.split)
            except (OSError, pa.ArrowInvalid, pa.ArrowTypeError) as e:
                raise _damaged(span, e) from e
            self._watch(len(some))

    def _read(self, span: Span, rows) -> Iterator[pa.RecordBatch]:
        columns = "shard, position, num_frames, is_first"
        try:
            yield from rows.project(columns).to_arrow_reader(_ROWS)
        except duckdb.DataError as e:  # a value that the condition does not suit
            raise self._refused(e) from e
        except (duckdb.Error, RuntimeError, OSError, pa.ArrowInvalid, pa.ArrowTypeError) as e:
            raise _damaged(span, e) from e


_SAME = "dataset = verdict_dataset AND episode_id = verdict_episode_id AND step = verdict_step"


def _rejects(path: str) -> pa.Table:
    """The keys of the rejected records, with names of their own."""
    keys = rejected(path, files.read)
    return keys.rename_columns([f"verdict_{name}" for name in keys.column_names])


def _placed(span: Span, batches: Iterator[pa.RecordBatch]) -> Iterator[Found]:
    starts = np.array(span.starts, np.int64)
    for batch in batches:
        shard, position = (
            batch[name].to_numpy().astype(np.int64) for name in ("shard", "position")
        )
        if ((shard < 0) | (shard >= len(starts) - 1)).any():
            raise _damaged(span, f"shard {shard.max()} of {len(starts) - 1}")
        rows = starts[shard] + position
        if ((position < 0) | (rows >= starts[shard + 1])).any():
            raise _damaged(span, "a position beyond its shard")
        yield Found(
            rows=span.rows.start + rows,
            num_frames=batch["num_frames"].to_numpy().astype(np.uint8),
            is_first=batch["is_first"].to_numpy(zero_copy_only=False),
        )


def _damaged(span: Span, reason: object) -> UsageError:
    return UsageError(
        f"{span.root}: the index of {span.dataset.name} cannot be read"
        f" ({str(reason).splitlines()[0]}); restore the folder, or prepare the table again"
    )
