"""Plans for a table that is there: another source beside its own, or raw data that was mended."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from pipelines import files
from pipelines.plan import Dataset, Plan, absolute_uri, difference, listed
from pipelines.units import SCHEMA, Units
from schemas import UsageError


def grown(saved: Plan, made: Plan, out: str) -> Plan:
    """The saved plan with those datasets of the other one that it has not.

    Raises:
        UsageError: if they differ in more than that.
    """
    have = {dataset.name for dataset in saved.datasets}
    more = tuple(dataset for dataset in made.datasets if dataset.name not in have)
    common = {dataset.name for dataset in made.datasets} & have
    a, b = (
        dataclasses.replace(p, datasets=tuple(d for d in p.datasets if d.name in common))
        for p in (saved, made)
    )
    if a.digest() != b.digest():
        raise UsageError(
            f"{out}: holds another plan ({difference(a, b)}); a finished table can get other"
            " sources, at the same tiers, but its own stay as they are: give another --out"
        )
    return dataclasses.replace(saved, datasets=saved.datasets + more)


def retried(saved: Plan, lost: Mapping[str, set[int]]) -> tuple[Plan, dict[str, list[int]]]:
    """The plan in which shards read the raw data as it is now, and which shards these are: those
    that lost something, and those that read other parts of a file that was mended.

    A file that has changed is cut into units anew; units that are not one file each stay as they
    are, only what is in their files is read again.

    Args:
        lost: dataset -> shards with losses.
    """
    datasets, shards = [], {}
    for dataset in saved.datasets:
        if lost.get(dataset.name):
            dataset, redone = _retried(dataset, set(lost[dataset.name]))
            shards[dataset.name] = sorted(redone)
        datasets.append(dataset)
    return dataclasses.replace(saved, datasets=tuple(datasets)), shards


def _retried(dataset: Dataset, shards: set[int]) -> tuple[Dataset, set[int]]:
    rows = dataset.planned.table.to_pylist()
    stamps = _stamps(dataset, rows)
    changed = {row["uri"] for row in rows if row["stamp"] and stamps[row["uri"]] != row["stamp"]}
    while more := _beside(rows, shards, changed) - shards:
        shards |= more
    mended = {row["uri"] for row in rows if row["shard"] in shards} & changed
    old, fresh = _by_uri(rows, mended), {}
    if mended:
        now = listed(dataset.name, dataset.root, dataset.shard_mb).table.to_pylist()
        fresh = _by_uri(now, mended)
    made = []
    for row in rows:
        if row["uri"] not in fresh:  # what has gone stays planned, and lost
            made.append(row)
        elif row is old[row["uri"]][0]:
            made += _placed(old[row["uri"]], fresh[row["uri"]])
    made.sort(key=lambda row: row["shard"])  # stable
    if {row["shard"] for row in made} != set(range(dataset.planned.num_shards)):
        raise UsageError(
            f"--source {dataset.name}: {dataset.root} has lost all files of a shard; restore them,"
            " or make another table with another --out"
        )
    units = Units(pa.Table.from_pylist(made, SCHEMA))
    return dataclasses.replace(dataset, units=units), shards


def _by_uri(rows: list[dict[str, Any]], wanted: set[str]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["uri"] in wanted:
            found[row["uri"]].append(row)
    return dict(found)


def _stamps(dataset: Dataset, rows: list[dict[str, Any]]) -> dict[str, str]:
    """By the units' URIs; "" for what is no file now."""
    where = {row["uri"]: absolute_uri(row["uri"], dataset.root) for row in rows if row["stamp"]}
    found = files.stamps(dataset.root, list(where.values()))
    return {uri: found.get(path, "") for uri, path in where.items()}


def _beside(rows: list[dict[str, Any]], shards: set[int], changed: set[str]) -> set[int]:
    """Shards that read a changed file which one of `shards` reads."""
    mine = {row["uri"] for row in rows if row["shard"] in shards} & changed
    return {row["shard"] for row in rows if row["uri"] in mine}


def _placed(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A file's new units in the shards that its old ones were in."""
    known = {row["id"]: row["shard"] for row in old}
    shard = old[0]["shard"]
    placed = []
    for row in new:
        shard = max(shard, known.get(row["id"], shard))
        placed.append(row | {"shard": shard})
    return placed
