"""`Table`: prepared tables on disk as one, with random access to their rows."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import os
from collections.abc import Sequence

import numpy as np

from schemas import (
    Chunk,
    DataError,
    DatasetInfo,
    EncoderInfo,
    Manifest,
    Tier,
    UsageError,
    decode,
    did_you_mean,
)
from schemas.record import digest
from schemas.table import MANIFEST, SPLITS, frames_file, index_file
from trainer.data import files
from trainer.data.records import Records
from trainer.data.stored import Stored


@dataclasses.dataclass(frozen=True, kw_only=True)
class Span:
    """The rows of one split of one dataset of one table: neighbours, shard after shard.

    Attributes:
        root: the table's folder.
        dataset: in that table.
        split: its name.
        rows: their numbers.
        starts: of each shard among them, and their number: `[shards + 1]`.
    """

    root: str
    dataset: DatasetInfo
    split: str
    rows: range
    starts: list[int]

    def file(self, shard: int, tier: Tier) -> str:
        """Where the records of a shard are."""
        d = self.dataset
        name = frames_file(tier, d.name, d.version, self.split, shard, d.num_shards)
        return f"{self.root}/{name}"

    def index_files(self) -> list[str]:
        """The parts of the index that tell of its rows, and of the other splits' too."""
        d = self.dataset
        return [f"{self.root}/{index_file(d.name, k, d.num_shards)}" for k in range(d.num_shards)]


class Table:
    """A committed table, or several as one. Rows have numbers 0..n-1, in order of table, dataset,
    split, shard and position.

    The numbers depend on the tables alone, not on how or by how many workers they were written;
    rows of one episode are neighbours. Nothing is kept per row: where a row is follows from what
    the manifest counts, and what it is from its record. Datasets of one name are one, whatever
    table they are in. Many threads may read at once, and a table may be pickled.

    Args:
        paths: the folder that `unisim prepare` wrote, or its URI; or several.
        tier: which resolution to read, "24x40" or "24x40:raw"; None is the first manifest's first.

    Raises:
        UsageError: if there is no manifest, or it has no such tier.
    """

    def __init__(self, paths: str | Sequence[str], tier: str | None = None):
        roots = [paths] if isinstance(paths, str) else list(paths)
        self.paths = [str(path).rstrip("/") for path in roots]
        self.path = " + ".join(self.paths)
        self._stamps = [files.stamp(f"{path}/{MANIFEST}") for path in self.paths]
        self.manifests = [_manifest(path) for path in self.paths]
        tiers = [
            _tier(path, manifest, tier)
            for path, manifest in zip(self.paths, self.manifests, strict=True)
        ]
        self.tier = tiers[0]
        if len(set(tiers)) > 1:
            raise UsageError(
                f"{self.path}: have {', '.join(map(str, tiers))}; name one with --tier"
            )
        for path in self.paths:
            _check_there(path, self.tier)
        digests = list(map(_digest, self.manifests))
        self.digest = (digests[0] if len(digests) == 1 else digest(b"".join(digests))).hex()
        self.spans = list(_spans(self.paths, self.manifests))
        self._firsts = [span.rows.start for span in self.spans]
        self._files: dict[tuple[int, int], str] = {}  # names that were asked for
        self._whole, self._parts = Records(), Records(in_place=True)

    def __len__(self) -> int:
        return self.spans[-1].rows.stop if self.spans else 0

    def check_unchanged(self) -> None:
        """Raises UsageError if the records on disk are not, or may soon be not, those that it found
        when it was opened. What was read before this is told here was still of them, as who changes
        a table takes its manifest away first."""
        for i, (path, manifest) in enumerate(zip(self.paths, self.manifests, strict=True)):
            name = f"{path}/{MANIFEST}"
            stamp = files.stamp(name)
            if stamp == self._stamps[i]:
                continue
            try:
                found = Manifest.from_json(files.read(name).decode(errors="replace"), name)
                same = _digest(found) == _digest(manifest)
            except FileNotFoundError:
                same = False
            if not same:
                raise UsageError(
                    f"{path}: was changed since it was opened; begin anew on what it is now, or put"
                    " back what it was (train on a copy of `unisim stage` where tables grow)"
                )
            self._stamps[i] = stamp  # embeddings were added

    @property
    def datasets(self) -> list[str]:
        """Names of the datasets, in the manifests' order."""
        return list(dict.fromkeys(d.name for m in self.manifests for d in m.datasets))

    def spans_of(self, split: str, dataset: str | None = None) -> list[Span]:
        """Where a split's rows are, and of one dataset if it is named.

        Raises:
            UsageError: for a name that does not exist.
        """
        _check(split, list(SPLITS), "split", self.path)
        if dataset is not None:
            _check(dataset, self.datasets, "dataset", self.path)
        return [s for s in self.spans if s.split == split and dataset in (None, s.dataset.name)]

    def count(self, split: str, dataset: str | None = None) -> int:
        """How many rows `rows` would have."""
        return sum(len(span.rows) for span in self.spans_of(split, dataset))

    def rows(self, split: str, dataset: str | None = None) -> np.ndarray:
        """int64 row numbers of a split, and of one dataset if it is named; may be empty.

        Raises:
            UsageError: for a name that does not exist.
        """
        parts = [np.arange(s.rows.start, s.rows.stop) for s in self.spans_of(split, dataset)]
        return np.concatenate([np.zeros(0, np.int64), *parts])

    def place(self, row: int) -> tuple[str, int]:
        """The file of a row's record, and its position there; both are the same at every tier but
        for the folder."""
        at = bisect.bisect_right(self._firsts, row) - 1
        span = self.spans[at]
        inside = row - span.rows.start
        shard = bisect.bisect_right(span.starts, inside) - 1
        path = self._files.get((at, shard))
        if path is None:
            path = self._files[at, shard] = span.file(shard, self.tier)
        return path, inside - span.starts[shard]

    def encoder(self, name: str | None = None) -> EncoderInfo:
        """An encoder of whose embeddings every table has some; None is the first table's own.

        Raises:
            UsageError: if a table has none of that encoder.
        """
        first = self.manifests[0].encoder(name)
        for path, manifest in zip(self.paths[1:], self.manifests[1:], strict=True):
            if not any(first.same_rows(encoder) for encoder in manifest.encoders):
                raise UsageError(
                    f"{path}: has no embeddings by {first.name} of {self.paths[0]}; add them with"
                    " `unisim embed`, or choose another --encoder"
                )
        return first

    def key(self, row: int) -> str:
        """`dataset/episode_id/step`, the row's name, from its record. Raises as `chunks`."""
        return self.chunk(row).key

    def fps(self) -> float:
        """The most common frame rate of its videos; 5 if there are only images. A dataset has one
        rate for all of its videos, so the first row of each tells it."""
        seen = {s.dataset.name: s.rows.start for s in reversed(self.spans) if s.rows}
        counts: dict[float, int] = {}
        for name, row in seen.items():
            if (fps := self.chunk(row).fps) > 0:
                counts[fps] = counts.get(fps, 0) + sum(
                    len(s.rows) for s in self.spans if s.dataset.name == name
                )
        return max(counts, key=lambda fps: (counts[fps], -fps), default=5.0)

    def chunk(self, row: int) -> Chunk:
        """The record of a row, frames still encoded. Raises as `chunks`."""
        return self.chunks([row])[0]

    def chunks(self, rows: Sequence[int]) -> list[Chunk]:
        """The records of rows, each file read once.

        Raises:
            UsageError: if a file or a record is damaged.
        """
        by_file: dict[str, list[tuple[int, int]]] = {}
        for row in dict.fromkeys(map(int, rows)):
            path, position = self.place(row)
            by_file.setdefault(path, []).append((row, position))
        found: dict[int, Chunk] = {}
        for path, members in by_file.items():
            positions = [position for _, position in members]
            records = self._whole.read(path, positions)
            for (row, position), data in zip(members, records, strict=True):
                found[row] = self._decode(row, path, position, data)
        return [found[int(row)] for row in rows]

    def stored(self, row: int) -> Stored:
        """A row's record, to be read in parts, straight from its file where that allows it; then
        no digest is checked. Best within `records.reading`.

        Raises:
            DataError, ValueError, IndexError, OSError, RuntimeError: if it is missing or damaged.
        """
        path, position = self.place(row)
        return Stored(self._parts.record(path, position), self.tier)

    def _decode(self, row: int, path: str, position: int, data: bytes) -> Chunk:
        span = self.spans[bisect.bisect_right(self._firsts, row) - 1]
        try:
            chunk = decode(data, self.tier)
            if (chunk.dataset, chunk.split) != (span.dataset.name, span.split):
                raise DataError(f"it is {chunk.key} of split {chunk.split}")
        except DataError as e:
            raise UsageError(
                f"{path}: record {position} is none of {span.dataset.name}, split {span.split}"
                f" ({e}); run `unisim audit` on the table, then prepare it again"
            ) from e
        return chunk


