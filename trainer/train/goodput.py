"""`Ledger`: where the wall time of a run went, over all of its processes one after another.

`RUN/goodput.jsonl` has a line for every few steps: what a process has spent so far, by kind. A
process that is killed leaves the lines that it wrote. The file is no part of what is trained; it
may be deleted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

GOODPUT = "goodput.jsonl"
KINDS = (
    "step",
    "start",
    "compile",
    "data",
    "checkpoint",
    "validation",
    "redone",
    "down",
)
"""What time goes to: useful steps; imports, opening and restoring; compiling; waiting for a batch;
saving; validating; steps that were done already before a kill; nothing, between two processes."""


class Ledger:
    """What this process spends. Lines are written by the first of several processes.

    Args:
        run: the run's folder.
        step: steps done before.
        write: whether this process writes.
    """

    def __init__(self, run: Path, step: int, *, write: bool = True):
        self._path = run / GOODPUT if write else None
        self._begin, self._first = _process_start(), step
        self._spent: dict[str, float] = {}
        self._spent |= dict.fromkeys(("compile", "data", "checkpoint", "validation"), 0.0)
        self._spent["start"] = time.time() - self._begin

    @contextlib.contextmanager
    def spending(self, kind: str) -> Iterator[None]:
        """Books the time of a block."""
        since = time.perf_counter()
        try:
            yield
        finally:
            self._spent[kind] += time.perf_counter() - since

    @property
    def waited(self) -> float:
        """Seconds that the loop has waited for batches."""
        return self._spent["data"]

    def write(self, step: int) -> None:
        """Notes what has been spent until a step; all that is not booked went to steps."""
        if self._path is None:
            return
        now = time.time()
        line = {"begin": self._begin, "now": now, "first": self._first, "step": step}
        with self._path.open("a") as f:
            f.write(json.dumps(line | {"spent": self._spent}) + "\n")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Goodput:
    """A run's time, added up.

    Attributes:
        seconds: by kind, of all of `KINDS`.
        steps: that are done.
        processes: that did them, one after another.
    """

    seconds: dict[str, float]
    steps: int
    processes: int

    @property
    def share(self) -> float:
        """Of the wall time that went to useful steps."""
        return self.seconds["step"] / max(sum(self.seconds.values()), 1e-9)

    def __str__(self) -> str:
        total = max(sum(self.seconds.values()), 1e-9)
        lines = [
            f"goodput {self.share:.1%}: {self.steps} steps in {total:.0f} s of wall time,"
            f" {self.processes} process{'es' if self.processes > 1 else ''} one after another"
        ]
        for kind in KINDS:
            share = self.seconds[kind] / total
            bar = "█" * round(40 * share)
            lines.append(f"  {kind:<11}{self.seconds[kind]:>10.1f} s {share:>6.1%}  {bar}".rstrip())
        return "\n".join(lines)


def read_goodput(run: Path) -> Goodput | None:
    """What a run's lines add up to; None if there are none. A torn line is left out."""
    path = run / GOODPUT
    last: dict[float, dict] = {}
    for text in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            line = json.loads(text)
            last[line["begin"]] = line
    if not last:
        return None
    seconds: dict[str, float] = dict.fromkeys(KINDS, 0.0)
    lines = [last[begin] for begin in sorted(last)]
    for line, following in zip(lines, [*lines[1:], None], strict=True):
        for kind, spent in line["spent"].items():
            seconds[kind] += spent
        stepping = line["now"] - line["begin"] - sum(line["spent"].values())
        done, kept = line["step"] - line["first"], line["step"]
        if following is not None:
            kept = min(kept, following["first"])
            seconds["down"] += max(0.0, following["begin"] - line["now"])
        lost = stepping * (line["step"] - kept) / max(done, 1)
        seconds["redone"] += lost
        seconds["step"] += max(0.0, stepping - lost)
    return Goodput(seconds=seconds, steps=lines[-1]["step"], processes=len(lines))


def _process_start() -> float:
    """Seconds since the epoch at which this process began, where the system tells."""
    try:
        with open("/proc/self/stat") as f:
            ticks = int(f.read().rpartition(")")[2].split()[19])
        with open("/proc/uptime") as f:
            up = float(f.read().split()[0])
    except (OSError, ValueError, IndexError):
        return time.time()
    return time.time() - up + ticks / os.sysconf("SC_CLK_TCK")
