"""How far a job is: workers leave small notes, the launcher adds them up and prints one line."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

from pipelines import files
from pipelines.episode import Unit
from schemas.table import WORK

_EVERY = 1.0


class Progress:
    """A worker's note of how much of its shard is done, renewed once a second.

    Notes are only kept where the table is on a local path; elsewhere the runner shows progress.
    """

    def __init__(self, out: str, dataset: str, shard: int):
        self._path = Path(out, WORK, "progress", f"{dataset}-{shard:05d}.json")
        self._on = files.is_local(out)
        self._finished = 0
        self._episodes = 0
        self._in_unit = 0
        self._last = 0.0

    def step(self, unit: Unit) -> None:
        """One more episode of `unit` is done."""
        self._episodes += 1
        self._in_unit += 1
        share = min(1.0, self._in_unit / max(unit.episodes, 1))
        self._note(self._finished + int(unit.cost * share))

    def finish(self, unit: Unit) -> None:
        """All of `unit` is done."""
        self._finished += unit.cost
        self._in_unit = 0
        self._note(self._finished, every=0.2 * _EVERY)

    def _note(self, cost: int, every: float = _EVERY) -> None:
        now = time.monotonic()
        if not self._on or now - self._last < every:
            return
        self._last = now
        files.write(str(self._path), json.dumps([cost, self._episodes]).encode())


class Reporter:
    """Prints `prepare  43%  12.1 MB/s  310 episodes  0:21 left` while a block runs.

    Args:
        out: the table.
        costs: (dataset, shard) -> cost of all shards that remain to be done.
    """

    def __init__(self, out: str, costs: dict[tuple[str, int], int]):
        self._folder = Path(out, WORK)
        self._costs = costs
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Reporter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        begin = time.monotonic()
        live = sys.stderr.isatty()
        total = max(1, sum(self._costs.values()))
        printed = False
        while not self._stop.wait(0.5 if live else 5.0):
            done, episodes = self._read()
            seconds = time.monotonic() - begin
            rate = done / seconds
            left = (total - done) / rate if done else float("inf")
            line = f"prepare {done / total:4.0%}  {rate / 1e6:6.1f} MB/s  {episodes:,} episodes"
            line += f"  {clock(left)} left" if done else "  starting workers"
            print(line.ljust(70), end="\r" if live else "\n", file=sys.stderr, flush=True)
            printed = live
        if printed:
            print(" " * 70, end="\r", file=sys.stderr, flush=True)

    def _read(self) -> tuple[int, int]:
        cost = episodes = 0
        for dataset, shard in self._costs:
            name = f"{dataset}-{shard:05d}.json"
            if (self._folder / "receipts" / name).exists():
                cost += self._costs[dataset, shard]
            try:
                noted, count = json.loads((self._folder / "progress" / name).read_text())
            except (OSError, ValueError):
                continue
            episodes += count
            if not (self._folder / "receipts" / name).exists():
                cost += noted
        return cost, episodes


def clock(seconds: float) -> str:
    """`1:02:03`, `4:05`; `?` where it is not known."""
    if seconds == float("inf"):
        return "?"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
