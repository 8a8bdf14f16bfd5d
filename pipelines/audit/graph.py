"""The Beam graph of `unisim audit`: shards are spread, each leaves a file with what it found.

The table is only read. Results go to a folder of their own, and the launcher puts them together, so
what travels through the graph is the tasks alone.
"""

from __future__ import annotations

import functools

import apache_beam as beam

from pipelines import files
from pipelines.audit.opened import Opened
from pipelines.audit.shard import Scope
from pipelines.audit.task import Run, Task, save, tasks
from pipelines.reading import Reading


def build(root: beam.Pipeline, scope: Scope, folder: str) -> None:
    """Adds the audit to a pipeline; results go to `folder`."""
    _ = (
        root
        | "Once" >> beam.Create([(scope, folder)])
        | "Tasks" >> beam.FlatMapTuple(_tasks).with_output_types(tuple[Scope, str, Task])
        | "Spread" >> beam.Reshuffle()
        | "Audit" >> beam.MapTuple(_audit)
    )


def _tasks(scope: Scope, folder: str):
    for task in tasks(Opened(scope.out), scope):
        yield scope, folder, task


def _audit(scope: Scope, folder: str, task: Task) -> None:
    save(Run(_opened(scope.out), scope, task), task, folder)


@functools.lru_cache(1)
def _opened(out: str) -> Opened:
    """Once per process: its manifest may be large."""
    return Opened(out)


def clear(folder: str) -> None:
    """Deletes the results of an earlier audit: what is true now is asked for."""
    for path, _ in files.glob(folder, "*.jsonl"):
        files.delete(path)


class Progress:
    """How far the audit is: the results that are there, as `pipelines.progress.Line` reads it."""

    def __init__(self, found: list[Task], folder: str):
        self.every = 0.5 if files.is_local(folder) else 2.0
        self._folder, self._costs = folder, {task.file: max(task.cost, 1) for task in found}

    def begin(self) -> None:
        """Results stay."""

    def read(self) -> Reading:
        there = {files.name_of(path) for path, _ in files.glob(self._folder, "*.jsonl")}
        done = sum(cost for name, cost in self._costs.items() if name in there)
        return Reading(done, sum(self._costs.values()))
