"""The Beam flags that a job needs on Dataflow, where the user gives none of them."""

from __future__ import annotations

from apache_beam.options.pipeline_options import (
    GoogleCloudOptions,
    PipelineOptions,
    WorkerOptions,
)

from schemas import UsageError

# A worker process takes one shard at a time: Dataflow would start a thread for each of a dozen, and
# a shard needs the memory that the plan counts on. There is a process per core anyway.
_DEFAULTS = {
    "number_of_worker_harness_threads": "1",
    "sdk_location": "container",  # the image holds Beam and this project, nothing is installed
    "experiments": "use_runner_v2",
}


def complete(given: list[str]) -> list[str]:
    """The flags with what is missing: what the container and the shards ask for.

    Raises:
        UsageError: if one is missing that only the user can know; all of them are named.
    """
    options = PipelineOptions(given)
    cloud = options.view_as(GoogleCloudOptions)
    wanted = {
        "--project": cloud.project,
        "--region": cloud.region,
        "--temp_location=gs://…": cloud.temp_location,
        "--sdk_container_image": options.view_as(WorkerOptions).sdk_container_image,
    }
    missing = [name for name, value in wanted.items() if not value]
    if missing:
        raise UsageError(
            f"--runner DataflowRunner: {', '.join(missing)} missing; infra/README.md says how the"
            " image is built"
        )
    named = {flag.lstrip("-").partition("=")[0] for flag in given}
    return given + [f"--{name}={value}" for name, value in _DEFAULTS.items() if name not in named]
