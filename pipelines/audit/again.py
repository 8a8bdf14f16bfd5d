"""A record made again from its raw bytes, by the table's own plan: is it what the table has?"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines import sources
from pipelines.audit.opened import Opened
from pipelines.episode import Unit
from pipelines.plan import Dataset, Plan, absolute_uri, relative_uri
from pipelines.rows import name_of, rows
from pipelines.stages import Stages
from schemas import Chunk, DataError, UsageError, decode
from schemas.record import Tier


class Again:
    """Makes records again.

    Args:
        roots: dataset -> where its raw data is now; default: where the plan found it.

    Raises:
        UsageError: if the table has no plan that can be read.
    """

    def __init__(self, table: Opened, roots: Mapping[str, str] | None = None):
        self._plan = Plan.load(table.out)
        self._roots = dict(roots or {})
        unknown = self._roots.keys() - {d.name for d in self._plan.datasets}
        if unknown:
            known = ", ".join(d.name for d in self._plan.datasets)
            raise UsageError(f"--source {min(unknown)}: not in the table, which has {known}")

    def record(self, row: Mapping[str, Any]) -> dict[Tier, bytes]:
        """The bytes of an index row's record at each tier, from the raw data.

        Raises:
            DataError: if the raw data does not give such a record, saying why.
        """
        dataset = next(d for d in self._plan.datasets if d.name == row["dataset"])
        root = self._roots.get(dataset.name, dataset.root)
        source = sources.get(dataset.name)
        problem: DataError | None = None
        for unit in self._units(dataset, row):
            located = dataclasses.replace(
                unit, uri=absolute_uri(unit.uri, root), options=dataset.options
            )
            try:
                for item in source.episodes(located):
                    if isinstance(item, DataError):
                        problem = problem or item
                    elif name_of(item) == row["episode_id"]:
                        moved = dataclasses.replace(dataset, root=root)
                        return self._step(item, unit, source, moved, row["step"])
            except DataError as e:
                problem = problem or e
        said = f": {problem.reason}" if problem else ""
        raise DataError(
            f"the raw data below {root} no longer gives episode {row['episode_id']}{said}"
        )

    def _step(self, episode, unit: Unit, source, dataset: Dataset, step: int) -> dict[Tier, bytes]:
        made = rows(
            episode,
            unit,
            source.INFO,
            dataset,
            self._plan.tiers,
            self._plan.prefix_dataset,
            Stages(),
        )
        for row in made:
            if row.chunk.step == step:
                return dict(row.wire)
        raise DataError(f"the episode no longer has step {step}")

    def _units(self, dataset: Dataset, row: Mapping[str, Any]) -> Iterator[Unit]:
        """Those of the record's shard; those of its raw file first, as others may hold it too."""
        units = dataset.shard(row["shard"]).units
        uri = relative_uri(row["source_uri"], dataset.root)
        yield from sorted(units, key=lambda unit: unit.uri != uri)  # stable


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """A record at a tier beside the same made again.

    Attributes:
        tier: which.
        stored, made: the two.
        same: whether their bytes are equal.
        pixels: how many values of their frames differ; -1 if the shapes do.
        most: by how many levels at most.
    """

    tier: Tier
    stored: Chunk
    made: Chunk
    same: bool
    pixels: int
    most: int

    def __str__(self) -> str:
        if self.same:
            return f"{self.tier.name}: the same bytes"
        if self.pixels < 0:
            return f"{self.tier.name}: other frames ({self.made.num_frames} from the raw data)"
        if not self.pixels:
            return f"{self.tier.name}: the same pixels, but other fields"
        return f"{self.tier.name}: {self.pixels:,} values differ, by up to {self.most} levels"


def compare(tier: Tier, stored: bytes, made: bytes) -> Comparison:
    """Two records of a tier, byte by byte and pixel by pixel. Raises DataError if one is none."""
    a, b = decode(stored, tier), decode(made, tier)
    x, y = a.pixels(), b.pixels()
    differ = abs(x.astype(int) - y) if x.shape == y.shape else None
    return Comparison(
        tier=tier,
        stored=a,
        made=b,
        same=stored == made,
        pixels=-1 if differ is None else int((differ > 0).sum()),
        most=0 if differ is None else int(differ.max(initial=0)),
    )
