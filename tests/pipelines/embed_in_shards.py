"""`unisim embed` with tiny-random under another name, in a given number of shards: a table of the
tests has too few texts for more than one.

    python -m tests.pipelines.embed_in_shards OUT TEXTS SHARDS WORKERS
"""

import dataclasses
import sys

from infra import logs, runners
from pipelines import commit, embed
from pipelines.job import EmbedJob
from pipelines.text import check_directory

NAME = "tiny-again"


def job_of(out: str, texts: str, shards: int) -> EmbedJob:
    info = dataclasses.replace(check_directory(None), name=NAME, digest="a" * 32)
    job = embed.make_job(out, None, info, texts)
    return dataclasses.replace(job, target=dataclasses.replace(job.target, num_shards=shards))


def main(out: str, texts: str, shards: int, workers: int) -> None:
    logs.configure()
    job = job_of(out, texts, shards)
    runners.run(
        lambda pipeline: embed.build(pipeline, job),
        name="embed",
        runner="FnApiRunner",
        workers=workers,
        shards=shards,
        beam_flags=[],
        lines=lambda _: [],
    )
    commit.tidy(out, NAME)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
