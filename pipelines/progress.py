"""How far a job is: workers leave small notes, the launcher adds them up and prints one line."""

from __future__ import annotations

import itertools
import json
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pipelines import files
from pipelines.episode import Unit
from schemas.table import WORK

_EVERY = 1.0
_WIDTH = 90  # of a line, to cover the one before it
_TOTAL = "texts.json"
_DONE = "texts-*.json"


class Note(NamedTuple):
    """What a worker has done of a shard: bytes, frames written, episodes lost."""

    cost: int = 0
    frames: int = 0
    lost: int = 0


class Progress:
    """A worker's note of how much of its shard is done, renewed once a second.

    Notes are only kept where the table is on a local path; elsewhere the runner shows progress.
    """

    def __init__(self, out: str, dataset: str, shard: int):
        self._path = Path(out, WORK, "progress", _name(dataset, shard))
        self._on = files.is_local(out)
        self._finished = 0
        self._in_unit = 0
        self._last = 0.0

    def step(self, unit: Unit, frames: int, lost: int) -> None:
        """One more episode of `unit` is done; so many frames are written, episodes lost by now."""
        self._in_unit += 1
        share = min(1.0, self._in_unit / max(unit.episodes, 1))
        self._note(Note(self._finished + int(unit.cost * share), frames, lost))

    def finish(self, unit: Unit, frames: int, lost: int) -> None:
        """All of `unit` is done."""
        self._finished += unit.cost
        self._in_unit = 0
        self._note(Note(self._finished, frames, lost), every=0.2 * _EVERY)

    def _note(self, note: Note, every: float = _EVERY) -> None:
        now = time.monotonic()
        if not self._on or now - self._last < every:
            return
        self._last = now
        files.write(str(self._path), json.dumps(note).encode())


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
        # a log has its first line soon, and then one now and then
        waits = itertools.chain([5.0], itertools.repeat(30.0))
        while not self._stop.wait(0.5 if live else next(waits)):
            said = [line(time.monotonic() - begin) for line in self._lines]
            line = ([text for text in said if text] or ["starting workers"])[-1]
            print(
                line.ljust(_WIDTH) if live else line,
                end="\r" if live else "\n",
                file=sys.stderr,
                flush=True,
            )
            printed = live
        if printed:
            print(" " * _WIDTH, end="\r", file=sys.stderr, flush=True)


class FrameLine:
    """`prepare  43%  12/40 shards  1,200 frames/s  12.1 MB/s  3 lost  0:21 left`.

    Args:
        out: the table.
        costs: (dataset, shard) -> cost of all shards that remain to be done.
    """

    def __init__(self, out: str, costs: dict[tuple[str, int], int]):
        self._folder = Path(out, WORK)
        self._costs = {_name(dataset, shard): cost for (dataset, shard), cost in costs.items()}
        self._finished: dict[str, Note] = {}

    def __call__(self, seconds: float) -> str:
        total = sum(self._costs.values())
        at_work = self._read()
        done = sum(self._costs[name] for name in self._finished)
        done += sum(note.cost for note in at_work)
        if not done:
            return ""
        notes = [*self._finished.values(), *at_work]
        frames, lost = sum(n.frames for n in notes), sum(n.lost for n in notes)
        rate = done / seconds
        return (
            f"prepare {done / total:4.0%}  {len(self._finished)}/{len(self._costs)} shards"
            f"  {frames / seconds:,.0f} frames/s  {rate / 1e6:.1f} MB/s  {lost:,} lost"
            f"  {clock((total - done) / rate)} left"
        )

    def _read(self) -> list[Note]:
        """The notes of the shards at work; those of finished ones are kept and not read again."""
        done = _listed(self._folder / "receipts") & self._costs.keys()
        noted = _listed(self._folder / "progress") & self._costs.keys()
        found = {name: self._note(name) for name in noted - self._finished.keys()}
        for name in done - self._finished.keys():
            self._finished[name] = found.pop(name, None) or Note()
        return [note for note in found.values() if note]

    def _note(self, name: str) -> Note | None:
        try:
            return Note(*json.loads((self._folder / "progress" / name).read_text()))
        except (OSError, ValueError, TypeError):
            return None  # it is just being renewed, or of another version


def _name(dataset: str, shard: int) -> str:
    return f"{dataset}-{shard:05d}.json"


def _listed(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except FileNotFoundError:
        return set()


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
