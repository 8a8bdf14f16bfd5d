"""The order of samples: a function of (table, weights, seed, position) alone.

Which rows the batch of step n holds can be named without reading pixels or replaying the steps
before, and depends neither on threads nor on the number of processes. Datasets are interleaved in
proportion to their weights, never a whole sample away from them, and each is shuffled anew in each
of its epochs. Nothing is kept but the rows of the split and one short schedule.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import grain.experimental
import numpy as np

from schemas import UsageError
from schemas.record import digest
from trainer.data.table import Table

OTHER_WEIGHT = 0.05
_PERIOD = 10_000
_ROUNDS = 4  # of the Feistel cipher that shuffles


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

    Shares are whole multiples of 1/n for some n up to 10,000; weights that are none are rounded.

    Raises:
        UsageError: if a weight is negative or there is nothing to draw from, or less than a batch.
    """
    counts = _counts(table, spec)
    return {name: count / sum(counts.values()) for name, count in counts.items()}


class Order:
    """The row numbers of all samples, one after another, without end. Raises as `mixture`.

    Args:
        table: whose rows are drawn.
        spec: how.
    """

    def __init__(self, table: Table, spec: OrderSpec):
        counts = _counts(table, spec)
        self._rows = [table.rows(spec.split, name) for name in counts]
        self._seeds = [_seed(spec.seed, name) for name in counts]
        self._schedule, self._before = schedule(tuple(counts.values()))
        self._per_period = list(counts.values())

    def rows(self, positions: Sequence[int] | np.ndarray) -> np.ndarray:
        """int64 `[n]`: the rows of the samples at these positions, each from 0 up."""
        return np.array([self._row(int(position)) for position in positions], np.int64)

    def _row(self, position: int) -> int:
        period, at = divmod(position, len(self._schedule))
        dataset = self._schedule[at]
        rows = self._rows[dataset]
        drawn = period * self._per_period[dataset] + int(self._before[at])
        epoch, index = divmod(drawn, len(rows))
        seed = (self._seeds[dataset] + epoch) % 2**32
        shuffle = grain.experimental.index_shuffle
        return int(rows[shuffle(index, max_index=len(rows) - 1, seed=seed, rounds=_ROUNDS)])


def rows_at(table: Table, spec: OrderSpec, step: int) -> np.ndarray:
    """int64 `[batch_size]`: the rows of the batch of one step, over all processes."""
    first = step * spec.batch_size
    return Order(table, spec).rows(range(first, first + spec.batch_size))


@functools.lru_cache(maxsize=8)
def schedule(counts: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Whose turn it is at each position of a period, and how often it was theirs before in it.

    After any number of positions, each has had its share of them to less than one turn; after the
    whole period, exactly its count. This is the chairman assignment of Tijdeman (1980, "The
    chairman assignment problem", section 2), in whole numbers.

    Args:
        counts: turns of each in a period, 1 or more.

    Returns:
        Two int64 `[sum of counts]`.
    """
    share, total, k = np.array(counts, np.int64), sum(counts), len(counts)
    unit = 2 * max(k - 1, 1)  # 1 - 1/unit is how far anyone may be from their share
    had = np.zeros(k, np.int64)
    turns, before = np.zeros(total, np.int64), np.zeros(total, np.int64)
    for n in range(total):
        owed = unit * (share * (n + 1) - had * total)
        # positions until it would be too late, among those that it is not too early for
        patience = (unit * total - total - owed) / share
        patience[owed < total] = np.inf
        chosen = int(patience.argmin()) if k > 1 else 0
        turns[n], before[n] = chosen, had[chosen]
        had[chosen] += 1
    return turns, before


def _counts(table: Table, spec: OrderSpec) -> dict[str, int]:
    """Turns of each dataset in a period, by name. Raises as `mixture`."""
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
    return dict(zip(weights, whole_shares(list(weights.values())), strict=True))


def whole_shares(weights: Sequence[float]) -> list[int]:
    """Whole numbers, 1 or more, in proportion to positive weights: the smallest that are so to a
    billionth, else the nearest that add up to about 10,000."""
    shares = np.array(weights, np.float64) / np.sum(weights)
    totals = np.arange(1, _PERIOD + 1)[:, None]
    fits = np.abs(totals * shares - np.round(totals * shares)).max(1) < 1e-9 * totals[:, 0]
    fits &= (np.round(totals * shares) >= 1).all(1)
    total = int(totals[fits.argmax(), 0]) if fits.any() else _PERIOD
    return np.maximum(np.round(total * shares), 1).astype(int).tolist()


def _seed(seed: int, dataset: str) -> int:
    """A dataset's own seed: neighbouring seeds and equal lengths must not give equal shuffles."""
    return int.from_bytes(digest(f"{seed}/{dataset}".encode())[:4], "little")
