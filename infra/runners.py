"""Beam runners: the options that each needs. The local default needs no server and no download."""

from __future__ import annotations

import os

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineRunner

# workers would print a page of their own start-up
_QUIET = "--default_sdk_harness_log_level=ERROR"


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
    from apache_beam.portability.api import beam_provision_api_pb2
    from apache_beam.runners.portability.fn_api_runner.fn_runner import (
        ExtendedProvisionInfo,
        FnApiRunner,
    )
    from apache_beam.runners.portability.portable_runner import JobServiceHandle

    count = max(1, min(workers or len(os.sched_getaffinity(0)), shards))
    local = [f"--direct_num_workers={count}", "--direct_running_mode=multi_processing"]
    # named here because Beam's DirectRunner would first try to download another runner's binary
    options = PipelineOptions([_QUIET, *local, *beam_flags])
    seen = JobServiceHandle.encode_pipeline_options(options.get_all_options(drop_default=True))
    provision = beam_provision_api_pb2.ProvisionInfo(pipeline_options=seen)
    return FnApiRunner(provision_info=ExtendedProvisionInfo(provision)), options
