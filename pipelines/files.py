"""Files, local paths and `gs://` alike: the operating system reads those, Beam these."""

from __future__ import annotations

import contextlib
import contextvars
import errno
import glob as local_glob
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, NamedTuple

from schemas import DataError, UsageError

_TEMPORARY = ".tmp-"
_AT_ONCE = 16  # requests to a remote store
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

_opening: contextvars.ContextVar[Callable[[str], None]] = contextvars.ContextVar(
    "_opening", default=lambda path: None
)


class Stamp(NamedTuple):
    """What a file that is overwritten does not keep: its size in bytes, and when it was last
    written, in nanoseconds of Unix time."""

    size: int
    written: int

    def __str__(self) -> str:
        return f"{self.size}@{self.written}"


def is_local(path: str) -> bool:
    """Whether the path is on this machine's own file system."""
    return "://" not in path


def _remote():
    """`pipelines.remote`, by which Beam comes: half a second that local paths need not wait."""
    from pipelines import remote

    return remote


def join(*parts: str) -> str:
    """Parts of a path on any file system."""
    return os.path.join(*parts) if is_local(parts[0]) else _remote().join(*parts)


def name_of(path: str) -> str:
    """The last part of a path."""
    return path.rstrip("/").rsplit("/", 1)[-1]


def exists(path: str) -> bool:
    """Whether a file, or a folder with something in it, is there."""
    return os.path.exists(path) if is_local(path) else _remote().exists(path)


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
        found = ((path, stamp(path)) for path in _local(folder, pattern))
        return sorted((path, each.size) for path, each in found if each)
    return sorted((path, each.size) for path, each in _remote().match(folder, *pattern))


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
    """Size in bytes. Raises FileNotFoundError."""
    return os.path.getsize(path) if is_local(path) else _remote().stamp(path).size


def stamp(path: str) -> Stamp | None:
    """The file's stamp; None if there is no such file. Follows links."""
    try:
        if not is_local(path):
            return _remote().stamp(path)
        found = os.stat(path)
    except (OSError, ValueError):  # gone, a loop of links, no name of a file
        return None
    return Stamp(found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None


def stamps(root: str, paths: Iterable[str]) -> dict[str, str]:
    """The stamps, as texts, of those that are files. Remote ones below the root are listed folder
    by folder, since a request for each of a million would take hours."""
    distinct = sorted(set(paths))
    listed = [path for path in distinct if not is_local(path) and path.startswith(f"{root}/")]
    found = {path: stamp(path) for path in set(distinct) - set(listed)}
    for folder in {path.rpartition("/")[0] for path in listed}:
        found |= dict(_remote().match(folder, "*"))
    return {path: str(found[path]) for path in distinct if found.get(path)}


@contextlib.contextmanager
def telling(opening: Callable[[str], None]) -> Iterator[None]:
    """While it lasts, `opening` is told of each file before this thread opens it for reading."""
    token = _opening.set(opening)
    try:
        yield
    finally:
        _opening.reset(token)


def tell(path: str) -> None:
    """Tells who listens that what this thread knows of the file is about to be used."""
    _opening.get()(path)


@contextlib.contextmanager
def open_read(path: str) -> Iterator[BinaryIO]:
    """The file for reading bytes, seekable, never decompressed on its name's account.

    Raises:
        FileNotFoundError: if there is none; a folder, or what stands below a file, is none either.
    """
    tell(path)
    if is_local(path):
        try:
            f = open(path, "rb")  # noqa: SIM115
        except (IsADirectoryError, NotADirectoryError) as e:
            raise FileNotFoundError(f"{path} is no file") from e
        with f:
            yield f
    else:
        with _remote().open_read(path) as f:
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


def digest(path: str) -> list[Any]:
    """[bytes, hex BLAKE2b-128] of a local file, as the manifest has them."""
    state, size = hashlib.blake2b(digest_size=16), 0
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            state.update(block)
            size += len(block)
    return [size, state.hexdigest()]


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[str]:
    """A POSIX path with the file's bytes, for libraries that cannot read a stream."""
    if is_local(path):
        tell(path)
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        target = os.path.join(folder, name_of(path))
        with open_read(path) as source, _room(folder), open(target, "wb") as f:
            while block := source.read(1 << 20):
                f.write(block)
        yield target


@contextlib.contextmanager
def local_write(path: str) -> Iterator[str]:
    """A POSIX path to write to; renamed (or uploaded) to `path` when the block ends well.

    Local temporaries stand beside their target, so that the rename is atomic; runners do start a
    work item twice, and then the last complete file wins over an equal one. An object of a remote
    store appears when its upload is complete.

    Raises:
        UsageError: if the disk is full.
    """
    if is_local(path):
        folder = os.path.dirname(path) or "."
        with _room(folder):
            os.makedirs(folder, exist_ok=True)
            handle, temporary = tempfile.mkstemp(
                prefix=_TEMPORARY, suffix="-" + name_of(path), dir=folder
            )
            os.close(handle)
            os.chmod(temporary, 0o644)
            try:
                yield temporary
                os.replace(temporary, path)
            except BaseException:
                delete(temporary)
                raise
        return
    with tempfile.TemporaryDirectory() as folder:
        temporary = os.path.join(folder, name_of(path))
        with _room(folder):
            yield temporary
        _remote().upload(temporary, path)


@contextlib.contextmanager
def _room(folder: str) -> Iterator[None]:
    """While it lasts, a full disk is the user's to mend. Writers name it by errors of any kind."""
    try:
        yield
    except (DataError, UsageError):
        raise
    except Exception as e:
        number = getattr(e, "errno", None)
        said = [os.strerror(n) for n in _FULL if n == number or os.strerror(n) in str(e)]
        if not said:
            raise
        raise UsageError(
            f"{folder}: {said[0]}; make room there and run the same command again, what is"
            " finished is kept"
        ) from e


def is_temporary(path: str) -> bool:
    """Whether the file is one of `local_write` that is not complete."""
    return name_of(path).startswith(_TEMPORARY)


def delete_temporaries(folder: str) -> None:
    """Deletes what killed writers left anywhere below a local folder."""
    if is_local(folder):
        for path, _ in glob(folder, "**"):
            if is_temporary(path):
                delete(path)


def delete(path: str) -> None:
    """Deletes a file, if it is there."""
    if is_local(path):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    else:
        _remote().delete(path)


def move(path: str, target: str) -> None:
    """Renames a file, over what has that name; on the same file system. May be done again: one
    that has come to its target is moved.

    Remote stores copy and then delete, so that a move that is cut short may leave both.

    Raises:
        FileNotFoundError: if it is at neither place; a UsageError on a remote store.
    """
    if is_local(path):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.replace(path, target)
    else:
        _remote().move(path, target)


def each(action: Callable[..., None], items: Iterable[tuple[str, ...]], where: str) -> None:
    """The action of all items, which are its arguments; at once and in any order if they are on
    the remote store `where`, as each waits for an answer or two. Ends at the first failure."""
    if is_local(where):
        for item in items:
            action(*item)
        return
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        try:
            for done in [pool.submit(action, *item) for item in items]:
                done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def prune(folder: str) -> None:
    """Deletes empty folders below a local one; remote stores have none."""
    if is_local(folder):
        for here, _, _ in os.walk(folder, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(here)


def delete_tree(path: str) -> None:
    """Deletes a folder and all in it, if it is there."""
    if is_local(path):
        import shutil

        shutil.rmtree(path, ignore_errors=True)
    else:
        _remote().delete_tree(path)
