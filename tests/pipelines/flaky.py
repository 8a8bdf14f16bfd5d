"""`flaky://`: local files through a Beam file system of which one call in ten fails.

Beam finds a file system once its module is imported. `FLAKY_LOG` names a file that gets a process
id for each failure.
"""

from __future__ import annotations

import io
import itertools
import os
import random
import shutil
from collections.abc import Iterator

from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata, FileSystem

PREFIX = "flaky://"


class Unavailable(Exception):
    """As Google's client has it."""

    code = 503


class Faults:
    """Raises at one call in ten, in every way that a file system has.

    Attributes:
        raised: how often it did.
    """

    def __init__(self):
        self.raised = 0
        self._random = random.Random(0)
        self._kinds = itertools.cycle((self._plain, self._wrapped, self._http))

    def maybe(self, path: str) -> None:
        if self._random.random() < 0.1:
            self.raised += 1
            if log := os.environ.get("FLAKY_LOG"):
                with open(log, "a") as f:
                    f.write(f"{os.getpid()}\n")
            raise next(self._kinds)(path)

    def _plain(self, path: str) -> Exception:
        return OSError(5, "Input/output error", path)

    def _wrapped(self, path: str) -> Exception:
        return BeamIOError("Operation failed", {path: ConnectionResetError("lost")})

    def _http(self, path: str) -> Exception:
        return Unavailable(path)


FAULTS = Faults()


class _Reader(io.FileIO):
    def read(self, size: int | None = -1) -> bytes:
        FAULTS.maybe(str(self.name))
        return super().read(-1 if size is None else size)

    def seek(self, offset: int, whence: int = 0) -> int:
        FAULTS.maybe(str(self.name))
        return super().seek(offset, whence)


class _Writer(io.FileIO):
    """As an object store has it, the file appears when it is closed, and only then."""

    def __init__(self, path: str):
        self._path = path
        os.makedirs(os.path.dirname(path), exist_ok=True)
        super().__init__(f"{path}.part{os.getpid()}", "w")

    def write(self, data) -> int:
        FAULTS.maybe(self._path)
        return super().write(data)

    def __exit__(self, kind, error, trace) -> None:
        super().__exit__(kind, error, trace)
        if kind is None:
            os.replace(str(self.name), self._path)
        else:
            os.unlink(str(self.name))


class FlakyFileSystem(FileSystem):
    """Beam's interface to it."""

    @classmethod
    def scheme(cls):
        return "flaky"

    def join(self, basepath, *paths):
        return "/".join([basepath.rstrip("/"), *(path.strip("/") for path in paths)])

    def split(self, path):
        head, _, tail = path.rpartition("/")
        return head, tail

    def mkdirs(self, path):
        os.makedirs(_local(path))

    def has_dirs(self):
        return False

    def _list(self, dir_or_prefix) -> Iterator[FileMetadata]:
        FAULTS.maybe(dir_or_prefix)
        prefix = _local(dir_or_prefix)
        for folder, _, names in os.walk(os.path.dirname(prefix)):
            for path in (os.path.join(folder, name) for name in names):
                if path.startswith(prefix):
                    yield self._metadata(PREFIX + path)

    def create(self, path, mime_type="", compression_type=CompressionTypes.AUTO):
        FAULTS.maybe(path)
        return _Writer(_local(path))  # type: ignore[return-value]

    def open(self, path, mime_type="", compression_type=CompressionTypes.AUTO):
        FAULTS.maybe(path)
        return _Reader(_local(path))  # type: ignore[return-value]

    def copy(self, source_file_names, destination_file_names):
        raise NotImplementedError

    def rename(self, source_file_names, destination_file_names):
        raise NotImplementedError

    def exists(self, path):
        FAULTS.maybe(path)
        return os.path.isfile(_local(path))

    def size(self, path):
        return self.metadata(path).size_in_bytes

    def last_updated(self, path):
        return self.metadata(path).last_updated_in_seconds

    def checksum(self, path):
        raise NotImplementedError

    def metadata(self, path):
        FAULTS.maybe(path)
        if not os.path.isfile(_local(path)):
            raise BeamIOError("Metadata operation failed", {path: FileNotFoundError(path)})
        return self._metadata(path)

    def _metadata(self, path: str) -> FileMetadata:
        found = os.stat(_local(path))
        return FileMetadata(path, found.st_size, found.st_mtime)

    def delete(self, paths):
        for path in paths:
            FAULTS.maybe(path)
            if path.endswith("/"):
                shutil.rmtree(_local(path), ignore_errors=True)
            for found in [] if path.endswith("/") else self.match([path])[0].metadata_list:
                os.unlink(_local(found.path))


def _local(path: str) -> str:
    return path.removeprefix(PREFIX)
