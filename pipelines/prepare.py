"""The Beam graph: shards are spread, pixels never cross a shuffle, the manifest is written last."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import apache_beam as beam
from apache_beam.metrics.metric import Metrics
from apache_beam.pvalue import AsList

from pipelines.commit import commit
from pipelines.job import Job, load_manifest
from pipelines.plan import Plan
from pipelines.receipt import Receipt
from pipelines.stages import Stages
from pipelines.text.handler import EmbedTexts
from pipelines.write import ShardTask, write_shard
from schemas.table import Forgotten


def build(root: beam.Pipeline, job: Job) -> None:
    """Adds the whole of `prepare` to a pipeline."""
    once = root | "Once" >> beam.Create([job])
    receipts = (
        # a worker reads the plan, as the graph of a million shards would be too large to submit
        once
        | "Shards" >> beam.FlatMap(_tasks).with_output_types(ShardTask)
        | "Spread" >> beam.Reshuffle()
        | "Write" >> beam.Map(_write).with_output_types(Receipt)
    )
    texts = receipts | "Texts" >> beam.FlatMap(_texts).with_output_types(str)
    embedded = texts | "Embed" >> EmbedTexts(job.target(), job.t5)
    _ = once | "Commit" >> beam.Map(commit, AsList(receipts), AsList(embedded))


def tasks(
    plan: Plan,
    out: str,
    *,
    into: str | None = None,
    shards: Iterable[tuple[str, int]] | None = None,
    forgotten: tuple[Forgotten, ...] = (),
) -> Iterator[ShardTask]:
    """The work of each shard, in order.

    Args:
        into: as of `ShardTask`; None for `out`.
        shards: (dataset, shard) of those that are made; None for all.
        forgotten: as of `ShardTask`.
    """
    datasets = {dataset.name: dataset for dataset in plan.datasets}
    for name, index in plan.costs() if shards is None else shards:
        dataset = datasets[name]
        yield ShardTask(
            out=out,
            into=into or out,
            dataset=dataclasses.replace(dataset, units=None),
            num_shards=dataset.planned.num_shards,
            shard=dataset.shard(index),
            tiers=plan.tiers,
            prefix_dataset=plan.prefix_dataset,
            forgotten=forgotten,
        )


def _tasks(job: Job) -> Iterator[ShardTask]:
    plan = job.plan()
    rules = load_manifest(job.out).forgotten if job.changes else ()
    # a source that was forgotten whole was then asked for again
    lasting = tuple(rule for rule in rules if rule.license or rule.uri)
    yield from tasks(plan, job.out, into=job.into, shards=job.shards(plan), forgotten=lasting)


def _write(task: ShardTask) -> Receipt:
    receipt = write_shard(task)
    for name, stage in Stages(receipt.stages).by_name.items():
        Metrics.distribution(task.dataset.name, f"{name}_ms").update(int(1000 * stage.seconds))
        Metrics.counter(task.dataset.name, f"{name}_bytes").inc(stage.bytes)
        Metrics.counter(task.dataset.name, f"{name}_calls").inc(stage.calls)
    return receipt


def _texts(receipt: Receipt) -> Iterator[str]:
    yield ""  # guidance's unconditional branch
    yield from receipt.texts
