"""The rows of `make bench` on the embedding table: look-ups while training, and its keys."""

from __future__ import annotations

import dataclasses
import math
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from pipelines.text import ShardResult, Target, bucket_of, finish, shards_for
from schemas import EncoderInfo, text_key
from schemas.table import WRITER_OPTIONS, text_file
from tests.bench import plot
from tests.bench.narrations import Sizes
from tests.bench.timing import Row, interleaved, progress, run_alone, status_mb
from trainer.data.embeddings import Embeddings
from trainer.data.keys import Keys
from trainer.data.records import Records

WIDTH, TOKENS = 512, 12
BATCH, TURN = 256, 16_384  # texts at a time, and of one turn
ROUNDS, KEY_ROUNDS = 7, 3
GOAL, LIMIT_MB = 50_000, 200
ROW_BYTES = 2 * WIDTH * TOKENS
SPARE_BYTES = 8 << 30  # of the disk

INFO = EncoderInfo(
    name="bench", width=WIDTH, max_tokens=64, digest="", description="random rows, not a T5"
)


def rows(folder: Path, sizes: Sizes, picture: Path | None) -> Iterator[Row]:
    """All rows; tables are laid into the folder, and the costs of the keys drawn."""
    yield from _lookups(folder / "rows", sizes)
    yield from _key_costs(folder / "keys", sizes, picture)


def _lookups(out: Path, sizes: Sizes) -> Iterator[Row]:
    count = sizes.rows
    if shutil.disk_usage(out.parent).free < count * ROW_BYTES + SPARE_BYTES:
        count //= 5
        progress(f"the disk is too full for {sizes.rows} texts")
    progress(f"writing a table of {count} texts, {count * ROW_BYTES / 1e9:.1f} GB")
    write_rows(out, count)
    progress(f"{ROUNDS} rounds of {TURN} look-ups")
    found = run_alone(look_up, out, count)
    shutil.rmtree(out)
    speeds = {name: TURN / found[name] for name in ("in place", "array_record")}
    ours = f"{speeds['in place']:,.0f}/s"
    label = f"look-ups of {TOKENS}x{WIDTH} in {count:,} texts"
    yield Row(label, "(goal)", ours, f"{GOAL:,}/s", f"{speeds['in place'] / GOAL:.1f}")
    against = f"{speeds['array_record']:,.0f}/s"
    ratio = speeds["in place"] / speeds["array_record"]
    yield Row("  by ArrayRecord's reader", "array_record", ours, against, f"{ratio:.1f}")
    growth = found["growth"]
    limit = f"{LIMIT_MB / growth:.1f}"
    yield Row("  resident growth", "(limit)", f"{growth:.0f} MB", f"{LIMIT_MB} MB", limit)


def write_rows(out: Path, count: int) -> None:
    """A table of embeddings of one length, random bytes over and over."""
    target = _target(out, count)
    rng = np.random.default_rng(30)
    pool = rng.standard_normal(64 * WIDTH * TOKENS).astype(ml_dtypes.bfloat16).tobytes()

    def write(shard: int, keys: list[bytes]) -> None:
        writer = ArrayRecordWriter(str(out / target.file(shard, len(keys))), WRITER_OPTIONS)
        for key in keys:
            at = int.from_bytes(key[8:12], "big") % (len(pool) - ROW_BYTES)
            writer.write(pool[at : at + ROW_BYTES])
        writer.close()

    (out / text_file(INFO.name, 0, 1, 0)).parent.mkdir(parents=True)
    _build(target, _grouped(target, count), write)


