"""`PlainFile`: an ArrayRecord file whose records stand alone and uncompressed, read in place.

ArrayRecord's own reader takes 10 to 80 µs per call and as much again per record, which is more than
a training step may spend on a few hundred embeddings spread over as many files. Here the file's own
index is read once, and a record, or a part of one, costs one `preadv` of where it stands, straight
to where it is wanted.

The layout is that of Riegeli records (its document `riegeli_records_file_format.md`) and of
ArrayRecord's `layout.proto`. Blocks of 64 KiB begin with a header each, which chunks run through;
a chunk is a header and its data, here of one record. The last block says where the footer is, a
chunk with the place and size of every record.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Sequence

import numpy as np

_BLOCK, _BLOCK_HEADER = 1 << 16, 24
_ROOM = _BLOCK - _BLOCK_HEADER
_CHUNK_HEADER = struct.Struct("<8xQ8xQQ")  # size of the data, type and records, decoded size
_SIMPLE = ord("r")  # the chunk type, in the lowest byte; the number of records is above it
_MAGIC = 0x71930E704FDAE05E
_LONGEST = 9  # bytes of a varint of 63 bits
_LARGEST = 1 << 30  # bytes of a chunk
_HEAD = 4096  # bytes of a record that are read with its chunk's header


class PlainFile:
    """One open file. It may be shared by threads; it closes with the last reference.

    Only the chunks' sizes and types are checked as they are read; `unisim audit` checks digests.

    Raises:
        ValueError: if the file is laid out in another way.
        OSError: if it cannot be opened.
    """

    def __init__(self, path: str):
        self._fd = os.open(path, os.O_RDONLY)
        offsets, sizes = _read_index(self._fd)
        self._offsets, self._sizes = map(_narrowed, (offsets, sizes))
        self.read(range(len(self._offsets))[:1])

    def __del__(self):
        with contextlib.suppress(AttributeError):  # it could not be opened
            os.close(self._fd)

    def __len__(self) -> int:
        return len(self._offsets)

    @property
    def nbytes(self) -> int:
        """Of the index, in memory."""
        return self._offsets.nbytes + self._sizes.nbytes

    def read(self, positions: Sequence[int]) -> list[bytes]:
        """The records at these positions.

        Raises:
            IndexError: if there is none at a position.
            ValueError: if one is not as the index says.
        """
        found = (self.record(position) for position in positions)
        return [record.read(0, record.size) for record in found]

    def record(self, position: int) -> PlainRecord:
        """One record, to be read in parts. Raises as `read`."""
        return PlainRecord(self, self._offsets.item(position), self._sizes.item(position))


class PlainRecord:
    """A record where it stands in its file: `size` bytes, of which any part can be read.

    Raises:
        ValueError: if the file does not hold what its index says, when a part is read too.
    """

    def __init__(self, file: PlainFile, offset: int, size: int):
        self._file = file  # keeps it open
        self._fd, self._offset, self.size = file._fd, offset, size
        width = (max(size, 1).bit_length() + 6) // 7  # of the size as a varint
        self._start = _CHUNK_HEADER.size + 2 + width
        # the header, and at once what is wanted next
        data = _read_part(self._fd, offset, 0, self._start + min(size, _HEAD))
        if _CHUNK_HEADER.unpack_from(data) != (2 + width + size, _SIMPLE | 1 << 8, size):
            raise ValueError(f"at byte {offset}: not the {size} bytes that the file's index says")
        self._head = data

    def read(self, begin: int, end: int) -> bytes:
        """Bytes `begin` to `end`, as many of them as the record has."""
        begin, end = self._start + begin, self._start + min(end, self.size)
        if end <= len(self._head):
            return self._head[begin:end]
        return _read_part(self._fd, self._offset, begin, end)

    def read_into(self, begin: int, out: memoryview) -> None:
        """Fills `out`, of bytes, with those from `begin` on."""
        if not 0 <= begin <= begin + len(out) <= self.size:
            raise ValueError(f"bytes {begin} to {begin + len(out)} of a record of {self.size}")
        _read_into(self._fd, self._offset, self._start + begin, out)


def _read_part(fd: int, offset: int, begin: int, end: int) -> bytes:
    """Bytes `begin` to `end` of what starts at `offset`, without the headers of blocks."""
    size = max(0, end - begin)
    at = _place(offset, begin)
    if size <= _BLOCK - at % _BLOCK:
        data = os.pread(fd, size, at)
        if len(data) != size:
            raise ValueError(f"at byte {at}: the file is cut short")
        return data
    pieces = bytearray(size)
    _read_into(fd, offset, begin, memoryview(pieces))
    return bytes(pieces)


def _read_into(fd: int, offset: int, begin: int, out: memoryview) -> None:
    """Fills `out` with the bytes from `begin` on, as `_read_part`, straight from the file."""
    if not out:
        return
    at = _place(offset, begin)
    end = _BLOCK - at % _BLOCK
    pieces = [out[:end]]
    for start in range(end, len(out), _ROOM):
        pieces += [_skipped, out[start : start + _ROOM]]
    if os.preadv(fd, pieces, at) != sum(map(len, pieces)):
        raise ValueError(f"at byte {at}: the file is cut short")


def _place(offset: int, begin: int) -> int:
    """Where in the file byte `begin` is of what starts at `offset`."""
    first = -offset % _BLOCK
    crossed = 0 if begin < first else 1 + (begin - first) // _ROOM
    return offset + begin + crossed * _BLOCK_HEADER


_skipped = memoryview(bytearray(_BLOCK_HEADER))  # written by all, read by nobody


def _read_index(fd: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each record's chunk begins, and the record's size: int64 `[n]` each."""
    end = os.fstat(fd).st_size
    if end < 2 * _BLOCK or end % _BLOCK:
        raise ValueError("not an ArrayRecord file")
    _, postscript = _read_chunk(fd, end - _BLOCK)
    place = _varints(postscript).tolist()
    if place[0:1] + place[2:4] != [1 << 3, 2 << 3, _MAGIC]:
        raise ValueError("no postscript of ArrayRecord")
    sizes, footer = _read_chunk(fd, place[1])
    if not len(sizes):
        raise ValueError("no footer of ArrayRecord")
    # the first record is about the file; each other is three numbers with their tags
    entries = _varints(footer[sizes[0] :])
    if len(entries) != 6 * (len(sizes) - 1):
        raise ValueError("a footer of other fields")
    entries = entries.reshape(-1, 6)
    if (entries[:, [0, 2, 4, 5]] != [1 << 3, 2 << 3, 3 << 3, 1]).any():
        raise ValueError("chunks of more than one record")
    offsets, records = entries[:, 1].astype(np.int64), entries[:, 3].astype(np.int64)
    if (offsets >= end).any() or (records > _LARGEST).any():
        raise ValueError("a footer that points beyond the file")
    return offsets, records


