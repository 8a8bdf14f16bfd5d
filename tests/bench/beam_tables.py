"""Episodes through Beam's local runner: our graph beside tensorflow-datasets' Beam writer."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickle
import time
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import tensorflow_datasets as tfds
from apache_beam.metrics.metric import Metrics

from infra import runners
from pipelines import plan, prepare, sources
from pipelines.episode import Episode
from pipelines.job import Job
from pipelines.plan import absolute_uri
from pipelines.rows import rows
from pipelines.text import check_directory
from schemas import Tier
from tests.bench.decode import BASE, FINE

TIERS: tuple[Tier, ...] = (FINE, BASE)
PIXELS = b"\xff\xd8\xff"  # how a JPEG begins
SHARD_MB = 8.0
WORKERS = 2


def ours(folder: str, out: str, counted: str) -> dict[str, float]:
    """`unisim prepare`'s graph: wall seconds, or what crosses its shuffles if `counted`."""
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    made = _plan(folder)
    plan.save(made, out)
    job = Job(out=out, t5=None, encoder=check_directory(None), error_budget=0.0)
    with _counting(bool(counted)) as counts:
        runner, options = runners.pipeline_options("FnApiRunner", WORKERS, 1000, [], "bench")
        begin = time.monotonic()
        pipeline = beam.Pipeline(runner=runner, options=options)
        prepare.build(pipeline, job)
        result = pipeline.run()
        result.wait_until_finish()
        return {"seconds": time.monotonic() - begin} | counts(result)


def theirs(folder: str, out: str, counted: str) -> dict[str, float]:
    """The same records, made by the same code, through tensorflow-datasets' writer."""
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    with _counting(bool(counted)) as counts:
        runner, options = runners.pipeline_options("FnApiRunner", WORKERS, 1000, [], "bench")
        kept: list[Any] = []
        builder = Table(folder=folder, kept=kept, data_dir=out)
        config = tfds.download.DownloadConfig(beam_runner=runner, beam_options=options)
        begin = time.monotonic()
        builder.download_and_prepare(download_config=config)
        seconds = time.monotonic() - begin
        return {"seconds": seconds} | counts(kept[0].result)


class Table(tfds.core.BeamBasedBuilder):
    """A dataset of records, each with the wire form of both tiers."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, folder: str, kept: list[Any], **kwargs: Any):
        self.folder, self.kept = folder, kept
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict({t.name: tfds.features.Text() for t in TIERS})
        return self.dataset_info_from_configs(features=features)

    def _split_generators(self, dl_manager: Any, pipeline: Any) -> dict[str, Any]:
        self.kept.append(pipeline)
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> beam.PTransform:
        tasks = prepare.tasks(_plan(self.folder), "")
        units = [(task.dataset, unit) for task in tasks for unit in task.shard.units]
        created = "Units" >> beam.Create(units)
        return created | "Spread" >> beam.Reshuffle() | "Records" >> beam.FlatMap(records)


def records(work: tuple[plan.Dataset, Any]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(key, wire form by tier) of all that a unit holds."""
    dataset, unit = work
    source = sources.get(dataset.name)
    located = dataclasses.replace(
        unit, uri=absolute_uri(unit.uri, dataset.root), options=dataset.options
    )
    for episode in source.episodes(located):
        assert isinstance(episode, Episode), episode
        for row in rows(episode, unit, source.INFO, dataset, TIERS, False):
            yield row.chunk.key, {tier.name: wire for tier, wire in row.wire.items()}


def _plan(folder: str) -> plan.Plan:
    return plan.make(
        [("bridge", folder)],
        tiers=list(TIERS),
        fps={},
        options={},
        prefix_dataset=False,
        shard_mb=SHARD_MB,
    )


@contextlib.contextmanager
def _counting(wanted: bool) -> Iterator[Any]:
    """Counts the bytes that reach every shuffle of the graphs made meanwhile."""
    plain = beam.Pipeline.apply
    inside: list[Any] = []  # a Reshuffle holds a GroupByKey, which gets the same

    def apply(self: Any, transform: Any, values: Any = None, label: str | None = None) -> Any:
        if inside or not isinstance(transform, beam.GroupByKey | beam.Reshuffle):
            return plain(self, transform, values, label)
        name = f"Counted {label or transform.label}"
        counted = plain(self, beam.Map(_count), values, name)
        inside.append(transform)
        try:
            return plain(self, transform, counted, label)
        finally:
            inside.pop()

    if wanted:
        beam.Pipeline.apply = apply  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield _counts if wanted else lambda result: {}
    finally:
        beam.Pipeline.apply = plain


def _count(element: Any) -> Any:
    data = pickle.dumps(element)
    Metrics.counter("shuffled", "bytes").inc(len(data))
    Metrics.counter("shuffled", "pixels").inc(len(data) if PIXELS in data else 0)
    return element


def _counts(result: Any) -> dict[str, float]:
    found = {"bytes": 0, "pixels": 0}
    for counter in result.metrics().query()["counters"]:
        if counter.key.metric.namespace == "shuffled":
            found[counter.key.metric.name] += counter.committed
    return dict(found)
