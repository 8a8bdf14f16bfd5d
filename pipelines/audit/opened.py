"""`Opened`: a table as the audit sees it: the manifest, the index, and the reading of files."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from array_record.python.array_record_module import ArrayRecordReader

from pipelines import files
from pipelines.job import load_manifest
from schemas import DataError, DatasetInfo, EncoderInfo, Tier, UsageError
from schemas.columns import DEAD_LETTER_SCHEMA, INDEX_SCHEMA
from schemas.table import DEAD_LETTERS, index_file, text_keys

_BATCH = 64
_MAY_LACK = {"overlap", "start", "clipped_slots"}


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """Around calls of the reader alone: it names damage by exceptions of no common kind."""
    try:
        yield
    except Exception as e:
        raise DataError(f"cannot be read: {e}") from e


def _close(reader: ArrayRecordReader) -> None:
    with contextlib.suppress(Exception):  # closing says again what reading has said
        reader.close()


class RecordFile:
    """An open ArrayRecord file of `total` records."""

    def __init__(self, reader: ArrayRecordReader):
        self._reader = reader
        self.total: int = reader.num_records()
        if not reader.ok():
            reader.close()  # which says why

    def read(self, positions: Sequence[int]) -> list[bytes]:
        """The records at these positions. Raises DataError if the file is damaged there."""
        with _reading():
            return self._reader.read(list(positions)) if len(positions) else []


class Opened:
    """A committed table.

    Raises:
        UsageError: if there is none at `out`.
    """

    def __init__(self, out: str):
        self.out = out
        self.manifest = load_manifest(out)
        self.tiers = [Tier.parse(text) for text in self.manifest.tiers]

    def refuse_within(self, flag: str, path: str | Path) -> None:
        """Raises UsageError if what a flag names is within the table, which is never changed."""
        table, inner = (
            os.path.abspath(each) if files.is_local(each) else each.rstrip("/")
            for each in (self.out, str(path))
        )
        if f"{inner}/".startswith(f"{table}/"):
            raise UsageError(f"--{flag} {path}: within the table, which is never changed")

    def dataset(self, name: str) -> DatasetInfo:
        """One of its datasets, which must be there."""
        return next(d for d in self.manifest.datasets if d.name == name)

    def index(self, dataset: str, shard: int, num_shards: int) -> pa.Table:
        """The shard's part of the index. Raises DataError if it is absent or none."""
        found = self._parquet(index_file(dataset, shard, num_shards), INDEX_SCHEMA)
        for name in INDEX_SCHEMA.names:
            if name not in _MAY_LACK and (nulls := found[name].null_count):
                raise DataError(f"{nulls} rows have no {name}")
        return found

    def dead_letters(self) -> pa.Table:
        """What could not be used. Raises DataError if the file is absent or none."""
        return self._parquet(DEAD_LETTERS, DEAD_LETTER_SCHEMA)

    def _parquet(self, name: str, schema: pa.Schema) -> pa.Table:
        try:
            with files.local_copy(files.join(self.out, name)) as local:
                table = pq.ParquetFile(local).read()
        except (OSError, ValueError, pa.ArrowException) as e:
            raise DataError(f"cannot be read: {e}") from e
        missing = [field.name for field in schema if field not in list(table.schema)]
        if missing:
            raise DataError(f"cannot be read: no column {missing} of the type wanted")
        return table

    @functools.cache  # noqa: B019 - as long as the table, of which there is one
    def keys(self, encoder: EncoderInfo) -> np.ndarray:
        """An encoder's keys, `S16` `[rows]`. Raises DataError if they are not as they must be."""
        try:
            path = files.join(self.out, text_keys(encoder.name, encoder.rows))
            with files.local_copy(path) as local:
                keys = np.load(local, allow_pickle=False)
        except (OSError, ValueError) as e:
            raise DataError(f"cannot be read: {e}") from e
        if keys.dtype != np.uint8 or keys.shape != (encoder.rows, 16):
            raise DataError(f"{keys.dtype} {list(keys.shape)}, wanted uint8 [{encoder.rows}, 16]")
        return np.ascontiguousarray(keys).view("S16")[:, 0]

    @contextlib.contextmanager
    def file(self, name: str) -> Iterator[RecordFile]:
        """An ArrayRecord file, relative to the table. Raises DataError if it is absent or none."""
        with contextlib.ExitStack() as stack:
            with _reading():
                path = stack.enter_context(files.local_copy(files.join(self.out, name)))
                reader = ArrayRecordReader(path, "readahead_buffer_size:0,max_parallelism:0")
                stack.callback(_close, reader)
                file = RecordFile(reader)
            yield file

    def records(self, name: str) -> Iterator[bytes]:
        """All records of a file, in order. Raises DataError as `file` and `RecordFile.read`."""
        with self.file(name) as file:
            for start in range(0, file.total, _BATCH):
                yield from file.read(range(start, min(start + _BATCH, file.total)))

    def listing(self) -> list[str]:
        """Every file of the table, relative to it."""
        root = self.out.rstrip("/")
        return [path.removeprefix(root + "/") for path, _ in files.glob(root, "**")]
