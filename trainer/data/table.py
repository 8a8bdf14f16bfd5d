"""`Table`: a prepared table on disk, with random access to its rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset

from schemas import Chunk, DataError, Manifest, Tier, UsageError, decode, did_you_mean
from schemas.columns import INDEX_SCHEMA
from schemas.record import digest
from schemas.table import MANIFEST, SPLITS, frames_file, index_file
from trainer.data import files
from trainer.data.records import Records

_COLUMNS = [
    "dataset",
    "split",
    "episode_id",
    "step",
    "num_frames",
    "fps",
    "is_first",
    "shard",
    "position",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Columns:
    """The index as arrays `[n]`, one value per row, a few dozen bytes together.

    Attributes:
        dataset: int16, place in `manifest.datasets`.
        split: int8, place in `schemas.table.SPLITS`.
        episode: int32, place in `episode_ids`.
        step: int32, of the chunk in its episode.
        num_frames: int16.
        fps: float32, 0 for a still image.
        is_first: bool.
        shard: int32, position: int64: where the record is, in every tier.
        episode_ids: the distinct ids.
    """

    dataset: np.ndarray
    split: np.ndarray
    episode: np.ndarray
    step: np.ndarray
    num_frames: np.ndarray
    fps: np.ndarray
    is_first: np.ndarray
    shard: np.ndarray
    position: np.ndarray
    episode_ids: pa.StringArray


class Table:
    """A committed table. Rows have numbers 0..n-1, in order of dataset, split, shard and position.

    The numbers depend on the table alone, not on how or by how many workers it was written; rows of
    one episode are neighbours. Many threads may read at once, and a table may be pickled.

    Args:
        path: the folder that `unisim prepare` wrote, or its URI.
        tier: which resolution to read, "24x40" or "24x40:raw"; None is the manifest's first.

    Raises:
        UsageError: if there is no manifest, or it does not fit the index, or has no such tier.
    """

    def __init__(self, path: str, tier: str | None = None):
        self.path = str(path).rstrip("/")
        name = f"{self.path}/{MANIFEST}"
        try:
            data = files.read(name)
        except (FileNotFoundError, NotADirectoryError) as e:
            raise UsageError(
                f"{self.path}: no {MANIFEST}, so this is no prepared table, or one that is not"
                " complete; run `unisim prepare` to its end (a second run resumes) and pass its"
                " output folder"
            ) from e
        self.manifest = Manifest.from_json(data.decode(errors="replace"), name)
        # the same when embeddings are added: a run may go on from before
        self.digest = digest(self.manifest.without_text().encode()).hex()
        self.tier = self._tier(tier)
        self.columns = self._read_index()
        self._continues = _continues(self.columns, self.path)
        self._records = Records()

    def __len__(self) -> int:
        return len(self.columns.step)

    @property
    def datasets(self) -> list[str]:
        """Names of the datasets, in the manifest's order."""
        return [d.name for d in self.manifest.datasets]

    def rows(self, split: str, dataset: str | None = None) -> np.ndarray:
        """int64 row numbers of a split, and of one dataset if it is named; may be empty.

        Raises:
            UsageError: for a name that does not exist.
        """
        chosen = self.columns.split == _place(split, list(SPLITS), "split", self.path)
        if dataset is not None:
            chosen &= self.columns.dataset == _place(dataset, self.datasets, "dataset", self.path)
        return np.flatnonzero(chosen)

    def previous(self, row: int) -> int | None:
        """The row before in the same episode, or None if the row is the episode's first."""
        return row - 1 if self._continues[row] else None

    def key(self, row: int) -> str:
        """`dataset/episode_id/step`, the row's name."""
        c = self.columns
        episode = c.episode_ids[int(c.episode[row])].as_py()
        return f"{self.datasets[c.dataset[row]]}/{episode}/{c.step[row]}"

    def fps(self) -> float:
        """The most common frame rate of its videos; 5 if there are only images."""
        rates, counts = np.unique(self.columns.fps[self.columns.fps > 0], return_counts=True)
        return float(rates[counts.argmax()]) if len(rates) else 5.0

    def chunk(self, row: int) -> Chunk:
        """The record of a row, frames still encoded. Raises as `chunks`."""
        return self.chunks([row])[0]

    def chunks(self, rows: Sequence[int]) -> list[Chunk]:
        """The records of rows, each file read once.

        Raises:
            UsageError: if a file or a record is damaged.
        """
        by_file: dict[str, list[int]] = {}
        for row in dict.fromkeys(rows):
            by_file.setdefault(self._file(row), []).append(row)
        found: dict[int, Chunk] = {}
        for path, members in by_file.items():
            records = self._records.read(path, self.columns.position[members].tolist())
            found |= {
                row: self._decode(row, path, data)
                for row, data in zip(members, records, strict=True)
            }
        return [found[row] for row in rows]

    def _decode(self, row: int, path: str, data: bytes) -> Chunk:
        try:
            chunk = decode(data, self.tier)
        except DataError as e:
            raise UsageError(
                f"{path}: record {self.columns.position[row]} is not {self.key(row)} ({e});"
                " run `unisim audit` on the table, then prepare it again"
            ) from e
        if chunk.key != self.key(row) or chunk.num_frames != self.columns.num_frames[row]:
            raise UsageError(
                f"{path}: record {self.columns.position[row]} is {chunk.key} with"
                f" {chunk.num_frames} frames, but the index says {self.key(row)} with"
                f" {self.columns.num_frames[row]}; run `unisim audit` on the table"
            )
        return chunk

    def _file(self, row: int) -> str:
        c = self.columns
        d = self.manifest.datasets[c.dataset[row]]
        name = frames_file(
            self.tier, d.name, d.version, SPLITS[c.split[row]], int(c.shard[row]), d.num_shards
        )
        return f"{self.path}/{name}"

    def _tier(self, wanted: str | None) -> Tier:
        tiers = {t.name: t for t in map(Tier.parse, self.manifest.tiers)}
        if wanted is None:
            return next(iter(tiers.values()))
        name = wanted.partition(":")[0]
        if name not in tiers or wanted not in (name, str(tiers[name])):
            have = ", ".join(map(str, tiers.values()))
            raise UsageError(
                f"{self.path}: has no tier {wanted!r}, it has {have}; name one of them with --tier,"
                " or prepare the table with that tier"
            )
        return tiers[name]

    def _read_index(self) -> Columns:
        filesystem, root = files.locate(self.path)
        parts = [
            f"{root}/{index_file(d.name, shard, d.num_shards)}"
            for d in self.manifest.datasets
            for shard in range(d.num_shards)
        ]
        try:
            index = pyarrow.dataset.dataset(parts, schema=INDEX_SCHEMA, filesystem=filesystem)
            columns = _sorted(index.to_table(columns=_COLUMNS), self.datasets)
        except (OSError, pa.ArrowInvalid, pa.ArrowTypeError) as e:
            raise UsageError(
                f"{self.path}: the index cannot be read ({str(e).splitlines()[0]}); restore the"
                " folder, or prepare the table again"
            ) from e
        counts = np.bincount(columns.dataset, minlength=len(self.datasets))
        for d, count in zip(self.manifest.datasets, counts, strict=True):
            if count != d.chunks:
                raise UsageError(
                    f"{self.path}: the index has {count} rows of {d.name}, the manifest says"
                    f" {d.chunks}; the folder is not what was committed: run `unisim audit` on it"
                )
        return columns


