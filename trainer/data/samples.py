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

from trainer.data.index import Found, Index
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
    table: Table, split: str, *, windows: Windows = "actions", where: str = "", exclude: str = ""
) -> Samples:
    """The samples of a split.

    Args:
        windows: "actions": one sample per row, which begins with its action. "any": one per frame
            that can be predicted, which ends 16 frames on or where the text changes.
        where, exclude: as of `Index`.

    Raises:
        UsageError: as `Index`, and for an unknown split.
    """
    names = [name for name in table.datasets if table.count(split, name)]
    if windows == "actions" and not (where.strip() or exclude):
        return Samples(
            by_dataset={n: _Rows([s.rows for s in table.spans_of(split, n)]) for n in names}
        )
    index = Index(table, where, exclude)
    rejected = {row for name in names for row in index.rejected(split, name).tolist()}
    found: dict[str, Numbered] = {}
    digest = hashlib.blake2b(windows.encode(), digest_size=16)
    for name in names:
        rows, windows_of = _collected(index.find(split, name), rejected)
        if len(rows):
            found[name] = _Windows(rows, windows_of) if windows == "any" else _Chosen(rows)
            for array in (np.frombuffer(name.encode(), np.uint8), rows, windows_of):
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
        part = bisect.bisect_right(self._ends, number)
        return Sample(self._ranges[part][number - self._ends[part]], 0)


class _Chosen:
    """Some rows, sorted."""

    def __init__(self, rows: np.ndarray):
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int, /) -> Sample:
        return Sample(self._rows.item(number), 0)


class _Windows:
    """Some rows, sorted, each once for every one of its frames that can be predicted."""

    def __init__(self, rows: np.ndarray, windows: np.ndarray):
        self._rows, ends = rows, np.cumsum(windows, dtype=np.int64)
        small = not len(ends) or ends[-1] < 2**32
        self._ends = ends.astype(np.uint32) if small else ends

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, number: int, /) -> Sample:
        at = int(np.searchsorted(self._ends, self._ends.dtype.type(number), side="right"))
        before = self._ends.item(at - 1) if at else 0
        return Sample(self._rows.item(at), number - before)


def _collected(pieces: Iterable[Found], rejected: set[int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows in rising order, and how many of each one's frames can be predicted: uint8."""
    parts, counts = [np.zeros(0, np.uint32)], [np.zeros(0, np.uint8)]
    cut = np.array(sorted(rejected), np.int64) + 1  # rows that have lost the row before
    for piece in pieces:
        begins = piece.is_first | np.isin(piece.rows, cut)
        wide = piece.rows.max(initial=0) >= 2**32
        parts.append(piece.rows if wide else piece.rows.astype(np.uint32))
        counts.append(piece.num_frames - (begins & (piece.num_frames > 1)))
    rows, windows = np.concatenate(parts), np.concatenate(counts)
    order = np.argsort(rows, kind="stable")
    return rows[order], windows[order]
