"""The embedding table: one embedding per distinct text, found by the text's digest.

A table's texts are spread over shards by ranges of their keys, so shards can be made anywhere, in
any order, and stand one after another sorted. The layout is `schemas.table.text_dir`'s.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections.abc import Iterable

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from pipelines import files
from pipelines.text.encoder import TextEncoder
from schemas import EncoderInfo, table, text_key

_SLICE = 1024  # texts tokenised at a time


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardResult:
    """One finished shard; small and picklable.

    Attributes:
        shard, num_shards: which of how many.
        keys: the 16-byte keys of its rows, sorted, one after another.
        num_texts: texts given, repeated ones included.
        truncated: distinct texts that were longer than the encoder's max_tokens.
        path: of its file, relative to the table.
        size, digest: bytes and hex BLAKE2b-128 of the file, for the manifest.
    """

    shard: int
    num_shards: int
    keys: bytes
    num_texts: int
    truncated: int
    path: str
    size: int
    digest: str

    @property
    def rows(self) -> int:
        """Distinct texts, each one row."""
        return len(self.keys) // 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embeddings:
    """A finished embedding table.

    Attributes:
        info: of the encoder, with the rows of each shard.
        truncated: distinct texts that were cut.
        files: path relative to the table -> [bytes, hex BLAKE2b-128], as the manifest has them.
    """

    info: EncoderInfo
    truncated: int
    files: dict[str, list]


def bucket_of(key: bytes, num_shards: int) -> int:
    """The shard of a key, in 0..num_shards-1; a larger key never has a smaller shard."""
    return int.from_bytes(key[:8], "big") * num_shards >> 64


def embed_shard(
    out: str, encoder: TextEncoder, texts: Iterable[str], shard: int, num_shards: int
) -> ShardResult:
    """Writes one shard of the embeddings; the same texts in any order give the same bytes.

    Args:
        out: the table's root.
        texts: all texts of the shard, repeats allowed; none gives an empty file.

    Raises:
        ValueError: if a text's key belongs to another shard.
        UsageError: if the encoder's weights give values that are not finite.
    """
    given = list(texts)
    by_key = {text_key(text): text for text in given}
    keys = sorted(by_key)
    for key in keys:
        if bucket_of(key, num_shards) != shard:
            raise ValueError(f"text {by_key[key]!r} is not of shard {shard} of {num_shards}")
    path = table.text_file(encoder.info.name, shard, num_shards)
    truncated = 0
    with files.local_write(files.join(out, path)) as temporary:
        writer = ArrayRecordWriter(temporary, table.WRITER_OPTIONS)
        for start in range(0, len(keys), _SLICE):
            tokens = encoder.tokenizer.encode([by_key[k] for k in keys[start : start + _SLICE]])
            truncated += int(tokens.truncated.sum())
            for row in encoder.embed_tokens(tokens):
                writer.write(row_bytes(row))
        writer.close()
        size, digest = _digest(temporary)
    return ShardResult(
        shard=shard,
        num_shards=num_shards,
        keys=b"".join(keys),
        num_texts=len(given),
        truncated=truncated,
        path=path,
        size=size,
        digest=digest,
    )


def finish(out: str, info: EncoderInfo, results: Iterable[ShardResult]) -> Embeddings:
    """Writes keys.npy and encoder.json, once every shard is there.

    Args:
        out: the table's root.
        info: the encoder's.
        results: of every shard, in any order.

    Raises:
        ValueError: if a shard is missing or there twice.
    """
    shards = sorted(results, key=lambda result: result.shard)
    found = [(r.shard, r.num_shards, r.path) for r in shards]
    wanted = [
        (i, len(shards), table.text_file(info.name, i, len(shards))) for i in range(len(shards))
    ]
    if not shards or found != wanted:
        raise ValueError(f"embedding shards {found}, wanted {wanted}")
    info = dataclasses.replace(info, shard_rows=tuple(r.rows for r in shards))
    keys = np.frombuffer(b"".join(r.keys for r in shards), np.uint8).reshape(-1, 16)
    stream = io.BytesIO()
    np.save(stream, keys, allow_pickle=False)
    folder = table.text_dir(info.name)
    contents = {
        f"{folder}/keys.npy": stream.getvalue(),
        f"{folder}/encoder.json": table.dump_json(dataclasses.asdict(info)).encode(),
    }
    for path, data in contents.items():
        files.write(files.join(out, path), data)
    listed = {r.path: [r.size, r.digest] for r in shards}
    listed |= {path: [len(data), _hash(data).hexdigest()] for path, data in contents.items()}
    return Embeddings(info=info, truncated=sum(r.truncated for r in shards), files=listed)


def write_embeddings(
    out: str, encoder: TextEncoder, texts: Iterable[str], num_shards: int = 1
) -> Embeddings:
    """The whole embedding table in this process: `embed_shard` for every shard, then `finish`."""
    buckets: list[list[str]] = [[] for _ in range(num_shards)]
    for text in texts:
        buckets[bucket_of(text_key(text), num_shards)].append(text)
    results = [
        embed_shard(out, encoder, bucket, shard, num_shards) for shard, bucket in enumerate(buckets)
    ]
    return finish(out, encoder.info, results)


def row_bytes(embedding: np.ndarray) -> bytes:
    """A bfloat16 `[tokens, width]` embedding as its little-endian bytes, whatever the machine."""
    return embedding.view(np.uint16).astype("<u2").tobytes()


def _digest(path: str) -> tuple[int, str]:
    total, size = _hash(b""), 0
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            total.update(block)
            size += len(block)
    return size, total.hexdigest()


def _hash(data: bytes):
    return hashlib.blake2b(data, digest_size=16)