def _manifest(path: str) -> Manifest:
    name = f"{path}/{MANIFEST}"
    try:
        data = files.read(name)
    except (FileNotFoundError, NotADirectoryError) as e:
        raise UsageError(
            f"{path}: no {MANIFEST}, so this is no prepared table, or one that is not complete; run"
            " `unisim prepare` to its end (a second run resumes) and pass its output folder"
        ) from e
    return Manifest.from_json(data.decode(errors="replace"), name)


def _digest(manifest: Manifest) -> bytes:
    """The same when embeddings are added: a run may go on from before."""
    return digest(manifest.without_text().encode())


def _tier(path: str, manifest: Manifest, wanted: str | None) -> Tier:
    tiers = {t.name: t for t in map(Tier.parse, manifest.tiers)}
    if wanted is None:
        return next(iter(tiers.values()))
    name = wanted.partition(":")[0]
    if name not in tiers or wanted not in (name, str(tiers[name])):
        have = ", ".join(map(str, tiers.values()))
        raise UsageError(
            f"{path}: has no tier {wanted!r}, it has {have}; name one of them with --tier, or"
            " prepare the table with that tier"
        )
    return tiers[name]


def _check_there(path: str, tier: Tier) -> None:
    """A copy may have been made of some tiers only."""
    folder = f"{path}/frames-{tier.name}"
    if "://" not in path and not os.path.isdir(folder):
        raise UsageError(
            f"{folder}: is not there; if this is a copy, `unisim stage --tier {tier.name}` adds it,"
            " else `unisim audit` tells what is lost"
        )


def _spans(paths: list[str], manifests: list[Manifest]):
    first = 0
    for path, manifest in zip(paths, manifests, strict=True):
        for dataset, split in itertools.product(manifest.datasets, SPLITS):
            starts = [0, *itertools.accumulate(dataset.shard_rows.get(split, []))]
            rows = range(first, first + starts[-1])
            counted = sum(map(sum, dataset.shard_rows.values()))
            if counted != dataset.chunks:
                raise UsageError(
                    f"{path}: the shards of {dataset.name} have {counted} rows, the dataset"
                    f" {dataset.chunks}; {MANIFEST} was changed: run `unisim audit` on the table"
                )
            yield Span(root=path, dataset=dataset, split=split, rows=rows, starts=starts)
            first = rows.stop


def _check(name: str, known: list[str], kind: str, path: str) -> None:
    if name not in known:
        raise UsageError(f"{path}: has no {kind} {name!r}, {did_you_mean(name, known)}")
