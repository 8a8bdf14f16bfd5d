"""`Stop`: whether the run was asked to end, by SIGTERM."""

from __future__ import annotations

import signal
import threading

import jax
from jax.experimental import multihost_utils


class Stop:
    """Within it, SIGTERM asks for an end at the next step, the same one in all processes. A second
    SIGTERM ends a run of one process at once.

    Of several processes, JAX's preemption service tells all when one was asked, and agrees on a
    step; it must be asked at every one.
    """

    def __init__(self):
        self._asked, self._before = False, None

    def __enter__(self) -> Stop:
        alone = jax.process_count() == 1
        if alone and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *_) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def at(self, step: int) -> bool:
        """Whether to end after so many steps."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked

    def _ask(self, *_) -> None:
        self._asked = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
