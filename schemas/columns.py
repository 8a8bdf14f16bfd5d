"""The columns of a table's Parquet files: the index, the shards' counts, the dead letters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from schemas.record import Chunk

INDEX_SCHEMA = pa.schema(
    [
        ("dataset", pa.string()),
        ("version", pa.string()),
        ("split", pa.string()),
        ("episode_id", pa.string()),
        ("step", pa.int64()),
        ("text", pa.string()),
        ("text_key", pa.binary(16)),
        ("num_frames", pa.int32()),
        ("start", pa.float32()),  # seconds since the episode's start, of the first frame
        ("fps", pa.float32()),
        ("is_first", pa.bool_()),
        ("is_last", pa.bool_()),
        ("clipped", pa.int32()),  # control values outside their slot's range or the source's bounds
        ("clipped_slots", pa.map_(pa.string(), pa.int32())),  # slot name -> how many of them
        ("overlap", pa.float32()),  # the least of its frames' known ones; null where none is
        ("shard", pa.int32()),
        ("num_shards", pa.int32()),
        ("position", pa.int64()),  # in the split's file of that shard, the same in every tier
        ("source_uri", pa.string()),
        ("source_range", pa.string()),
        ("license", pa.string()),
        ("digests", pa.map_(pa.string(), pa.binary(16))),  # tier name -> BLAKE2b-128 of the record
    ]
)


def index_fields(chunk: Chunk) -> dict[str, Any]:
    """The columns of a chunk's index row that the chunk itself tells; the others are its place in
    the table and the digests of its records."""
    same = (
        "dataset",
        "split",
        "episode_id",
        "step",
        "text",
        "text_key",
        "num_frames",
        "is_first",
        "is_last",
        "source_uri",
        "source_range",
        "license",
    )
    known = chunk.overlap[~np.isnan(chunk.overlap)]
    return {name: getattr(chunk, name) for name in same} | {
        "version": chunk.source_version,
        "fps": float(np.float32(chunk.fps)),
        "start": float(chunk.times[0]) if chunk.num_frames else None,
        "overlap": float(known.min()) if known.size else None,
    }


DEAD_LETTER_SCHEMA = pa.schema(
    [
        ("dataset", pa.string()),
        ("version", pa.string()),
        ("shard", pa.int32()),
        ("unit", pa.string()),
        ("key", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("source_uri", pa.string()),
        ("source_range", pa.string()),
        ("episodes", pa.int32()),  # lost, against the budget; 0 if the source itself declares it
    ]
)

SHARDS_SCHEMA = pa.schema(
    [
        ("dataset", pa.string()),
        ("shard", pa.int32()),
        ("rows", pa.map_(pa.string(), pa.int64())),  # split -> records
        ("episodes", pa.int64()),
        ("views", pa.int64()),
        ("frames", pa.int64()),
        ("slots", pa.list_(pa.int32())),  # that some control mask sets
        # stage -> what making the shard took; null in tables that did not count it
        ("stages", pa.map_(pa.string(), pa.struct([("calls", pa.int64()), ("bytes", pa.int64())]))),
        # of the controls, one value per slot: `pipelines.receipt.SlotStatistics`
        ("count", pa.list_(pa.int64())),
        ("total", pa.list_(pa.float64())),
        ("squares", pa.list_(pa.float64())),
        ("least", pa.list_(pa.float64())),
        ("greatest", pa.list_(pa.float64())),
        ("clipped", pa.list_(pa.int64())),
    ]
)
