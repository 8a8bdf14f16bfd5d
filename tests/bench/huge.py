"""Tables of very many rows that take little disk: every shard's frames are one file, linked."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas import NUM_SLOTS, Manifest, Tier
from schemas.table import MANIFEST, frames_file, index_file
from tests.bench.timing import status_mb
from trainer.data import (
    Embeddings,
    ExampleMaker,
    ExampleSpec,
    Order,
    OrderSpec,
    Table,
    batches,
    begin,
    select,
)
from trainer.data.fake import fake_chunk, write_chunks

SHARD = 3000  # rows, about what 128 MB of base frames have
SOURCES = ("a", "b", "c", "d", "e")
_TIER = Tier(8, 16, "raw")
_BATCH, _SMALL = 256, 8


def write(out: Path, *, rows: int, index: bool = False) -> Path:
    """A table of so many rows, in equal parts of five datasets.

    Args:
        index: whether it has one: a file per shard, a minute's work for 10 M rows.
    """
    if (out / MANIFEST).exists():
        return out
    shutil.rmtree(out, ignore_errors=True)
    shards = -(-rows // SHARD // len(SOURCES))
    small = {name: {_TIER: [_episode(name, i) for i in range(SHARD // 4)]} for name in SOURCES}
    write_chunks(out, small, shards=1, width=8)
    manifest = Manifest.from_json((out / MANIFEST).read_text())
    datasets = []
    for d in manifest.datasets:
        only = out / frames_file(_TIER, d.name, d.version, "train", 0, 1)
        for shard in range(shards):
            os.link(only, out / frames_file(_TIER, d.name, d.version, "train", shard, shards))
        if index:
            _write_index(out, d.name, shards)
        counts = {split: each * shards for split, each in d.shard_rows.items()}
        chunks = sum(map(sum, counts.values()))
        datasets.append(dataclasses.replace(d, shard_rows=counts, num_shards=shards, chunks=chunks))
    (out / MANIFEST).write_text(dataclasses.replace(manifest, datasets=datasets).to_json())
    return out


def _write_index(out: Path, name: str, shards: int) -> None:
    """As of the first shard, with the number of each."""
    rows = pq.read_table(out / index_file(name, 0, 1))
    at = rows.schema.get_field_index("shard")
    for shard in range(shards):
        numbers = pa.array(np.full(len(rows), shard, np.int32))
        pq.write_table(rows.set_column(at, "shard", numbers), out / index_file(name, shard, shards))


def _episode(dataset: str, number: int):
    rng = np.random.default_rng(number)
    return [
        fake_chunk(
            dataset=dataset,
            episode_id=f"episode-{number:06d}",
            step=step,
            split="train",
            frames=rng.integers(0, 256, (4, 8, 16, 3), np.uint8),
            times=np.arange(4, dtype=np.float32) + 4 * step,
            fps=5.0,
            text=f"text {number % 200}",
            controls=np.zeros((4, NUM_SLOTS), np.float32),
            control_mask=np.zeros(NUM_SLOTS, bool),
            is_last=step == 3,
        )
        for step in range(4)
    ]


def _iterator(path: str, step: int, batch: int, where: str = ""):
    table = Table(path)
    windows = "any" if where else "actions"
    spec = ExampleSpec(frames=4, history=(4, 3, 2, 1), tokens=8, windows=windows)
    samples = select(table, "train", windows=windows, where=where)
    weights = {name: 1.0 + i for i, name in enumerate(SOURCES)}
    order = Order(samples, [begin(samples, OrderSpec(weights=weights, batch_size=batch, seed=0))])
    iterator = batches(ExampleMaker(table, Embeddings.of(table), spec), order)
    iterator.set_state({"next_index": step})
    return iterator


def resume(path: str) -> dict[str, float]:
    """Seconds from imports to the first batch of step 1,000,000, and the most memory in MB."""
    start = time.perf_counter()
    next(_iterator(path, 1_000_000, _BATCH))
    return {"seconds": time.perf_counter() - start, "mb": status_mb("VmHWM")}


def memory(path: str, where: str = "", count: int = 100_000) -> dict[str, float]:
    """Resident megabytes after 1,000 batches and at the end.

    Args:
        where: a condition on the index; then samples begin at any frame too.
    """
    iterator, seen = _iterator(path, 0, _SMALL, where), {}
    start = time.perf_counter()
    for i in range(1, count + 1):
        next(iterator)
        if i % 5000 == 0 or i == 1000:
            seen[i] = status_mb("VmRSS")
            print(
                json.dumps({"batches": i, "mb": seen[i], "rate": i / (time.perf_counter() - start)})
            )
    return {"batches": count, "begin": seen[1000], "end": seen[count], "most": status_mb("VmHWM")}
