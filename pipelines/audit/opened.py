"""`Opened`: a table as the audit sees it: the manifest, the index, and the reading of files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
from array_record.python.array_record_module import ArrayRecordReader

from pipelines import files
from pipelines.job import load_manifest
from schemas import DataError, DatasetInfo, Tier
from schemas.columns import DEAD_LETTER_SCHEMA, INDEX_SCHEMA
from schemas.table import DEAD_LETTERS, index_file

_BATCH = 64


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """Around calls of the reader alone: it names damage by exceptions of no common kind."""
    try:
        yield
    except Exception as e:
        raise DataError(f"cannot be read: {e}") from e


def _close(reader: ArrayRecordReader) -> None:
    with _reading():  # closing reports damage too
        reader.close()


class Opened:
    """A committed table.

    Raises:
        UsageError: if there is none at `out`.
    """

    def __init__(self, out: str):
        self.out = out
        self.manifest = load_manifest(out)
        self.tiers = [Tier.parse(text) for text in self.manifest.tiers]

    def index(self, dataset: str, shard: int, num_shards: int) -> pa.Table:
        """The shard's part of the index. Raises DataError if it is absent or none."""
        return self._parquet(index_file(dataset, shard, num_shards), INDEX_SCHEMA)

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

    def readable_index(self, dataset: DatasetInfo) -> list[pa.Table] | None:
        """All parts of a dataset's index; None if one cannot be read."""
        try:
            return [
                self.index(dataset.name, shard, dataset.num_shards)
                for shard in range(dataset.num_shards)
            ]
        except DataError:
            return None  # check_records says which and why

    def records(self, name: str) -> Iterator[bytes]:
        """The records of an ArrayRecord file, relative to the table, in order.

        Raises:
            DataError: if the file is absent or damaged.
        """
        with contextlib.ExitStack() as stack:
            with _reading():
                path = stack.enter_context(files.local_copy(files.join(self.out, name)))
                reader = ArrayRecordReader(path, "readahead_buffer_size:0,max_parallelism:0")
                stack.callback(_close, reader)
                total = reader.num_records()
            for start in range(0, total, _BATCH):
                with _reading():
                    batch = reader.read(start, min(start + _BATCH, total))
                yield from batch

    def listing(self) -> list[str]:
        """Every file of the table, relative to it."""
        root = self.out.rstrip("/")
        return [path.removeprefix(root + "/") for path, _ in files.glob(root, "**")]
