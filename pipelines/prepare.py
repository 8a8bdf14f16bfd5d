"""The Beam graph: shards are spread, pixels never cross a shuffle, the manifest is written last."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import apache_beam as beam
from apache_beam.metrics.metric import Metrics
from apache_beam.pvalue import AsList

from pipelines.commit import commit
from pipelines.job import Job
from pipelines.plan import Plan
from pipelines.receipt import Receipt
from pipelines.stages import Stages
from pipelines.text.handler import EmbedTexts
from pipelines.write import ShardTask, write_shard


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


def tasks(plan: Plan, out: str) -> Iterator[ShardTask]:
    """The work of each shard, in order."""
    for dataset in plan.datasets:
        for index in range(dataset.planned.num_shards):
            yield ShardTask(
                out=out,
                dataset=dataclasses.replace(dataset, units=None),
                num_shards=dataset.planned.num_shards,
                shard=dataset.shard(index),
                tiers=plan.tiers,
                prefix_dataset=plan.prefix_dataset,
            )


def _tasks(job: Job) -> Iterator[ShardTask]:
    yield from tasks(job.plan(), job.out)


def _write(task: ShardTask) -> Receipt:
    receipt = write_shard(task)
    for name, value in (
        ("episodes", receipt.episodes),
        ("frames", receipt.frames),
        ("dead_letters", len(receipt.dead_letters)),
    ):
        Metrics.counter(task.dataset.name, name).inc(value)
    for name, stage in Stages(receipt.stages).by_name.items():
        Metrics.distribution(task.dataset.name, f"{name}_ms").update(int(1000 * stage.seconds))
        Metrics.counter(task.dataset.name, f"{name}_bytes").inc(stage.bytes)
    return receipt


def _texts(receipt: Receipt) -> Iterator[str]:
    yield ""  # guidance's unconditional branch
    yield from receipt.texts
