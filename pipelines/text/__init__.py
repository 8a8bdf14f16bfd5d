"""Action texts to T5 embeddings: `check_directory` first, a `TextEncoder` per worker, the table."""

from pipelines.text.encoder import TextEncoder, check_directory
from pipelines.text.table import (
    Embeddings,
    ShardResult,
    Target,
    bucket_of,
    embed_shard,
    finish,
    shards_for,
    write_embeddings,
)

__all__ = [
    "Embeddings",
    "ShardResult",
    "Target",
    "TextEncoder",
    "bucket_of",
    "check_directory",
    "embed_shard",
    "finish",
    "shards_for",
    "write_embeddings",
]
