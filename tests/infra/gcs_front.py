"""What stands before fake-gcs-server: it passes every request on, and can break uploads and moves.

It also numbers the parts of a batch: the service itself needs no numbers and Google's Python client
sends none, but fake-gcs-server leaves out what has none.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import itertools
import re
import threading
import urllib.parse
from collections.abc import Callable, Iterator

_HOP = {"connection", "content-length", "keep-alive", "transfer-encoding"}
_PART = re.compile(rb"Content-Type: application/http\r?\n")
_STEP = re.compile(
    rb"^(POST|DELETE) (?:https?://[^/]+)?/storage/v1/b/[^/]+/o/([^/\s?]+)(/copyTo/)?", re.MULTILINE
)

Breaks = Callable[[str], str]
"""An object's name, when its bytes are about to be sent -> "" to pass them on, "cut" to lose the
connection half-way, "hang" to keep it open half-way and pass nothing on, or an HTTP status."""

Moves = Callable[[str, str], str]
""""copy" or "delete" and an object's name, when a step of a move is asked for -> "" to pass it on,
"lost" to pass it on and lose the answer, "hang" to keep the connection open and pass nothing on, or
an HTTP status."""


class Front(http.server.ThreadingHTTPServer):
    """The server.

    Args:
        port: of the one behind it, on 127.0.0.1.
    """

    daemon_threads = True

    def __init__(self, port: int):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = port
        self.port = self.server_address[1]
        self.breaks: Breaks = lambda name: ""
        self.moves: Moves = lambda step, name: ""
        self.hanging = threading.Event()
        self.stopped = threading.Event()
        self.uploads: dict[str, str] = {}  # its id -> the object's name

    @contextlib.contextmanager
    def running(self) -> Iterator[Front]:
        """While it lasts, it serves."""
        threading.Thread(target=self.serve_forever, daemon=True).start()
        try:
            yield self
        finally:
            self.stopped.set()
            self.shutdown()
            self.server_close()

    def handle_error(self, request, client_address) -> None:
        """Says nothing: clients are killed here on purpose."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Front  # pyright: ignore[reportIncompatibleVariableOverride]

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.startswith("/batch/"):
            number = itertools.count(1)
            body = _PART.sub(lambda found: found[0] + b"Content-ID: <%d>\n" % next(number), body)
            how = self._break_move(body)
        else:
            how = self._break()
        if how.isdigit():
            self.send_response(int(how))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=60)
        try:
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                if name.lower() not in _HOP:
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders()
            connection.send(body[: len(body) // 2] if how in ("cut", "hang") else body)
            if how == "lost":
                connection.getresponse().read()
            if how:
                self._leave(how)
                return
            self._answer(connection.getresponse())
        finally:
            connection.close()

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _pass_on

    def _break(self) -> str:
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        if self.command == "PUT" and "upload_id" in query:
            return self.server.breaks(self.server.uploads.get(query["upload_id"][0], ""))
        return ""

    def _break_move(self, batch: bytes) -> str:
        for found in _STEP.finditer(batch):
            step = "copy" if found[3] else "delete"
            how = self.server.moves(step, urllib.parse.unquote(found[2].decode()))
            if how:
                return how
        return ""

    def _leave(self, how: str) -> None:
        if how == "hang":
            self.server.hanging.set()
            self.server.stopped.wait()
        self.close_connection = True

    def _answer(self, answer: http.client.HTTPResponse) -> None:
        body = answer.read()
        location = answer.getheader("Location") or ""
        found = urllib.parse.parse_qs(urllib.parse.urlsplit(location).query)
        if "upload_id" in found:
            self.server.uploads[found["upload_id"][0]] = found.get("name", [""])[0]
        self.send_response(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""
