"""`unisim prepare`: raw data -> table."""

from __future__ import annotations

import dataclasses
import os
import sys
import time

import tyro

from infra.verbs._flags import PlanFlags, human, make_plan
from infra.verbs.audit import print_losses
from schemas import UsageError

DESCRIPTION = """Turn raw data into a table of (action in, video out) records.

Plans (see `unisim plan`), then runs the Beam graph: locally with one process per core, or anywhere
with --runner and that runner's own flags, which are passed on as they are. A killed run goes on
where it was; a finished one is left alone. Examples:

  unisim prepare --source bridge=…/bridge_dataset/1.0.0 --out table
  unisim prepare --source laion=shards --out gs://b/table --t5 gs://b/t5-v1_1-xxl \\
      --runner DataflowRunner --project P --region R --temp_location gs://b/tmp
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareFlags(PlanFlags):
    """Which raw data becomes which table, and how the job runs."""

    t5: str | None = None
    """Hugging Face directory of a T5 encoder (config.json, model.safetensors, spiece.model).
    Default: `tiny-random`, built in for trying things out. It is not a language model."""

    error_budget: float = 0.01
    """Part of each source's episodes that may be lost before the run fails at its end."""

    runner: str = "FnApiRunner"
    """Beam runner. The default is Beam's own local one, with --workers processes."""

    workers: int = 0
    """Local processes; 0 is one per core."""


def main(argv: list[str]) -> int:
    """Runs the verb."""
    flags, beam_flags = tyro.cli(
        PrepareFlags,
        args=argv,
        prog="unisim prepare",
        description=DESCRIPTION,
        return_unknown_args=True,
    )
    if not 0 <= flags.error_budget <= 1:
        raise UsageError(f"--error-budget {flags.error_budget}: wanted 0 to 1")
    _check_beam_flags(flags, beam_flags)
    from pipelines import files, plan
    from pipelines.job import Job
    from pipelines.text.encoder import check_directory
    from schemas.table import MANIFEST

    encoder = check_directory(flags.t5)
    made = make_plan(flags)
    plan.save(made, flags.out)
    job = Job(
        out=_absolute(flags.out),
        t5=flags.t5 and _absolute(flags.t5),
        encoder=encoder,
        error_budget=flags.error_budget,
    )
    begin = time.monotonic()
    fresh = not files.exists(files.join(flags.out, MANIFEST))
    if fresh:
        _say(f"embedding with {encoder.name}: {encoder.description}")
        _run(job, made, flags, beam_flags)
    return _end(job, made, time.monotonic() - begin if fresh else 0.0)


def _say(line: str) -> None:
    print(f"unisim: {line}", file=sys.stderr, flush=True)


def _absolute(path: str) -> str:
    from pipelines import files

    return os.path.abspath(path) if files.is_local(path) else path


def _check_beam_flags(flags: PrepareFlags, beam_flags: list[str]) -> None:
    """A flag that nobody knows is a typing error, found before any work starts."""
    from apache_beam.options.pipeline_options import PipelineOptions

    from schemas import did_you_mean

    left = PipelineOptions(beam_flags).get_all_options(retain_unknown_options=True)
    known = PipelineOptions([]).get_all_options()
    ours = [field.name.replace("_", "-") for field in dataclasses.fields(PrepareFlags)]
    for name in left:
        if name not in known and flags.runner == "FnApiRunner":
            raise UsageError(f"unknown flag --{name}; {did_you_mean(name.replace('_', '-'), ours)}")
    stray = [text for text in beam_flags[:1] if not text.startswith("-")]
    if stray:
        raise UsageError(f"{stray[0]!r} belongs to no flag; see `unisim prepare --help`")


def _run(job, made, flags: PrepareFlags, beam_flags: list[str]) -> None:
    """Runs the graph to its end, with a progress line."""
    import apache_beam as beam

    from infra.runners import pipeline_options
    from pipelines import prepare, receipt
    from pipelines.progress import Reporter

    tasks = prepare.tasks(made, job.out)
    costs = {(t.dataset.name, t.shard.index): t.shard.cost for t in tasks}
    done = receipt.load_all(job.out, list(costs))
    if done:
        _say(f"{len(done)} of {len(tasks)} shards are done from before")
    for item in done:
        del costs[item.dataset, item.shard]
    runner, options = pipeline_options(flags.runner, flags.workers, len(costs), beam_flags)
    pipeline = beam.Pipeline(runner=runner, options=options)
    prepare.build(pipeline, job)
    with Reporter(job.out, costs):
        pipeline.run().wait_until_finish()


def _too_much(dataset, budget: float) -> str:
    """Why a dataset was not committed, and what to do."""
    lost, total = dataset.dead_letters, dataset.dead_letters + dataset.episodes
    if not dataset.chunks:
        declared = dataset.declared_losses
        return (
            f"no episode is left: {lost} could not be used, {declared} are declared unusable by the"
            " source itself. Mend the input, or leave this --source out"
        )
    return (
        f"{lost} of {total} episodes could not be used, the budget is {budget:.1%}. The finished"
        " shards are kept: mend the input, or run again with a larger --error-budget to commit them"
    )


def _end(job, made, seconds: float) -> int:
    """Says what the table holds; 1 if it was not committed for its losses."""
    from pipelines import commit, files, prepare, receipt
    from schemas import Manifest
    from schemas.table import DEAD_LETTERS, MANIFEST, WORK

    path = files.join(job.out, MANIFEST)
    if not files.exists(path):
        shards = [(t.dataset.name, t.shard.index) for t in prepare.tasks(made, job.out)]
        datasets = commit.summarise(made, receipt.load_all(job.out, shards))
        for d in commit.over_budget(datasets, job.error_budget):
            _say(f"{d.name}: {_too_much(d, job.error_budget)}; see {job.out}/{DEAD_LETTERS}")
        return 1
    files.delete_tree(files.join(job.out, WORK))  # a job killed just after its commit leaves it
    manifest = Manifest.from_json(files.read(path).decode(), path)
    if manifest.encoder.digest != job.encoder.digest:
        raise UsageError(
            f"{job.out}: complete, with embeddings of {manifest.encoder.name}; --t5 names"
            f" {job.encoder.name}. Give another --out"
        )
    frames = sum(d.frames for d in manifest.datasets)
    for d in manifest.datasets:
        print(
            f"{d.name:<24}{d.episodes:>8,} episodes {d.chunks:>9,} records {d.frames:>10,} frames"
            f" {d.dead_letters:>6,} lost {d.declared_losses:>6,} declared losses"
        )
        print_losses(d)
    size = human(sum(size for size, _ in manifest.files.values()))
    speed = f", {frames / seconds:,.0f} frames/s" if seconds else "; it was complete already"
    print(f"{job.out}: {size}, {len(manifest.files)} files{speed}")
    return 0
