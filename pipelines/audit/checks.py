"""The checks, each a generator of findings over an opened table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from pipelines import files
from pipelines.audit.finding import Finding
from pipelines.audit.opened import Opened
from schemas import DataError, DatasetInfo, Tier, decode, mask_of
from schemas.columns import index_fields
from schemas.record import digest
from schemas.table import DEAD_LETTERS, MANIFEST, TIMINGS, WORK, frames_file, text_dir
from schemas.validate import violations

Tick = Callable[[int], None]


def check_files(table: Opened) -> Iterator[Finding]:
    """Every file has the manifest's size and digest; no file is there that it does not name, but
    for the timings, and those of an `embed` or a change that is under way or was cut short."""
    there = set(table.listing())
    for name, (size, wanted) in table.manifest.files.items():
        if name not in there:
            yield Finding(check="files", where=name, message="listed in the manifest, not there")
            continue
        with files.local_copy(files.join(table.out, name)) as path:
            found = files.digest(path)
        if found != [size, wanted]:
            message = f"{found[0]} bytes {found[1]}, the manifest says {size} bytes {wanted}"
            yield Finding(check="files", where=name, message=message)
    embedding = [name for name in there if name.startswith(f"{WORK}/embed/")]
    unfinished = {f"{text_dir(name.split('/')[2])}/" for name in embedding} | {f"{WORK}/"}
    for name in sorted(there - set(table.manifest.files) - {MANIFEST, TIMINGS}):
        cut_short = embedding and files.is_temporary(name)
        if not (cut_short or name.startswith(tuple(unfinished))):
            yield Finding(check="files", where=name, message="not listed in the manifest")


def check_records(table: Opened, tick: Tick) -> Iterator[Finding]:
    """Every record of every tier decodes, obeys the rules and agrees with its index row."""
    for dataset in table.manifest.datasets:
        for shard in range(dataset.num_shards):
            yield from _shard(table, dataset, shard, tick)


def _shard(table: Opened, dataset: DatasetInfo, shard: int, tick: Tick) -> Iterator[Finding]:
    try:
        rows = table.index(dataset.name, shard, dataset.num_shards).to_pylist()
    except DataError as e:
        yield Finding(check="index", where=f"{dataset.name} shard {shard}", message=e.reason)
        return
    for split in dataset.shard_rows:
        wanted = sorted((r for r in rows if r["split"] == split), key=lambda r: r["position"])
        listed = dataset.shard_rows[split][shard]
        if [r["position"] for r in wanted] != list(range(listed)):
            message = f"{len(wanted)} index rows of split {split}, the manifest says {listed}"
            yield Finding(check="index", where=f"{dataset.name} shard {shard}", message=message)
        yield from _episodes(dataset.name, wanted)
        for tier in table.tiers:
            name = frames_file(
                tier, dataset.name, dataset.version, split, shard, dataset.num_shards
            )
            yield from _file(table, name, tier, wanted, dataset)
            tick(len(wanted))


def _file(
    table: Opened, name: str, tier: Tier, rows: list[dict[str, Any]], dataset: DatasetInfo
) -> Iterator[Finding]:
    declared = mask_of(dataset.slots)
    count = 0
    try:
        for count, data in enumerate(table.records(name), 1):
            if count <= len(rows):
                yield from check_record(data, tier, rows[count - 1], declared)
    except DataError as e:
        yield Finding(check="records", where=name, message=e.reason)
        return
    if count != len(rows):
        message = f"{count} records, the index has {len(rows)}"
        yield Finding(check="records", where=name, message=message)


def check_record(
    data: bytes, tier: Tier, row: dict[str, Any], declared: np.ndarray
) -> Iterator[Finding]:
    """One record's bytes against the schema, its index row and the slots its dataset declares."""
    where = f"{row['dataset']}/{row['episode_id']}/{row['step']}"

    def finding(message: str) -> Finding:
        return Finding(check="records", where=where, message=f"{tier.name}: {message}")

    if dict(row["digests"]).get(tier.name) != digest(data):
        yield finding("its bytes are not those that the index has the digest of")
    try:
        chunk = decode(data, tier)
        if tier.encoding == "jpeg":
            pixels = chunk.pixels()
            if pixels.shape[1:] != (tier.height, tier.width, 3):
                yield finding(f"frames of {pixels.shape[1:3]}")
    except (DataError, ValueError) as e:
        yield finding(str(e))
        return
    for message in violations(chunk, tier):
        yield finding(message)
    if (chunk.control_mask & ~declared).any():
        yield finding("its control mask has slots that the manifest does not declare")
    for name, value in index_fields(chunk).items():
        if row[name] != value:
            yield finding(f"{name} is {value!r}, the index says {row[name]!r}")


