"""The TFRecord container: length, CRC, bytes, CRC, again and again. Pure: works on any stream.

Format: tensorflow/core/lib/io/record_writer.h; the CRCs are CRC32C, masked.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

import google_crc32c

from schemas import DataError

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
HEADER_BYTES = _HEADER.size
OVERHEAD = HEADER_BYTES + _FOOTER.size
# protobuf itself refuses messages above 2 GiB; no dataset here has an episode near this
MAX_RECORD_BYTES = 1 << 30


class Record(NamedTuple):
    """One record: where it starts in the file, where the next one starts, its bytes."""

    start: int
    end: int
    data: bytes


def _masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _length(stream: BinaryIO, start: int) -> int | None:
    """The length of the record at `start`; None at the end of the file.

    Raises:
        DataError: if no record starts there. What follows cannot be found again.
    """
    header = stream.read(_HEADER.size)
    if not header:
        return None
    where = f"byte {start}"
    if len(header) < _HEADER.size:
        raise DataError(f"the file ends inside a record's header at {where}", where=where)
    length, crc = _HEADER.unpack(header)
    if crc != _masked_crc(header[:8]):
        raise DataError(f"no TFRecord starts at {where} (length checksum differs)", where=where)
    if length > MAX_RECORD_BYTES:
        raise DataError(f"the record at {where} says it has {length} bytes", where=where)
    return length


def offsets(stream: BinaryIO) -> Iterator[int]:
    """Where each record of a file starts, reading only headers. Ends early where one is damaged."""
    start = 0
    while True:
        stream.seek(start)
        try:
            length = _length(stream, start)
        except DataError:
            yield start  # the reader will come here and say what is wrong
            return
        if length is None:
            return
        yield start
        start += length + OVERHEAD


def records(
    stream: BinaryIO, start: int = 0, end: int | None = None
) -> Iterator[Record | DataError]:
    """The records that start in bytes `[start, end)`.

    Yields:
        Records in order; for a record whose content is damaged, a DataError instead.

    Raises:
        DataError: where the file is cut off or no record begins.
    """
    stream.seek(start)
    while end is None or start < end:
        length = _length(stream, start)
        if length is None:
            return
        where = f"bytes {start}-{start + length + OVERHEAD}"
        body = stream.read(length + _FOOTER.size)
        if len(body) < length + _FOOTER.size:
            raise DataError(
                f"the file ends inside a record: wanted {length} bytes at byte {start}, got"
                f" {len(body)}",
                where=where,
            )
        data = body[:length]
        next_start = start + length + OVERHEAD
        if _FOOTER.unpack(body[length:])[0] != _masked_crc(data):
            yield DataError("the record's checksum differs from its bytes", where=where)
        else:
            yield Record(start, next_start, data)
        start = next_start


def write(stream: BinaryIO, items: Iterable[bytes]) -> None:
    """Writes records, as TensorFlow would."""
    for data in items:
        length = struct.pack("<Q", len(data))
        stream.write(length + _FOOTER.pack(_masked_crc(length)))
        stream.write(data + _FOOTER.pack(_masked_crc(data)))
