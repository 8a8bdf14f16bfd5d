"""`Opened`: a table as the audit sees it: the manifest, the index, and the reading of files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
from array_record.python.array_record_module import ArrayRecordReader

from pipelines import files
from schemas import Manifest, Tier, UsageError
from schemas.table import INDEX, INDEX_SCHEMA, MANIFEST, WORK, index_file

_BATCH = 64


class Opened:
    """A committed table.

    Raises:
        UsageError: if there is none at `out`.
    """

    def __init__(self, out: str):
        self.out = out
        path = files.join(out, MANIFEST)
        if not files.exists(path):
            state = "an unfinished table" if files.exists(files.join(out, WORK)) else "no table"
            raise UsageError(
                f"{out}: {state}, {MANIFEST} is not there; run `unisim prepare` to its end"
            )
        self.manifest = Manifest.from_json(files.read(path).decode(), path)
        self.tiers = [Tier.parse(text) for text in self.manifest.tiers]

    def index(self, dataset: str, shard: int, num_shards: int) -> pa.Table:
        """The shard's part of the index. Raises OSError, ValueError or KeyError if it is none."""
        with files.local_copy(files.join(self.out, index_file(dataset, shard, num_shards))) as path:
            table = pq.ParquetFile(path).read()
        missing = set(INDEX_SCHEMA.names) - set(table.column_names)
        if missing:
            raise ValueError(f"no column {sorted(missing)}")
        return table

    def records(self, name: str) -> Iterator[bytes]:
        """The records of an ArrayRecord file, relative to the table, in order.

        Raises:
            Exception: whatever the reader says about a damaged file.
        """
        with contextlib.ExitStack() as stack:
            path = stack.enter_context(files.local_copy(files.join(self.out, name)))
            reader = ArrayRecordReader(path, "readahead_buffer_size:0,max_parallelism:0")
            stack.callback(reader.close)
            total = reader.num_records()
            for start in range(0, total, _BATCH):
                yield from reader.read(start, min(start + _BATCH, total))

    def listing(self) -> list[str]:
        """Every file of the table, relative to it."""
        root = self.out.rstrip("/") + "/"
        return [path.removeprefix(root) for path, _ in files.glob(root + "**")]

    def is_index(self, name: str) -> bool:
        """Whether the file belongs to the index."""
        return name.startswith(INDEX + "/")
