"""Index, dead letters, embeddings, then manifest.json: its presence is the commit."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

from pipelines import change, counted, files, sources
from pipelines.job import Job, load_manifest
from pipelines.plan import Dataset, Plan
from pipelines.receipt import Receipt, SlotStatistics
from pipelines.stages import Stages, add_timings
from pipelines.text import ShardResult, finish
from schemas import SCHEMA_VERSION, DatasetInfo, Manifest, Tier
from schemas.controls import SLOTS
from schemas.table import (
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
    """Ends a job: writes what is known only when all shards are done, and last the manifest. That
    of a table that is changed lies beside it until `change.finish`.

    Above the error budget no manifest is written, and the finished shards are kept: the launcher
    says so, and a run with a larger budget ends here at once.
    """
    plan = job.plan()
    before = load_manifest(job.out) if job.changes else None
    fresh = list(receipts)
    by_dataset = group(plan, together(job.out, before, fresh))
    datasets = describe(plan, by_dataset)
    if over_budget(datasets, job.error_budget):
        counted.save(chain.from_iterable(by_dataset.values()), job.into)
        return
    target = job.target()
    text = finish(target, embedded)
    add_timings(job.out, job.into, _taken(plan, fresh), new=before is None)
    made = assemble(job.into, plan, datasets, by_dataset)
    if before is None:
        files.delete_temporaries(job.out)
        _delete_unlisted_texts(job.out, text.files)
        made = made.with_encoder(text.info, text.files, None)
        files.write(files.join(job.out, MANIFEST), made.to_json().encode())
        return
    texts = before.with_encoder(text.info, text.files, target.before)
    made = dataclasses.replace(
        made,
        encoders=texts.encoders,
        files=dict(sorted((made.files | texts.text_files()).items())),
        forgotten=before.forgotten,
    )
    change.decide(job.out, before, made)


def _taken(plan: Plan, receipts: Iterable[Receipt]) -> dict[str, Stages]:
    """What making these shards took, for every dataset of the plan."""
    found = {dataset.name: Stages() for dataset in plan.datasets}
    for receipt in receipts:
        found[receipt.dataset].add(Stages(receipt.stages))
    return found


def together(
    out: str, before: Manifest | None, made: Iterable[Receipt]
) -> dict[tuple[str, int], Receipt]:
    """The receipts of a table's shards, those that were made now in place of the older ones."""
    found = {} if before is None else {(r.dataset, r.shard): r for r in counted.load(out, before)}
    return found | {(r.dataset, r.shard): r for r in made}


def assemble(
    into: str, plan: Plan, datasets: list[DatasetInfo], by_dataset: dict[str, list[Receipt]]
) -> Manifest:
    """Writes what stands above the shards; the manifest of all but the embeddings.

    Args:
        into: where the plan's files are too.
        datasets: as `describe` has them.
    """
    content = counted.save(chain.from_iterable(by_dataset.values()), into)
    content |= {name: _digest(into, name) for name in (PLAN, PLAN_UNITS)}
    for dataset in datasets:
        for receipt in by_dataset[dataset.name]:
            content |= receipt.files
        content |= _tfds(into, plan.tiers, dataset, content)
    return Manifest(
        schema_version=SCHEMA_VERSION,
        plan=plan.digest(),
        tiers=[str(tier) for tier in plan.tiers],
        datasets=datasets,
        encoders=(),
        files=dict(sorted(content.items())),
    )


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


def group(plan: Plan, receipts: Mapping[tuple[str, int], Receipt]) -> dict[str, list[Receipt]]:
    """Receipts by dataset in the plan's order, whatever order they came in."""
    found: dict[str, list[Receipt]] = {}
    for dataset in plan.datasets:
        wanted = [(dataset.name, shard) for shard in range(dataset.planned.num_shards)]
        absent = [shard for name, shard in wanted if (name, shard) not in receipts]
        if absent:
            raise AssertionError(f"{dataset.name}: no receipts of shards {absent}, a bug")
        found[dataset.name] = [receipts[key] for key in wanted]
    return found


def over_budget(datasets: Iterable[DatasetInfo], budget: float) -> list[DatasetInfo]:
    """The datasets that lost more than their share of episodes, or that have nothing left."""
    return [
        d
        for d in datasets
        if d.dead_letters > budget * (d.dead_letters + d.episodes) or not d.chunks
    ]


def describe(plan: Plan, by_dataset: dict[str, list[Receipt]]) -> list[DatasetInfo]:
    """What the datasets hold."""
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
    stages = Stages()
    for receipt in receipts:
        stages.add(Stages(receipt.stages))
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
        stages=stages.counts() if all(receipt.stages for receipt in receipts) else {},
    )


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
