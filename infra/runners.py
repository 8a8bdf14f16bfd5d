"""Beam runners: the options that each needs. The local default needs no server and no download."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineRunner

from infra.local_workers import watched
from pipelines.progress import Reporter
from schemas import UsageError

_ATTEMPTS = 4
# a worker's own UsageError, as runners pass it on: with a traceback before it
_REFUSED = re.compile(r"UsageError: (.*?)(?: \[while running .*)?$", re.MULTILINE)
_PATIENCE = 1.0  # seconds; the death is known a little after the channel's end


def run(
    build: Callable[[beam.Pipeline], None],
    *,
    runner: str,
    workers: int,
    shards: int,
    beam_flags: list[str],
    lines: Callable[[], Sequence[Callable[[float], str]]],
) -> None:
    """Runs a graph to its end. Where a local worker process dies, the graph is begun again: shards
    that are finished have left receipts, and are not done again.

    Args:
        build: adds the graph to a pipeline.
        runner, workers, shards, beam_flags: as for `pipeline_options`.
        lines: gives those of progress, as for `Reporter`.

    Raises:
        UsageError: if workers die again and again, or the runner refuses its flags, or
            a worker cannot go on: one line of why.
    """
    for _ in range(_ATTEMPTS):
        name, options = pipeline_options(runner, workers, shards, beam_flags)
        pipeline = _pipeline(name, options)
        build(pipeline)
        with watched() as died, Reporter(*lines()):
            try:
                pipeline.run().wait_until_finish()
                return
            except Exception as e:
                if not died.wait(_PATIENCE):
                    if found := _REFUSED.search(str(e)):
                        raise UsageError(found[1]) from e
                    raise
        print("unisim: a worker process died; going on with what is left", file=sys.stderr)
    raise UsageError(
        f"worker processes died {_ATTEMPTS} times, often for want of memory; what is finished is"
        " kept: run again with fewer --workers"
    )


def _pipeline(name: str | PipelineRunner, options: PipelineOptions) -> beam.Pipeline:
    try:
        return beam.Pipeline(runner=name, options=options)
    except ValueError as e:  # what its runner says of the flags
        raise UsageError(f"--runner {name}: {' '.join(str(e).split())}") from e


def pipeline_options(
    runner: str, workers: int, shards: int, beam_flags: list[str]
) -> tuple[str | PipelineRunner, PipelineOptions]:
    """The runner and its options.

    Args:
        runner: a Beam runner's name.
        workers: local processes; 0 is one per core.
        shards: how many there are to do; more local processes than that would stand idle.
        beam_flags: passed on as they are.
    """
    if runner != "FnApiRunner":
        return runner, PipelineOptions(["--runner", runner, *_completed(runner, beam_flags)])
    from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
    from apache_beam.transforms.environments import SubprocessSDKEnvironment

    count = max(1, min(workers or len(os.sched_getaffinity(0)), shards))
    process = f"exec {shlex.quote(sys.executable)} -m infra.beam_worker"
    # named here because Beam's DirectRunner would first try to download another runner's binary
    environment = SubprocessSDKEnvironment.from_command_string(process)  # pyright: ignore
    local = FnApiRunner(environment)
    return local, PipelineOptions([f"--direct_num_workers={count}", *beam_flags])


def _completed(runner: str, beam_flags: list[str]) -> list[str]:
    """The flags with what a runner needs and the user left out."""
    if runner == "FlinkRunner":
        from infra.flink import flags

        return flags.complete(beam_flags)
    if runner == "DataflowRunner":
        from infra.dataflow import flags

        return flags.complete(beam_flags)
    if runner == "PrismRunner":
        from infra import prism

        return prism.complete(beam_flags)
    return beam_flags
