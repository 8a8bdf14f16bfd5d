"""`Units`: the units of a dataset in columns, as a plan may hold millions of them."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.episode import Unit

SCHEMA = pa.schema(
    [
        ("shard", pa.int32()),
        ("id", pa.string()),
        ("uri", pa.string()),
        ("split", pa.string()),
        ("cost", pa.int64()),
        ("episodes", pa.int64()),
        ("frames", pa.int64()),
        ("version", pa.string()),
        ("params", pa.string()),  # JSON
        ("stamp", pa.string()),
    ]
)
_AT_A_TIME = 1 << 14


class Units:
    """Units in the order in which they are read, those of a shard one after another.

    Args:
        table: of `SCHEMA`, sorted by shard; every shard from 0 on has some.
    """

    def __init__(self, table: pa.Table):
        self.table = table
        shards = table.column("shard").to_numpy()
        self.num_shards = int(shards[-1]) + 1 if len(shards) else 0
        self._starts = np.searchsorted(shards, np.arange(self.num_shards + 1))

    @classmethod
    def packed(cls, units: Iterable[Unit], target: float) -> Units:
        """Units in order, packed into shards of near-equal cost, about `target` bytes each.

        A unit belongs where its middle falls, which keeps shards within one unit of their share.
        """
        batches = [pa.RecordBatch.from_pylist([], SCHEMA)]
        given = iter(units)
        while some := list(itertools.islice(given, _AT_A_TIME)):
            batches.append(pa.RecordBatch.from_pylist([_row(unit) for unit in some], SCHEMA))
        table = pa.Table.from_batches(batches).combine_chunks()
        cost = table.column("cost").to_numpy()
        total = int(cost.sum())
        wanted = max(1, math.ceil(total / target))
        middles = np.cumsum(cost) - cost / 2
        places = np.minimum(middles * wanted / max(total, 1), wanted - 1).astype(np.int64)
        _, shards = np.unique(places, return_inverse=True)
        return cls(table.set_column(0, SCHEMA[0], pa.array(shards, pa.int32())))

    @staticmethod
    def save(units: Mapping[str, Units], path: str) -> None:
        """Writes those of all datasets, by name, to a local Parquet file."""
        tables = [
            each.table.add_column(0, "dataset", pa.array([name] * len(each)))
            for name, each in units.items()
        ]
        pq.write_table(pa.concat_tables(tables), path, compression="zstd")

    @classmethod
    def load(cls, path: str) -> dict[str, Units]:
        """The inverse of `save`. Raises OSError or ValueError if the file is damaged or another."""
        table = pq.read_table(path)
        if table.schema.remove(0) != SCHEMA:
            raise ValueError(f"{path}: no units of a plan")
        names = pc.unique(table.column("dataset")).to_pylist()  # pyright: ignore
        return {
            name: cls(
                table.filter(pc.equal(table.column("dataset"), name))  # pyright: ignore
                .drop_columns(["dataset"])
                .combine_chunks()
            )
            for name in names
        }

    def __len__(self) -> int:
        return len(self.table)

    def with_texts(self, **columns: list[str]) -> Units:
        """With other columns of text."""
        table = self.table
        for name, values in columns.items():
            at = SCHEMA.get_field_index(name)
            table = table.set_column(at, SCHEMA[at], pa.array(values, pa.string()))
        return Units(table)

    def shard(self, index: int) -> tuple[Unit, ...]:
        """The units of a shard, in order."""
        start, stop = self._starts[index : index + 2].tolist()
        return tuple(_unit(row) for row in self.table.slice(start, stop - start).to_pylist())

    def total(self, name: str) -> int:
        """The sum of "cost", "episodes" or "frames"."""
        return int(self.column(name).sum())

    def column(self, name: str) -> np.ndarray:
        """A column of numbers, int64 `[n]`."""
        return self.table.column(name).to_numpy()

    def costs(self) -> np.ndarray:
        """Bytes that each shard will read, int64 `[shards]`."""
        cost = np.concatenate([[0], np.cumsum(self.column("cost"))])
        return np.diff(cost[self._starts]).astype(np.int64)

    def distinct(self, name: str) -> list[str | None]:
        """The values of a column of text, None among them where some have none."""
        return pc.unique(self.table.column(name)).to_pylist()  # pyright: ignore

    def repeated(self) -> str | None:
        """An id that two units have, if there is one."""
        counts = self.table.group_by("id").aggregate([([], "count_all")])
        more = counts.filter(pc.greater(counts.column("count_all"), 1))  # pyright: ignore
        return min(more.column("id").to_pylist(), default=None)

    def digest(self, *, stamps: bool = False) -> str:
        """Hex BLAKE2b-128 of all but the stamps: not of when the files were written, unless
        `stamps` are wanted too."""
        total = hashlib.blake2b(digest_size=16)
        table = self.table if stamps else self.table.drop_columns(["stamp"])
        for batch in table.to_batches(_AT_A_TIME):
            columns = [column.to_pylist() for column in batch.columns]
            for row in zip(*columns, strict=True):
                total.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        return total.hexdigest()


def _row(unit: Unit) -> dict[str, object]:
    params = json.dumps(unit.params, sort_keys=True, ensure_ascii=False)
    return {**vars(unit), "shard": 0, "params": params}


def _unit(row: dict[str, object]) -> Unit:
    del row["shard"]
    return Unit(**row | {"params": json.loads(str(row["params"]))})  # pyright: ignore