def look_up(out: str, count: str) -> dict[str, float]:
    """Random look-ups in a warm table, in a process that has done nothing else.

    Returns:
        Seconds of the core for a turn, by how rows are read; and the growth in MB.
    """
    shards = sorted(Path(out).rglob("*.array_record-*"), key=lambda path: path.name[-14:])
    for path in shards:  # warm
        with path.open("rb") as f:
            while f.read(1 << 20):
                pass
    sizes = tuple(int(path.name.partition("-")[2].partition(".")[0]) for path in shards)
    info = dataclasses.replace(INFO, shard_rows=sizes)
    rng = np.random.default_rng(31)

    def turn(embeddings: Embeddings) -> float:
        seconds = 0.0
        for _ in range(TURN // BATCH):
            texts = [_text(i) for i in rng.integers(0, int(count), BATCH)]
            begin = time.process_time()
            found = embeddings.lookup_many(texts)
            seconds += time.process_time() - begin
            assert len(found) == BATCH and found[0].shape == (TOKENS, WIDTH)
        return seconds

    before = status_mb("VmRSS")
    embeddings = Embeddings(out, info)
    for _ in range(ROUNDS):
        turn(embeddings)
    growth = status_mb("VmRSS") - before
    other = Embeddings(out, info)
    other._stores[0]._records = Records()
    sides = {"in place": embeddings, "array_record": other}
    taken = interleaved(ROUNDS, {name: lambda e=side: turn(e) for name, side in sides.items()})
    return {**taken, "growth": growth}


def _key_costs(out: Path, sizes: Sizes, picture: Path | None) -> Iterator[Row]:
    progress(f"{KEY_ROUNDS} times the keys of {sizes.keys[-1]} texts and fewer")
    runs = [run_alone(key_costs, out, *sizes.keys) for _ in range(KEY_ROUNDS)]
    costs = {
        name: [statistics.median(run[name][i] for run in runs) for i in range(len(sizes.keys))]
        for name in runs[0]
    }
    for name, what, limit in (
        ("build", "making the keys of", "(n log n)"),
        ("find", "finding a text among", "(log n)"),
    ):
        per_text = [cost * 1e6 for cost in costs[name]]
        # from the second, as the first is mostly what any number costs
        wanted = per_text[1] * math.log(sizes.keys[-1], sizes.keys[1])
        ours, most = (f"{value:.2f} us" for value in (per_text[-1], wanted))
        label = f"{what} {sizes.keys[-1]:,}, each"
        yield Row(label, limit, ours, most, f"{wanted / per_text[-1]:.2f}")
    size = 16 * sizes.keys[-1] / 1e6
    peak = f"{costs['memory'][-1]:.0f} MB"
    yield Row("  peak memory of making them", "(the keys)", peak, f"{size:.0f} MB", "")
    if picture:
        plot.draw(picture, sizes.keys, {name: costs[name] for name in ("build", "find")})


def key_costs(out: str, *counts: str) -> dict[str, list[float]]:
    """Key tables of more and more texts, in a process that has done nothing else.

    Returns:
        For each: seconds of the core per text to make the keys and to find one, and by how many MB
        this process had grown at most while making them.
    """
    before = status_mb("VmRSS")
    found: dict[str, list[float]] = {"build": [], "find": [], "memory": []}
    for count in map(int, counts):
        target = _target(Path(out), count)
        groups = _grouped(target, count)
        begin = time.process_time()
        info = _build(target, groups, lambda shard, keys: None)
        found["build"].append((time.process_time() - begin) / count)
        found["memory"].append(status_mb("VmHWM") - before)
        found["find"].append(_find_seconds(out, info, count))
        shutil.rmtree(out)
    return found


def _find_seconds(out: str, info: EncoderInfo, count: int) -> float:
    """Per text, of finding the rows of random texts, a batch at a time; the second time."""
    keys = Keys(out, info)
    seconds = 0.0
    for _ in range(2):
        rng = np.random.default_rng(32)
        seconds = 0.0
        for _ in range(TURN // BATCH):
            texts = [_text(i) for i in rng.integers(0, count, BATCH)]
            begin = time.process_time()
            found = keys.find([text_key(text) for text in texts])
            seconds += time.process_time() - begin
            assert (found >= 0).all()
    return seconds / TURN


def _target(out: Path, count: int) -> Target:
    return Target(out=str(out), encoder=INFO, num_shards=shards_for(count, INFO))


def _grouped(target: Target, count: int) -> list[bytearray]:
    """The keys of the texts, one after another for each shard, in no order: what the shuffle gives,
    in as little memory as can be."""
    groups = [bytearray() for _ in range(target.num_shards)]
    for i in range(count):
        key = text_key(_text(i))
        groups[bucket_of(key, target.num_shards)] += key
    return groups


def _build(
    target: Target, groups: list[bytearray], write: Callable[[int, list[bytes]], None]
) -> EncoderInfo:
    """The keys, sorted and written shard by shard as `embed_shard` does, then all together."""
    work = Path(target.work)
    work.mkdir(parents=True)
    results = []
    for shard, group in enumerate(groups):
        keys = sorted(bytes(group[i : i + 16]) for i in range(0, len(group), 16))
        write(shard, keys)
        (work / f"{shard:05d}.keys").write_bytes(b"".join(keys))
        results.append(ShardResult(shard=shard, rows=len(keys), added=len(keys)))
    return finish(target, results).info


def _text(number: int) -> str:
    return f"pick up the block {number} and put it next to the others"
