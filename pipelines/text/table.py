"""The embedding table: one embedding per distinct text, found by the text's digest.

A table's texts are spread over shards by ranges of their keys, so shards can be made anywhere, in
any order, and stand one after another sorted. The layout is `schemas.table.text_dir`'s.

Texts are added; only `without`, for `unisim forget`, takes some away. A shard that gets more
is written anew from its old rows and the new ones, under a name of its own (its number of rows), so
nothing that the manifest lists is touched until the next manifest is there. A finished shard leaves
its keys and a receipt below `_work`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from pipelines import files
from pipelines.text.encoder import TextEncoder
from pipelines.text.tokenizer import Tokens
from schemas import EncoderInfo, UsageError, table, text_key
from schemas.embedding import encode_embedding, token_bytes

KEY_BYTES = 16
SHARD_BYTES = 64_000_000  # of rows, so much is written anew for one more text
_TYPICAL_TOKENS = 16  # of an action text, its end piece included; narrations have fewer
_MOST_SHARDS = 1 << 16
_TOKENISED = 1024  # texts at a time
_READ = 256  # rows at a time
# what is embedded at a time: enough for full batches in every length bucket, bounded in memory
_PART_BYTES, _PART_TOKENS = SHARD_BYTES, 1 << 16

Tick = Callable[[int], None]
Load = Callable[[], TextEncoder]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """Where an encoder's embeddings go; small and picklable.

    Attributes:
        out: the table's root.
        encoder: as `check_directory` gave it, without rows.
        num_shards: how many, for as long as the table lives.
        before: what the manifest says of this encoder's embeddings; None where it has none.
    """

    out: str
    encoder: EncoderInfo
    num_shards: int
    before: EncoderInfo | None = None

    @property
    def work(self) -> str:
        """The folder for what a job needs until its commit."""
        return files.join(self.out, table.WORK, "embed", self.encoder.name)

    @property
    def rows_before(self) -> tuple[int, ...]:
        """Rows of each shard that are there already."""
        return self.before.shard_rows if self.before else (0,) * self.num_shards

    def file(self, shard: int, rows: int) -> str:
        """A shard's file, relative to the table."""
        return table.text_file(self.encoder.name, shard, self.num_shards, rows)

    def keys_before(self, shards: Sequence[int]) -> bytes:
        """The sorted keys, one after another, that adjacent shards have already."""
        rows = self.rows_before
        first, last = shards[0], shards[-1]
        start, count = sum(rows[:first]), sum(rows[first : last + 1])
        if not self.before or not count:
            return b""
        path = files.join(self.out, table.text_keys(self.encoder.name, self.before.rows))
        with files.open_read(path) as f:
            np.lib.format.read_magic(f)
            np.lib.format.read_array_header_1_0(f)
            f.seek(f.tell() + start * KEY_BYTES)
            data = f.read(count * KEY_BYTES)
        if len(data) != count * KEY_BYTES:
            raise UsageError(f"{path}: cut short; `unisim audit {self.out}` says what else is")
        return data


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardResult:
    """One finished shard; small and picklable.

    Attributes:
        shard: which.
        rows: in it now, each a distinct text.
        added: how many of them are new; none leaves its file as it was.
        truncated: of the new ones, how many were longer than the encoder's max_tokens.
        size, digest: bytes and hex BLAKE2b-128 of the file, for the manifest; 0 and "" where
            nothing was added.
    """

    shard: int
    rows: int
    added: int = 0
    truncated: int = 0
    size: int = 0
    digest: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embeddings:
    """A finished embedding table.

    Attributes:
        info: of the encoder, with the rows of each shard.
        files: path relative to the table -> [bytes, hex BLAKE2b-128], of the files that are new.
    """

    info: EncoderInfo
    files: dict[str, list[Any]]


def shards_for(texts: int, encoder: EncoderInfo) -> int:
    """How many shards so many distinct texts want: of `SHARD_BYTES` each, 65,536 at most."""
    size = texts * _TYPICAL_TOKENS * token_bytes(encoder.width, encoder.dtype)
    return min(max(1, math.ceil(size / SHARD_BYTES)), _MOST_SHARDS)


def bucket_of(key: bytes, num_shards: int) -> int:
    """The shard of a key, in 0..num_shards-1; a larger key never has a smaller shard."""
    return int.from_bytes(key[:8], "big") * num_shards >> 64


