"""What a raw file became, and what a record was made of: the half of `unisim why` about tables."""

from __future__ import annotations

import json
import sys

from infra.verbs._flags import absolute, pair
from schemas import DataError, UsageError

_MOST = 20  # lines, of records that are printed for people
_MOST_SHOWN = 8  # records in a picture
_FIELDS = (
    "dataset",
    "episode_id",
    "step",
    "split",
    "text",
    "num_frames",
    "source_uri",
    "source_range",
    "license",
)


def tell(flags) -> int:
    """Prints the records, and compares them with the raw data if that is asked for: 3 if they are
    not the same."""
    from pipelines.audit import Opened
    from pipelines.audit.lookup import Lookup

    lookup = Lookup(Opened(absolute(flags.data[0])))
    rows = _rows(lookup, flags.what)
    for i, row in enumerate(rows):
        if flags.json:
            print(json.dumps({name: row[name] for name in _FIELDS}))
        elif i < _MOST:
            _print(row)
    if len(rows) > _MOST and not flags.json:
        print(f"… and {len(rows) - _MOST:,} more; --json prints all")
    return _verify(flags, lookup, rows) if flags.verify or flags.show else 0


def _rows(lookup, what: str) -> list[dict]:
    """Of the record of that name, or those made from that file."""
    try:
        return [lookup.find(what)]
    except UsageError as e:
        if found := lookup.made_of(what):
            return found
        raise UsageError(
            f"{what}: no record was made from such a file, and it names none ({e}); raw files are"
            f" named as in the column source_uri of {lookup.table.out}/index.parquet"
        ) from e


def _print(row: dict) -> None:
    from pipelines.audit.check import key_of, shown

    print(f"{shown(key_of(row))}, {row['num_frames']} frames, {shown(repr(row['text']))}")
    print(f"  {shown(row['source_uri'])}  {shown(row['source_range'])}, {row['license']}")


def _verify(flags, lookup, rows: list[dict]) -> int:
    from infra.progress_bar import Bar
    from pipelines.audit.again import Again, compare
    from pipelines.audit.check import key_of

    roots = dict(pair(text, "--source", "NAME=PATH") for text in flags.source)
    again = Again(lookup.table, {name: absolute(path) for name, path in roots.items()})
    different, pictures = 0, []
    with Bar("verify", len(rows), "records") as bar:
        for row in rows:
            key = key_of(row)
            try:
                made = again.record(row)
                found = [compare(t, lookup.data(row, t), made[t]) for t in lookup.table.tiers]
            except DataError as e:
                different += 1
                bar.print(f"{key}: {e.reason}")
                continue
            if not all(each.same for each in found):
                different += 1
                bar.print(f"{key}: {'; '.join(map(str, found))}")
            if len(pictures) < _MOST_SHOWN:
                pictures.append((key, found[-1]))
            bar.add(1)
    same = len(rows) - different
    print(f"{same:,} of {len(rows):,} records are what the raw data gives, to the byte")
    if flags.show and pictures:
        _sheet(flags.show, pictures)
        print(f"wrote {flags.show}", file=sys.stderr)
    return 3 if different else 0


def _sheet(path, pictures) -> None:
    from trainer.simulate import write_contact_sheet

    rows = []
    for key, found in pictures:
        rows.append((f"{key} in the table", found.stored.pixels()))
        rows.append((f"made again: {found}", found.made.pixels()))
    write_contact_sheet(path, rows)
