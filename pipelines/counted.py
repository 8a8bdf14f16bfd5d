"""shards.parquet: what each shard of a table counted, and the receipts that can be had from it."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import files
from pipelines.receipt import Receipt, SlotStatistics
from schemas import Manifest, Tier, UsageError
from schemas.columns import DEAD_LETTER_SCHEMA, SHARDS_SCHEMA
from schemas.table import DEAD_LETTERS, SHARDS, frames_file, index_file

_STATISTICS = [field.name for field in dataclasses.fields(SlotStatistics)]


def save(receipts: Iterable[Receipt], into: str) -> dict[str, list[Any]]:
    """Writes shards.parquet and dead_letters.parquet; their sizes and digests."""
    found = list(receipts)
    letters = [letter for receipt in found for letter in receipt.dead_letters]
    rows = [
        {name: getattr(receipt, name) for name in SHARDS_SCHEMA.names if hasattr(receipt, name)}
        | {name: getattr(receipt.statistics, name) for name in _STATISTICS}
        | {"rows": sorted(receipt.rows.items()), "stages": _counts(receipt)}
        for receipt in found
    ]
    written = {}
    for name, value, schema in (
        (SHARDS, rows, SHARDS_SCHEMA),
        (DEAD_LETTERS, letters, DEAD_LETTER_SCHEMA),
    ):
        with files.local_write(files.join(into, name)) as path:
            pq.write_table(pa.Table.from_pylist(value, schema), path, compression="zstd")
            written[name] = files.digest(path)
    return written


def _counts(receipt: Receipt) -> list[tuple[str, dict[str, int]]]:
    """Of its stages all but the seconds, which no file of the table holds."""
    found = receipt.stages.items()
    return sorted((n, {"calls": s["calls"], "bytes": s["bytes"]}) for n, s in found)


def load(out: str, manifest: Manifest) -> list[Receipt]:
    """The receipts of a finished table: without their texts, which are in the index.

    Raises:
        UsageError: if a file of the table is not as the manifest lists it.
    """
    letters: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for letter in _read(out, DEAD_LETTERS, manifest):
        letters[letter["dataset"], letter["shard"]].append(letter)
    return [_receipt(row, letters, manifest) for row in _read(out, SHARDS, manifest)]


def _read(out: str, name: str, manifest: Manifest) -> list[dict[str, Any]]:
    path = files.join(out, name)
    try:
        with files.local_copy(path) as local:
            if files.digest(local) != manifest.files[name]:
                raise UsageError(f"{path}: not as the manifest has it; see `unisim audit {out}`")
            return pq.read_table(local).to_pylist()
    except (OSError, KeyError) as e:
        raise UsageError(f"{path}: cannot be read ({e}); see `unisim audit {out}`") from e


def _receipt(
    row: dict[str, Any], letters: dict[tuple[str, int], list[dict[str, Any]]], manifest: Manifest
) -> Receipt:
    statistics = SlotStatistics(**{name: row.pop(name) for name in _STATISTICS})
    dataset, shard, rows = row["dataset"], row["shard"], dict(row.pop("rows"))
    stages = dict(row.pop("stages", None) or ())
    info = next(d for d in manifest.datasets if d.name == dataset)
    names = [index_file(dataset, shard, info.num_shards)]
    names += [
        frames_file(Tier.parse(tier), dataset, info.version, split, shard, info.num_shards)
        for split in rows
        for tier in manifest.tiers
    ]
    return Receipt(
        **row,
        rows=rows,
        files={name: manifest.files[name] for name in sorted(names)},
        dead_letters=letters[dataset, shard],
        statistics=statistics,
        stages=stages,
        texts=[],
    )
