"""A table in a browser: search, look, judge. Reads the table, writes verdicts elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from werkzeug.serving import BaseWSGIServer, make_server

from pipelines.audit.opened import Opened
from pipelines.audit.viewer import guard
from pipelines.audit.viewer.app import make
from pipelines.audit.viewer.catalog import Catalog
from pipelines.audit.viewer.verdicts import Verdicts
from schemas import UsageError

__all__ = ["Catalog", "Verdicts", "listen"]


def listen(
    table: Opened,
    *,
    host: str,
    port: int,
    verdicts: Path,
    findings: str | None = None,
    tick: Callable[[int], None] = lambda parts: None,
) -> tuple[BaseWSGIServer, str]:
    """A server that is ready to serve, and the address to open.

    Args:
        host: to listen on; any but a loopback address demands a token, which the address has.
        port: 0 for any that is free.
        verdicts: the SQLite file.
        findings, tick: as of `Catalog`.

    Raises:
        UsageError: if a file cannot be read or written, or the port is taken.
    """
    if verdicts.absolute().is_relative_to(Path(table.out).absolute()):
        raise UsageError(f"--verdicts {verdicts}: within the table, which is never changed")
    token = None if guard.is_loopback(host) else guard.new_token()
    app = make(table, Catalog(table, findings, tick), Verdicts(verdicts), host, token)
    try:
        server = make_server(host, port, app.server, threaded=True)
    except (OSError, SystemExit) as e:
        raise UsageError(f"--port {port}: {host} cannot be listened on there ({e})") from e
    shown = f"[{host}]" if ":" in host else host
    return server, f"http://{shown}:{server.server_port}/{f'?token={token}' if token else ''}"
