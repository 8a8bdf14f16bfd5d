"""One shard of a table, in one worker: every check that needs no other shard."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.audit import content, embeddings, integrity, rules, texts
from pipelines.audit.check import Family, Finding
from pipelines.audit.leak import Look, Looks
from pipelines.audit.limits import Limits
from pipelines.audit.opened import Opened
from pipelines.audit.record import Record
from pipelines.audit.rights import Licence
from pipelines.audit.rows import Rows
from pipelines.audit.statistics import Statistics
from pipelines.audit.texts import Scripts
from schemas import DataError, DatasetInfo, Tier
from schemas.table import frames_file, index_file

_ROWS = 64  # at a time
_WHOLE = 2**64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scope:
    """What an audit looks at.

    Attributes:
        out: the table's folder.
        families: of the checks that are made.
        sample: which part of the episodes is read; the index is read whole.
        limits: as in `limits.toml`.
    """

    out: str
    families: tuple[Family, ...]
    sample: float
    limits: Limits

    def reads(self, row: dict[str, Any]) -> bool:
        """Whether the row's episode is read: a function of its name alone."""
        if self.sample >= 1:
            return True
        name = f"{row['dataset']}/{row['episode_id'].rsplit('@', 1)[0]}".encode()
        value = hashlib.blake2b(name, digest_size=8).digest()
        return int.from_bytes(value, "little") < self.sample * _WHOLE


@dataclasses.dataclass
class Shard:
    """What one shard told.

    Attributes:
        dataset: its name.
        totals: chunks, frames, views, episodes and clipped controls, by the index.
        statistics, scripts, licences, looks: for what is compared across shards.
        texts: keys of its texts, two at most.
        read: records of all tiers that were read.
    """

    dataset: str
    totals: dict[str, int] = dataclasses.field(default_factory=dict)
    statistics: Statistics = dataclasses.field(default_factory=Statistics)
    scripts: Scripts = dataclasses.field(default_factory=Scripts)
    licences: dict[str, Licence] = dataclasses.field(default_factory=dict)
    looks: list[Look] = dataclasses.field(default_factory=list)
    texts: set[bytes] = dataclasses.field(default_factory=set)
    read: int = 0


