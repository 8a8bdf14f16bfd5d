"""The batches of a run, read ahead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import SupportsIndex

import grain
import numpy as np

from schemas import UsageError
from trainer.data.example import Example, ExampleMaker
from trainer.data.order import Order, OrderSpec

_FOREVER = 2**62


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
    source = _Batches(maker, spec, process_index, process_count)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(grain.MapDataset.source(source).to_iter_dataset(options))


def stack(examples: Sequence[Example]) -> Example:
    """Examples as one batch."""
    return {name: np.stack([e[name] for e in examples]) for name in examples[0]}


class _Batches:
    """A process's share of every batch as a Grain data source: element n is that of step n, its
    records read in few reads."""

    def __init__(self, maker: ExampleMaker, spec: OrderSpec, process: int, count: int):
        self._maker, self._order = maker, Order(maker.table, spec)
        self._size, self._share = spec.batch_size, slice(process, None, count)

    def __len__(self) -> int:
        return _FOREVER

    def __getitem__(self, index: SupportsIndex) -> Example:
        first = int(index) * self._size
        positions = range(first, first + self._size)[self._share]
        return stack(self._maker.examples(self._order.rows(positions).tolist()))

    def __repr__(self) -> str:
        return f"batches of {self._size} from {self._maker.table.path}"
