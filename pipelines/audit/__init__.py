"""Reading a table back, record by record, trusting nothing that the writer said."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

from pipelines.audit.check import CHECKS, FAMILIES, Check, Family, Finding, Severity
from pipelines.audit.limits import Limits
from pipelines.audit.opened import Opened
from pipelines.audit.shard import Scope, Shard
from pipelines.audit.statistics import Statistics
from pipelines.audit.task import Run, tasks
from pipelines.audit.whole import Whole
from schemas import Manifest

__all__ = [
    "CHECKS",
    "FAMILIES",
    "Check",
    "Family",
    "Finding",
    "Limits",
    "Opened",
    "Scope",
    "Severity",
    "Shard",
    "Statistics",
    "Whole",
    "audit",
    "scope_of",
    "shards",
]


def scope_of(
    out: str,
    families: Collection[str] = FAMILIES,
    sample: float = 1.0,
    limits: str | None = None,
) -> Scope:
    """What an audit looks at. Raises UsageError if the file of limits is none."""
    chosen: tuple[Family, ...] = tuple(name for name in FAMILIES if str(name) in families)
    return Scope(out=out, families=chosen, sample=sample, limits=Limits.load(limits))


def audit(
    table: Opened,
    tick: Callable[[int], None] = lambda records: None,
    *,
    scope: Scope | None = None,
    denied: Collection[str] = (),
    before: Mapping[str, Statistics] | Manifest | None = None,
    whole: Whole | None = None,
) -> Iterator[Finding]:
    """Everything that is wrong with a table, found in this process.

    Args:
        table: an opened table.
        tick: told how many records were read since it was last called.
        scope: what is looked at; default: everything.
        denied, before: as of `Whole.findings`.
        whole: gathers what the shards told, for who wants to know more than the findings.
    """
    scope = scope or scope_of(table.out)
    whole = whole or Whole(table, scope)
    yield from shards(table, scope, whole, tick)
    yield from whole.findings(denied, before)


def shards(
    table: Opened, scope: Scope, whole: Whole, tick: Callable[[int], None]
) -> Iterator[Finding]:
    """What each shard tells by itself, read in this process; `whole` gathers the rest."""
    for task in tasks(table, scope):
        run = Run(table, scope, task, tick)
        yield from run
        if run.told:
            whole.add(run.told)