def embed_shard(
    target: Target, shard: int, texts: Iterable[str], load: Load, tick: Tick = lambda texts: None
) -> ShardResult:
    """Adds texts to a shard; the same texts in any order, at once or bit by bit, give the same
    bytes. Finds the shard done where a killed job has left it so.

    Args:
        texts: of this shard; repeated ones and those that are there already do no harm.
        load: gives the encoder; not called where there is nothing to embed.
        tick: told how many more texts are embedded.

    Raises:
        ValueError: if a text's key belongs to another shard.
        UsageError: if the old rows cannot be read, or the encoder's weights give values that are
            not finite.
    """
    data = target.keys_before([shard])
    before = [data[i : i + KEY_BYTES] for i in range(0, len(data), KEY_BYTES)]
    new = {text_key(text): text for text in texts}
    for key in before:
        new.pop(key, None)
    for key, text in new.items():
        if bucket_of(key, target.num_shards) != shard:
            raise ValueError(f"text {text!r} is not of shard {shard} of {target.num_shards}")
    if not new:
        return ShardResult(shard=shard, rows=len(before))
    keys = sorted([*before, *new])
    result = _done(target, shard, keys)
    if result is None:
        result = _write(target, shard, keys, new, load(), tick)
        _leave_receipt(target, keys, result)
    else:
        tick(len(new))
    return result


def _write(
    target: Target,
    shard: int,
    keys: Sequence[bytes],
    new: Mapping[bytes, str],
    encoder: TextEncoder,
    tick: Tick,
) -> ShardResult:
    """The shard's file, of its old rows and the new ones in the order of their keys."""
    tokens = _tokenise(encoder, [new[key] for key in keys if key in new])
    old = _rows_before(target, shard)
    made = _embed(encoder, target.encoder, tokens, tick)
    with files.local_write(files.join(target.out, target.file(shard, len(keys)))) as temporary:
        writer = ArrayRecordWriter(temporary, table.WRITER_OPTIONS)
        for key in keys:
            writer.write(next(made) if key in new else next(old))
        writer.close()
        size, digest = files.digest(temporary)
    return ShardResult(
        shard=shard,
        rows=len(keys),
        added=len(new),
        truncated=int(tokens.truncated.sum()),
        size=size,
        digest=digest,
    )


def _tokenise(encoder: TextEncoder, texts: Sequence[str]) -> Tokens:
    parts = [
        encoder.tokenizer.encode(texts[start : start + _TOKENISED])
        for start in range(0, len(texts), _TOKENISED)
    ]
    return Tokens(*(np.concatenate(field) for field in zip(*parts, strict=True)))


