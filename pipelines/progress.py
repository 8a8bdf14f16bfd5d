"""How far a job is: workers leave small notes, the launcher adds them up and prints one line."""

from __future__ import annotations

import json
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from pipelines import files
from pipelines.episode import Unit
from schemas.table import WORK

_EVERY = 1.0
_TOTAL = "texts.json"
_DONE = "texts-*.json"


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


class TextNote:
    """A worker's note of how many texts it has embedded, renewed twice a second at most."""

    def __init__(self, folder: str):
        self._path = files.join(folder, _DONE.replace("*", uuid.uuid4().hex))
        self._on = files.is_local(folder)
        self._lock = threading.Lock()
        self._done = 0
        self._last = 0.0

    def add(self, texts: int) -> None:
        """So many more texts are done."""
        with self._lock:
            self._done += texts
            now = time.monotonic()
            if self._on and now - self._last >= 0.5 * _EVERY:
                self._last = now
                files.write(self._path, json.dumps(self._done).encode())


def note_texts(folder: str, total: int) -> None:
    """Notes how many texts there are to embed."""
    if files.is_local(folder):
        files.write(files.join(folder, _TOTAL), json.dumps(total).encode())


class Reporter:
    """Prints one line of progress now and then while a block runs.

    Args:
        lines: each says how far one stage of the job is, given the seconds since the job began;
            the last one that has something to say is printed.
    """

    def __init__(self, *lines: Callable[[float], str]):
        self._lines = lines
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
        printed = False
        while not self._stop.wait(0.5 if live else 5.0):
            said = [line(time.monotonic() - begin) for line in self._lines]
            line = ([text for text in said if text] or ["starting workers"])[-1]
            print(line.ljust(70), end="\r" if live else "\n", file=sys.stderr, flush=True)
            printed = live
        if printed:
            print(" " * 70, end="\r", file=sys.stderr, flush=True)


class FrameLine:
    """`prepare  43%  12.1 MB/s  310 episodes  0:21 left`.

    Args:
        out: the table.
        costs: (dataset, shard) -> cost of all shards that remain to be done.
    """

    def __init__(self, out: str, costs: dict[tuple[str, int], int]):
        self._folder = Path(out, WORK)
        self._costs = costs

    def __call__(self, seconds: float) -> str:
        total = sum(self._costs.values())
        done, episodes = self._read()
        if not done:
            return ""
        rate = done / seconds
        line = f"prepare {done / total:4.0%}  {rate / 1e6:6.1f} MB/s  {episodes:,} episodes"
        return f"{line}  {clock((total - done) / rate)} left"

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


class TextLine:
    """`embed  43%  120 texts/s  0:21 left`.

    Args:
        folder: where the workers' notes lie; those of an earlier run are deleted.
    """

    def __init__(self, folder: str):
        self._folder = Path(folder)
        self._begin: float | None = None
        for path in [*self._folder.glob(_DONE), self._folder / _TOTAL]:
            path.unlink(missing_ok=True)

    def __call__(self, seconds: float) -> str:
        try:
            total = json.loads((self._folder / _TOTAL).read_text())
            done = sum(json.loads(path.read_text()) for path in self._folder.glob(_DONE))
        except (OSError, ValueError):
            return ""
        if self._begin is None:
            self._begin = seconds
        if not done:
            return f"embed   0%  of {total:,} texts, loading the encoder" if total else ""
        rate = done / max(seconds - self._begin, 0.5)
        line = f"embed {done / max(total, 1):4.0%}  {rate:8,.1f} texts/s"
        return f"{line}  {clock(max(total - done, 0) / rate)} left"


def clock(seconds: float) -> str:
    """`1:02:03`, `4:05`; `?` where it is not known."""
    if seconds == float("inf"):
        return "?"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
