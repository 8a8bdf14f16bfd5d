"""Beam runners: the options that each needs. The local default needs no server and no download."""

from __future__ import annotations

import os
import shlex
import sys

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineRunner


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
        return runner, PipelineOptions(["--runner", runner, *beam_flags])
    from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
    from apache_beam.transforms.environments import SubprocessSDKEnvironment

    count = max(1, min(workers or len(os.sched_getaffinity(0)), shards))
    process = f"{shlex.quote(sys.executable)} -m infra.beam_worker"
    # named here because Beam's DirectRunner would first try to download another runner's binary
    environment = SubprocessSDKEnvironment.from_command_string(process)  # pyright: ignore
    local = FnApiRunner(environment)
    return local, PipelineOptions([f"--direct_num_workers={count}", *beam_flags])
