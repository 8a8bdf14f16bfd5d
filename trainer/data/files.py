"""Files of a table, on this machine or in a bucket, without Beam."""

from __future__ import annotations

from pyarrow import fs

from schemas import UsageError


def locate(path: str) -> tuple[fs.FileSystem, str]:
    """The file system that holds `path` ("/data/table", "gs://bucket/table"), and the path on it.

    Raises:
        UsageError: if no file system of that scheme is known here.
    """
    if "://" not in path:
        return fs.LocalFileSystem(), path
    try:
        return fs.FileSystem.from_uri(path)
    except (OSError, ValueError) as e:
        raise UsageError(f"{path}: cannot be reached ({e}); check the path and access") from e


def read(path: str) -> bytes:
    """The whole file. Raises FileNotFoundError."""
    filesystem, inner = locate(path)
    with filesystem.open_input_file(inner) as f:
        return f.read()


def exists(path: str) -> bool:
    """Whether a file is there."""
    filesystem, inner = locate(path)
    return filesystem.get_file_info(inner).type == fs.FileType.File


def stamp(path: str) -> tuple[int, int]:
    """Size and time of change (ns) of a file, (-1, -1) if there is none: what changes with it."""
    filesystem, inner = locate(path)
    info = filesystem.get_file_info(inner)
    return (info.size, info.mtime_ns or 0) if info.type == fs.FileType.File else (-1, -1)
