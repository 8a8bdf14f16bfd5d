"""The lines of progress that the launcher prints while a job runs."""

from __future__ import annotations

import itertools
import shutil
import sys
import threading
import time
from collections.abc import Sequence

from pipelines.clock import clock
from pipelines.reading import Reading, Source, complaint

_LIVE = 0.5
_SOON, _THEN = 5.0, 30.0  # a log has its first line soon, and then one now and then
_PATIENCE = 10.0  # with the last reading


class Line:
    """What is said of one stage of a job. It is read in one thread and said in another.

    Args:
        source: how far the stage is.
    """

    def __init__(self, source: Source):
        self.source = source
        self._begin: float | None = None
        self._read = (Reading(0, 0), 0.0)  # and when

    def read(self, seconds: float) -> None:
        """Reads its source anew.

        Args:
            seconds: since the job began.
        """
        now, (before, _) = self.source.read(), self._read
        if self._begin is None and now.total:
            self._begin = seconds
        if not now.total or now.done < now.total or before != now:  # the end is when it was reached
            self._read = (now, seconds)

    def text(self, seconds: float) -> str:
        """The line; empty while there is nothing to say."""
        raise NotImplementedError


class ShardLine(Line):
    """`prepare  43%  12/40 shards  1,200 frames/s  12.1 MB/s  3 dead letters  0:21 left`.

    Args:
        verb: its first word.
        source: of shards.
        shards: how many there are to do.
    """

    def __init__(self, verb: str, source: Source, shards: int):
        super().__init__(source)
        self._verb, self._shards = verb, shards

    def text(self, seconds: float) -> str:
        (done, total, counts), at = self._read
        if not done:
            return ""
        passed = max(at, 1e-3)
        return (
            f"{self._verb} {done / total:4.0%}  {counts.shards:,}/{self._shards:,} shards"
            f"  {counts.frames / passed:,.0f} frames/s  {done / passed / 1e6:.1f} MB/s"
            f"  {counts.dead_letters:,} dead letters"
            f"  {_left(done, total, passed, seconds - at)} left"
        )


class TextLine(Line):
    """`embed  43%  120 texts/s  0:21 left`."""

    def text(self, seconds: float) -> str:
        (done, total, _), at = self._read
        if not total:
            return ""
        if not done:
            return f"embed   0%  of {total:,} texts, loading the encoder"
        passed = max(at - (self._begin or 0.0), 0.5)
        line = f"embed {done / total:4.0%}  {done / passed:8,.1f} texts/s"
        return f"{line}  {_left(done, total, passed, seconds - at)} left"


class RateLine(Line):
    """`audit  43%  3,400 records/s  0:21 left`.

    Args:
        verb: its first word.
        unit: what is counted.
        source: how far the stage is.
    """

    def __init__(self, verb: str, unit: str, source: Source):
        super().__init__(source)
        self._verb, self._unit = verb, unit

    def text(self, seconds: float) -> str:
        (done, total, _), at = self._read
        if not done:
            return ""
        passed = max(at, 1e-3)
        line = f"{self._verb} {done / total:4.0%}  {done / passed:,.0f} {self._unit}/s"
        return f"{line}  {_left(done, total, passed, seconds - at)} left"


def _left(done: int, total: int, passed: float, since: float) -> str:
    """As `clock` has it: what took so long for a part, less what has gone since that was seen."""
    return clock(max(0.0, passed * (total - done) / done - since))


class Reporter:
    """Prints a line of progress now and then while a block runs, and the last ones at its end.

    On a terminal the line of the last stage that has something to say is rewritten. Sources are
    read in a thread of its own that nobody waits for, as a server may not answer.

    Args:
        lines: one for each stage of the job, in order.
        first, every: seconds until the first line, and between two, where stderr is no terminal.
    """

    def __init__(self, lines: Sequence[Line], *, first: float = _SOON, every: float = _THEN):
        self._lines = lines
        self._waits = itertools.chain([first], itertools.repeat(every))
        self._begin = time.monotonic()
        self._stop = threading.Event()
        self._live = sys.stderr.isatty()
        self._width = 0  # of what is on the terminal's line
        self._said = False
        self._errors = [0] * len(lines)
        self._reading = threading.Lock()
        self._threads = [
            threading.Thread(name=run.__name__, target=run, daemon=True)
            for run in (self._read, self._print)
        ]

    def __enter__(self) -> Reporter:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        self._threads[1].join()
        if kind is None and self._said:
            last = threading.Thread(target=self._read_once, daemon=True)
            last.start()
            last.join(_PATIENCE)
            for text in self._texts():
                self.say(text)
        self._clear()

    def begin(self) -> None:
        """The graph is begun, or begun again."""
        with self._reading:
            for line in self._lines:
                line.source.begin()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._clear()
        print(text, file=sys.stderr, flush=True)

    def _texts(self) -> list[str]:
        seconds = time.monotonic() - self._begin
        return [text for line in self._lines if (text := line.text(seconds))]

    def _read(self) -> None:
        least = pause = max((line.source.every for line in self._lines), default=_THEN)
        while not self._stop.wait(pause):
            begin = time.monotonic()
            self._read_once()
            # a listing of very many receipts is not to be all that a server does
            pause = max(least, min(3 * (time.monotonic() - begin), _THEN))

    def _read_once(self) -> None:
        with self._reading:
            for i, line in enumerate(self._lines):
                try:
                    line.read(time.monotonic() - self._begin)
                    self._errors[i] = 0
                except Exception as e:
                    self._errors[i] += 1
                    if said := complaint(e, self._errors[i]):
                        self.say(f"unisim: progress cannot be read ({said}); the job goes on")

    def _print(self) -> None:
        while not self._stop.wait(_LIVE if self._live else next(self._waits)):
            text = (self._texts() or ["starting workers"])[-1]
            self._said = True
            if not self._live:
                print(text, file=sys.stderr, flush=True)
                continue
            text = text[: shutil.get_terminal_size().columns - 1]
            print(text.ljust(self._width), end="\r", file=sys.stderr, flush=True)
            self._width = len(text)

    def _clear(self) -> None:
        if self._width:
            print(" " * self._width, end="\r", file=sys.stderr, flush=True)
            self._width = 0