def _episodes(dataset: str, rows: list[dict[str, Any]]) -> Iterator[Finding]:
    """The chunks of an episode are adjacent, its steps run from 0, only its last is_last."""
    seen: set[str] = set()
    before: dict[str, Any] | None = None
    for row in [*rows, None]:
        same = row and before and row["episode_id"] == before["episode_id"]
        if before and not same and not before["is_last"]:
            yield _episode_finding(dataset, before, "the last of its episode, but not is_last")
        if row and same and before:
            if row["step"] != before["step"] + 1:
                yield _episode_finding(dataset, row, f"follows step {before['step']}")
            if before["is_last"]:
                yield _episode_finding(dataset, before, "is_last, but the episode goes on")
            if row["start"] <= before["start"]:
                yield _episode_finding(dataset, row, "begins before the chunk before it")
        elif row:
            if row["episode_id"] in seen:
                yield _episode_finding(dataset, row, "its episode's chunks are not adjacent")
            if row["step"] != 0:
                yield _episode_finding(dataset, row, "begins its episode, but is not step 0")
            seen.add(row["episode_id"])
        before = row


def _episode_finding(dataset: str, row: dict[str, Any], message: str) -> Finding:
    where = f"{dataset}/{row['episode_id']}/{row['step']}"
    return Finding(check="episodes", where=where, message=message)


def check_manifest(table: Opened) -> Iterator[Finding]:
    """The manifest's totals are those of the index."""
    for dataset in table.manifest.datasets:
        index = table.readable_index(dataset)
        if index is None:
            continue
        columns = ["num_frames", "episode_id", "clipped"]
        parts = [part.select(columns).to_pydict() for part in index]
        views = {name for part in parts for name in part["episode_id"]}
        totals = {
            "chunks": sum(len(part["num_frames"]) for part in parts),
            "frames": sum(sum(part["num_frames"]) for part in parts),
            "views": len(views),
            "episodes": len({name.rsplit("@", 1)[0] for name in views}),
        }
        for name, found in totals.items():
            if getattr(dataset, name) != found:
                message = f"{name} {getattr(dataset, name)}, the index has {found}"
                yield Finding(check="manifest", where=dataset.name, message=message)
        if sum(sum(part["clipped"]) for part in parts) != sum(dataset.clipped.values()):
            message = "its clipped controls are not those of the index"
            yield Finding(check="manifest", where=dataset.name, message=message)


def check_losses(table: Opened) -> Iterator[Finding]:
    """The manifest's losses, by stage and in all, are those of the dead letters."""
    try:
        letters = table.dead_letters().select(["dataset", "stage", "episodes"]).to_pylist()
    except DataError as e:
        yield Finding(check="manifest", where=DEAD_LETTERS, message=e.reason)
        return
    for dataset in table.manifest.datasets:
        mine = [letter for letter in letters if letter["dataset"] == dataset.name]
        lost = [letter["episodes"] or 0 for letter in mine]
        totals = {
            "dead_letters": sum(lost),
            "declared_losses": lost.count(0),
            "losses": dict(Counter(letter["stage"] for letter in mine)),
        }
        for name, found in totals.items():
            if getattr(dataset, name) != found:
                message = f"{name} {getattr(dataset, name)}, {DEAD_LETTERS} has {found}"
                yield Finding(check="manifest", where=dataset.name, message=message)
