"""`Records`: random access to many ArrayRecord files by many threads."""

from __future__ import annotations

import collections
import threading
from collections.abc import Sequence

from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

from schemas import UsageError

# random access: reading ahead would only be thrown away
_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
_MAX_OPEN = 256


class Records:
    """Reads records by file and position, with the most recently used files held open.

    It may be shared by threads, and be pickled; files open when they are first read.
    """

    def __init__(self):
        self._readers: collections.OrderedDict[str, array_record_module.ArrayRecordReader] = (
            collections.OrderedDict()
        )
        self._lock = threading.Lock()

    def __reduce__(self):
        return Records, ()  # open files and locks stay behind

    def read(self, path: str, positions: Sequence[int]) -> list[bytes]:
        """The records at `positions` of one file, in one go.

        Raises:
            UsageError: if the file is missing or damaged.
        """
        try:
            return self._reader(path).read([int(p) for p in positions])
        except RuntimeError as e:
            raise UsageError(
                f"{path}: record {', '.join(map(str, positions))} cannot be read ({e});"
                " run `unisim audit` on the table, then restore the file or prepare it again"
            ) from e

    def _reader(self, path: str) -> array_record_module.ArrayRecordReader:
        with self._lock:
            reader = self._readers.pop(path, None)
            if reader is None:
                # the constructor never raises: a bad file shows when it is read
                reader = array_record_module.ArrayRecordReader(
                    path, _OPTIONS, file_reader_buffer_size=32768
                )
            self._readers[path] = reader
            while len(self._readers) > _MAX_OPEN:
                self._readers.popitem(last=False)  # closes once no other thread reads from it
            return reader
