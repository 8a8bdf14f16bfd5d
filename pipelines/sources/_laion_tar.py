"""The tar that img2dataset writes: where each key's files are, and how keys are shared out."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import re
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from pipelines.ops import labels
from schemas import DataError

MAX_MEMBER = 64 << 20
LEAST = 2 * tarfile.BLOCKSIZE
"""Bytes of a tar that its smallest file takes."""
_MAX_MEMBERS = 4_000_000
_MEMBER = re.compile(r"(?:\./)?([A-Za-z0-9_-]{1,64})\.([a-z0-9]{1,16})")
_IMAGES = ("jpg", "jpeg", "png", "webp")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Member:
    """Where a file's bytes are in the tar."""

    name: str
    offset: int
    size: int

    def read(self, tar: BinaryIO) -> bytes:
        """Its bytes. Raises DataError."""
        tar.seek(self.offset)
        data = tar.read(self.size)
        if len(data) < self.size:
            raise DataError(
                f"the tar ends after {len(data)} of the {self.size} bytes of {self.name}",
                where=self.name,
            )
        return data


class Index:
    """What a tar holds, by the headers alone.

    Attributes:
        members: key -> "image" or suffix -> where; whole once `errors` has run.
    """

    def __init__(self):
        self.members: dict[str, dict[str, Member]] = {}

    def errors(self, tar: BinaryIO, name: str) -> Iterator[DataError]:
        """Fills `members`; what is wrong with others."""
        count = 0
        try:
            with tarfile.open(fileobj=_Bounded(tar), mode="r:") as archive:  # type: ignore[arg-type]
                while (info := archive.next()) is not None:
                    archive.members = []  # it would keep every header
                    count += 1
                    if count > _MAX_MEMBERS:
                        raise tarfile.ReadError(f"more than {_MAX_MEMBERS} members")
                    try:
                        self._add(info)
                    except DataError as e:
                        e.key = e.where = labels.clean_text(info.name)[:200]
                        yield e
        except (tarfile.TarError, ValueError, OverflowError, RecursionError) as e:
            # what stood before the damage is used; the rows whose members are lost are reported
            reason = labels.clean_text(str(e))[:500]
            yield DataError(f"the tar is damaged: {reason}", key=name)

    def _add(self, info: tarfile.TarInfo) -> None:
        match = _MEMBER.fullmatch(info.name)
        if not match:
            raise DataError("the member's name is not KEY.SUFFIX")
        if not info.isreg() or info.issparse():
            raise DataError("the member is not a plain file")
        if info.size > MAX_MEMBER:
            raise DataError(f"the member has {info.size} bytes, more than {MAX_MEMBER}")
        key, suffix = match.groups()
        parts = self.members.setdefault(key, {})
        kind = "image" if suffix in _IMAGES else suffix
        if kind in parts:
            raise DataError(f"{key} has a second {kind}")
        parts[kind] = Member(name=info.name, offset=info.offset_data, size=info.size)

    def starts(self, parts: int) -> list[str | None]:
        """The first key of each of so many parts of about as many bytes, None behind the last key.

        A key belongs where the middle of its bytes falls. What the parquet says has no part in it:
        a parquet that was mended leaves every key in the part where it was.
        """
        keys = sorted(self.members)
        sizes = [sum(x.size + tarfile.BLOCKSIZE for x in self.members[k].values()) for k in keys]
        ends = np.cumsum(np.array(sizes, np.float64))
        middles = ends - np.array(sizes) / 2
        edges = np.arange(1, parts) * (ends[-1] / parts if keys else 0.0)
        return ["", *(keys[i] if i < len(keys) else None for i in np.searchsorted(middles, edges))]


def bounds(keys: list[str], starts: list[str | None]) -> list[tuple[int, int]]:
    """Where each part's keys begin and end in a sorted list of them."""
    edges = [len(keys) if s is None else bisect.bisect_left(keys, s) for s in starts]
    return list(itertools.pairwise([*edges, len(keys)]))


class _Bounded:
    """A file whose single reads are bounded: tarfile reads some headers whole, at any size."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_MEMBER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)
