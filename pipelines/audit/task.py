"""`Task`: a part of an audit that one worker does, and its result as a file of JSON lines."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any, Literal

from pipelines import files
from pipelines.audit import embeddings, integrity
from pipelines.audit.check import Finding
from pipelines.audit.leak import Look
from pipelines.audit.opened import Opened
from pipelines.audit.rights import Licence
from pipelines.audit.shard import Scope, Shard, ShardAudit
from pipelines.audit.statistics import Statistics
from pipelines.audit.texts import Scripts
from schemas.table import text_file


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """One shard of a dataset, or of an encoder's embeddings.

    Attributes:
        kind: what `name` is the name of.
        cost: records of all tiers, or embeddings.
    """

    kind: Literal["dataset", "encoder"]
    name: str
    shard: int
    cost: int

    @property
    def file(self) -> str:
        """The result's, in the folder of results."""
        return f"{self.kind}-{self.name}-{self.shard:05d}.jsonl"


def tasks(table: Opened, scope: Scope) -> list[Task]:
    """All, in the order in which their results are put together."""
    found = []
    for d in table.manifest.datasets:
        for shard in range(d.num_shards):
            rows = sum(each[shard] for each in d.shard_rows.values())
            cost = rows * len(table.tiers)
            found.append(Task(kind="dataset", name=d.name, shard=shard, cost=cost))
    for encoder in table.manifest.encoders if "integrity" in scope.families else ():
        for shard, rows in enumerate(encoder.shard_rows):
            if rows:
                found.append(Task(kind="encoder", name=encoder.name, shard=shard, cost=rows))
    return found


Tick = Callable[[int], None]


class Run:
    """A task that is done: iterate over its findings, then `told` is what a dataset's shard told.

    Args:
        tick: told how much of the cost is done.
    """

    def __init__(self, table: Opened, scope: Scope, task: Task, tick: Tick = lambda cost: None):
        self._table, self._scope, self._task, self._tick = table, scope, task, tick
        self.told: Shard | None = None

    def __iter__(self) -> Iterator[Finding]:
        task, table = self._task, self._table
        if task.kind == "encoder":
            info = table.manifest.encoder(task.name)
            name = text_file(info.name, task.shard, len(info.shard_rows), task.cost)
            yield from integrity.file_digests(table, [name], whole=self._scope.sample >= 1)
            yield from embeddings.rows(table, info, task.shard)
            self._tick(task.cost)
            return
        audit = ShardAudit(table, table.dataset(task.name), task.shard, self._scope, self._tick)
        yield from audit.run()
        self.told = audit.told


def save(run: Run, task: Task, folder: str) -> None:
    """Does a task and writes its result: the findings, then what was told."""
    with files.open_write(files.join(folder, task.file)) as f:
        for finding in run:
            f.write(_line(dataclasses.asdict(finding)))
        f.write(_line(_to_dict(run.told) if run.told else None))


def load(task: Task, folder: str) -> Iterator[Finding | Shard | None]:
    """The result: the findings, then what was told. Raises FileNotFoundError if it is not there."""
    with files.open_read(files.join(folder, task.file)) as f:
        line = next(f)
        for after in f:
            yield Finding(**json.loads(line))
            line = after
        value = json.loads(line)
        yield _from_dict(value) if value else None


def _line(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _to_dict(told: Shard) -> dict[str, Any]:
    return {
        "dataset": told.dataset,
        "totals": told.totals,
        "statistics": told.statistics.to_dict(),
        "scripts": {"counts": told.scripts.counts, "some": told.scripts.some},
        "licences": {name: [each.records, each.first] for name, each in told.licences.items()},
        "looks": [dataclasses.asdict(look) for look in told.looks],
        "texts": [key.hex() for key in sorted(told.texts)],
        "read": told.read,
    }


def _from_dict(value: dict[str, Any]) -> Shard:
    return Shard(
        dataset=value["dataset"],
        totals=value["totals"],
        statistics=Statistics.from_dict(value["statistics"]),
        scripts=Scripts(**value["scripts"]),
        licences={name: Licence(*each) for name, each in value["licences"].items()},
        looks=[Look(**look | {"hashes": tuple(look["hashes"])}) for look in value["looks"]],
        texts={bytes.fromhex(key) for key in value["texts"]},
        read=value["read"],
    )
