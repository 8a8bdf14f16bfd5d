"""`Bar`: one line on stderr with rate and time left, for anything that takes over 5 seconds."""

from __future__ import annotations

import sys
import time

from pipelines.clock import clock

_QUIET_SECONDS = 1.0


class Bar:
    """A progress line; on a terminal it is rewritten, elsewhere printed now and then.

    Args:
        what: the line's first word.
        total: how many there will be.
        unit: what is counted.
    """

    def __init__(self, what: str, total: int, unit: str):
        self._what, self._total, self._unit = what, max(total, 1), unit
        self._live = sys.stderr.isatty()
        self._begin = self._last = time.monotonic()
        self._done = 0.0
        self._shown = False

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    def add(self, count: float) -> None:
        """So many more are done."""
        self._done += count
        now = time.monotonic()
        if now - self._last < (0.2 if self._live else 5.0) or now - self._begin < _QUIET_SECONDS:
            return
        self._last = now
        rate = self._done / (now - self._begin)
        left = (self._total - self._done) / rate if rate else 0
        text = f"{self._what} {self._done / self._total:4.0%}  {rate:,.0f} {self._unit}/s"
        text += f"  {clock(left)} left"
        print(text.ljust(70), end="\r" if self._live else "\n", file=sys.stderr, flush=True)
        self._shown = self._live

    def print(self, line: str) -> None:
        """A line of output, above the progress line."""
        self._clear()
        print(line)

    def _clear(self) -> None:
        if self._shown:
            print(" " * 70, end="\r", file=sys.stderr, flush=True)
            self._shown = False
