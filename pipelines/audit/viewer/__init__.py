"""A table in a browser: search, look, judge. Reads the table, writes verdicts elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from werkzeug.serving import BaseWSGIServer, make_server

from pipelines import files
from pipelines.audit.opened import Opened
from pipelines.audit.viewer import guard
from pipelines.audit.viewer.app import make
from pipelines.audit.viewer.catalog import Catalog
from pipelines.audit.viewer.pieces import Pieces
from pipelines.audit.viewer.verdicts import Verdicts
from pipelines.text.directory import TINY_NAME
from pipelines.text.tiny import spiece
from pipelines.text.vocabulary import count_pieces
from schemas import UsageError

__all__ = ["Catalog", "Verdicts", "listen"]


def listen(
    table: Opened,
    *,
    host: str,
    port: int,
    verdicts: Path,
    findings: str | None = None,
    vocabulary: str | None = None,
    tick: Callable[[int], None] = lambda parts: None,
) -> tuple[BaseWSGIServer, str]:
    """A server that is ready to serve, and the address to open.

    Args:
        host: to listen on; any but a loopback address demands a token, which the address has.
        port: 0 for any that is free.
        verdicts: the SQLite file.
        findings, tick: as of `Catalog`.
        vocabulary: a `spiece.model`, by which texts are shown in pieces; default: that of
            `tiny-random`, if it is what the table is embedded by.

    Raises:
        UsageError: if a file cannot be read or written, or the port is taken.
    """
    table.refuse_within("verdicts", verdicts)
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # not a line per request
    token = None if guard.is_loopback(host) else guard.new_token()
    pieces = Pieces(_spiece(table, vocabulary))
    app = make(table, Catalog(table, findings, tick), Verdicts(verdicts), pieces, token)
    try:
        server = make_server(host, port, app.server, threaded=True)
    except (OSError, SystemExit) as e:
        raise UsageError(f"--port {port}: {host} cannot be listened on there ({e})") from e
    shown = f"[{host}]" if ":" in host else host
    return server, f"http://{shown}:{server.server_port}/{f'?token={token}' if token else ''}"


def _spiece(table: Opened, path: str | None) -> bytes | None:
    """The vocabulary's bytes. Raises UsageError if it cannot be read."""
    if path is None:
        tiny = any(encoder.name == TINY_NAME for encoder in table.manifest.encoders)
        return spiece() if tiny else None
    try:
        data = files.read(path)
    except OSError as e:
        raise UsageError(f"--vocabulary {path}: cannot be read ({e}); wanted a spiece.model") from e
    count_pieces(data, path)
    return data
