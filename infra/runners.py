"""Beam runners: the options that each needs. The local default needs no server and no download."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.runner import PipelineRunner

from infra.local_workers import watched
from pipelines import files
from pipelines.progress import Line, Reporter
from pipelines.reading import Counters
from schemas import UsageError

_ATTEMPTS = 4
# a worker's own UsageError, as runners pass it on: with a traceback before it
_REFUSED = re.compile(r"UsageError: (.*?)(?: \[while running .*)?$", re.MULTILINE)
_PATIENCE = 1.0  # seconds; the death is known a little after the channel's end


def run(
    build: Callable[[beam.Pipeline], None],
    *,
    name: str,
    runner: str,
    workers: int,
    shards: int,
    beam_flags: list[str],
    lines: Callable[[Counters], Sequence[Line]],
) -> None:
    """Runs a graph to its end. Where a local worker process dies, the graph is begun again: shards
    that are finished have left receipts, and are not done again.

    Args:
        build: adds the graph to a pipeline.
        name: of the job, the same for all that write the same files.
        runner, workers, shards, beam_flags: as for `pipeline_options`.
        lines: gives those of progress, of which some read the job's counters.

    Raises:
        UsageError: if workers die again and again, or the runner refuses its flags, or
            a worker cannot go on: one line of why.
    """
    counters = Counters()
    with Reporter(lines(counters)) as reporter:
        for _ in range(_ATTEMPTS):
            chosen, options = pipeline_options(runner, workers, shards, beam_flags, name)
            if runner == "FlinkRunner":
                from infra.flink import jobs

                jobs.cancel_earlier(options, name)
            pipeline = _pipeline(chosen, options)
            build(pipeline)
            reporter.begin()
            if _run(pipeline, options, counters):
                return
            reporter.say("unisim: a worker process died; going on with what is left")
    raise UsageError(
        f"worker processes died {_ATTEMPTS} times, often for want of memory; what is finished is"
        " kept: run again with fewer --workers"
    )


def _run(pipeline: beam.Pipeline, options: PipelineOptions, counters: Counters) -> bool:
    """Whether it came to its end; False if a local worker process died."""
    with watched() as died:
        try:
            result = pipeline.run()
            counters.follow(result)
            if not options.view_as(StandardOptions).no_wait_until_finish:
                result.wait_until_finish()
            return True
        except Exception as e:
            if died.wait(_PATIENCE):
                return False
            if found := _REFUSED.search(str(e)):
                raise UsageError(found[1]) from e
            raise
        finally:
            counters.follow(None)


def job_name(verb: str, out: str, *more: str) -> str:
    """A job's name, which says what it writes: `unisim-prepare-table-1f2e3d4c`."""
    words = re.sub("[^a-z0-9]+", "-", f"{verb}-{files.name_of(out)}".lower()).strip("-")
    digest = hashlib.blake2b("\0".join([verb, out, *more]).encode(), digest_size=4).hexdigest()
    return f"unisim-{words[:40]}-{digest}"


def _pipeline(name: str | PipelineRunner, options: PipelineOptions) -> beam.Pipeline:
    try:
        return beam.Pipeline(runner=name, options=options)
    except ValueError as e:  # what its runner says of the flags
        raise UsageError(f"--runner {name}: {' '.join(str(e).split())}") from e


def pipeline_options(
    runner: str, workers: int, shards: int, beam_flags: list[str], name: str
) -> tuple[str | PipelineRunner, PipelineOptions]:
    """The runner and its options.

    Args:
        runner: a Beam runner's name.
        workers: local processes; 0 is one per core.
        shards: how many there are to do; more local processes than that would stand idle.
        beam_flags: passed on as they are.
        name: as `job_name` gives it.
    """
    if runner != "FnApiRunner":
        flags = _completed(runner, beam_flags, name)
        return runner, PipelineOptions(["--runner", runner, *flags])
    from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
    from apache_beam.transforms.environments import SubprocessSDKEnvironment

    count = max(1, min(workers or len(os.sched_getaffinity(0)), shards))
    process = f"exec {shlex.quote(sys.executable)} -m infra.beam_worker"
    # named here because Beam's DirectRunner would first try to download another runner's binary
    environment = SubprocessSDKEnvironment.from_command_string(process)  # pyright: ignore
    local = FnApiRunner(environment)
    return local, PipelineOptions([f"--direct_num_workers={count}", *beam_flags])


def _completed(runner: str, beam_flags: list[str], name: str) -> list[str]:
    """The flags with what a runner needs and the user left out."""
    if runner == "FlinkRunner":
        from infra.flink import flags

        return flags.complete(beam_flags, name)
    if runner == "DataflowRunner":
        from infra.dataflow import flags

        return flags.complete(beam_flags)
    if runner == "PrismRunner":
        from infra import prism

        return prism.complete(beam_flags)
    return beam_flags
