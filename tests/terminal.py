"""A terminal that a command's stderr is, and the lines of progress that were seen there."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from tests.command import ROOT

_LINE = re.compile(
    r"(\w+) +(\d+)%  ([\d,]+)/([\d,]+) shards  ([\d,]+) frames/s  ([\d,.]+) MB/s"
    r"  ([\d,]+) dead letters  [\d:]+ left"
)


class Seen(NamedTuple):
    """A line of progress of shards."""

    verb: str
    percent: int
    shards: int
    total: int
    frames_per_second: int


class Terminal:
    """The `unisim` command with a terminal for stderr, while a `with` block runs.

    Args:
        args: verb and flags.
    """

    def __init__(self, *args: object):
        self._args = [sys.executable, "-m", "infra.cli", *map(str, args)]
        self._said = ""
        self._more = threading.Condition()

    def __enter__(self) -> Terminal:
        self._master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (24, 200))
        self.process = subprocess.Popen(
            self._args, cwd=ROOT, stderr=slave, stdout=subprocess.DEVNULL, start_new_session=True
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(10)

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._master, 1 << 16)
            except OSError:  # nobody has it open any more
                break
            if not data:
                break
            with self._more:
                self._said += data.decode(errors="replace")
                self._more.notify_all()
        os.close(self._master)

    def lines(self) -> list[str]:
        """What was printed, and each state of lines that were rewritten."""
        return [line for text in re.split(r"[\r\n]+", self._said) if (line := text.strip())]

    def progress(self) -> list[Seen]:
        """The lines of shards."""
        found = (_LINE.fullmatch(line) for line in self.lines())
        return [Seen(m[1], *(int(m[i].replace(",", "")) for i in range(2, 6))) for m in found if m]

    def wait_for(self, condition: Callable[[Terminal], object], seconds: float) -> None:
        """Until it holds of what was printed. Fails if it does not in time, or the command ends."""
        end = time.monotonic() + seconds
        with self._more:
            while not condition(self):
                ended = self.process.poll() is not None and not self._reader.is_alive()
                assert not ended and time.monotonic() < end, "\n".join(self.lines()[-20:])
                self._more.wait(0.2)

    def end(self, seconds: float) -> None:
        """Waits for its good end."""
        code = self.process.wait(seconds)
        self._reader.join(10)
        assert code == 0, "\n".join(self.lines()[-20:])


def moves(seen: list[Seen], total: int | None = None) -> None:
    """Holds where shards were seen moving from some to all of them, with frames all the time."""
    assert seen, "no line of progress"
    assert any(0 < line.shards < line.total for line in seen), seen
    assert all(line.frames_per_second for line in seen if line.shards), seen
    counts = [line.shards for line in seen]
    assert counts == sorted(counts) and seen[-1].percent == 100
    assert seen[-1].shards == seen[-1].total == (total or seen[-1].total)
