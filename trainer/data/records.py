"""`Records`: random access to many ArrayRecord files by many threads."""

from __future__ import annotations

import collections
import contextlib
import functools
import threading
from collections.abc import Sequence

from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

from schemas import UsageError
from trainer.data.plain import PlainFile

# random access: reading ahead would only be thrown away
_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
_MAX_OPEN = 256

Reader = PlainFile | array_record_module.ArrayRecordReader


class Records:
    """Reads records by file and position, with the most recently used files held open.

    It may be shared by threads, and be pickled; files open when they are first read.

    Args:
        in_place: read local files without ArrayRecord's reader where they allow it: for many small
            records. Then a record's digest is not checked.
    """

    def __init__(self, *, in_place: bool = False):
        self._readers: collections.OrderedDict[str, Reader] = collections.OrderedDict()
        self._in_place = in_place
        self._lock = threading.Lock()

    def __reduce__(self):
        # open files and locks stay behind
        return functools.partial(Records, in_place=self._in_place), ()

    def read(self, path: str, positions: Sequence[int]) -> list[bytes]:
        """The records at `positions` of one file, in one go.

        Raises:
            UsageError: if the file is missing or damaged.
        """
        try:
            return self._reader(path).read([int(p) for p in positions])
        except (RuntimeError, ValueError, IndexError, OSError) as e:
            raise UsageError(
                f"{path}: record {', '.join(map(str, positions))} cannot be read ({e});"
                " run `unisim audit` on the table, then restore the file or prepare it again"
            ) from e

    def _reader(self, path: str) -> Reader:
        with self._lock:
            reader = self._readers.pop(path, None) or self._open(path)
            self._readers[path] = reader
            while len(self._readers) > _MAX_OPEN:
                self._readers.popitem(last=False)  # closes once no other thread reads from it
            return reader

    def _open(self, path: str) -> Reader:
        if self._in_place and "://" not in path:
            # what it cannot read, or is not there, is ArrayRecord's reader to say
            with contextlib.suppress(ValueError, OSError):
                return PlainFile(path)
        # the constructor never raises: a bad file shows when it is read
        return array_record_module.ArrayRecordReader(path, _OPTIONS, file_reader_buffer_size=32768)
