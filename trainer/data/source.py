"""`TableSource`: rows of a table as a Grain random-access data source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import SupportsIndex

import numpy as np

from trainer.data.example import Example, ExampleMaker


class TableSource:
    """A Grain `RandomAccessDataSource` whose element i is the example of `rows[i]`.

    It is stateless, thread-safe and reads in batches (`_getitems` is Grain's name for that).

    Args:
        maker: makes the examples.
        rows: int `[n]` row numbers, as `Table.rows` returns them; None means every row.
    """

    def __init__(self, maker: ExampleMaker, rows: np.ndarray | None = None):
        self._maker = maker
        self._rows = np.arange(len(maker.table)) if rows is None else rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: SupportsIndex) -> Example:
        """The example of `rows[index]`. Raises UsageError if it cannot be read."""
        return self._getitems([index])[0]

    def _getitems(self, indices: Sequence[SupportsIndex]) -> list[Example]:
        return self._maker.examples([int(self._rows[i]) for i in indices])

    def __repr__(self) -> str:
        table = self._maker.table
        return f"TableSource({table.manifest.plan}, {table.tier}, {len(self)} rows)"
