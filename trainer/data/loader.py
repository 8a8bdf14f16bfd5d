"""The batches of a run, read ahead."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import SupportsIndex

import grain

from schemas import Tier
from trainer.data.example import Example, ExampleMaker
from trainer.data.order import Order

_FOREVER = 2**62


def batches(
    maker: ExampleMaker,
    order: Order,
    *,
    places: Sequence[int] | None = None,
    threads: int = 2,
) -> grain.DatasetIterator[Example]:
    """The batches of steps 0, 1, 2, … : examples with a leading dimension of `places`.

    The iterator's `get_state` and `set_state` name the next step; read-ahead does not change them.

    Args:
        places: which samples of every batch this process takes, each from 0 up; None is all.
        threads: that read ahead; 0 reads when asked.
    """
    source = _Batches(maker, order, range(order.batch_size) if places is None else places)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(grain.MapDataset.source(source).to_iter_dataset(options))


def threads_for(tier: Tier) -> int:
    """How many threads read a tier fastest: raw frames come as fast as one asks for them, and more
    would only wait for each other; pictures are decoded by all cores."""
    return 1 if tier.encoding == "raw" else os.cpu_count() or 1


class _Batches:
    """A process's share of every batch as a Grain data source: element n is step n's."""

    def __init__(self, maker: ExampleMaker, order: Order, places: Sequence[int]):
        self._maker, self._order, self._places = maker, order, places

    def __len__(self) -> int:
        return _FOREVER

    def __getitem__(self, index: SupportsIndex) -> Example:
        return self._maker.batch(self._order.batch(int(index), self._places))

    def __repr__(self) -> str:
        return f"batches of {len(self._places)} from {self._maker.table.path}"
