"""The family "integrity": the table is whole, and says the same wherever it says it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from pipelines import files
from pipelines.audit.check import Where, check, declare
from pipelines.audit.opened import Opened
from pipelines.audit.record import Record
from schemas import DataError, DatasetInfo
from schemas.columns import index_fields
from schemas.record import digest
from schemas.table import DEAD_LETTERS, MANIFEST, TIMINGS, WORK, text_dir

UNREADABLE = declare(
    "file-readable", "integrity", "error", "every file of the table can be read to its end"
)
ROWS = declare(
    "index-rows",
    "integrity",
    "error",
    "the index has the manifest's number of rows, at the positions 0, 1, 2 … of every file",
)
COUNT = declare(
    "record-count", "integrity", "error", "every file of frames has as many records as the index"
)


@check("file-digest", "integrity")
def file_digests(
    table: Opened, names: list[str], *, whole: bool = True
) -> Iterator[tuple[Where, str]]:
    """Every file has the size and the digest that the manifest says."""
    for name in names:
        if name not in table.manifest.files:
            yield name, "not listed in the manifest"
            continue
        size, wanted = table.manifest.files[name]
        path = files.join(table.out, name)
        if not files.exists(path):
            yield name, "listed in the manifest, not there"
        elif not whole:
            if (found := files.size(path)) != size:
                yield name, f"{found} bytes, the manifest says {size}"
        else:
            with files.local_copy(path) as local:
                found = files.digest(local)
            if found != [size, wanted]:
                yield name, f"{found[0]} bytes {found[1]}, the manifest says {size} bytes {wanted}"


@check("file-orphan", "integrity")
def orphan_files(table: Opened) -> Iterator[tuple[Where, str]]:
    """No file is there that the manifest does not name, but for timings, and those of an `embed` or
    a change that is under way"""
    there = set(table.listing())
    embedding = [name for name in there if name.startswith(f"{WORK}/embed/")]
    unfinished = {f"{text_dir(name.split('/')[2])}/" for name in embedding} | {f"{WORK}/"}
    for name in sorted(there - set(table.manifest.files) - {MANIFEST, TIMINGS}):
        cut_short = embedding and files.is_temporary(name)
        if not (cut_short or name.startswith(tuple(unfinished))):
            yield name, "not listed in the manifest"


@check("record-digest", "integrity")
def record_digest(record: Record) -> Iterator[tuple[Where, str]]:
    """A record's bytes are those that its index row has the digest of."""
    wanted = dict(record.row["digests"])
    for tier, data in record.data.items():
        if wanted.get(tier.name) != digest(data):
            yield (
                record.row,
                f"{tier.name}: its bytes are not those that the index has the digest of",
            )


@check("index-agrees", "integrity")
def index_agrees(record: Record) -> Iterator[tuple[Where, str]]:
    """A record's index row says what the record says."""
    for tier, chunk in record.chunks.items():
        for name, value in index_fields(chunk).items():
            if record.row[name] != value:
                said = _shown(record.row[name])
                yield record.row, f"{tier.name}: {name} is {_shown(value)}, the index says {said}"


def _shown(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else repr(value)


@check("tiers-agree", "integrity")
def tiers_agree(record: Record) -> Iterator[tuple[Where, str]]:
    """All tiers have the same times and controls of a record."""
    if len(record.chunks) < 2:
        return
    (first, chunk), *others = record.chunks.items()
    for tier, other in others:
        for name in ("times", "controls", "control_bins", "control_mask", "overlap"):
            if getattr(chunk, name).tobytes() != getattr(other, name).tobytes():
                yield record.row, f"{name} at {tier.name} are not those at {first.name}"


@check("manifest-totals", "integrity")
def manifest_totals(dataset: DatasetInfo, totals: dict[str, int]) -> Iterator[tuple[Where, str]]:
    """The manifest's totals are those of the index."""
    wanted = {name: getattr(dataset, name) for name in ("chunks", "frames", "views", "episodes")}
    wanted["clipped controls"] = sum(dataset.clipped.values())
    for name, value in wanted.items():
        if totals[name] != value:
            yield dataset.name, f"{name} {value}, the index has {totals[name]}"


@check("manifest-losses", "integrity")
def manifest_losses(table: Opened) -> Iterator[tuple[Where, str]]:
    """The manifest's losses, by stage and in all, are those of the dead letters."""
    try:
        letters: list[dict[str, Any]] = (
            table.dead_letters().select(["dataset", "stage", "episodes"]).to_pylist()
        )
    except DataError as e:
        yield DEAD_LETTERS, e.reason
        return
    for dataset in table.manifest.datasets:
        mine = [letter for letter in letters if letter["dataset"] == dataset.name]
        lost = [letter["episodes"] or 0 for letter in mine]
        totals = {
            "dead_letters": sum(lost),
            "declared_losses": lost.count(0),
            "losses": dict(Counter(letter["stage"] for letter in mine)),
        }
        for name, found in totals.items():
            if getattr(dataset, name) != found:
                yield dataset.name, f"{name} {getattr(dataset, name)}, {DEAD_LETTERS} has {found}"


RECORD = (record_digest, index_agrees, tiers_agree)