class ShardAudit:
    """The audit of one shard.

    Args:
        tick: told how many records were read since it was last called.
    """

    def __init__(
        self,
        table: Opened,
        dataset: DatasetInfo,
        shard: int,
        scope: Scope,
        tick: Callable[[int], None] = lambda records: None,
    ):
        self._table, self._dataset, self._shard, self._scope = table, dataset, shard, scope
        self._tick = tick
        self.told = Shard(dataset.name)
        self._checks: list[Callable[[Record], Iterator[Finding]]] = []
        if "integrity" in scope.families:
            self._checks += integrity.RECORD
        if "schema" in scope.families:
            self._checks += rules.RECORD
        if "content" in scope.families:
            limits = scope.limits
            both = (*texts.RECORD, *content.RECORD)
            self._checks += [functools.partial(each, limits=limits) for each in both]

    def run(self) -> Iterator[Finding]:
        """Everything that is wrong; `told` is complete when it ends."""
        return (each for each in self._run() if each.family in self._scope.families)

    def _run(self) -> Iterator[Finding]:
        table, dataset = self._table, self._dataset
        whole = self._scope.sample >= 1 and "integrity" in self._scope.families
        yield from integrity.file_digests(table, self._files(), whole=whole)
        try:
            index = table.index(dataset.name, self._shard, dataset.num_shards)
        except DataError as e:
            name = index_file(dataset.name, self._shard, dataset.num_shards)
            yield integrity.UNREADABLE.found(name, e.reason)
            return
        views: set[str] = set()
        for split in dataset.shard_rows:
            rows = index.filter(pc.field("split") == split).sort_by("position")
            yield from self._split(split, rows, views)
        other = set(index["split"].unique().to_pylist()) - dataset.shard_rows.keys()
        for split in sorted(map(str, other)):
            yield integrity.ROWS.found(self._name, f"rows of split {split!r}, which it has not")
        self._totals(index, views)

    @property
    def _name(self) -> str:
        return f"{self._dataset.name} shard {self._shard}"

    def _files(self) -> list[str]:
        dataset, shard = self._dataset, self._shard
        names = [index_file(dataset.name, shard, dataset.num_shards)]
        return names + [
            self._frames(tier, split) for split in dataset.shard_rows for tier in self._table.tiers
        ]

    def _frames(self, tier: Tier, split: str) -> str:
        d = self._dataset
        return frames_file(tier, d.name, d.version, split, self._shard, d.num_shards)

    def _split(self, split: str, rows: pa.Table, views: set[str]) -> Iterator[Finding]:
        listed = self._dataset.shard_rows[split][self._shard]
        if not np.array_equal(rows["position"].to_numpy(), np.arange(listed)):
            message = f"{len(rows)} rows of split {split}, the manifest says {listed}"
            yield integrity.ROWS.found(self._name, message)
        episodes, looks, keys = rules.Episodes(), Looks(), self._keys()
        before: Record | None = None
        names = {tier: self._frames(tier, split) for tier in self._table.tiers}
        with Rows(self._table, self._dataset, names) as reader:
            for start in range(0, len(rows), _ROWS):
                part = rows.slice(start, _ROWS).to_pylist()
                yield from self._rows(part, episodes, keys)
                chosen = [row for row in part if self._scope.reads(row)]
                for record in reader.read(chosen):
                    record.before = _before(before, record)
                    yield from self._record(record, looks)
                    before = record
                yield from reader.findings()
                self._tick(len(chosen) * len(self._table.tiers))
            yield from reader.counts(listed)
        yield from episodes.end()
        views |= episodes.views
        self.told.looks += looks.found

    def _keys(self) -> dict[str, np.ndarray]:
        found = {}
        for info in self._table.manifest.encoders:
            try:
                found[info.name] = self._table.keys(info)
            except DataError:
                continue  # said once, of the encoder
        return found

    def _rows(
        self, rows: list[dict[str, Any]], episodes: rules.Episodes, keys: dict[str, np.ndarray]
    ) -> Iterator[Finding]:
        """What the index alone tells."""
        yield from episodes.rows(rows)
        yield from embeddings.missing(self._table, rows, keys)
        for row in rows:
            self.told.statistics.add_row(row)
            self.told.scripts.add(row)
            known = self.told.licences.get(row["license"])
            first = known.first if known else {k: row[k] for k in ("dataset", "episode_id", "step")}
            self.told.licences[row["license"]] = Licence(known.records + 1 if known else 1, first)
            if len(self.told.texts) < 2:
                self.told.texts.add(row["text_key"])

    def _record(self, record: Record, looks: Looks) -> Iterator[Finding]:
        for each in self._checks:
            yield from each(record)
        if "content" in self._scope.families or "drift" in self._scope.families:
            self.told.statistics.add_record(record)
        if "content" in self._scope.families:
            looks.add(dict(record.row), record.gray)
        self.told.read += len(record.data)
        record.end()

    def _totals(self, index: pa.Table, views: set[str]) -> None:
        self.told.totals = {
            "chunks": len(index),
            "frames": int(index["num_frames"].to_numpy().sum()),
            "views": len(views),
            "episodes": len({name.rsplit("@", 1)[0] for name in views}),
            "clipped controls": int(index["clipped"].to_numpy().sum()),
        }


def _before(before: Record | None, record: Record) -> Record | None:
    """The record before it, if that is the step before it in its episode."""
    if before is None:
        return None
    same = before.row["episode_id"] == record.row["episode_id"]
    return before if same and before.row["step"] + 1 == record.row["step"] else None
