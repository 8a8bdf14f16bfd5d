"""The Python process that a Flink TaskManager starts: what `boot` is in Beam's containers.

It asks the TaskManager for the job's options and becomes Beam's worker. Nothing is installed: the
packages are those of the interpreter that runs it.
"""

from __future__ import annotations

import argparse
import os
import sys

import grpc
from apache_beam.portability.api import (
    beam_provision_api_pb2 as provision,
)
from apache_beam.portability.api import (
    beam_provision_api_pb2_grpc as provision_grpc,
)
from google.protobuf import json_format, text_format

from infra import logs


def main(argv: list[str]) -> None:
    """Runs until the TaskManager closes the connection.

    Args:
        argv: `--id` and `--provision_endpoint`, and others that are not needed.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--id", required=True)
    parser.add_argument("--provision_endpoint", required=True)
    flags, _ = parser.parse_known_args(argv)
    os.environ.update(environment(flags.id, _provision(flags.id, flags.provision_endpoint)))
    logs.configure()
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main(sys.argv)


def _provision(worker_id: str, endpoint: str) -> provision.ProvisionInfo:
    with grpc.insecure_channel(endpoint) as channel:
        stub = provision_grpc.ProvisionServiceStub(channel)
        request = provision.GetProvisionInfoRequest()
        return stub.GetProvisionInfo(request, metadata=[("worker_id", worker_id)]).info


def environment(worker_id: str, info: provision.ProvisionInfo) -> dict[str, str]:
    """What Beam's worker reads from its environment."""
    return {
        "WORKER_ID": worker_id,
        "PIPELINE_OPTIONS": json_format.MessageToJson(info.pipeline_options),
        "LOGGING_API_SERVICE_DESCRIPTOR": text_format.MessageToString(info.logging_endpoint),
        "CONTROL_API_SERVICE_DESCRIPTOR": text_format.MessageToString(info.control_endpoint),
        "RUNNER_CAPABILITIES": " ".join(info.runner_capabilities),
    }


if __name__ == "__main__":
    main(sys.argv[1:])
