"""The Beam graph: shards are spread, pixels never cross a shuffle, the manifest is written last."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator

import apache_beam as beam
from apache_beam.metrics.metric import Metrics
from apache_beam.pvalue import AsList

from pipelines.commit import commit
from pipelines.job import Job
from pipelines.plan import Plan, estimate
from pipelines.receipt import Receipt
from pipelines.text import ShardResult, TextEncoder, bucket_of, embed_shard
from pipelines.write import ShardTask, write_shard
from schemas import text_key

_TEXTS_PER_SHARD = 1_000_000


def build(root: beam.Pipeline, job: Job) -> None:
    """Adds the whole of `prepare` to a pipeline."""
    plan = job.plan()
    text_shards = max(1, math.ceil(estimate(plan).chunks / _TEXTS_PER_SHARD))
    receipts = (
        root
        | "Shards" >> beam.Create(tasks(plan, job.out))
        | "Spread" >> beam.Reshuffle()
        | "Write" >> beam.Map(_write)
    )
    embedded = (
        receipts
        | "Texts" >> beam.FlatMap(_texts)
        | "Distinct" >> beam.Distinct()
        | "Bucket" >> beam.Map(_bucketed, text_shards)
        | "Gather" >> beam.GroupByKey()
        | "Embed" >> beam.ParDo(_Embed(job, text_shards))
    )
    _ = (
        root
        | "Once" >> beam.Create([job])
        | "Commit" >> beam.Map(commit, AsList(receipts), AsList(embedded))
    )


def tasks(plan: Plan, out: str) -> list[ShardTask]:
    """The work of each shard, in order."""
    return [
        ShardTask(
            out=out,
            dataset=dataclasses.replace(dataset, shards=()),
            num_shards=len(dataset.shards),
            shard=shard,
            tiers=plan.tiers,
            prefix_dataset=plan.prefix_dataset,
        )
        for dataset in plan.datasets
        for shard in dataset.shards
    ]


def _write(task: ShardTask) -> Receipt:
    receipt = write_shard(task)
    for name, value in (
        ("episodes", receipt.episodes),
        ("frames", receipt.frames),
        ("dead_letters", len(receipt.dead_letters)),
    ):
        Metrics.counter(task.dataset.name, name).inc(value)
    return receipt


def _texts(receipt: Receipt) -> Iterator[str]:
    yield ""  # guidance's unconditional branch
    yield from receipt.texts


def _bucketed(text: str, num_shards: int) -> tuple[int, str]:
    return bucket_of(text_key(text), num_shards), text


class _Embed(beam.DoFn):
    """Embeds one bucket of texts into its file. The encoder is loaded once per worker."""

    def __init__(self, job: Job, num_shards: int):
        self._job = job
        self._num_shards = num_shards
        self._encoder: TextEncoder | None = None

    def process(self, element: tuple[int, Iterable[str]]) -> Iterator[ShardResult]:  # type: ignore[override]
        bucket, texts = element
        if self._encoder is None:
            # not in setup(): only workers that really embed pay for loading TensorFlow
            self._encoder = TextEncoder.load(self._job.t5, self._job.encoder)
        yield embed_shard(self._job.out, self._encoder, list(texts), bucket, self._num_shards)
