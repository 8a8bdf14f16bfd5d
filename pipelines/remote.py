"""Files of remote stores, through Beam's FileSystems. `pipelines.files` calls this for paths with
a scheme; nothing else does.

What fails for the moment is done again (`pipelines.steady`).
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from typing import BinaryIO, cast

from apache_beam.io.filesystem import BeamIOError, CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems

from pipelines.files import Stamp
from pipelines.steady import SteadyReader, again
from schemas import UsageError


def join(*parts: str) -> str:
    """Parts of a path, the first with a scheme."""
    return FileSystems.join(*parts)


def exists(path: str) -> bool:
    """Whether an object, or a folder with something in it, is there."""
    is_bucket = path.rstrip("/").count("/") < 3  # which no file is, and GCS refuses to be asked
    is_file = not is_bucket and again(lambda: FileSystems.exists(path), path)
    return is_file or bool(match(path, "**", limit=1))


def match(folder: str, *pattern: str, limit: int | None = None) -> list[tuple[str, Stamp]]:
    """What matches below a folder, `limit` at most. Raises UsageError if it cannot be listed."""
    where = join(_escape(folder), *pattern)
    try:
        found = again(lambda: FileSystems.match([where], [limit]), folder)[0].metadata_list
    except FileNotFoundError:
        return []
    except BeamIOError as e:
        raise UsageError(f"{folder}: cannot be listed ({e}); check the path and access") from e
    return [(each.path, _stamp(each)) for each in found]


def stamp(path: str) -> Stamp:
    """Raises FileNotFoundError; ValueError for what is no name of a file."""
    return _stamp(again(lambda: FileSystems.get_filesystem(path).metadata(path), path))


def _stamp(found: FileMetadata) -> Stamp:
    # Beam gives seconds as a float, of which the microseconds are exact
    return Stamp(found.size_in_bytes, round(found.last_updated_in_seconds * 1e6) * 1000)


@contextlib.contextmanager
def open_read(path: str) -> Iterator[BinaryIO]:
    """For reading bytes, seekable, never decompressed. Raises FileNotFoundError."""

    def opened() -> BinaryIO:
        return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)

    with io.BufferedReader(SteadyReader(path, opened), 1 << 20) as f:
        yield cast(BinaryIO, f)


def upload(local: str, path: str) -> None:
    """A local file's bytes as an object, which appears when it is complete."""
    with _allowed(path, "written"):
        again(lambda: _upload(local, path), path)


def _upload(local: str, path: str) -> None:
    with (
        open(local, "rb") as f,
        FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED) as target,
    ):
        while block := f.read(1 << 20):
            target.write(block)


def delete(path: str) -> None:
    """Deletes an object, if it is there."""
    if exists(path):
        with _allowed(path, "deleted"), contextlib.suppress(FileNotFoundError):
            again(lambda: FileSystems.delete([_escape(path)]), path)


def delete_tree(path: str) -> None:
    """Deletes all below a folder."""
    if exists(path):
        again(lambda: FileSystems.delete([path.rstrip("/") + "/"]), path)


def move(path: str, target: str) -> None:
    """Copies and then deletes, so that a move that is cut short may leave both. Raises UsageError
    if it is at neither place."""
    with _allowed(path, "moved"):
        try:
            again(lambda: FileSystems.rename([path], [target]), path)
        except FileNotFoundError:  # deleted by a try whose answer was lost
            if not exists(target):
                raise


def _escape(path: str) -> str:
    """The path as a pattern that matches it alone."""
    return re.sub(r"([*?[])", r"[\1]", path)


@contextlib.contextmanager
def _allowed(path: str, what: str) -> Iterator[None]:
    """While it lasts, what a store refuses for good is the user's to mend."""
    try:
        yield
    except UsageError:
        raise
    except Exception as e:
        raise UsageError(
            f"{path}: cannot be {what} ({e}); check the path and access, and run the same command"
            " again"
        ) from e
