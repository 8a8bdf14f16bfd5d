"""One shard: decode -> resample -> act -> chunk -> validate -> ArrayRecord, in one worker.

Pixels never leave the worker that decoded them; what comes back is a `Receipt`. Memory is bounded
by one episode at the table's resolution, not by a shard.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from array_record.python.array_record_module import ArrayRecordWriter

from pipelines import files, receipt, sources
from pipelines.episode import Episode, Unit
from pipelines.ops.unify import mask_of_controls
from pipelines.plan import Dataset, Shard, absolute_uri, relative_uri
from pipelines.receipt import Receipt, SlotStatistics
from pipelines.rows import Row, name_of, rows
from pipelines.stages import Stages
from pipelines.tally import Tally
from pipelines.watch import Changed, watched
from schemas import DataError, Tier, UsageError, controls
from schemas.columns import INDEX_SCHEMA, index_fields
from schemas.record import digest
from schemas.table import PLAN, WRITER_OPTIONS, Forgotten, frames_file, index_file

_ATTEMPTS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardTask:
    """One shard's work, small enough to travel.

    Attributes:
        out: the table's folder.
        into: the folder for the files, `Job.into`.
        dataset: its settings, without its units.
        num_shards: how many the dataset has.
        shard: the units.
        tiers, prefix_dataset: as in the plan.
        forgotten: what has been removed from the table, and is to stay out of it.
    """

    out: str
    into: str
    dataset: Dataset
    num_shards: int
    shard: Shard
    tiers: tuple[Tier, ...]
    prefix_dataset: bool
    forgotten: tuple[Forgotten, ...] = ()


def write_shard(task: ShardTask) -> Receipt:
    """Writes the shard's files and its receipt, or finds them done.

    Raises:
        UsageError: if there is no room for them, or a raw file never rests.
        Anything but DataError: bad data is dead-lettered, the rest is a bug and stops the job.
    """
    done = receipt.load(task.out, task.dataset.name, task.shard.index, task.into)
    if done is not None:
        with _tally(task, found=True) as tally:
            tally.whole(done, sum(unit.cost for unit in task.shard.units))
        return done
    for left in reversed(range(_ATTEMPTS)):
        try:
            return _write_shard(task)
        except Changed as e:
            if not left:
                raise UsageError(f"{e}, {_ATTEMPTS} times; run again when its writer ends") from e
    raise AssertionError


def _write_shard(task: ShardTask) -> Receipt:
    with _tally(task) as tally:
        writer = _ShardWriter(task, tally)
        with contextlib.ExitStack() as stack:
            writer.open(stack)
            for unit in task.shard.units:
                writer.unit(unit)
        result = writer.finish()
        result.save(task.out)
    return result


def _tally(task: ShardTask, *, found: bool = False) -> Tally:
    return Tally(task.out, task.dataset.name, task.shard.index, found=found)


class _ShardWriter:
    """The files of one shard while they are written, and what is counted on the way."""

    def __init__(self, task: ShardTask, tally: Tally):
        self.task = task
        self.tally = tally
        self.dataset = task.dataset
        self.source = sources.get(task.dataset.name)
        self.index: list[dict[str, Any]] = []
        self.dead: list[dict[str, Any]] = []
        self.statistics = SlotStatistics()
        self.stages = Stages()
        self.episodes: set[str] = set()
        self.views: set[str] = set()
        self.rows = dict.fromkeys(task.dataset.splits, 0)
        self.frames = 0
        self.mask = np.zeros(controls.NUM_SLOTS, bool)
        self.writers: dict[tuple[str, Tier], ArrayRecordWriter] = {}
        self.files: dict[str, list[Any]] = {}
        self.rejected = frozenset(task.dataset.rejected)
        self.planned = files.stamp(files.join(task.into, PLAN))

    def open(self, stack: contextlib.ExitStack) -> None:
        """Opens one file per split and tier; they take their names when the stack ends well."""
        for split in self.dataset.splits:
            for tier in self.task.tiers:
                name = frames_file(
                    tier,
                    self.dataset.name,
                    self.dataset.version,
                    split,
                    self.task.shard.index,
                    self.task.num_shards,
                )
                path = stack.enter_context(files.local_write(files.join(self.task.into, name)))
                writer = ArrayRecordWriter(path, WRITER_OPTIONS)
                stack.callback(self._close, writer, name, path)
                self.writers[split, tier] = writer

    def _close(self, writer: ArrayRecordWriter, name: str, path: str) -> None:
        writer.close()
        self.files[name] = files.digest(path)

    def unit(self, unit: Unit) -> None:
        """All episodes of a unit. Raises `Changed`."""
        before = len(self.episodes)
        located = dataclasses.replace(
            unit, uri=absolute_uri(unit.uri, self.dataset.root), options=self.dataset.options
        )
        try:
            with watched(located, self.planned):
                for item in self.stages.reading(self.source.episodes(located)):
                    if isinstance(item, DataError):
                        self.bury(item, unit, item.key, 1)
                    else:
                        self.episode(item, unit)
                    self.tally.step(unit, **self.counts())
        except DataError as e:
            rest = unit.episodes - (len(self.episodes) - before)
            self.bury(e, unit, e.key, max(1, rest))
        self.tally.finish(unit, **self.counts())

    def counts(self) -> dict[str, int]:
        """What is made so far, as `Tally` takes it."""
        return {
            "frames": self.frames,
            "dead_letters": len(self.dead),
            "episodes": len(self.episodes),
        }

    def episode(self, episode: Episode, unit: Unit) -> None:
        """One episode, whole or not at all."""
        name = name_of(episode)
        task = self.task
        try:
            if "@" in episode.id:
                raise DataError("an episode's id may not hold '@', which marks a view")
            if name in self.views:
                raise DataError("an episode of this id was already read", stage="read")
            self._refuse(episode, unit)
            ready = list(
                rows(
                    episode,
                    unit,
                    self.source.INFO,
                    self.dataset,
                    task.tiers,
                    task.prefix_dataset,
                    self.stages,
                )
            )
            if not ready:
                raise DataError("the episode has no frames", stage="read")
        except DataError as e:
            e.where = e.where or episode.source_range
            e.uri = e.uri or episode.source_uri
            self.bury(e, unit, name, 1)
            return
        self.episodes.add(episode.id)
        self.views.add(name)
        self.mask |= mask_of_controls(episode.controls)
        for row in ready:
            self.write(row)

    def _refuse(self, episode: Episode, unit: Unit) -> None:
        """Raises DataError, which is a declared loss, if the table is to be without the episode."""
        if name_of(episode) in self.rejected:
            raise DataError("rejected by an auditor", stage="rejected", counts=False)
        root = self.dataset.root
        uri = relative_uri(episode.source_uri, root) if episode.source_uri else unit.uri
        licence = episode.license or self.source.INFO.license
        for rule in self.task.forgotten:
            uris = (uri, absolute_uri(uri, root))
            if rule.matches(source=self.dataset.name, license=licence, uris=uris):
                raise DataError(f"forgotten: {rule}", stage="forgotten", counts=False)

    def write(self, row: Row) -> None:
        """Appends one chunk to its split's file in every tier."""
        chunk = row.chunk
        digests = []
        with self.stages.timed("write") as stage:
            for tier, wire in row.wire.items():
                self.writers[chunk.split, tier].write(wire)
                digests.append((tier.name, digest(wire)))
                stage.bytes += len(wire)
        self.index.append(
            {
                "clipped": int(row.clipped.sum()),
                "clipped_slots": clipped_slots(row.clipped),
                "shard": self.task.shard.index,
                "num_shards": self.task.num_shards,
                "position": self.rows[chunk.split],
                "digests": digests,
            }
            | index_fields(chunk)
        )
        self.statistics.add_chunk(chunk, row.clipped.sum(0))
        self.rows[chunk.split] += 1
        self.frames += chunk.num_frames

    def bury(self, error: DataError, unit: Unit, key: str, episodes: int) -> None:
        """Writes down what was lost and why."""
        self.dead.append(
            {
                "dataset": self.dataset.name,
                "version": self.dataset.version,
                "shard": self.task.shard.index,
                "unit": unit.id,
                "key": key,
                "stage": error.stage,
                "reason": error.reason,
                "source_uri": relative_uri(error.uri, self.dataset.root) if error.uri else unit.uri,
                "source_range": error.where,
                "episodes": episodes if error.counts else 0,
            }
        )

    def finish(self) -> Receipt:
        """Writes the index part; the frames files are in place by now."""
        name = index_file(self.dataset.name, self.task.shard.index, self.task.num_shards)
        self.files[name] = write_index(self.index, files.join(self.task.into, name))
        return Receipt(
            dataset=self.dataset.name,
            shard=self.task.shard.index,
            files=dict(sorted(self.files.items())),
            rows=self.rows,
            episodes=len(self.episodes),
            views=len(self.views),
            frames=self.frames,
            dead_letters=self.dead,
            statistics=self.statistics,
            stages=self.stages.to_dict(),
            texts=sorted({row["text"] for row in self.index}),
            slots=[int(i) for i in np.flatnonzero(self.mask)],
        )


def write_index(rows: list[dict[str, Any]], path: str) -> list[Any]:
    """Writes one part of the index; its size and digest."""
    table = pa.Table.from_pylist(rows, INDEX_SCHEMA)
    with files.local_write(path) as local:
        pq.write_table(table, local, compression="zstd")
        return files.digest(local)


def clipped_slots(clipped: np.ndarray) -> list[tuple[str, int]]:
    """int `[t, S]`, how often each frame's controls were clipped -> the index's column."""
    counts = clipped.sum(0).tolist()
    return [(controls.SLOTS[i].name, n) for i, n in enumerate(counts) if n]
