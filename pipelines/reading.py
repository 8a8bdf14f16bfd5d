"""How far a running job is, read by the launcher from receipts and notes, or Beam's counters."""

from __future__ import annotations

import copy
import json
import math
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

from apache_beam.metrics.metric import MetricResults
from apache_beam.runners.runner import PipelineResult

from pipelines import files, receipt
from pipelines.tally import NOTES, NOTHING, TEXTS, TEXTS_DONE, Counts, of_receipt
from schemas.table import WORK

_AT_ONCE = 8  # remote receipts; each is a request

Names = dict[str, tuple[int, int]]
"""A counter's name -> committed, attempted."""


class Counters:
    """Beam's counters of the job that runs, on runners that have any before its end.

    Args:
        keep: seconds for which an answer serves, so that all who read at a time ask once.
    """

    def __init__(self, keep: float = 1.5):
        self._keep = keep
        self._result: PipelineResult | None = None
        self._errors = 0
        self._answer: Names = {}
        self._at = -math.inf

    def follow(self, result: PipelineResult | None) -> None:
        """Asks this job from now on, or none."""
        self._result, self._errors = result, 0
        self._at = -math.inf

    def read(self) -> Names:
        """The sums over all namespaces and steps; empty if the runner has none to tell.

        A runner that cannot be asked is an answer of none, with a `complaint`.
        """
        if time.monotonic() - self._at >= self._keep:
            self._answer = self._ask()
            self._at = time.monotonic()
        return self._answer

    def _ask(self) -> Names:
        if self._result is None:
            return {}
        try:
            # a copy, as Beam's portable runners answer the first time only and keep that
            metrics: MetricResults | None = copy.copy(self._result).metrics()
            found = metrics.query() if metrics else {}
        except Exception as e:
            self._errors += 1
            if said := complaint(e, self._errors):
                line = f"unisim: the runner does not tell its metrics ({said}); the job goes on"
                print(line, file=sys.stderr, flush=True)
            return {}
        self._errors = 0
        sums: Names = defaultdict(lambda: (0, 0))
        for each in found.get(MetricResults.COUNTERS, ()):
            committed, attempted = sums[each.key.metric.name]
            sums[each.key.metric.name] = (
                committed + (each.committed or 0),
                attempted + (each.attempted or 0),
            )
        return dict(sums)


def complaint(error: Exception, in_a_row: int) -> str:
    """What is said of an error; empty where it is the first or second in a row, and then ever more
    seldom, so that it is neither silent for ever nor said for ever."""
    if in_a_row < 3 or in_a_row & (in_a_row + 1):
        return ""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


class Reading(NamedTuple):
    """How far a stage is.

    Attributes:
        done, total: bytes of raw data, or texts. A total of 0 is not known yet.
        counts: of shards; of what this job has done, not those before it.
    """

    done: int
    total: int
    counts: Counts = NOTHING


class Source(Protocol):
    """What can be read again and again."""

    every: float
    """Seconds between two readings, at least."""

    def begin(self) -> None:
        """The graph is begun, or begun again."""

    def read(self) -> Reading:
        """May take its time, and fail."""
        ...


