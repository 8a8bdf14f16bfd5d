"""The Beam flags that a job needs on a Flink cluster, where the user gives none of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    GoogleCloudOptions,
    JobServerOptions,
    PipelineOptions,
    PortableOptions,
)
from apache_beam.runners.portability.flink_runner import MAGIC_HOST_NAMES

from infra.flink.cluster import slots
from schemas import UsageError

_IDLE = 30_000  # ms that a Python worker waits for the next stage


def complete(given: list[str], name: str) -> list[str]:
    """The flags with what is missing: worker processes of this interpreter, started by each
    TaskManager and kept from stage to stage, on all the slots of the cluster; a job server that
    ends with this process; a name by which the job is known.

    Raises:
        UsageError: if the cluster does not answer.
    """
    options = PipelineOptions(given)
    portable, flink = options.view_as(PortableOptions), options.view_as(FlinkRunnerOptions)
    flags = list(given)
    if not portable.environment_type:
        flags += ["--environment_type=PROCESS", f"--environment_config={environment()}"]
    if flink.parallelism < 0 and flink.flink_master not in MAGIC_HOST_NAMES:
        found = slots(flink.flink_master)
        if not found:
            raise UsageError(f"--flink_master {flink.flink_master}: no TaskManager answers there")
        flags.append(f"--parallelism={found}")
    if not portable.environment_cache_millis:
        flags.append(f"--environment_cache_millis={_IDLE}")
    if options.view_as(JobServerOptions).job_server_java_launcher == "java":  # Beam's default
        flags.append(f"--job_server_java_launcher={Path(__file__).with_name('java.sh')}")
    if not options.view_as(GoogleCloudOptions).job_name:  # where Beam has that flag
        flags.append(f"--job_name={name}")
    return flags


def environment() -> str:
    """Beam's `--environment_config` of worker processes with this interpreter and its packages."""
    worker = Path(__file__).with_name("worker.sh")
    return json.dumps({"command": str(worker), "env": {"UNISIM_PYTHON": sys.executable}})
