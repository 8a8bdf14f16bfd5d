"""`Stages`: what making a shard takes. Calls and bytes repeat and are in the manifest; seconds do
not, and lie beside the table in timings.json."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from pipelines import files
from schemas import UsageError
from schemas.table import TIMINGS, StageCount, dump_json

STAGES = ("read", "decode", "resize", "encode", "write")

T = TypeVar("T")


@dataclasses.dataclass
class Stage:
    """Seconds of the clock, how often, and the bytes that came out, where that is known."""

    seconds: float = 0.0
    calls: int = 0
    bytes: int = 0


class Stages:
    """The stages of a shard or of several.

    "read" is the source's own code with what it decodes on the way (a video's frames, but not
    their conversion), "decode" makes pixels, "resize" the tiers, "encode" JPEGs, checks and
    records, "write" the files.
    """

    def __init__(self, found: dict[str, dict[str, Any]] | None = None):
        self.by_name = {name: Stage() for name in STAGES}
        for name, value in (found or {}).items():
            self.by_name[name] = Stage(**value)

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[Stage]:
        """Adds the time of a block."""
        stage = self.by_name[name]
        begin = time.perf_counter()
        try:
            yield stage
        finally:
            stage.seconds += time.perf_counter() - begin
            stage.calls += 1

    def reading(self, items: Iterable[T]) -> Iterator[T]:
        """The items; adds the time that each took to come."""
        iterator = iter(items)
        while True:
            with self.timed("read"):
                item = next(iterator, self)
            if item is self:
                return
            yield item  # pyright: ignore[reportReturnType]

    def add(self, other: Stages) -> None:
        """Adds those of another shard."""
        for name, stage in other.by_name.items():
            own = self.by_name[name]
            own.seconds += stage.seconds
            own.calls += stage.calls
            own.bytes += stage.bytes

    def counts(self) -> dict[str, StageCount]:
        """What repeats."""
        return {n: StageCount(calls=s.calls, bytes=s.bytes) for n, s in self.by_name.items()}

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """As JSON has it; `Stages` takes it."""
        return {name: dataclasses.asdict(stage) for name, stage in self.by_name.items()}

    def __str__(self) -> str:
        total = sum(stage.seconds for stage in self.by_name.values())
        shares = (f"{n} {s.seconds / max(total, 1e-9):.0%}" for n, s in self.by_name.items())
        return f"{', '.join(shares)} of {total:.1f} s in workers"


def add_timings(out: str, into: str, seconds: dict[str, Stages], *, new: bool) -> None:
    """Writes timings.json: dataset -> stage -> seconds of all workers together, those of shards
    that were made again since included, and what of a shard a killed worker had done not.

    Args:
        out: the table, whose timings are added to.
        into: the folder for the file.
        seconds: dataset -> of the shards that were made now, for all datasets that the table has.
        new: whether the table is a new one, and what lies there of a run that was cut short.
    """
    before = {} if new else load_timings(out)
    value = {
        name: {
            stage: round(before.get(name, {}).get(stage, 0.0) + each.seconds, 3)
            for stage, each in stages.by_name.items()
        }
        for name, stages in seconds.items()
    }
    files.write(files.join(into, TIMINGS), dump_json(value).encode())


def load_timings(out: str) -> dict[str, dict[str, float]]:
    """A table's timings; none if it has none. Raises UsageError if the file is damaged."""
    path = files.join(out, TIMINGS)
    try:
        found = json.loads(files.read(path))
        return {name: {k: float(v) for k, v in each.items()} for name, each in found.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as e:
        raise UsageError(f"{path}: no timings ({e}); no part of the table, delete it") from e