def _sorted(table: pa.Table, datasets: list[str]) -> Columns:
    """The index's rows in the table's order. Raises ArrowInvalid for an unknown dataset or split.

    Texts are turned into numbers first: a Python object per row would cost gigabytes.
    """

    def code(name: str, known: Sequence[str]) -> np.ndarray:
        codes = pc.index_in(table[name], value_set=pa.array(known))  # type: ignore[attr-defined]
        if codes.null_count:
            raise pa.ArrowInvalid(f"a {name} is none of {', '.join(known)}")
        return codes.to_numpy()

    def numbers(name: str, dtype: type) -> np.ndarray:
        return table[name].to_numpy().astype(dtype)[order]

    dataset, split = code("dataset", datasets), code("split", SPLITS)
    keys = (table["position"].to_numpy(), table["shard"].to_numpy(), split, dataset)
    order = np.lexsort(keys)
    episodes = table["episode_id"].combine_chunks().dictionary_encode()
    if isinstance(episodes, pa.ChunkedArray):  # a table of no rows
        episodes = pa.array([], pa.string()).dictionary_encode()
    return Columns(
        dataset=dataset.astype(np.int16)[order],
        split=split.astype(np.int8)[order],
        episode=episodes.indices.to_numpy()[order],
        step=numbers("step", np.int32),
        num_frames=numbers("num_frames", np.int16),
        fps=numbers("fps", np.float32),
        is_first=numbers("is_first", np.bool_),
        shard=numbers("shard", np.int32),
        position=numbers("position", np.int64),
        episode_ids=episodes.dictionary,
    )


def _continues(c: Columns, path: str) -> np.ndarray:
    """bool `[n]`: whether the row goes on with the episode of the row before it.

    Raises:
        UsageError: if a row is neither that nor its episode's first.
    """
    continues = ~c.is_first
    neighbours = np.zeros(len(continues), bool)
    neighbours[1:] = (
        (c.dataset[1:] == c.dataset[:-1])
        & (c.split[1:] == c.split[:-1])
        & (c.shard[1:] == c.shard[:-1])
        & (c.position[1:] == c.position[:-1] + 1)
        & (c.episode[1:] == c.episode[:-1])
        & (c.step[1:] == c.step[:-1] + 1)
    )
    torn = np.flatnonzero(continues & ~neighbours)
    if torn.size:
        row = int(torn[0])
        raise UsageError(
            f"{path}: step {c.step[row]} of episode {c.episode_ids[int(c.episode[row])]} does not"
            " stand behind the step before it; run `unisim audit` on the table"
        )
    return continues


def _place(name: str, known: list[str], kind: str, path: str) -> int:
    if name not in known:
        raise UsageError(f"{path}: has no {kind} {name!r}, {did_you_mean(name, known)}")
    return known.index(name)
