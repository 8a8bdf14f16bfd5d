"""Jobs that a Flink cluster still runs for a launcher that was killed."""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from typing import Any

from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    GoogleCloudOptions,
    PipelineOptions,
)
from apache_beam.runners.portability.flink_runner import MAGIC_HOST_NAMES

from schemas import UsageError

_ENDED = {"FINISHED", "CANCELED", "FAILED"}
_PATIENCE = 120.0  # seconds, until a job that is cancelled has ended


def cancel_earlier(options: PipelineOptions, name: str) -> None:
    """Cancels jobs of this name, so that they leave their slots to the one that is to begin.

    Nothing is lost by it: they write the same files, under temporary names until they are whole,
    and what is finished is found. A job that the user has named is left alone.

    Raises:
        UsageError: if one does not end.
    """
    master = options.view_as(FlinkRunnerOptions).flink_master
    if master in MAGIC_HOST_NAMES or options.view_as(GoogleCloudOptions).job_name != name:
        return
    for job in running(master, name):
        print(
            f"unisim: job {job} of the same name, {name}, still runs at {master}, perhaps since its"
            " launcher was killed; it is cancelled, and what it has finished is kept",
            file=sys.stderr,
            flush=True,
        )
        _ask(master, f"/jobs/{job}?mode=cancel", "PATCH")
    end = time.monotonic() + _PATIENCE
    while left := running(master, name):
        if time.monotonic() > end:
            raise UsageError(f"--flink_master {master}: job {left[0]} does not end; cancel it")
        time.sleep(0.2)


def running(master: str, name: str) -> list[str]:
    """The ids of the jobs of this name that have not ended. Raises UsageError."""
    jobs = _ask(master, "/jobs/overview")["jobs"]
    return [job["jid"] for job in jobs if job["name"] == name and job["state"] not in _ENDED]


def _ask(master: str, path: str, method: str = "GET") -> dict[str, Any]:
    url = master if "://" in master else f"http://{master}"
    request = urllib.request.Request(url + path, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)
    except (OSError, ValueError) as e:
        raise UsageError(f"--flink_master {master}: does not answer ({e})") from e
