"""Local worker processes whose death is noticed.

Beam's local runner only sees that a channel has closed, if a worker process dies in the middle of
a bundle, and waits for ever if it dies before. Here its death is an event, and ends the run.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

from apache_beam.portability import python_urns
from apache_beam.runners.portability.fn_api_runner.worker_handlers import (
    SubprocessSdkWorkerHandler,
    WorkerHandler,
)

# Beam's threads that end with a traceback of their own when a worker has gone
_THREADS = ("run_worker", "beam_control_read", "read_grpc_client_inputs")
_LOGGER = "apache_beam.runners.worker.data_plane"
_AGAIN = 0.5  # seconds

_died = threading.Event()


class WatchedWorker(SubprocessSdkWorkerHandler):  # pyright: ignore
    """Beam's handler of a worker process, which lets nobody wait for one that has died."""

    _closing = False

    def start_worker(self) -> None:
        super().start_worker()
        self._ended = threading.Event()
        threading.Thread(name="watch_worker", target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        self.worker_thread.join()
        if self._closing:
            return
        _died.set()
        with contextlib.suppress(Exception):  # it may never have been open
            self.data_conn.close()
        while not self._ended.wait(_AGAIN):
            # once is not enough: the runner may yet ask it for something
            with contextlib.suppress(RuntimeError):
                self.control_conn.abort(RuntimeError("a worker process died"))

    def close(self) -> None:
        self._closing = True
        if not _died.is_set() or self.worker_thread.is_alive():
            super().close()
        self._ended.set()


@contextlib.contextmanager
def watched() -> Iterator[threading.Event]:
    """While it lasts, local workers are watched; gives the event that one of them has died."""
    WorkerHandler.register_environment(python_urns.SUBPROCESS_SDK, bytes)(WatchedWorker)
    _died.clear()
    hook, logger = threading.excepthook, logging.getLogger(_LOGGER)

    def quietly(args: threading.ExceptHookArgs) -> None:
        if args.thread is None or not args.thread.name.startswith(_THREADS):
            hook(args)

    threading.excepthook = quietly
    logger.disabled = True
    try:
        yield _died
    finally:
        threading.excepthook = hook
        logger.disabled = False
