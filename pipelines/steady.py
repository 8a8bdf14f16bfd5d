"""Remote files on a file system that fails now and then: what fails for the moment is done again.

Reads and writes of local files are the kernel's to repeat, and pass by this module.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import itertools
import random
import time
from collections.abc import Callable
from typing import BinaryIO, TypeVar

from apache_beam.io.filesystem import BeamIOError
from apache_beam.metrics.metric import Metrics

from schemas import UsageError

TRIES = 6
_FIRST, _GROWTH = 0.1, 3.0  # seconds: 12 in all, on the average half of that
_BLOCK = 1 << 20
_BUSY = {408, 429, 500, 502, 503, 504}  # of HTTP
_PERMANENT = (
    FileExistsError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    io.UnsupportedOperation,
)
_jitter = random.SystemRandom()  # of its own: no seeded generator moves by it

T = TypeVar("T")


def again(action: Callable[[], T], path: str) -> T:
    """The action's result; where it fails for the moment it is done again, a few times, after
    longer and longer waits. Retries are counted as Beam's counter `files`/`retries`.

    Args:
        action: must be one that can be repeated.
        path: for messages.

    Raises:
        FileNotFoundError: if the file is not there, as whatever the file system says so.
        UsageError: if the last try failed too.
        Exception: what the action raises, if it will not go away by itself.
    """
    for number in itertools.count(1):
        try:
            return action()
        except Exception as e:
            if is_missing(e):
                raise FileNotFoundError(f"{path} is no file") from e
            if not is_passing(e):
                raise
            if number == TRIES:
                raise UsageError(
                    f"{path}: failed {TRIES} times ({type(e).__name__}: {e}); run the same command"
                    " again when its file system answers, what is finished is kept"
                ) from e
        Metrics.counter("files", "retries").inc()
        time.sleep(_FIRST * _GROWTH ** (number - 1) * _jitter.random())
    raise AssertionError


def is_missing(error: BaseException) -> bool:
    """Whether it says that there is no such file."""
    causes = _causes(error)
    return bool(causes) and all(
        isinstance(cause, FileNotFoundError) or _status(cause) == 404 for cause in causes
    )


def is_passing(error: BaseException) -> bool:
    """Whether the same may go well in a moment: the server is busy, the connection was lost."""
    return any(_is_passing(cause) for cause in _causes(error))


def _is_passing(error: BaseException) -> bool:
    status = _status(error)
    if status:
        return status in _BUSY
    if isinstance(error, _PERMANENT):
        return False
    return isinstance(error, OSError | http.client.HTTPException)


class _Answered(Exception):
    """An HTTP status that is all that is known of an error."""

    def __init__(self, code: int):
        super().__init__(f"HTTP status {code}")
        self.code = code


def _causes(error: BaseException) -> list[BaseException]:
    """Beam wraps the errors of several paths in one of its own, some as mere HTTP statuses."""
    details = getattr(error, "exception_details", None) if isinstance(error, BeamIOError) else None
    values = (_Answered(x) if isinstance(x, int) else x for x in (details or {}).values())
    found = [x for x in values if isinstance(x, BaseException)]
    return [cause for x in found for cause in _causes(x)] or [error]


def _status(error: BaseException) -> int:
    """The HTTP status that an error of Google's or of `requests` carries; 0 for none."""
    for holder, name in ((error, "code"), (getattr(error, "response", None), "status_code")):
        status = getattr(holder, name, None)
        if isinstance(status, int):
            return int(status)
    return 0


class SteadyReader(io.RawIOBase):
    """A remote file for reading; after a failure it is opened anew and read on from there.

    Args:
        name: its path.
        opened: opens it at its start.
    """

    def __init__(self, name: str, opened: Callable[[], BinaryIO]):
        super().__init__()
        self.name = name
        self._opened = opened
        self._stream: BinaryIO | None = again(opened, name)
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            offset += again(self._end, self.name)
        elif whence == io.SEEK_CUR:
            offset += self._at
        if offset < 0:
            raise ValueError(f"{self.name}: seek to {offset}")
        self._at = offset
        return offset

    def readinto(self, buffer) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        data = again(lambda: self._read(len(buffer)), self.name)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def readall(self) -> bytes:
        return b"".join(iter(lambda: self.read(_BLOCK) or b"", b""))

    def close(self) -> None:
        self._drop()
        super().close()

    def _read(self, size: int) -> bytes:
        with self._whole() as stream:
            if stream.tell() != self._at:
                stream.seek(self._at)
            return stream.read(size)

    def _end(self) -> int:
        with self._whole() as stream:
            return stream.seek(0, io.SEEK_END)

    @contextlib.contextmanager
    def _whole(self):
        """The stream, opened if need be; one that fails is not used again."""
        if self._stream is None:
            self._stream = self._opened()
        try:
            yield self._stream
        except BaseException:
            self._drop()
            raise

    def _drop(self) -> None:
        stream, self._stream = getattr(self, "_stream", None), None
        if stream is not None:
            with contextlib.suppress(Exception):
                stream.close()
