"""Reading a prepared table back without the project's own readers of tables."""

from pathlib import Path

import pyarrow.parquet as pq
from array_record.python.array_record_module import ArrayRecordReader

from schemas import Chunk, Tier, decode


def read_table(out: Path, tier: Tier) -> list[Chunk]:
    """All chunks in index order."""
    chunks = []
    for row in pq.read_table(out / "index.parquet").to_pylist():
        folder = out / f"frames-{tier.name}" / row["dataset"] / row["version"]
        name = f"{row['dataset']}-{row['split']}.array_record"
        reader = ArrayRecordReader(
            str(folder / f"{name}-{row['shard']:05d}-of-{row['num_shards']:05d}")
        )
        chunks.append(decode(reader.read([row["position"]])[0], tier))
        reader.close()
    return chunks