def _embed(encoder: TextEncoder, info: EncoderInfo, tokens: Tokens, tick: Tick) -> Iterator[bytes]:
    """The rows of tokenised texts, in order."""
    most = min(_PART_TOKENS, _PART_BYTES // token_bytes(info.width, info.dtype))
    parts = (np.cumsum(tokens.lengths) - 1) // most
    for part in np.unique(parts):
        rows = encoder.embed_tokens(Tokens(*(field[parts == part] for field in tokens)))
        tick(len(rows))  # before the last of them is taken, after which nobody asks for more
        yield from (encode_embedding(row, info.dtype) for row in rows)


def _rows_before(target: Target, shard: int) -> Iterator[bytes]:
    """The rows that the shard has already. ArrayRecord checks a digest of all that it reads."""
    count = target.rows_before[shard]
    path = files.join(target.out, target.file(shard, count))
    remedy = f"`unisim audit {target.out}` says what is wrong with the table"
    with contextlib.ExitStack() as stack:
        try:
            reader = ArrayRecordReader(
                stack.enter_context(files.local_copy(path)),
                "readahead_buffer_size:0,max_parallelism:0",
            )
            found = reader.num_records()
            if found != count:
                raise UsageError(f"{path}: {found} rows, the manifest says {count}; {remedy}")
            for start in range(0, count, _READ):
                yield from reader.read(start, min(start + _READ, count))
            reader.close()
        except UsageError:
            raise
        except Exception as e:  # the reader names damage by exceptions of no common kind
            raise UsageError(f"{path}: cannot be read ({e}); {remedy}") from e


def _paths(target: Target, shard: int) -> tuple[str, str]:
    """A finished shard's receipt, and its keys one after another."""
    name = f"{shard:05d}"
    return files.join(target.work, f"{name}.json"), files.join(target.work, f"{name}.keys")


def _identity(target: Target, keys: Sequence[bytes]) -> dict[str, Any]:
    """What decides a shard's bytes, and what is new in it."""
    return {
        "rows_before": sum(target.rows_before),
        "digest": target.encoder.digest,
        "dtype": target.encoder.dtype,
        "num_shards": target.num_shards,
        "keys": hashlib.blake2b(b"".join(keys), digest_size=16).hexdigest(),
    }


def _leave_receipt(target: Target, keys: Sequence[bytes], result: ShardResult) -> None:
    receipt, keys_path = _paths(target, result.shard)
    files.write(keys_path, b"".join(keys))
    value = {"of": _identity(target, keys), "result": dataclasses.asdict(result)}
    files.write(receipt, table.dump_json(value).encode())


def _done(target: Target, shard: int, keys: Sequence[bytes]) -> ShardResult | None:
    """What a job that was killed has left of this shard, if it is whole and of these keys."""
    receipt, _ = _paths(target, shard)
    if not files.exists(receipt):
        return None
    value = json.loads(files.read(receipt))
    if value["of"] != _identity(target, keys):
        return None
    result = ShardResult(**value["result"])
    path = files.join(target.out, target.file(shard, result.rows))
    whole = files.exists(path) and files.size(path) == result.size
    return result if whole else None


def finish(target: Target, results: Iterable[ShardResult]) -> Embeddings:
    """Writes the keys, once every shard is there. What is above them is the manifest's to say.

    Args:
        results: of the shards that got texts, in any order; others stay as they are.

    Raises:
        ValueError: if a shard is there twice or not one of the table's.
    """
    found = list(results)
    by_shard = {result.shard: result for result in found}
    if len(by_shard) != len(found) or not by_shard.keys() <= set(range(target.num_shards)):
        raise ValueError(f"embedding shards {sorted(by_shard)} of {target.num_shards}, a bug")
    added = {shard: result for shard, result in sorted(by_shard.items()) if result.added}
    rows = list(target.rows_before)
    for shard, result in added.items():
        rows[shard] = result.rows
    truncated = target.before.truncated if target.before else 0
    info = dataclasses.replace(
        target.encoder,
        shard_rows=tuple(rows),
        truncated=truncated + sum(result.truncated for result in added.values()),
    )
    listed = {target.file(s, r.rows): [r.size, r.digest] for s, r in added.items()}
    if added or target.before is None:
        listed |= _write_keys(target, info, added)
    return Embeddings(info=info, files=listed)


def _write_keys(
    target: Target, info: EncoderInfo, added: Mapping[int, ShardResult]
) -> dict[str, list[Any]]:
    """The keys of all shards, one after another."""
    name = table.text_keys(info.name, info.rows)
    header = {"descr": "|u1", "fortran_order": False, "shape": (info.rows, KEY_BYTES)}
    with files.local_write(files.join(target.out, name)) as path:
        with open(path, "wb") as f:
            np.lib.format.write_array_header_1_0(f, header)
            shards = range(target.num_shards)
            for new, run in itertools.groupby(shards, key=lambda shard: shard in added):
                same = list(run)
                if not new:
                    f.write(target.keys_before(same))
                for shard in same if new else ():
                    f.write(files.read(_paths(target, shard)[1]))
        return {name: files.digest(path)}


def write_embeddings(
    out: str, encoder: TextEncoder, texts: Iterable[str], num_shards: int = 1
) -> Embeddings:
    """A whole embedding table in this process: `embed_shard` for every shard, then `finish`."""
    target = Target(out=out, encoder=encoder.info, num_shards=num_shards)
    buckets: list[list[str]] = [[] for _ in range(num_shards)]
    for text in texts:
        buckets[bucket_of(text_key(text), num_shards)].append(text)
    results = [embed_shard(target, i, bucket, lambda: encoder) for i, bucket in enumerate(buckets)]
    made = finish(target, results)
    files.delete_tree(target.work)
    return made


def without(
    out: str,
    encoder: EncoderInfo,
    keys: set[bytes],
    into: str,
    listed: Mapping[str, list[Any]],
) -> tuple[EncoderInfo, dict[str, list[Any]]]:
    """An encoder's embeddings without those of some keys: shards that have none of them stay.

    Args:
        out: the table.
        into: the folder that gets the new files.
        listed: the table's files, as its manifest has them.

    Returns:
        The encoder's info, and its files as the manifest lists them.
    """
    shards = len(encoder.shard_rows)
    target = Target(out=out, encoder=encoder, num_shards=shards, before=encoder)
    rows, content, left = [], {}, []
    for shard, count in enumerate(encoder.shard_rows):
        data = target.keys_before([shard])
        old = [data[i : i + KEY_BYTES] for i in range(0, len(data), KEY_BYTES)]
        kept = [key for key in old if key not in keys]
        left += kept
        rows.append(len(kept))
        if kept and len(kept) == count:
            content[target.file(shard, count)] = listed[target.file(shard, count)]
        elif kept:
            name = target.file(shard, len(kept))
            with files.local_write(files.join(into, name)) as path:
                writer = ArrayRecordWriter(path, table.WRITER_OPTIONS)
                for key, record in zip(old, _rows_before(target, shard), strict=True):
                    if key not in keys:
                        writer.write(record)
                writer.close()
                content[name] = files.digest(path)
    info = dataclasses.replace(encoder, shard_rows=tuple(rows))
    name = table.text_keys(info.name, info.rows)
    if info == encoder:
        return info, content | {name: listed[name]}
    with files.local_write(files.join(into, name)) as path:
        array = np.frombuffer(b"".join(left), np.uint8).reshape(-1, KEY_BYTES)
        with open(path, "wb") as f:
            np.lib.format.write_array(f, array, version=(1, 0), allow_pickle=False)
        return info, content | {name: files.digest(path)}
