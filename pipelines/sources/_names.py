"""Ranges of names, by which the items of one folder or file are shared out among units.

A plan fixes where a range begins and ends, not how many items are in it: so what is mended later
changes no other range than its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import NamedTuple


class Range(NamedTuple):
    """All names from `first` on that are before `until`; None is behind all."""

    first: str
    until: str | None

    @property
    def leads(self) -> bool:
        """Whether no name is before it."""
        return self.first == ""

    @property
    def ends(self) -> bool:
        """Whether no name is behind it."""
        return self.until is None

    def __contains__(self, name: object) -> bool:
        assert isinstance(name, str)
        return self.first <= name and (self.until is None or name < self.until)


def ranges(sizes: Mapping[str, int], target_bytes: int) -> Iterator[tuple[Range, list[str]]]:
    """Ranges that hold all names there can be, each once, and those of `sizes` in each.

    Args:
        sizes: name -> bytes. A range has at most `target_bytes`, or a single name with more.
    """
    names = sorted(sizes)
    groups: list[list[str]] = [[]]
    total = 0
    for name in names:
        if groups[-1] and total + sizes[name] > target_bytes:
            groups.append([])
            total = 0
        groups[-1].append(name)
        total += sizes[name]
    edges = ["", *(group[0] for group in groups[1:]), None]
    for (first, until), group in zip(itertools.pairwise(edges), groups, strict=True):
        yield Range(first or "", until), group