def _narrowed(numbers: np.ndarray) -> np.ndarray:
    """The same, in as few bytes as hold the largest: many files' indexes are kept."""
    return numbers.astype(np.min_scalar_type(numbers.max(initial=0)))


def _read_chunk(fd: int, offset: int) -> tuple[np.ndarray, np.ndarray]:
    """The sizes of a chunk's records, and their bytes one after another."""
    head = _read(fd, offset, _CHUNK_HEADER.size)
    if len(head) != _CHUNK_HEADER.size:
        raise ValueError("cut short")
    size, kind, _ = _CHUNK_HEADER.unpack(head)
    if kind & 0xFF != _SIMPLE or size > _LARGEST:
        raise ValueError("a chunk of another type")
    data = np.frombuffer(_read(fd, offset, len(head) + size), np.uint8, offset=len(head))
    if len(data) != size or not size or data[0]:
        raise ValueError("a chunk that is compressed or cut short")
    prefix = int(np.argmax(data[1 : 2 + _LONGEST] < 0x80)) + 2
    [of_sizes] = _varints(data[1:prefix]).tolist()
    return _varints(data[prefix : prefix + of_sizes]).astype(np.int64), data[prefix + of_sizes :]


def _read(fd: int, offset: int, size: int) -> bytes:
    """So many bytes of the chunks from a place on, less at the end, without headers of blocks."""
    most = size + (size // (_BLOCK - _BLOCK_HEADER) + 2) * _BLOCK_HEADER
    data = os.pread(fd, most, offset)
    first = -offset % _BLOCK
    if first >= size:
        return data[:size]
    rest = (data[at + _BLOCK_HEADER : at + _BLOCK] for at in range(first, len(data), _BLOCK))
    return b"".join((data[:first], *rest))[:size]


def _varints(data: np.ndarray) -> np.ndarray:
    """Protocol buffers' variable-length integers, one after another: uint64."""
    ends = np.flatnonzero(data < 0x80)
    starts = np.concatenate([[0], ends[:-1] + 1])[: len(ends)]
    lengths = ends - starts + 1
    longest = lengths.max(initial=0)
    if longest > _LONGEST or (len(data) and (not len(ends) or ends[-1] != len(data) - 1)):
        raise ValueError("numbers cut short or too long")
    values = np.zeros(len(ends), np.uint64)
    for i in range(longest):
        more = lengths > i
        values[more] |= (data[starts[more] + i] & 0x7F).astype(np.uint64) << np.uint64(7 * i)
    return values
