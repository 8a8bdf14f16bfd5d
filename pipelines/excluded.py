"""What auditors rejected is left out of a table that is made after that."""

from __future__ import annotations

import dataclasses
from collections import defaultdict

from pipelines import files
from pipelines.plan import Plan
from schemas.verdicts import rejected


def without(plan: Plan, path: str) -> Plan:
    """The plan, which leaves out every episode of which a record was rejected: an episode's steps
    have no gaps, so a part of it cannot go.

    Args:
        path: a Parquet file of verdicts, as `unisim audit --export` writes it.

    Raises:
        UsageError: if it is none.
    """
    rejects: dict[str, set[str]] = defaultdict(set)
    for row in rejected(path, files.read).to_pylist():
        rejects[row["dataset"]].add(row["episode_id"])
    datasets = tuple(
        dataclasses.replace(d, rejected=tuple(sorted(rejects[d.name]))) for d in plan.datasets
    )
    return dataclasses.replace(plan, datasets=datasets)
