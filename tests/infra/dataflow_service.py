"""A stand-in for Google's Dataflow service on loopback, for the client that Beam's runner brings.

It takes a job, starts nothing, and says of it what a test tells it to say, in the JSON of the
service's REST interface (https://cloud.google.com/dataflow/docs/reference/rest). It shows that our
side and Google's client understand each other; what the service itself counts, and when, it cannot
show.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

_ID = "2026-01-01_00_00_00-1"


class Service(http.server.ThreadingHTTPServer):
    """The service with one job.

    Attributes:
        state: the job's.
        committed, attempted: its counters by name.
        job: what was asked for; empty until then.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.state = "JOB_STATE_RUNNING"
        self.committed: dict[str, int] = {}
        self.attempted: dict[str, int] = {}
        self.job: dict[str, Any] = {}

    @property
    def endpoint(self) -> str:
        """What `--dataflow_endpoint` takes."""
        return f"http://localhost:{self.server_address[1]}"

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        """As JSON."""
        if body:
            self.job = json.loads(body)
        if path.endswith("/messages"):
            return {"jobMessages": []}
        if not path.endswith("/metrics"):
            return {"id": _ID, "name": self.job["name"], "currentState": self.state}
        metrics = [_metric(name, value, {}) for name, value in self.committed.items()]
        metrics += [
            _metric(name, value, {"tentative": "true"}) for name, value in self.attempted.items()
        ]
        return {"metrics": metrics, "metricTime": "2026-01-01T00:00:00Z"}


def _metric(name: str, value: int, more: dict[str, str]) -> dict[str, Any]:
    context = {"namespace": "bridge", "step": "s5", **more}
    return {"name": {"origin": "user", "name": name, "context": context}, "scalar": value}


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Service  # pyright: ignore[reportIncompatibleVariableOverride]

    def _respond(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        data = json.dumps(self.server.answer(self.path.partition("?")[0], body)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = _respond

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@contextlib.contextmanager
def serving() -> Iterator[Service]:
    """The service while the block runs."""
    service = Service()
    threading.Thread(target=service.serve_forever, daemon=True).start()
    try:
        yield service
    finally:
        service.shutdown()
        service.server_close()
