"""Reading a table back, record by record, trusting nothing that the writer said."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pipelines.audit import checks, texts
from pipelines.audit.finding import Finding
from pipelines.audit.opened import Opened

__all__ = ["Finding", "Opened", "audit"]


def audit(table: Opened, tick: Callable[[int], None] = lambda records: None) -> Iterator[Finding]:
    """Everything that is wrong with a table.

    Args:
        table: an opened table.
        tick: told how many records were read since it was last called.
    """
    yield from checks.check_files(table)
    yield from checks.check_manifest(table)
    yield from checks.check_losses(table)
    yield from checks.check_records(table, tick)
    yield from texts.check_embeddings(table)