class Shards:
    """Of the shards that a job has to do: on a local path, receipts of finished ones and notes of
    those at work; elsewhere Beam's counters; and where there are none, the receipts alone.

    Args:
        out: the table.
        costs: (dataset, shard) -> bytes, of those that remain to be done.
        before: what is done already, of which workers only find that it is.
        counters: of the job.
    """

    def __init__(
        self,
        out: str,
        costs: dict[tuple[str, int], int],
        counters: Counters,
        before: Counts = NOTHING,
    ):
        self.every = _pause(out)
        self._folder = files.join(out, WORK)
        self._local = files.is_local(out)
        self._costs = {f"{name}-{shard:05d}.json": cost for (name, shard), cost in costs.items()}
        self._total = sum(costs.values())
        self._counters = counters
        self._before = before
        self._finished: dict[str, Counts] = {}
        self._told = NOTHING

    def begin(self) -> None:
        """Receipts stay, and notes are of shards that will be begun again."""

    def read(self) -> Reading:
        if not self._costs:
            return Reading(0, 0)
        counts = None if self._local else self._counted()
        if counts is None:
            self._finish()
            at_work = self._notes() if self._local else []
            # a runner that does not answer now may have told more before
            seen = _sum([*self._finished.values(), *at_work])
            counts = max(seen, self._told, key=lambda each: each.cost)
        else:
            self._told = counts
        counts = counts._replace(
            shards=min(counts.shards, len(self._costs)), cost=min(counts.cost, self._total)
        )
        return Reading(counts.cost, self._total, counts)

    def _counted(self) -> Counts | None:
        """By Beam's counters; None where they say nothing.

        What is attempted moves while a bundle runs, and holds what failed bundles have made: each
        shard once, since the next bundle finds it. A runner that forgets what failed bundles have
        counted has committed all that was made and found by those that ended well. Each is the
        truth or less, but for parts of shards that are lost with their bundle.
        """
        found = self._counters.read()
        values = []
        for field, before in zip(Counts._fields, self._before, strict=True):
            made, attempted = found.get(field, (0, 0))
            again, _ = found.get(f"found_{field}", (0, 0))
            values.append(max(attempted, made + max(0, again - before), 0))
        return Counts(*values) if any(values) else None

    def _finish(self) -> None:
        """Reads the receipts that are new."""
        folder = files.join(self._folder, "receipts")
        new = sorted((_listed(folder) & self._costs.keys()) - self._finished.keys())
        with ThreadPoolExecutor(1 if self._local else _AT_ONCE) as pool:
            receipts = pool.map(lambda name: json.loads(files.read(files.join(folder, name))), new)
            for name, receipt in zip(new, receipts, strict=True):
                letters, frames = len(receipt["dead_letters"]), receipt["frames"]
                counts = Counts(1, self._costs[name], frames, letters, receipt["episodes"])
                self._finished[name] = counts

    def _notes(self) -> list[Counts]:
        folder = files.join(self._folder, NOTES)
        found = []
        for name in (_listed(folder) & self._costs.keys()) - self._finished.keys():
            try:
                found.append(Counts(*json.loads(files.read(files.join(folder, name)))))
            except (OSError, ValueError, TypeError):
                continue  # it is just being renewed, or of another version
        return found


def remaining(
    out: str, costs: dict[tuple[str, int], int], into: str
) -> tuple[dict[tuple[str, int], int], Counts]:
    """Those of the shards that are not finished, and what the others count.

    Args:
        out, into: as for `receipt.load`.
        costs: (dataset, shard) -> bytes.
    """
    left, counts = dict(costs), []
    for done in receipt.load_all(out, costs, into):
        counts.append(of_receipt(done, left.pop((done.dataset, done.shard))))
    return left, _sum(counts)


class Texts:
    """Of the texts that are to be embedded: on a local path the workers' notes; elsewhere Beam's
    counters; and where there are none, the receipts of finished shards.

    Args:
        folder: `Target.work`.
        counters: of the job.
    """

    def __init__(self, folder: str, counters: Counters):
        self.every = _pause(folder)
        self._folder = folder
        self._local = files.is_local(folder)
        self._counters = counters
        self._finished: dict[str, int] = {}

    def begin(self) -> None:
        """Away with what an earlier run has noted: texts are counted again when they are found."""
        for name in [TEXTS, *_listed(self._folder, TEXTS_DONE)]:
            files.delete(files.join(self._folder, name))

    def read(self) -> Reading:
        if not self._local:
            found = self._counters.read()
            (_, total), (_, done) = found.get("texts", (0, 0)), found.get("embedded", (0, 0))
            if total:
                return Reading(min(done, total), total)
        try:
            total = json.loads(files.read(files.join(self._folder, TEXTS)))
        except FileNotFoundError:
            return Reading(0, 0)
        done = sum(self._notes()) if self._local else self._receipts()
        return Reading(min(done, total), total)

    def _notes(self) -> list[int]:
        names = _listed(self._folder, TEXTS_DONE)
        return [json.loads(files.read(files.join(self._folder, name))) for name in names]

    def _receipts(self) -> int:
        for name in _listed(self._folder, "[0-9]*.json") - self._finished.keys():
            value = json.loads(files.read(files.join(self._folder, name)))
            self._finished[name] = value["result"]["added"]
        return sum(self._finished.values())


def _pause(path: str) -> float:
    return 0.5 if files.is_local(path) else 2.0


def _listed(folder: str, pattern: str = "*") -> set[str]:
    """Names of the files in a folder; none if it is not there."""
    if files.is_local(folder) and pattern == "*":  # many, and their sizes are not wanted
        try:
            return set(os.listdir(folder))
        except FileNotFoundError:
            return set()
    return {files.name_of(path) for path, _ in files.glob(folder, pattern)}


def _sum(counts: Iterable[Counts]) -> Counts:
    return Counts(*map(sum, zip(NOTHING, *counts, strict=True)))
