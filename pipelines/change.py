"""`Change`: what is to be made of a finished table, and how it is put in its place.

All that a change writes lies below `_work/next` until it is whole; the table stays as it was. Then
`decide` writes the next manifest there, and from then on the change is only a matter of renaming:
`finish` does it, and goes on where a killed one has stopped. While files move there is no
manifest.json, so nobody reads a table that is half of each.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from pipelines import files
from schemas import Manifest
from schemas.table import MANIFEST, WORK, dump_json

NEXT = f"{WORK}/next"
_CHANGE, _DROP = "change.json", "drop.json"
_OURS = (_CHANGE, _DROP, MANIFEST)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
    """What a job was asked for; an equal one goes on with what an earlier one has left.

    Attributes:
        shards: dataset -> which of its shards are made; the others stay as they are.
        before: hex digest of the manifest that lists the table as it is.
        plan: hex digest of the plan, raw files' stamps included; "" where no raw data is read.
        rule: what is removed, as fields of `schemas.table.Forgotten`.
    """

    shards: dict[str, list[int]]
    before: str
    plan: str = ""
    rule: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def load(cls, out: str) -> Change | None:
        """The change that is under way, if there is one."""
        path = files.join(folder(out), _CHANGE)
        return cls(**json.loads(files.read(path))) if files.exists(path) else None

    def begin(self, out: str) -> bool:
        """Makes this the change that is under way; False if it was so already. What another one
        has left is deleted."""
        if Change.load(out) == self:
            return False
        drop(out)
        files.write(files.join(folder(out), _CHANGE), dump_json(dataclasses.asdict(self)).encode())
        return True


def folder(out: str) -> str:
    """Where a change of the table at `out` writes its files, named as in the table."""
    return files.join(out, NEXT)


def drop(out: str) -> None:
    """Deletes what an unfinished change has left; killed here, it leaves none that is decided, nor
    one to be gone on with."""
    for name in (MANIFEST, _CHANGE):
        files.delete(files.join(folder(out), name))
    for name in ("next", "receipts", "progress"):
        files.delete_tree(files.join(out, WORK, name))


def decide(out: str, before: Manifest, manifest: Manifest) -> None:
    """Ends the writing of a change, whose files are all there. May be run twice.

    Args:
        before: the manifest that is in place.
        manifest: the one to come.
    """
    gone = sorted(before.files.keys() - manifest.files.keys())
    files.write(files.join(folder(out), _DROP), dump_json(gone).encode())
    files.write(files.join(folder(out), MANIFEST), manifest.to_json().encode())


def finish(out: str) -> bool:
    """Puts a change that was decided in its place; False if there is none."""
    there = folder(out)
    decided = files.join(there, MANIFEST)
    if not files.exists(decided):
        return False
    files.delete(files.join(out, MANIFEST))
    left = [path.removeprefix(there.rstrip("/") + "/") for path, _ in files.glob(there, "**")]
    files.each(
        files.move,
        [(files.join(there, name), files.join(out, name)) for name in left if _moves(name)],
        out,
    )
    gone = json.loads(files.read(files.join(there, _DROP)))
    files.each(files.delete, [(files.join(out, name),) for name in gone], out)
    # copied, not moved: until the folder is gone, the change can be put in its place again
    files.write(files.join(out, MANIFEST), files.read(decided))
    drop(out)
    files.prune(out)
    return True


def _moves(name: str) -> bool:
    return name not in _OURS and not files.is_temporary(name)
