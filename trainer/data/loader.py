"""The order of samples, and the batches in that order.

Which rows the batch of step n holds is a function of (table, weights, seed, n) alone: it can be
named without reading pixels or replaying the steps before, and depends neither on threads nor on
the number of processes. Every dataset is shuffled anew in each of its epochs, and datasets are
interleaved in proportion to their weights.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence

import grain
import numpy as np

from schemas import UsageError
from schemas.record import digest
from trainer.data.example import Example, ExampleMaker
from trainer.data.source import TableSource
from trainer.data.table import Table

OTHER_WEIGHT = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class OrderSpec:
    """What fixes the order of samples.

    Attributes:
        split: "train", "val" or "test".
        weights: dataset name -> mixture weight; empty weighs all alike. A dataset that it does not
            name weighs `OTHER_WEIGHT`, a weight of 0 leaves the dataset out, and datasets that the
            table lacks are ignored.
        batch_size: samples of a step, over all processes.
        seed: of the shuffles, 0..2^32-1.
    """

    split: str
    weights: Mapping[str, float]
    batch_size: int
    seed: int


def mixture(table: Table, spec: OrderSpec) -> dict[str, float]:
    """Share of each dataset in the samples, adding up to 1; those without rows are left out.

    Raises:
        UsageError: if a weight is negative or there is nothing to draw from, or less than a batch.
    """
    for name, weight in spec.weights.items():
        if not (np.isfinite(weight) and weight >= 0):
            raise UsageError(f"weight of {name} is {weight}, wanted a number from 0 up")
    rows = {name: len(table.rows(spec.split, name)) for name in table.datasets}
    weights = {
        name: spec.weights.get(name, OTHER_WEIGHT if spec.weights else 1.0)
        for name, count in rows.items()
        if count
    }
    weights = {name: weight for name, weight in weights.items() if weight}
    available = sum(rows[name] for name in weights)
    if available < spec.batch_size or not available:
        raise UsageError(
            f"{table.path}: split {spec.split} has {available} samples in the datasets that have a"
            f" weight, fewer than a batch of {spec.batch_size}; lower --batch-size, or prepare"
            " more data"
        )
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


def order(table: Table, spec: OrderSpec) -> grain.MapDataset[np.int64]:
    """The row numbers of all samples, one after another, without end. Raises as `mixture`."""
    shares = mixture(table, spec)
    shuffled = [
        grain.MapDataset.source(_Rows(table.rows(spec.split, name)))
        .shuffle(seed=_seed(spec.seed, name))
        .repeat()
        for name in shares
    ]
    return grain.MapDataset.mix(shuffled, list(shares.values()))


def rows_at(table: Table, spec: OrderSpec, step: int) -> np.ndarray:
    """int64 `[batch_size]`: the rows of the batch of one step, over all processes."""
    rows, first = order(table, spec), step * spec.batch_size
    return np.array([rows[first + i] for i in range(spec.batch_size)])


def batches(
    maker: ExampleMaker,
    spec: OrderSpec,
    *,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
) -> grain.DatasetIterator[Example]:
    """The batches of steps 0, 1, 2, … : examples with a leading dimension of this process's share.

    The iterator's `get_state` and `set_state` name the next step; read-ahead does not change them.

    Args:
        process_index, process_count: process p takes samples p, p + count, … of every batch.
        threads: that read ahead; 0 reads when asked.

    Raises:
        UsageError: as `mixture`, and if the batch does not divide over the processes.
    """
    if spec.batch_size % process_count:
        raise UsageError(
            f"a batch of {spec.batch_size} does not divide over {process_count} processes;"
            " change --batch-size"
        )
    source = TableSource(maker)

    def load(rows: np.ndarray) -> Example:
        return stack(source._getitems(rows.tolist()))

    mine = order(maker.table, spec)[process_index : sys.maxsize : process_count]
    # rows are batched before they are read, so that a batch's records come in few reads
    loaded = mine.batch(spec.batch_size // process_count).map(load)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(loaded.to_iter_dataset(options))


def stack(examples: Sequence[Example]) -> Example:
    """Examples as one batch."""
    return {name: np.stack([e[name] for e in examples]) for name in examples[0]}


class _Rows:
    """Row numbers as a Grain data source: eight bytes a row, no list of Python integers."""

    def __init__(self, rows: np.ndarray):
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> np.int64:
        return self._rows[index]


def _seed(seed: int, dataset: str) -> int:
    """A dataset's own seed: neighbouring seeds and equal lengths must not give equal shuffles."""
    return int.from_bytes(digest(f"{seed}/{dataset}".encode())[:4], "little")
