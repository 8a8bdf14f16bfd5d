"""What a worker has done so far: Beam's counters, and where the table is on a local path small
notes that the launcher reads."""

from __future__ import annotations

import json
import threading
import time
import uuid
from types import TracebackType
from typing import NamedTuple

from apache_beam.metrics.metric import Metrics

from pipelines import files
from pipelines.episode import Unit
from pipelines.receipt import Receipt
from schemas.table import WORK

NOTES = "progress"
TEXTS, TEXTS_DONE = "texts.json", "texts-*.json"
_EVERY = 1.0


class Counts(NamedTuple):
    """Of a shard or of many: how many are finished, bytes of raw data, frames written, dead
    letters, episodes."""

    shards: int = 0
    cost: int = 0
    frames: int = 0
    dead_letters: int = 0
    episodes: int = 0


NOTHING = Counts()


class Tally:
    """One shard while it is written. Counted are only differences, in the thread that calls, which
    must be the one that Beam gave the shard to.

    As a context it counts the shard at its end; what was counted of one that fails is taken back,
    as it is begun again.

    Args:
        out: the table.
        dataset: the counters' namespace.
        found: whether the shard is one that was finished before; it is counted apart, as another
            run, or a bundle that failed later, has counted it already.
    """

    def __init__(self, out: str, dataset: str, shard: int, *, found: bool = False):
        self._path = files.join(out, WORK, NOTES, f"{dataset}-{shard:05d}.json")
        self._noted = files.is_local(out) and not found
        prefix = "found_" if found else ""
        self._counters = [Metrics.counter(dataset, prefix + name) for name in Counts._fields]
        self._counted = NOTHING
        self._finished = 0
        self._in_unit = 0
        self._last = 0.0

    def __enter__(self) -> Tally:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        self._count(NOTHING if kind else self._counted._replace(shards=1))

    def step(self, unit: Unit, *, frames: int, dead_letters: int, episodes: int) -> None:
        """One more episode of `unit` is read; so much is made of the shard by now."""
        self._in_unit += 1
        share = min(1.0, self._in_unit / max(unit.episodes, 1))
        cost = self._finished + int(unit.cost * share)
        self._renew(_EVERY, cost=cost, frames=frames, dead_letters=dead_letters, episodes=episodes)

    def finish(self, unit: Unit, *, frames: int, dead_letters: int, episodes: int) -> None:
        """All of `unit` is done."""
        self._finished += unit.cost
        self._in_unit = 0
        cost = self._finished
        self._renew(
            0.2 * _EVERY, cost=cost, frames=frames, dead_letters=dead_letters, episodes=episodes
        )

    def whole(self, receipt: Receipt, cost: int) -> None:
        """All of the shard, at once."""
        self._count(of_receipt(receipt, cost)._replace(shards=0))

    def _renew(self, every: float, **now: int) -> None:
        self._count(Counts(**now))
        at = time.monotonic()
        if self._noted and at - self._last >= every:
            self._last = at
            files.write(self._path, json.dumps(self._counted).encode())

    def _count(self, now: Counts) -> None:
        for counter, value, before in zip(self._counters, now, self._counted, strict=True):
            if value != before:
                counter.inc(value - before)
        self._counted = now


def of_receipt(receipt: Receipt, cost: int) -> Counts:
    """What a finished shard counts."""
    return Counts(1, cost, receipt.frames, len(receipt.dead_letters), receipt.episodes)


class TextTally:
    """The texts that a worker process has embedded; its note is renewed twice a second at most.

    Args:
        folder: `Target.work`.
    """

    def __init__(self, folder: str):
        self._path = files.join(folder, TEXTS_DONE.replace("*", uuid.uuid4().hex))
        self._noted = files.is_local(folder)
        self._counter = Metrics.counter("text", "embedded")
        self._lock = threading.Lock()
        self._done = 0
        self._last = 0.0

    def add(self, texts: int) -> None:
        """So many more texts are done."""
        self._counter.inc(texts)
        with self._lock:
            self._done += texts
            now = time.monotonic()
            if self._noted and now - self._last >= 0.5 * _EVERY:
                self._last = now
                files.write(self._path, json.dumps(self._done).encode())


def note_texts(folder: str, total: int) -> None:
    """Tells how many texts there are to embed."""
    Metrics.counter("text", "texts").inc(total)
    files.write(files.join(folder, TEXTS), json.dumps(total).encode())
