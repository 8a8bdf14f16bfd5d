"""Whether raw files are still those that were planned, and stay so while they are read.

A unit that is one file is known by that file's stamp in the plan. Of other files (those of a unit
that is a folder, annotations beside a video) the plan says nothing, since there may be millions:
none may have been written after plan.json was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pipelines import files
from pipelines.episode import Unit
from schemas import DataError


class Changed(Exception):
    """A raw file was written while it was read: what was made of it is to be thrown away."""


@contextlib.contextmanager
def watched(unit: Unit, planned: files.Stamp | None) -> Iterator[None]:
    """While it lasts, the unit's files are looked at before they are opened; at its end once more.

    Remote files of a unit that is a folder are looked at only before, to save their requests.

    Args:
        unit: with its absolute URI.
        planned: of plan.json; None where there is none, and then only the unit's file is watched.

    Raises:
        DataError: "changed since planned", before anything is read of a file.
        Changed: if a file has changed meanwhile.
    """
    seen: dict[str, files.Stamp | None] = {}

    def opening(path: str) -> None:
        if path not in seen:
            seen[path] = files.stamp(path)
        _check(path, seen[path], unit, planned)

    if unit.stamp:
        opening(unit.uri)
    try:
        with files.telling(opening):
            yield
    finally:
        again = (path for path in seen if files.is_local(path) or path == unit.uri)
        for path in again:
            if files.stamp(path) != seen[path]:
                raise Changed(f"{path}: changed while it was read")


def _check(path: str, now: files.Stamp | None, unit: Unit, planned: files.Stamp | None) -> None:
    """Raises DataError."""
    if now is None:
        return  # the source says best what is lost with it
    if unit.stamp and path == unit.uri:
        size = int(unit.stamp.partition("@")[0])
        if now.size != size:
            reason = f"size {size} then, {now.size} now"
        elif str(now) != unit.stamp:
            reason = "written again, with the same size"
        else:
            return
    elif planned and now.written > planned.written:
        reason = "written after the plan"
    else:
        return
    raise DataError(f"{files.name_of(path)} has changed since planned ({reason})", uri=path)
