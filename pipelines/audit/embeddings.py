"""The family "integrity", of the embeddings: every text has one, and it is whole."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipelines.audit.check import Finding, Where, check
from pipelines.audit.integrity import UNREADABLE
from pipelines.audit.opened import Opened
from schemas import DataError, EncoderInfo, text_key
from schemas.embedding import decode_embedding
from schemas.table import text_file, text_keys


def encoder(table: Opened, info: EncoderInfo) -> Iterator[Finding]:
    """Everything of an encoder but its rows."""
    try:
        keys = table.keys(info)
    except DataError as e:
        yield UNREADABLE.found(text_keys(info.name, info.rows), e.reason)
        return
    yield from sorted_keys(info, keys)
    yield from no_empty(info, keys)


@check("embedding-keys", "integrity")
def sorted_keys(info: EncoderInfo, keys: np.ndarray) -> Iterator[tuple[Where, str]]:
    """An encoder's keys are sorted and unique."""
    if not (keys[:-1] < keys[1:]).all():
        yield text_keys(info.name, info.rows), "the keys are not sorted and unique"


@check("embedding-empty", "integrity")
def no_empty(info: EncoderInfo, keys: np.ndarray) -> Iterator[tuple[Where, str]]:
    """The empty text, guidance's unconditional branch, has an embedding."""
    if np.bytes_(text_key("")) not in keys:
        yield text_keys(info.name, info.rows), f"the empty text has no embedding by {info.name}"


@check("embedding-missing", "integrity")
def missing(
    table: Opened, rows: list[dict], found: dict[str, np.ndarray]
) -> Iterator[tuple[Where, str]]:
    """The text of every record has an embedding by every encoder.

    Args:
        found: encoder -> its keys.
    """
    wanted = np.array([row["text_key"] for row in rows], "S16")
    for name, keys in found.items():
        for i in np.flatnonzero(~np.isin(wanted, keys)):
            yield rows[i], f"{rows[i]['text'][:40]!r} has no embedding by {name}"


@check("embedding-rows", "integrity")
def rows(table: Opened, info: EncoderInfo, shard: int) -> Iterator[tuple[Where, str]]:
    """Every embedding is finite, of the encoder's width, and not longer than the encoder reads."""
    wanted = info.shard_rows[shard]
    name = text_file(info.name, shard, len(info.shard_rows), wanted)
    count = 0
    try:
        for count, data in enumerate(table.records(name), 1):
            try:
                with np.errstate(all="ignore"):  # what scales that are not finite give
                    value = decode_embedding(data, info.width, info.dtype)
            except ValueError as e:
                yield name, f"row {count - 1}: {e}"
                continue
            if len(value) > info.max_tokens:
                yield name, f"row {count - 1} has {len(value)} tokens, over {info.max_tokens}"
            if not np.isfinite(value).all():
                yield name, f"row {count - 1} is not finite"
    except DataError as e:
        yield name, e.reason
        return
    if count != wanted:
        yield name, f"{count} rows, the manifest says {wanted}"
