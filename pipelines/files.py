"""Files through Beam's FileSystems, so that local paths and `gs://` are alike."""

from __future__ import annotations

import contextlib
import glob as local_glob
import os
import tempfile
from collections.abc import Iterator
from os.path import isfile
from typing import BinaryIO

from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

from schemas import DataError, UsageError

_TEMPORARY = ".tmp-"


def is_local(path: str) -> bool:
    """Whether the path is on this machine's own file system."""
    return "://" not in path


def join(*parts: str) -> str:
    """Parts of a path on any file system."""
    return FileSystems.join(*parts)


def name_of(path: str) -> str:
    """The last part of a path."""
    return path.rstrip("/").rsplit("/", 1)[-1]


def exists(path: str) -> bool:
    """Whether a file, or a folder with something in it, is there."""
    if is_local(path):
        return os.path.exists(path)
    return FileSystems.exists(path) or bool(glob(path, "*"))


def glob(folder: str, *pattern: str) -> list[tuple[str, int]]:
    """The files below a folder that match, sorted, with their sizes in bytes.

    Args:
        folder: taken as it is written; it need not exist.
        pattern: parts of a path, in which `*` matches within a name; `**`, as the last part, is
            everything below.

    Raises:
        UsageError: if a remote folder cannot be listed.
    """
    if is_local(folder):
        return sorted(
            (path, os.path.getsize(path)) for path in _local(folder, pattern) if isfile(path)
        )
    try:
        found = FileSystems.match([join(folder, *pattern)])[0].metadata_list
    except BeamIOError as e:
        raise UsageError(f"{folder}: cannot be listed ({e}); check the path and access") from e
    return sorted((m.path, m.size_in_bytes) for m in found)


def _local(folder: str, pattern: tuple[str, ...]) -> Iterator[str]:
    """Beam's own listing walks through everything below, whatever the pattern."""
    if pattern[-1] != "**":
        where = os.path.join(local_glob.escape(folder), *pattern)
        yield from local_glob.iglob(where, include_hidden=True)
        return
    for at in local_glob.iglob(
        os.path.join(local_glob.escape(folder), *pattern[:-1]), include_hidden=True
    ):
        for here, _, names in os.walk(at):
            yield from (os.path.join(here, name) for name in names)


def size(path: str) -> int:
    """Size in bytes."""
    return FileSystems.match([path])[0].metadata_list[0].size_in_bytes


@contextlib.contextmanager
def open_read(path: str) -> Iterator[BinaryIO]:
    """The file for reading bytes, seekable, never decompressed on its name's account.

    Raises:
        FileNotFoundError: if there is none; a folder, or what stands below a file, is none either.
    """
    if is_local(path):
        try:
            f = open(path, "rb")  # noqa: SIM115
        except (IsADirectoryError, NotADirectoryError) as e:
            raise FileNotFoundError(f"{path} is no file") from e
        with f:
            yield f
    else:
        with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as f:
            yield f


@contextlib.contextmanager
def open_planned(path: str) -> Iterator[BinaryIO]:
    """As `open_read`, for a raw file that the plan found. Raises DataError if it has gone since."""
    with contextlib.ExitStack() as stack:
        try:
            stream = stack.enter_context(open_read(path))
        except FileNotFoundError as e:
            raise DataError(f"{name_of(path)} has gone since the plan", uri=path) from e
        yield stream


def read(path: str) -> bytes:
    """The whole file. Raises FileNotFoundError."""
    with open_read(path) as f:
        return f.read()


@contextlib.contextmanager
def open_write(path: str) -> Iterator[BinaryIO]:
    """A file that appears under its name only when it is complete."""
    with local_write(path) as temporary, open(temporary, "wb") as f:
        yield f


def write(path: str, data: bytes) -> None:
    """The whole file at once, or not at all."""
    with open_write(path) as f:
        f.write(data)


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[str]:
    """A POSIX path with the file's bytes, for libraries that cannot read a stream."""
    if is_local(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        target = os.path.join(folder, name_of(path))
        with open_read(path) as source, open(target, "wb") as f:
            while block := source.read(1 << 20):
                f.write(block)
        yield target


@contextlib.contextmanager
def local_write(path: str) -> Iterator[str]:
    """A POSIX path to write to; renamed (or uploaded) to `path` when the block ends well.

    Local temporaries stand beside their target, so that the rename is atomic; runners do start a
    work item twice, and then the last complete file wins over an equal one.
    """
    if is_local(path):
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        handle, temporary = tempfile.mkstemp(
            prefix=_TEMPORARY, suffix="-" + name_of(path), dir=os.path.dirname(path) or "."
        )
        os.close(handle)
        os.chmod(temporary, 0o644)
        try:
            yield temporary
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        return
    with tempfile.TemporaryDirectory() as folder:
        temporary = os.path.join(folder, name_of(path))
        yield temporary
        with (
            open(temporary, "rb") as f,
            FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED) as target,
        ):
            while block := f.read(1 << 20):
                target.write(block)


def is_temporary(path: str) -> bool:
    """Whether the file is one of `local_write` that is not complete."""
    return name_of(path).startswith(_TEMPORARY)


def delete_temporaries(folder: str) -> None:
    """Deletes what killed writers left anywhere below a local folder."""
    if is_local(folder):
        for path, _ in glob(folder, "**"):
            if is_temporary(path):
                os.unlink(path)


def delete(path: str) -> None:
    """Deletes a file, if it is there."""
    if is_local(path):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    elif FileSystems.exists(path):
        FileSystems.delete([path])


def delete_tree(path: str) -> None:
    """Deletes a folder and all in it, if it is there."""
    if is_local(path):
        import shutil

        shutil.rmtree(path, ignore_errors=True)
    elif exists(path):
        FileSystems.delete([path])
