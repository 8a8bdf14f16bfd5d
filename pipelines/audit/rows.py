"""`Rows`: the records of some index rows, read from the files of all tiers side by side."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from pipelines.audit.check import Finding
from pipelines.audit.integrity import COUNT, UNREADABLE
from pipelines.audit.opened import Opened, RecordFile
from pipelines.audit.record import Record
from pipelines.audit.rules import PARSES
from schemas import Chunk, DataError, DatasetInfo, Tier, decode


class Rows:
    """A context in which the files of a split of a shard are open.

    Args:
        names: of each tier's file, relative to the table.
    """

    def __init__(self, table: Opened, dataset: DatasetInfo, names: dict[Tier, str]):
        self._table, self._dataset, self._names = table, dataset, names
        self._open: dict[Tier, RecordFile] = {}
        self._found: list[Finding] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Rows:
        for tier, name in self._names.items():
            try:
                self._open[tier] = self._stack.enter_context(self._table.file(name))
            except DataError as e:
                self._lose(tier, e)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read(self, rows: list[dict[str, Any]]) -> Iterator[Record]:
        """The records of these rows, with what can be had of them."""
        data: dict[Tier, list[bytes]] = {}
        for tier, file in list(self._open.items()):
            # what lies beyond the end is told by `counts`
            wanted = [row["position"] for row in rows if 0 <= row["position"] < file.total]
            try:
                found = dict(zip(wanted, file.read(wanted), strict=True))
            except DataError:
                found = self._one_by_one(tier, rows)
            data[tier] = [found.get(row["position"], b"") for row in rows]
        for i, row in enumerate(rows):
            here = {tier: each[i] for tier, each in data.items() if each[i]}
            chunks = {t: c for t, d in here.items() if (c := self._decode(t, d, row))}
            yield Record(self._dataset, row, here, chunks)

    def findings(self) -> Iterator[Finding]:
        """What has gone wrong since they were last asked for."""
        found, self._found = self._found, []
        yield from found

    def counts(self, wanted: int) -> Iterator[Finding]:
        """The files' numbers of records against that of the manifest."""
        yield from self.findings()
        for tier, file in self._open.items():
            if file.total != wanted:
                message = f"{file.total} records, the manifest says {wanted}"
                yield COUNT.found(self._names[tier], message)

    def _one_by_one(self, tier: Tier, rows: list[dict[str, Any]]) -> dict[int, bytes]:
        """The records that can be read of some that cannot be read together."""
        found: dict[int, bytes] = {}
        name = self._names[tier]
        for row in rows:
            at = row["position"]
            try:
                with self._table.file(name) as file:  # a reader that has failed stays so
                    found |= dict(
                        zip([at], file.read([at] if at < file.total else []), strict=True)
                    )
            except DataError as e:
                self._found.append(UNREADABLE.found(row, f"{tier.name}: {e.reason}"))
        self._open[tier] = self._stack.enter_context(self._table.file(name))
        return found

    def _decode(self, tier: Tier, data: bytes, row: dict[str, Any]) -> Chunk | None:
        try:
            return decode(data, tier)
        except (DataError, ValueError) as e:
            self._found.append(PARSES.found(row, f"{tier.name}: {e}"))
            return None

    def _lose(self, tier: Tier, error: DataError) -> None:
        self._found.append(UNREADABLE.found(self._names[tier], error.reason))
        self._open.pop(tier, None)
