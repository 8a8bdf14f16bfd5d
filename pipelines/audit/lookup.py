"""`Lookup`: records of a table by their names, without reading the rest of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from pipelines import files
from pipelines.audit.opened import Opened
from schemas import Chunk, DataError, Tier, UsageError, decode
from schemas.columns import INDEX_SCHEMA
from schemas.table import frames_file, index_file


class Lookup:
    """Finds index rows, and reads the chunks that they are of."""

    def __init__(self, table: Opened):
        self.table = table

    def parts(self, dataset: str | None = None) -> Iterator[str]:
        """The index's files, of one dataset or of all."""
        for d in self.table.manifest.datasets:
            if dataset in (None, d.name):
                for shard in range(d.num_shards):
                    name = index_file(d.name, shard, d.num_shards)
                    yield files.join(self.table.out, name)

    def rows(self, condition: ds.Expression, dataset: str | None = None) -> list[dict[str, Any]]:
        """The index rows that fulfil a condition, in the order of the files.

        Raises:
            UsageError: if a part of the index cannot be read.
        """
        found: list[dict[str, Any]] = []
        for part in self.parts(dataset):
            try:
                with files.local_copy(part) as local:
                    index = ds.dataset(local, schema=INDEX_SCHEMA).to_table(filter=condition)
            except (OSError, pa.ArrowException) as e:
                said = str(e).splitlines()[0]
                raise UsageError(
                    f"{part}: cannot be read ({said}); see `unisim audit {self.table.out}`"
                ) from e
            found += index.to_pylist()
        return found

    def episode(self, dataset: str, episode_id: str) -> list[dict[str, Any]]:
        """An episode's index rows by step. Raises UsageError as `rows`."""
        found = self.rows(ds.field("episode_id") == episode_id, dataset)
        return sorted(found, key=lambda row: row["step"])

    def find(self, key: str) -> dict[str, Any]:
        """The index row of `dataset/episode_id/step`; an episode's id may have slashes.

        Raises:
            UsageError: if there is no such record, saying what there is that is near.
        """
        dataset, _, rest = key.partition("/")
        episode, _, step = rest.rpartition("/")
        names = [d.name for d in self.table.manifest.datasets]
        if dataset not in names or not episode or not step.isdecimal():
            raise UsageError(
                f"{key}: wanted DATASET/EPISODE/STEP, of the datasets {', '.join(names)}"
            )
        rows = self.episode(dataset, episode)
        for row in rows:
            if row["step"] == int(step):
                return row
        if rows:
            raise UsageError(f"{key}: the episode has the steps 0 to {rows[-1]['step']}")
        raise UsageError(f"{key}: {dataset} has no episode of that id")

    def made_of(self, uri: str) -> list[dict[str, Any]]:
        """The index rows whose raw reference is a file, or below a folder: as the index has it, or
        a path that ends so. Raises UsageError as `rows`."""
        name = uri.rstrip("/")
        has = pc.field("source_uri")
        below = (has > f"{name}/") & (has < f"{name}0")  # "0" comes after "/"
        found = self.rows((has == name) | below)
        if found or "/" not in name:
            return found
        whole = self.rows(~has.is_null() & ~has.isin([""]))
        return [row for row in whole if name.endswith(f"/{row['source_uri']}")]

    def data(self, row: dict[str, Any], tier: Tier) -> bytes:
        """A row's record at a tier. Raises DataError if it cannot be read."""
        dataset = self.table.dataset(row["dataset"])
        name = frames_file(
            tier, dataset.name, row["version"], row["split"], row["shard"], row["num_shards"]
        )
        with self.table.file(name) as file:
            if not 0 <= row["position"] < file.total:
                raise DataError(f"{name} has {file.total} records, none at {row['position']}")
            return file.read([row["position"]])[0]

    def chunk(self, row: dict[str, Any], tier: Tier) -> Chunk:
        """What that decodes to. Raises DataError."""
        return decode(self.data(row, tier), tier)

    def best_tier(self, height: int = 0) -> Tier:
        """The smallest tier of at least so many rows of pixels; the largest if there is none."""
        tiers = sorted(self.table.tiers, key=lambda tier: tier.height * tier.width)
        return next((tier for tier in tiers if tier.height >= height), tiers[-1])
