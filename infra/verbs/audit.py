"""`unisim audit`: re-read a table and check it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from infra.verbs._flags import BeamFlags, absolute, parse, say
from infra.verbs._table import summary
from schemas import UsageError

DESCRIPTION = """Re-read every record of a table and check it, trusting nothing in it.

Five families of checks: integrity, schema, content, rights, drift; --list tells each check. A table
is never changed. Large ones are spread over Beam workers, small ones are read in this process.

Exit 0: clean, or warnings only; 1: warnings, with --strict; 3: violations; 2: no table there.

examples:
  unisim audit table                                     everything
  unisim audit table --families integrity rights         digests, index, embeddings, licences
  unisim audit table --sample 1% --report report.html    a hundredth of the episodes, as a page
  unisim audit table --deny-licence CC-BY-NC-4.0 --jsonl findings.jsonl
  unisim audit table --against last-week                 what has moved since
  unisim audit table --serve                             in a browser: search, look, judge
  unisim audit --export verdicts.parquet                 what was judged, for train --exclude
"""
_SMALL = 20_000  # records of all tiers, below which workers are not worth their start


@dataclasses.dataclass(frozen=True, kw_only=True)
class AuditFlags(BeamFlags):
    """Which table, and what is looked for."""

    out: Annotated[str, tyro.conf.Positional] = ""
    """The table's folder."""

    list: bool = False
    """List the checks, and end."""

    families: tuple[str, ...] = ("integrity", "schema", "content", "rights", "drift")
    """Of the checks that are made."""

    sample: str = "100%"
    """Part of the episodes whose records are read. The index is always read whole; below 100% the
    files' digests are not compared, their sizes are."""

    strict: bool = False
    """Exit 1 if there are warnings."""

    deny_licence: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A licence that no record may have; once per licence."""

    against: str | None = None
    """Another table, what --statistics wrote of it, or a copy of its manifest, which tells less:
    what has moved since is told."""

    limits: str | None = None
    """A TOML file with other thresholds than pipelines/audit/limits.toml."""

    jsonl: Path | None = None
    """Write the findings here as JSON Lines."""

    parquet: Path | None = None
    """Write the findings here as Parquet."""

    report: Path | None = None
    """Write a page for people here: one HTML file with all that it shows."""

    statistics: Path | None = None
    """Write the datasets' statistics here as JSON, for a later --against."""

    serve: bool = False
    """Show the table in a browser instead: search, look at records, judge them."""

    host: str = "127.0.0.1"
    """With --serve: the address to listen on. Any but this machine's own demands a token, which is
    printed."""

    port: int = 8050
    """With --serve: 0 takes any that is free."""

    findings: str | None = None
    """With --serve: what an audit wrote with --parquet; its findings are flags to search for."""

    vocabulary: str | None = None
    """With --serve: the encoder's spiece.model, by which texts are shown in pieces too."""

    verdicts: Path = Path("verdicts.sqlite")
    """With --serve and --export: the file of what auditors said."""

    export: Path | None = None
    """Write the verdicts here as Parquet, for `unisim train --exclude`, and end."""

    most: int = 50
    """Findings printed; all are counted and written."""

    work: str | None = None
    """A folder that launcher and workers see, for results on the way. Default: a temporary one;
    needed with another --runner."""


def main(argv: list[str]) -> int:
    """Runs the verb."""
    flags, beam_flags = parse(AuditFlags, "audit", DESCRIPTION, argv)
    if flags.list:
        return _list()
    if flags.export:
        return _export(flags)
    if not flags.out:
        raise UsageError("no table given: unisim audit OUT, see `unisim audit --help`")
    if flags.serve:
        return _serve(flags)
    from pipelines.audit import Opened, scope_of

    sample = _part(flags.sample)
    scope = scope_of(absolute(flags.out), _families(flags.families), sample, flags.limits)
    table = Opened(scope.out)
    for name in ("jsonl", "parquet", "report", "statistics", "work"):
        if (path := getattr(flags, name)) is not None:
            table.refuse_within(name, path)
    before = _before(flags, scope, beam_flags)
    summary(table.manifest)
    found, whole = _audit(table, scope, flags, beam_flags, before)
    errors, warnings = found.severities["error"], found.severities["warning"]
    if found.total > flags.most:
        print(f"… and {found.total - flags.most:,} more")
    print(f"{whole.read:,} records read, {errors:,} violations, {warnings:,} warnings")
    _write(flags, table, scope, whole, found)
    return 3 if errors else int(bool(warnings and flags.strict))


def _write(flags: AuditFlags, table, scope, whole, found) -> None:
    """What is written at the end."""
    from pipelines.audit.output import write, write_statistics
    from pipelines.audit.report import render

    if flags.statistics:
        write_statistics(flags.statistics, whole.statistics)
    if flags.report:
        compared = flags.against is not None
        page = render(table, scope, whole, found, denied=flags.deny_licence, compared=compared)
        write(flags.report, page)
        say(f"wrote {flags.report}")


