"""What auditors rejected is left out of a table that is made after that."""

from __future__ import annotations

import dataclasses
from collections import defaultdict

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import files
from pipelines.plan import Plan
from schemas import UsageError
from schemas.columns import REJECT, VERDICT_SCHEMA


def without(plan: Plan, path: str) -> Plan:
    """The plan, which leaves out every episode of which a record was rejected: an episode's steps
    have no gaps, so a part of it cannot go.

    Args:
        path: a Parquet file of verdicts, as `unisim audit --export` writes it.

    Raises:
        UsageError: if it is none.
    """
    try:
        with files.local_copy(path) as local:
            verdicts = pq.read_table(local, schema=VERDICT_SCHEMA).to_pylist()
    except (OSError, pa.ArrowException) as e:
        raise UsageError(
            f"--exclude {path}: cannot be read ({str(e).splitlines()[0]}); wanted a Parquet file of"
            f" verdicts with the columns {', '.join(VERDICT_SCHEMA.names)}"
        ) from e
    rejected: dict[str, set[str]] = defaultdict(set)
    for row in verdicts:
        if row["verdict"] == REJECT:
            rejected[row["dataset"]].add(row["episode_id"])
    datasets = tuple(
        dataclasses.replace(d, rejected=tuple(sorted(rejected[d.name]))) for d in plan.datasets
    )
    return dataclasses.replace(plan, datasets=datasets)
