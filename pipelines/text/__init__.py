"""Action texts to T5 embeddings: `check_directory` first, a `TextEncoder` per worker, the table."""

from pipelines.text.encoder import TextEncoder, check_directory
from pipelines.text.table import (
    Embeddings,
    ShardResult,
    bucket_of,
    embed_shard,
    finish,
    write_embeddings,
)

__all__ = [
    "Embeddings",
    "ShardResult",
    "TextEncoder",
    "bucket_of",
    "check_directory",
    "embed_shard",
    "finish",
    "write_embeddings",
]