def _audit(table, scope, flags: AuditFlags, beam_flags: list[str], before):
    """The `Summary` of what was found, and the `Whole`."""
    from pipelines.audit.output import Output
    from pipelines.audit.summary import Summary

    found = Summary()
    with Output(flags.jsonl, flags.parquet) as output, _bar("audit", table, scope) as bar:

        def add(finding) -> None:
            found.add(finding)
            output.add(finding)
            if found.total <= flags.most:
                bar.print(str(finding))

        whole = _gather(table, scope, flags, beam_flags, bar, add)
        for finding in whole.findings(flags.deny_licence, before):
            add(finding)
    return found, whole


def _bar(what: str, table, scope):
    from infra.progress_bar import Bar

    return Bar(what, _cost(table, scope), "records")


def _cost(table, scope) -> int:
    """Records of all tiers and embeddings that are read."""
    from pipelines.audit.task import tasks

    return int(sum(task.cost for task in tasks(table, scope)) * scope.sample)


def _gather(table, scope, flags: AuditFlags, beam_flags: list[str], bar, add):
    """The `Whole` of all shards: with Beam where they are many, else in this process. What is
    found in a shard is added."""
    from pipelines.audit import Whole, shards
    from pipelines.audit.task import tasks

    whole = Whole(table, scope)
    if _cost(table, scope) > _SMALL or flags.runner != "FnApiRunner" or flags.workers > 0:
        _spread(scope, tasks(table, scope), flags, beam_flags, whole, add)
    else:
        for finding in shards(table, scope, whole, bar.add):
            add(finding)
    return whole


def _spread(scope, todo, flags: AuditFlags, beam_flags: list[str], whole, add) -> None:
    """Does the tasks with Beam, then hands over what they found, in their order."""
    import tempfile

    from infra import runners
    from pipelines.audit import Finding, graph, task
    from pipelines.progress import RateLine

    if flags.runner != "FnApiRunner" and not flags.work:
        raise UsageError(f"--runner {flags.runner}: wanted --work, a folder that its workers see")
    with tempfile.TemporaryDirectory(prefix="unisim-audit-") as temporary:
        folder = absolute(flags.work) if flags.work else temporary
        graph.clear(folder)
        runners.run(
            lambda pipeline: graph.build(pipeline, scope, folder),
            name=runners.job_name("audit", scope.out),
            runner=flags.runner,
            workers=flags.workers,
            shards=len(todo),
            beam_flags=beam_flags,
            lines=lambda _: [RateLine("audit", "records", graph.Progress(todo, folder))],
        )
        for each in todo:
            for item in task.load(each, folder):
                if isinstance(item, Finding):
                    add(item)
                elif item is not None:
                    whole.add(item)


def _serve(flags: AuditFlags) -> int:
    """Until it is interrupted."""
    from infra.progress_bar import Bar
    from pipelines.audit import Opened
    from pipelines.audit.viewer import listen

    table = Opened(absolute(flags.out))
    parts = sum(d.num_shards for d in table.manifest.datasets)
    with Bar("index", parts, "parts") as bar:
        server, address = listen(
            table,
            host=flags.host,
            port=flags.port,
            verdicts=flags.verdicts,
            findings=flags.findings,
            vocabulary=flags.vocabulary,
            tick=bar.add,
        )
    say(f"{address} shows {table.out}; verdicts go to {flags.verdicts}; Ctrl-C ends")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()
    return 0


def _export(flags: AuditFlags) -> int:
    from pipelines.audit.output import write_bytes
    from pipelines.audit.viewer import Verdicts

    assert flags.export is not None
    if not flags.verdicts.exists():
        raise UsageError(f"--verdicts {flags.verdicts}: no such file; --serve makes one")
    verdicts = Verdicts(flags.verdicts)
    write_bytes(flags.export, verdicts.parquet())
    print(f"{flags.export}: the verdicts on {len(verdicts.table()):,} records")
    return 0


def _before(flags: AuditFlags, scope, beam_flags: list[str]):
    """What the table is compared with, if it is: statistics, or a manifest."""
    if flags.against is None:
        return None
    import os

    from pipelines import files
    from pipelines.audit import Opened, drift
    from schemas import Manifest
    from schemas.table import MANIFEST

    path = absolute(flags.against)
    if os.path.isfile(path) and files.name_of(path) != MANIFEST:
        text = files.read(path).decode(errors="replace")
        return Manifest.from_json(text, path) if '"schema_version"' in text else drift.load(path)
    other = Opened(path.removesuffix(f"/{MANIFEST}"))
    say(f"reading {other.out} for its statistics")
    alone = dataclasses.replace(scope, out=other.out, families=("drift",))
    with _bar("against", other, alone) as bar:
        whole = _gather(other, alone, flags, beam_flags, bar, lambda finding: None)
    return whole.statistics


def _families(names: tuple[str, ...]):
    from pipelines.audit import FAMILIES
    from schemas import did_you_mean

    for name in names:
        if name not in FAMILIES:
            raise UsageError(f"--families {name}: {did_you_mean(name, [*FAMILIES])}")
    return names


def _part(text: str) -> float:
    """`1%` or `0.01` -> 0.01."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise UsageError(f"--sample {text}: wanted a part of the episodes, as 1% or 0.01")
    return value


def _list() -> int:
    from pipelines.audit import CHECKS, FAMILIES

    for family in FAMILIES:
        print(f"{family}:")
        for check in CHECKS.values():
            if check.family == family:
                print(f"  {check.name:<24}{check.severity:<9}{check.says}")
    return 0
