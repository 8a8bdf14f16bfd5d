"""A real implementation of Google Cloud Storage on loopback: fake-gcs-server, a Go program.

`serving` builds it once, below `.cache`, and gives the environment in which Google's own client,
and so Beam, talks to it. Beside it stands what a virtual machine of Google's would have, a server
of metadata, for the credentials that Beam insists on.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.infra.gcs_front import Front

ROOT = Path(__file__).resolve().parents[2]
VERSION = "v1.56.1"
MODULE = f"github.com/fsouza/fake-gcs-server@{VERSION}"
_FOLDER = ROOT / ".cache" / f"fake-gcs-server-{VERSION}"
_BUILD_SECONDS = 900
_START_SECONDS = 30


class Missing(Exception):
    """There is no Go here, or its modules cannot be had: one line."""


def binary() -> Path:
    """The program, built if need be. Raises Missing."""
    path = _FOLDER / "fake-gcs-server"
    if path.exists():
        return path
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        raise Missing("no Go here to build fake-gcs-server with")
    _FOLDER.mkdir(parents=True, exist_ok=True)
    (ROOT / ".cache" / ".gitignore").write_text("*\n")
    env = os.environ | {"GOBIN": str(_FOLDER)}
    try:
        subprocess.run(
            [go, "install", MODULE],
            env=env,
            capture_output=True,
            check=True,
            timeout=_BUILD_SECONDS,
        )
    except subprocess.SubprocessError as e:
        said = (getattr(e, "stderr", None) or b"").decode(errors="replace").strip().splitlines()
        raise Missing(f"fake-gcs-server cannot be built: {(said or [str(e)])[-1]}") from e
    return path


class Server:
    """A running server.

    Attributes:
        front: what stands before it, and can break uploads.
        env: what a process that is to use it needs in its environment.
    """

    def __init__(self, front: Front, metadata: str):
        self.front = front
        self.env = {
            "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{front.port}",
            "GCE_METADATA_HOST": metadata,
            "GCE_METADATA_IP": metadata,
            "NO_PROXY": "127.0.0.1",
        }

    def make_bucket(self, name: str) -> None:
        """An empty bucket."""
        self._request("/storage/v1/b", json.dumps({"name": name}).encode())

    def upload(self, folder: Path, bucket: str, prefix: str) -> None:
        """Every file below a folder, as an object of the same relative name."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(bucket, f"{prefix}/{path.relative_to(folder)}", path.read_bytes())

    def upload_file(self, path: Path, bucket: str, name: str) -> None:
        """One file."""
        self.put(bucket, name, path.read_bytes())

    def put(self, bucket: str, name: str, data: bytes) -> None:
        """One object."""
        query = urllib.parse.urlencode({"uploadType": "media", "name": name})
        self._request(f"/upload/storage/v1/b/{bucket}/o?{query}", data)

    def names(self, bucket: str, prefix: str = "") -> list[str]:
        """The objects whose names begin so."""
        found: list[str] = []
        token = ""
        while True:
            query = urllib.parse.urlencode({"prefix": prefix, "pageToken": token})
            page = json.loads(self._request(f"/storage/v1/b/{bucket}/o?{query}"))
            found += [item["name"] for item in page.get("items", [])]
            token = page.get("nextPageToken", "")
            if not token:
                return sorted(found)

    def get(self, bucket: str, name: str) -> bytes:
        """An object's bytes."""
        return self._request(
            f"/storage/v1/b/{bucket}/o/{urllib.parse.quote(name, safe='')}?alt=media"
        )

    def files(self, bucket: str, prefix: str) -> dict[str, bytes]:
        """Every object below a folder, by its relative path."""
        names = self.names(bucket, f"{prefix}/")
        return {name.removeprefix(f"{prefix}/"): self.get(bucket, name) for name in names}

    def _request(self, path: str, data: bytes | None = None) -> bytes:
        request = urllib.request.Request(f"http://127.0.0.1:{self.front.behind}{path}", data=data)
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """A server with its objects below `folder`, stopped at the end. Raises Missing."""
    front = Front(_free_port())
    command = [binary(), "-scheme", "http", "-host", "127.0.0.1", "-port", str(front.behind)]
    command += ["-external-url", f"http://127.0.0.1:{front.port}", "-log-level", "warn"]
    command += ["-filesystem-root", str(folder / "objects")]
    with (folder / "gcs.log").open("wb") as log, front.running(), _metadata() as metadata:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            server = Server(front, metadata)
            _wait(server, process)
            yield server
        finally:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def for_test(folder: Path, *buckets: str) -> Iterator[Server]:
    """`serving`, with these buckets, to this process and those that it starts; the test is skipped
    where there can be no server."""
    try:
        binary()
    except Missing as e:
        pytest.skip(str(e))
    with serving(folder) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.env.items():
            patch.setenv(name, value)
        for bucket in buckets:
            server.make_bucket(bucket)
        yield server


def _wait(server: Server, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            server._request("/storage/v1/b?project=test")
            return
        except (urllib.error.URLError, OSError):
            assert process.poll() is None, "fake-gcs-server ended at once"
            assert time.monotonic() < deadline, "fake-gcs-server does not answer"
            time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def _metadata() -> Iterator[str]:
    """`host:port` of a metadata server that hands out tokens which nobody checks."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


class _Metadata(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path = self.path.partition("?")[0].rstrip("/")
        account = {"email": "test@test.invalid", "scopes": [], "aliases": ["default"]}
        token = {"access_token": "nobody-checks", "expires_in": 3600, "token_type": "Bearer"}
        if path.endswith("/token"):
            body, kind = json.dumps(token), "application/json"
        elif "service-accounts" in path:
            body, kind = json.dumps(account), "application/json"
        elif "universe" in path:
            body, kind = "googleapis.com", "text/plain"
        else:
            body, kind = "test", "text/plain"
        self.send_response(200)
        self.send_header("Metadata-Flavor", "Google")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""
