"""`unisim forget`: records taken out of a table."""

from __future__ import annotations

import dataclasses
import time

from infra.verbs._flags import BeamFlags, absolute, human, parse, say
from infra.verbs._table import print_table
from schemas import UsageError

DESCRIPTION = """Remove records by their passports, with what was made of them.

Every record that has all that is given goes: its frames in every tier, its row of the index, and
the embedding of its text if no other record has that text. Only shards that hold such a record
are written again; the raw data is not read. The manifest keeps a note: what was asked, how many
records, and the digest of the manifest before. What is forgotten by licence or URI stays out when
the table is changed again; a source that was forgotten whole can be prepared again.

The table is replaced at the end, in a moment; a run that is killed goes on by the same command.

examples:
  unisim forget --data table --source ego4d
  unisim forget --data table --licence CC-BY-NC-4.0
  unisim forget --data table --source laion --uri 00012.tar      a prefix of source_uri
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForgetFlags(BeamFlags):
    """Which records of which table."""

    data: str
    """The prepared table: the --out of `unisim prepare`."""

    source: str | None = None
    """The dataset's name."""

    licence: str | None = None
    """The licence, written as in the records: `unisim audit` shows them."""

    uri: str | None = None
    """What `source_uri` begins with; or the same with the --source path before it."""

    dry_run: bool = False
    """Say what would go, and end."""


def main(argv: list[str]) -> int:
    """Runs the verb."""
    flags, beam_flags = parse(ForgetFlags, "forget", DESCRIPTION, argv)
    if not (flags.source or flags.licence or flags.uri):
        raise UsageError("nothing to forget: give --source, --licence or --uri")
    from infra import runners
    from pipelines import change, commit, forget, reading
    from pipelines.job import load_manifest
    from pipelines.progress import ShardLine
    from schemas.table import Forgotten

    out = absolute(flags.data)
    start = time.monotonic()
    if change.finish(out):
        say(f"{out}: an earlier change is in its place now")
    rule = Forgotten(source=flags.source, license=flags.licence, uri=flags.uri)
    job, asked = forget.make_job(out, rule)
    shards = sum(map(len, asked.shards.values()))
    for name, count in job.rule.records.items():
        say(f"{name}: {count:,} records {'go' if name in job.datasets else 'go, which are all'}")
    if flags.dry_run:
        print(f"{out}: {shards} shards would be written again; nothing was changed")
        return 0
    asked.begin(out)
    left, before = reading.remaining(out, forget.costs(out, asked), change.folder(out))
    runners.run(
        lambda pipeline: forget.build(pipeline, job),
        name=runners.job_name("forget", out),
        runner=flags.runner,
        workers=flags.workers,
        shards=shards,
        beam_flags=beam_flags,
        lines=lambda counters: [
            ShardLine("forget", reading.Shards(out, left, counters, before), len(left))
        ],
    )
    if not change.finish(out):
        print(f"{out}: nothing is changed yet, the job ends elsewhere; run this again then")
        return 0
    manifest = load_manifest(out)
    for encoder in manifest.encoders:
        commit.tidy(out, encoder.name)
    print_table(manifest)
    size = human(sum(size for size, _ in manifest.files.values()))
    print(f"{out}: {size}, {shards} shards written again, {time.monotonic() - start:.0f} s")
    return 0
