"""The checks of the embeddings, each a generator of findings over an opened table."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipelines import files
from pipelines.audit.finding import Finding
from pipelines.audit.opened import Opened
from schemas import DataError, EncoderInfo, text_key
from schemas.embedding import decode_embedding
from schemas.table import text_file, text_keys


def check_embeddings(table: Opened) -> Iterator[Finding]:
    """Of every encoder: the keys are sorted and unique; every embedding is finite and as wide as
    the encoder; every action text, and the empty one, has one."""
    texts = {""}
    for dataset in table.manifest.datasets:
        for part in table.readable_index(dataset) or ():
            texts |= set(part.column("text").unique().to_pylist())
    wanted = {text_key(text): text for text in sorted(texts)}
    for encoder in table.manifest.encoders:
        yield from _keys(table, encoder, wanted)
        for shard, rows in enumerate(encoder.shard_rows):
            if rows:
                name = text_file(encoder.name, shard, len(encoder.shard_rows), rows)
                yield from _rows(table, encoder, name, rows)


def _keys(table: Opened, encoder: EncoderInfo, wanted: dict[bytes, str]) -> Iterator[Finding]:
    where = text_keys(encoder.name, encoder.rows)

    def finding(message: str, where: str = where) -> Finding:
        return Finding(check="embeddings", where=where, message=message)

    try:
        with files.local_copy(files.join(table.out, where)) as path:
            keys = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as e:
        yield finding(f"cannot be read: {e}")
        return
    if keys.dtype != np.uint8 or keys.shape != (encoder.rows, 16):
        yield finding(f"{keys.dtype} {list(keys.shape)}, wanted uint8 [{encoder.rows}, 16]")
        return
    flat = np.ascontiguousarray(keys).view("S16")[:, 0]
    if not (flat[:-1] < flat[1:]).all():
        yield finding("the keys are not sorted and unique")
    for text in _missing(flat, wanted):
        yield finding(f"has no embedding by {encoder.name}", where=repr(text))


def _missing(keys: np.ndarray, wanted: dict[bytes, str]) -> list[str]:
    found = np.isin(np.array(list(wanted), "S16"), keys)
    return [text for text, there in zip(wanted.values(), found, strict=True) if not there]


def _rows(table: Opened, encoder: EncoderInfo, name: str, wanted: int) -> Iterator[Finding]:
    def finding(message: str) -> Finding:
        return Finding(check="embeddings", where=name, message=message)

    count = 0
    try:
        for count, data in enumerate(table.records(name), 1):
            try:
                with np.errstate(all="ignore"):  # what scales that are not finite give
                    value = decode_embedding(data, encoder.width, encoder.dtype)
            except ValueError as e:
                yield finding(f"row {count - 1}: {e}")
                continue
            if len(value) > encoder.max_tokens:
                yield finding(f"row {count - 1} has {len(value)} tokens, over {encoder.max_tokens}")
            if not np.isfinite(value).all():
                yield finding(f"row {count - 1} is not finite")
    except DataError as e:
        yield finding(e.reason)
        return
    if count != wanted:
        yield finding(f"{count} rows, the manifest says {wanted}")
