"""What a finished shard leaves behind besides its files: counts, statistics, losses, texts.

Receipts are small, travel through the Beam graph in place of pixels, and lie in `_work/receipts`
until the commit, so that a killed job goes on where it was. The counts among them stay in the
table, in shards.parquet: a change of it counts only the shards that it makes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from pipelines import files
from schemas import Chunk
from schemas.controls import NUM_SLOTS, SLOTS
from schemas.table import WORK, dump_json


@dataclasses.dataclass
class SlotStatistics:
    """Count, sum, sum of squares, least and greatest of each control slot, float64 `[S]`, and how
    many of its values were clipped."""

    count: list[int] = dataclasses.field(default_factory=lambda: [0] * NUM_SLOTS)
    total: list[float] = dataclasses.field(default_factory=lambda: [0.0] * NUM_SLOTS)
    squares: list[float] = dataclasses.field(default_factory=lambda: [0.0] * NUM_SLOTS)
    least: list[float] = dataclasses.field(default_factory=lambda: [np.inf] * NUM_SLOTS)
    greatest: list[float] = dataclasses.field(default_factory=lambda: [-np.inf] * NUM_SLOTS)
    clipped: list[int] = dataclasses.field(default_factory=lambda: [0] * NUM_SLOTS)

    def add(self, controls: np.ndarray, mask: np.ndarray, clipped: np.ndarray) -> None:
        """Counts in controls `[n, S]`, of which int `[S]` were clipped."""
        values = controls.astype(np.float64)
        for i in np.flatnonzero(mask) if len(values) else ():
            column = values[:, i]
            self.count[i] += len(column)
            self.total[i] += float(column.sum())
            self.squares[i] += float((column**2).sum())
            self.least[i] = min(self.least[i], float(column.min()))
            self.greatest[i] = max(self.greatest[i], float(column.max()))
        self.clipped = [a + int(b) for a, b in zip(self.clipped, clipped, strict=True)]

    def add_chunk(self, chunk: Chunk, clipped: np.ndarray) -> None:
        """Counts in a record's controls, of which int `[S]` were clipped."""
        # the first frame of an episode has no motion behind it
        after = slice(1, None) if chunk.is_first else slice(None)
        self.add(chunk.controls[after], chunk.control_mask, clipped)

    def merge(self, other: SlotStatistics) -> None:
        """Adds what another shard counted. Merge in shard order: float sums depend on it."""
        for name in ("count", "total", "squares", "clipped"):
            pairs = zip(getattr(self, name), getattr(other, name), strict=True)
            setattr(self, name, [a + b for a, b in pairs])
        self.least = [min(a, b) for a, b in zip(self.least, other.least, strict=True)]
        self.greatest = [max(a, b) for a, b in zip(self.greatest, other.greatest, strict=True)]

    def summary(self) -> dict[str, dict[str, float]]:
        """Slot name -> min, max, mean, std, for the slots that were seen."""
        result = {}
        for i, n in enumerate(self.count):
            if n:
                mean = self.total[i] / n
                std = max(self.squares[i] / n - mean**2, 0.0) ** 0.5
                values = {"min": self.least[i], "max": self.greatest[i], "mean": mean, "std": std}
                result[SLOTS[i].name] = values
        return result


@dataclasses.dataclass(frozen=True, kw_only=True)
class Receipt:
    """One finished shard.

    Attributes:
        dataset, shard: which.
        files: path relative to the table -> [bytes, hex BLAKE2b-128].
        rows: split -> rows written.
        episodes, views, frames: totals.
        dead_letters: rows of `schemas.columns.DEAD_LETTER_SCHEMA`.
        statistics: of the controls.
        texts: the distinct action texts, sorted.
        slots: indices of control slots that some mask set.
        stages: what making it took, as `Stages.to_dict` has it; empty where that is not known.
    """

    dataset: str
    shard: int
    files: dict[str, list[Any]]
    rows: dict[str, int]
    episodes: int
    views: int
    frames: int
    dead_letters: list[dict[str, Any]]
    statistics: SlotStatistics
    texts: list[str]
    slots: list[int]
    stages: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict, compare=False)

    @property
    def lost(self) -> int:
        """Episodes lost that count against the budget."""
        return sum(letter["episodes"] for letter in self.dead_letters)

    def save(self, out: str) -> None:
        """Writes the receipt: from now on the shard is done."""
        value = dump_json(dataclasses.asdict(self))
        files.write(path_of(out, self.dataset, self.shard), value.encode())


def path_of(out: str, dataset: str, shard: int) -> str:
    """Where a shard's receipt lies."""
    return files.join(out, WORK, "receipts", f"{dataset}-{shard:05d}.json")


def load(out: str, dataset: str, shard: int, into: str | None = None) -> Receipt | None:
    """The shard's receipt, if it is finished and its files are there at their size.

    Args:
        into: the folder that the files are in; None for the table's own.
    """
    path = path_of(out, dataset, shard)
    if not files.exists(path):
        return None
    value = json.loads(files.read(path))
    value["statistics"] = SlotStatistics(**value["statistics"])
    receipt = Receipt(**value)
    for name, (size, _) in receipt.files.items():
        there = files.join(into or out, name)
        if not files.exists(there) or files.size(there) != size:
            return None
    return receipt


def load_all(out: str, wanted: Iterable[tuple[str, int]], into: str | None = None) -> list[Receipt]:
    """Those of the (dataset, shard) that are finished, in order."""
    found = (load(out, dataset, shard, into) for dataset, shard in wanted)
    return [receipt for receipt in found if receipt is not None]
