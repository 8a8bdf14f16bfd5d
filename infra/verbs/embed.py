"""`unisim embed`: the embeddings of a table's texts, added to or made anew."""

from __future__ import annotations

import dataclasses
import time

from infra.verbs._flags import BeamFlags, EncoderFlags, absolute, parse, say
from infra.verbs._table import print_encoder

DESCRIPTION = """Embed the texts of a prepared table that have no embedding yet; frames stay.

With the encoder that the table was prepared with, only what is missing is computed: nothing, if
nothing is. With another one (another --t5, or another way to store or compute), its embeddings are
made beside those that are there, and `unisim train --encoder NAME` takes them. The bytes are those
that embedding all texts at once would have given.

The manifest is written last and at once: a run that is killed leaves the table as it was, and the
same command goes on from there. Do not add to embeddings that a training run is reading.

examples:
  unisim embed --data table --t5 t5-v1_1-xxl               another encoder's, beside the first
  unisim embed --data table --t5 t5-v1_1-xxl --embedding-dtype int8    the same in half the bytes
  unisim embed --data table --texts prompts.txt            and prompts that are yet to come
  unisim embed --data gs://b/table --t5 gs://b/t5-v1_1-xxl --runner DataflowRunner --project P …
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedFlags(BeamFlags, EncoderFlags):
    """Which table, which encoder, and how the job runs."""

    data: str
    """The prepared table: the --out of `unisim prepare`."""

    texts: str | None = None
    """A file of more texts, one per line, in UTF-8. White space is put right as in records."""


def main(argv: list[str]) -> int:
    """Runs the verb."""
    flags, beam_flags = parse(EmbedFlags, "embed", DESCRIPTION, argv)
    from pipelines import change, embed
    from pipelines.job import load_manifest

    change.finish(absolute(flags.data))
    load_manifest(flags.data)  # no table should not cost the hashing of 40 GB first
    encoder = flags.check()
    job = embed.make_job(
        absolute(flags.data),
        flags.t5 and absolute(flags.t5),
        encoder,
        flags.texts and absolute(flags.texts),
    )
    begin = time.monotonic()
    say(f"embedding with {encoder.name}: {encoder.description}")
    _run(job, flags, beam_flags)
    return _end(job, time.monotonic() - begin)


def _run(job, flags: EmbedFlags, beam_flags: list[str]) -> None:
    from infra import runners
    from pipelines import embed, reading
    from pipelines.progress import TextLine

    runners.run(
        lambda pipeline: embed.build(pipeline, job),
        name=runners.job_name("embed", job.target.out, job.target.encoder.name),
        runner=flags.runner,
        workers=flags.workers,
        shards=job.target.num_shards,
        beam_flags=beam_flags,
        lines=lambda counters: [TextLine(reading.Texts(job.target.work, counters))],
    )


def _end(job, seconds: float) -> int:
    """Says what was added."""
    from pipelines import commit
    from pipelines.job import load_manifest

    target = job.target
    commit.tidy(target.out, target.encoder.name)
    now = load_manifest(target.out).encoder(target.encoder.name)
    added = now.rows - (target.before.rows if target.before else 0)
    rate = f", {added / seconds:,.1f} texts/s with start-up" if added else ""
    print_encoder(now)
    print(f"{target.out}: {added:,} texts added{rate}")
    return 0
