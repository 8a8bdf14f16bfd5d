"""`Samples`: what a run may draw, dataset by dataset, each sample with a number.

A sample is a row and where in it the frames to be predicted begin. Without a condition its row
follows from its number, and nothing is kept in memory however many there are.
"""

from __future__ import annotations

import bisect
import dataclasses
import hashlib
import itertools
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np

from trainer.data.index import Found, Index, Watch, unwatched
from trainer.data.table import Table

Windows = Literal["actions", "any"]


class Sample(NamedTuple):
    """Where an example comes from.

    Attributes:
        row: its number in the table.
        begin: which of the row's frames to be predicted it begins with. A row at which an episode
            begins has one less of those than it has frames, if it has more than one: its first
            frame is history. 0 is where the action begins.
    """

    row: int
    begin: int


class Numbered(Protocol):
    """The samples of one dataset."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Sample: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Samples:
    """All that may be drawn.

    Attributes:
        by_dataset: name -> its samples; those that have none are left out.
        rejected: rows that no example may show, not as history either.
        digest: hex, of what was selected; empty if everything was.
    """

    by_dataset: dict[str, Numbered]
    rejected: frozenset[int] = frozenset()
    digest: str = ""


def select(
    table: Table,
    split: str,
    *,
    windows: Windows = "actions",
    where: str = "",
    exclude: str = "",
    watch: Watch = unwatched,
) -> Samples:
    """The samples of a split.

    Args:
        windows: "actions": one sample per row, which begins with its action. "any": one per frame
            that can be predicted, which ends 16 frames on or where the text changes.
        where, exclude, watch: as of `Index`.

    Raises:
        UsageError: as `Index`, and for an unknown split.
    """
    names = [name for name in table.datasets if table.count(split, name)]
    if windows == "actions" and not (where.strip() or exclude):
        return Samples(
            by_dataset={n: _Rows([s.rows for s in table.spans_of(split, n)]) for n in names}
        )
    index = Index(table, where, exclude, watch)
    found: dict[str, Numbered] = {}
    rejected: set[int] = set()
    digest = hashlib.blake2b(windows.encode(), digest_size=16)
    for name in names:
        mine = index.rejected(split, name)
        ranges = [span.rows for span in table.spans_of(split, name)]
        counts = _counted(index.find(split, name), ranges, windows, mine)
        rejected.update(mine.tolist())
        if counts.any():
            found[name] = _Counted(ranges, counts)
            for array in (np.frombuffer(name.encode(), np.uint8), counts):
                digest.update(np.ascontiguousarray(array).data)
    digest.update(np.array(sorted(rejected), "<i8").data)
    return Samples(by_dataset=found, rejected=frozenset(rejected), digest=digest.hexdigest())


class _Rows:
    """Every row of some ranges."""

    def __init__(self, ranges: Sequence[range]):
        self._ranges = ranges
        self._ends = list(itertools.accumulate(map(len, ranges)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, number: int, /) -> Sample:
        return Sample(self.row(number), 0)

    def row(self, number: int) -> int:
        """That many-th row, from 0 up."""
        part = bisect.bisect_right(self._ends, number)
        return self._ranges[part][number - self._ends[part]]


class _Counted:
    """So many samples of each row of some ranges, a byte of memory a row.

    Args:
        counts: uint8 `[rows]`.
    """

    def __init__(self, ranges: Sequence[range], counts: np.ndarray):
        self._rows, self._counts = _Rows(ranges), counts
        blocks = np.arange(0, len(counts), _BLOCK)
        self._ends = np.cumsum(np.add.reduceat(counts, blocks, dtype=np.int64))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, number: int, /) -> Sample:
        block = int(self._ends.searchsorted(number, side="right"))
        inside = number - (self._ends.item(block - 1) if block else 0)
        first = block * _BLOCK
        ends = self._counts[first : first + _BLOCK].cumsum(dtype=np.int64)
        at = int(ends.searchsorted(inside, side="right"))
        return Sample(self._rows.row(first + at), inside - (ends.item(at - 1) if at else 0))


_BLOCK = 128  # rows, of which is kept how many samples come before them


def _counted(
    pieces: Iterable[Found], ranges: Sequence[range], windows: Windows, rejected: np.ndarray
) -> np.ndarray:
    """How many samples each row of some ranges has: uint8 `[rows]`."""
    starts = np.array([rows.start for rows in ranges])
    before = np.array([0, *itertools.accumulate(map(len, ranges))])
    counts = np.zeros(before[-1], np.uint8)
    cut = rejected + 1  # rows that have lost the row before
    for piece in pieces:
        part = starts.searchsorted(piece.rows, side="right") - 1
        begins = piece.is_first | np.isin(piece.rows, cut)
        each = piece.num_frames - (begins & (piece.num_frames > 1)) if windows == "any" else 1
        counts[piece.rows - starts[part] + before[part]] = each
    return counts
