"""`unisim prepare`: raw data -> table."""

from __future__ import annotations

import dataclasses
import time

from infra.verbs._flags import (
    BeamFlags,
    EncoderFlags,
    PlanFlags,
    absolute,
    human,
    make_plan,
    parse,
    say,
)
from infra.verbs._table import print_table
from schemas import UsageError

DESCRIPTION = """Turn raw data into a table of (action in, video out) records.

Plans (see `unisim plan`), then runs the Beam graph: locally with one process per core, or anywhere
with --runner and that runner's own flags, which are passed on as they are. A killed run goes on
where it was; a finished one is left alone. With a --source that a finished table has not, that is
added to it, and the shards that are there stay as they are. Examples:

  unisim prepare --source bridge=…/bridge_dataset/1.0.0 --out table
  unisim prepare --source rt1=…/rt_1/0.1.0 --out table                 another source beside it
  unisim prepare --out table --replay-dead-letters                     after the raw data was mended
  unisim prepare --source laion=shards --out gs://b/table --t5 gs://b/t5-v1_1-xxl \\
      --runner DataflowRunner --project P --region R --temp_location gs://b/tmp \\
      --sdk_container_image IMAGE
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareFlags(BeamFlags, EncoderFlags, PlanFlags):
    """Which raw data becomes which table, and how the job runs."""

    error_budget: float = 0.01
    """Part of each source's episodes that may be lost before the run fails at its end."""

    replay_dead_letters: bool = False
    """Read the raw data of shards that have lost something again, as it is now; others stay. With
    the flags of the run that lost it, or with --out alone."""

    profile: str | None = None
    """A file for where the workers' time went: seconds, calls and bytes of every stage, as JSON, in
    all and by shard."""

    dry_run: bool = False
    """Print the plan and the runner's flags, all of them, and end: nothing is written or run."""


def main(argv: list[str]) -> int:
    """Runs the verb."""
    flags, beam_flags = parse(PrepareFlags, "prepare", DESCRIPTION, argv)
    if not 0 <= flags.error_budget <= 1:
        raise UsageError(f"--error-budget {flags.error_budget}: wanted 0 to 1")
    from pipelines import begin
    from pipelines.job import Job

    if flags.dry_run:
        _print_run(make_plan(flags), flags, beam_flags)
        return 0
    encoder = flags.check()
    made = make_plan(flags) if flags.source or not flags.replay_dead_letters else None
    out = absolute(flags.out)
    if made is None or flags.replay_dead_letters:
        changes = begin.replay(made, out)
    else:
        changes = begin.prepare(made, out)
    job = Job(
        out=out,
        t5=flags.t5 and absolute(flags.t5),
        encoder=encoder,
        error_budget=flags.error_budget,
        changes=bool(changes),
    )
    start = time.monotonic()
    if changes is None:
        return _end(job, 0.0)
    say(f"embedding with {encoder.name}: {encoder.description}")
    _run(job, flags, beam_flags)
    _print_stages(job, flags.profile)
    if not _committed(job):
        return _end_early(job)
    return _end(job, time.monotonic() - start)


def _print_run(made, flags: PrepareFlags, beam_flags: list[str]) -> None:
    """What would be done, and the flags that Beam would be given."""
    from infra import runners
    from infra.verbs.plan import show

    show(made)
    shards = len(made.costs())
    name = runners.job_name("prepare", absolute(flags.out))
    _, options = runners.pipeline_options(flags.runner, flags.workers, shards, beam_flags, name)
    print(f"--runner={flags.runner}")
    given = options.get_all_options(drop_default=True, retain_unknown_options=True)
    for name, value in sorted(given.items()):
        for each in value if isinstance(value, list) else [value]:
            if name != "runner":
                print(f"--{name}" if each is True else f"--{name}={each}")


def _run(job, flags: PrepareFlags, beam_flags: list[str]) -> None:
    """Runs the graph to its end, with progress."""
    from infra import runners
    from pipelines import prepare, reading
    from pipelines.progress import ShardLine, TextLine

    plan = job.plan()
    costs = plan.costs()
    wanted = {key: costs[key] for key in job.shards(plan)}
    left, before = reading.remaining(job.out, wanted, job.into)
    if before.shards:
        say(f"{before.shards} of {len(wanted)} shards are done from before")
    target = job.target()
    runners.run(
        lambda pipeline: prepare.build(pipeline, job),
        name=runners.job_name("prepare", job.out),
        runner=flags.runner,
        workers=flags.workers,
        shards=max(len(left), target.num_shards),
        beam_flags=beam_flags,
        lines=lambda counters: [
            ShardLine("prepare", reading.Shards(job.out, left, counters, before), len(left)),
            TextLine(reading.Texts(target.work, counters)),
        ],
    )


def _print_stages(job, profile: str | None) -> None:
    """Says where the workers' time went. The receipts that know it are there until the end; remote
    ones are a request each, and read only for a profile."""
    from pipelines import files, receipt
    from pipelines.stages import Stages
    from schemas.table import dump_json

    if not (profile or files.is_local(job.out)):
        return
    total = Stages()
    by_dataset: dict[str, list] = {}
    for item in receipt.load_all(job.out, job.shards(job.plan()), job.into):
        total.add(Stages(item.stages))
        by_dataset.setdefault(item.dataset, []).append({"shard": item.shard, **item.stages})
    say(str(total))
    if profile:
        value = {"stages": total.to_dict(), "shards": by_dataset}
        files.write(absolute(profile), dump_json(value).encode())


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
        " shards are kept: mend the input and run again with --replay-dead-letters, or with a"
        " larger --error-budget to commit them"
    )


def _committed(job) -> bool:
    """Whether the job has come to its end; a change of a table is then put in its place."""
    from pipelines import begin, change

    return change.finish(job.out) if job.changes else begin.complete(job.out)


def _end_early(job) -> int:
    """Says why there is no table: 1 if for its losses."""
    from pipelines import commit, files, receipt
    from pipelines.job import load_manifest
    from schemas.table import DEAD_LETTERS

    plan = job.plan()
    shards = job.shards(plan)
    done = receipt.load_all(job.out, shards, job.into)
    if len(done) < len(shards):  # a template was written, or the runner does not wait
        print(f"{job.out}: {len(done)} of {len(shards)} shards are done, the job ends elsewhere")
        return 0
    before = load_manifest(job.out) if job.changes else None
    datasets = commit.describe(plan, commit.group(plan, commit.together(job.out, before, done)))
    for d in commit.over_budget(datasets, job.error_budget):
        say(f"{d.name}: {_too_much(d, job.error_budget)}; see {files.join(job.into, DEAD_LETTERS)}")
    return 1


def _end(job, seconds: float) -> int:
    """Says what the table holds."""
    from pipelines import commit
    from pipelines.job import load_manifest

    commit.tidy(job.out, job.target().encoder.name, "receipts", "progress")
    manifest = load_manifest(job.out)
    if not any(encoder.same_rows(job.encoder) for encoder in manifest.encoders):
        names = ", ".join(encoder.name for encoder in manifest.encoders)
        raise UsageError(
            f"{job.out}: complete, with embeddings of {names}, not of {job.encoder.name};"
            " `unisim embed` with the same --t5 adds them"
        )
    print_table(manifest)
    size = human(sum(size for size, _ in manifest.files.values()))
    made = sum(d.frames for d in manifest.datasets)
    speed = f", {made / seconds:,.0f} frames/s" if seconds and not job.changes else ""
    speed = speed if seconds else "; it was complete already"
    print(f"{job.out}: {size}, {len(manifest.files)} files{speed}")
    return 0
