"""Index, dead letters, embeddings, then manifest.json: its presence is the commit."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import files, sources
from pipelines.job import Job, load_manifest
from pipelines.plan import Dataset, Plan
from pipelines.receipt import Receipt, SlotStatistics
from pipelines.text import ShardResult, finish
from schemas import SCHEMA_VERSION, DatasetInfo, Manifest, Tier
from schemas.controls import SLOTS
from schemas.table import (
    DEAD_LETTER_SCHEMA,
    DEAD_LETTERS,
    MANIFEST,
    PLAN,
    PLAN_UNITS,
    WORK,
    frames_dir,
    frames_file,
    text_dir,
    tfds_files,
)


def commit(job: Job, receipts: Iterable[Receipt], embedded: Iterable[ShardResult]) -> None:
    """Ends a job: writes what is known only when all shards are done, and last the manifest.

    Above the error budget no manifest is written, and the finished shards are kept: the launcher
    says so, and a run with a larger budget ends here at once.
    """
    plan = job.plan()
    by_dataset = group(plan, receipts)
    content = dict(_dead_letters(job.out, by_dataset))
    datasets = [_info(dataset, by_dataset[dataset.name]) for dataset in plan.datasets]
    for dataset in datasets:
        for receipt in by_dataset[dataset.name]:
            content |= receipt.files
        content |= _tfds(job.out, plan.tiers, dataset, content)
    if over_budget(datasets, job.error_budget):
        return
    text = finish(job.target(), embedded)
    content |= text.files
    for name in (PLAN, PLAN_UNITS):
        content[name] = _digest(job.out, name)
    files.delete_temporaries(job.out)
    _delete_unlisted_texts(job.out, content)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        plan=plan.digest(),
        tiers=[str(tier) for tier in plan.tiers],
        datasets=datasets,
        encoders=(text.info,),
        files=dict(sorted(content.items())),
    )
    files.write(files.join(job.out, MANIFEST), manifest.to_json().encode())


def tidy(out: str, encoder: str, *more: str) -> None:
    """Deletes what a job of a committed table needs no longer: files of an encoder that the
    manifest does not list, and what lies in `_work`. A job that is killed here is tidied by the
    next.

    Args:
        encoder: name of the one whose texts were embedded.
        more: other folders in `_work`.
    """
    listed = load_manifest(out).files
    folder = text_dir(encoder)
    for path, _ in files.glob(files.join(out, folder), "*"):
        if f"{folder}/{files.name_of(path)}" not in listed:
            files.delete(path)
    for path, _ in files.glob(out, "*"):
        if files.is_temporary(path):
            files.delete(path)
    for name in (f"embed/{encoder}", *more):
        files.delete_tree(files.join(out, WORK, name))
    if not files.glob(files.join(out, WORK), "**"):
        files.delete_tree(files.join(out, WORK))


def group(plan: Plan, receipts: Iterable[Receipt]) -> dict[str, list[Receipt]]:
    """Receipts by dataset in the plan's order, whatever order they came in."""
    found: dict[str, list[Receipt]] = defaultdict(list)
    for receipt in sorted(receipts, key=lambda r: (r.dataset, r.shard)):
        found[receipt.dataset].append(receipt)
    for dataset in plan.datasets:
        have = [receipt.shard for receipt in found[dataset.name]]
        if have != list(range(dataset.planned.num_shards)):
            raise AssertionError(f"{dataset.name}: receipts of shards {have}, a bug in the graph")
    return {dataset.name: found[dataset.name] for dataset in plan.datasets}


def over_budget(datasets: Iterable[DatasetInfo], budget: float) -> list[DatasetInfo]:
    """The datasets that lost more than their share of episodes, or that have nothing left."""
    return [
        d
        for d in datasets
        if d.dead_letters > budget * (d.dead_letters + d.episodes) or not d.chunks
    ]


def summarise(plan: Plan, receipts: Iterable[Receipt]) -> list[DatasetInfo]:
    """What the datasets of a finished job hold."""
    by_dataset = group(plan, receipts)
    return [_info(dataset, by_dataset[dataset.name]) for dataset in plan.datasets]


def _delete_unlisted_texts(out: str, content: dict[str, list[Any]]) -> None:
    """What an earlier run with another encoder has left behind."""
    root = out.rstrip("/") + "/"
    for path, _ in files.glob(files.join(out, text_dir("").rstrip("/")), "**"):
        if path.removeprefix(root) not in content:
            files.delete(path)


def _info(dataset: Dataset, receipts: list[Receipt]) -> DatasetInfo:
    statistics = SlotStatistics()
    for receipt in receipts:
        statistics.merge(receipt.statistics)
    slots = sorted({i for receipt in receipts for i in receipt.slots})
    letters = [letter for receipt in receipts for letter in receipt.dead_letters]
    return DatasetInfo(
        name=dataset.name,
        version=dataset.version,
        license=sources.get(dataset.name).INFO.license,
        num_shards=len(receipts),
        shard_rows={split: [r.rows[split] for r in receipts] for split in dataset.splits},
        episodes=sum(r.episodes for r in receipts),
        views=sum(r.views for r in receipts),
        chunks=sum(sum(r.rows.values()) for r in receipts),
        frames=sum(r.frames for r in receipts),
        dead_letters=sum(r.lost for r in receipts),
        declared_losses=sum(not letter["episodes"] for letter in letters),
        losses=dict(sorted(Counter(letter["stage"] for letter in letters).items())),
        clipped={SLOTS[i].name: n for i, n in enumerate(statistics.clipped) if n},
        controls=statistics.summary(),
        slots=[SLOTS[i].name for i in slots],
    )


def _dead_letters(
    out: str, by_dataset: dict[str, list[Receipt]]
) -> Iterable[tuple[str, list[Any]]]:
    letters = [x for receipts in by_dataset.values() for r in receipts for x in r.dead_letters]
    table = pa.Table.from_pylist(letters, DEAD_LETTER_SCHEMA)
    with files.local_write(files.join(out, DEAD_LETTERS)) as path:
        pq.write_table(table, path, compression="zstd")
        yield DEAD_LETTERS, files.digest(path)


def _tfds(
    out: str, tiers: Iterable[Tier], dataset: DatasetInfo, content: dict[str, list[Any]]
) -> dict[str, list[Any]]:
    """The two JSON files that let stock tensorflow-datasets read each tier."""
    written = {}
    for tier in tiers:
        n, folder = dataset.num_shards, frames_dir(tier, dataset.name, dataset.version)
        num_bytes = {
            split: sum(
                content[frames_file(tier, dataset.name, dataset.version, split, shard, n)][0]
                for shard in range(n)
            )
            for split in dataset.shard_rows
        }
        for name, text in tfds_files(dataset, tier, num_bytes).items():
            files.write(files.join(out, folder, name), text.encode())
            written[f"{folder}/{name}"] = _digest(out, f"{folder}/{name}")
    return written


def _digest(out: str, name: str) -> list[Any]:
    with files.local_copy(files.join(out, name)) as path:
        return files.digest(path)
