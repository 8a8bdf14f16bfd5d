"""The batches of a run, read ahead."""

from __future__ import annotations

from typing import SupportsIndex

import grain

from schemas import UsageError
from trainer.data.example import Example, ExampleMaker
from trainer.data.order import Order

_FOREVER = 2**62


def batches(
    maker: ExampleMaker,
    order: Order,
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
        UsageError: if the batch does not divide over the processes.
    """
    if order.batch_size % process_count:
        raise UsageError(
            f"a batch of {order.batch_size} does not divide over {process_count} processes;"
            " change --batch-size"
        )
    source = _Batches(maker, order, process_index, process_count)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(grain.MapDataset.source(source).to_iter_dataset(options))


class _Batches:
    """A process's share of every batch as a Grain data source: element n is that of step n."""

    def __init__(self, maker: ExampleMaker, order: Order, process: int, count: int):
        self._maker, self._order = maker, order
        self._places = range(order.batch_size)[process::count]

    def __len__(self) -> int:
        return _FOREVER

    def __getitem__(self, index: SupportsIndex) -> Example:
        return self._maker.batch(self._order.batch(int(index), self._places))

    def __repr__(self) -> str:
        return f"batches of {len(self._places)} from {self._maker.table.path}"
