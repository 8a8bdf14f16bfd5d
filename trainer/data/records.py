"""`Records`: random access to many ArrayRecord files by many threads."""

from __future__ import annotations

import collections
import contextlib
import functools
import resource
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

from schemas import DataError, UsageError
from trainer.data.plain import PlainFile

# random access: reading ahead would only be thrown away
_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
_MOST_OPEN, _SHARE = 4096, 2  # files, and of how many that the process may open one is ours
_MOST_BYTES = 36 << 20  # of their indexes

Reader = PlainFile | array_record_module.ArrayRecordReader


class Record(Protocol):
    """A record that can be read in parts: `trainer.data.plain.PlainRecord`, or one in memory."""

    size: int

    def read(self, begin: int, end: int) -> bytes:
        """Bytes `begin` to `end`, as many of them as the record has."""
        ...

    def read_into(self, begin: int, out: memoryview) -> None:
        """Fills `out`, of bytes, with those from `begin` on."""
        ...


class Records:
    """Reads records by file and position, with the most recently used files held open.

    It may be shared by threads, and be pickled; files open when they are first read.

    Args:
        in_place: read local files without ArrayRecord's reader where they allow it: for many small
            records, or parts of large ones. Then a record's digest is not checked.
    """

    def __init__(self, *, in_place: bool = False):
        self._readers: collections.OrderedDict[str, Reader] = collections.OrderedDict()
        self._in_place = in_place
        self._lock = threading.Lock()
        self._bytes = 0
        self._most = min(_MOST_OPEN, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // _SHARE)

    def __reduce__(self):
        # open files and locks stay behind
        return functools.partial(Records, in_place=self._in_place), ()

    def read(self, path: str, positions: Sequence[int]) -> list[bytes]:
        """The records at `positions` of one file, in one go.

        Raises:
            UsageError: if the file is missing or damaged.
        """
        with reading(lambda: (path, positions)):
            return self._reader(path).read([int(p) for p in positions])

    def record(self, path: str, position: int) -> Record:
        """One record, to be read in parts, best within `reading`.

        Raises:
            ValueError, IndexError, OSError, RuntimeError: if the file is missing or damaged.
        """
        reader = self._reader(path)
        if isinstance(reader, PlainFile):
            return reader.record(position)
        return _InMemory(reader.read([position])[0])

    def _reader(self, path: str) -> Reader:
        with self._lock:
            if (found := self._readers.get(path)) is not None:
                self._readers.move_to_end(path)
                return found
            found = self._readers[path] = self._open(path)
            self._bytes += _nbytes(found)
            while len(self._readers) > self._most or (
                self._bytes > _MOST_BYTES and len(self._readers) > 1
            ):
                # it closes once no other thread reads from it
                self._bytes -= _nbytes(self._readers.popitem(last=False)[1])
            return found

    def _open(self, path: str) -> Reader:
        if self._in_place and "://" not in path:
            # what it cannot read, or is not there, is ArrayRecord's reader to say
            with contextlib.suppress(ValueError, OSError):
                return PlainFile(path)
        # the constructor never raises: a bad file shows when it is read
        return array_record_module.ArrayRecordReader(path, _OPTIONS, file_reader_buffer_size=32768)


class reading:
    """A context that turns what goes wrong with some records into a UsageError that names them.

    Args:
        place: tells their file and their positions in it, if they must be named.
    """

    __slots__ = ("_place",)

    def __init__(self, place: Callable[[], tuple[str, Sequence[int]]]):
        self._place = place

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, error, trace) -> None:
        if isinstance(error, (RuntimeError, ValueError, IndexError, OSError, DataError)):
            path, positions = self._place()
            raise UsageError(
                f"{path}: record {', '.join(map(str, positions))} cannot be read ({error});"
                " run `unisim audit` on the table, then restore the file or prepare it again"
            ) from error


class _InMemory:
    """A record that had to be read whole."""

    def __init__(self, data: bytes):
        self._data, self.size = data, len(data)

    def read(self, begin: int, end: int) -> bytes:
        return self._data[begin:end]

    def read_into(self, begin: int, out: memoryview) -> None:
        out[:] = self._data[begin : begin + len(out)]


def _nbytes(reader: Reader) -> int:
    return reader.nbytes if isinstance(reader, PlainFile) else 0
