"""`Stages`: where the time of a shard goes. No file of a table holds it, as bytes must repeat."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

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

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """As JSON has it; `Stages` takes it."""
        return {name: dataclasses.asdict(stage) for name, stage in self.by_name.items()}

    def __str__(self) -> str:
        total = sum(stage.seconds for stage in self.by_name.values())
        shares = (f"{n} {s.seconds / max(total, 1e-9):.0%}" for n, s in self.by_name.items())
        return f"{', '.join(shares)} of {total:.1f} s in workers"
