"""The Beam stage: distinct texts -> shards by key -> the encoder, once per worker process.

What goes through a shuffle are texts, and what leaves a worker is a `ShardResult`: embeddings, like
pixels, are written where they are made.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.metrics.metric import Metrics
from apache_beam.ml.inference.base import ModelHandler, RunInference

from pipelines import files
from pipelines.tally import TextTally, note_texts
from pipelines.text.encoder import TextEncoder
from pipelines.text.table import KEY_BYTES, ShardResult, Target, bucket_of, embed_shard
from schemas import EncoderInfo, table, text_key

Shard = tuple[int, Iterable[str]]
"""A shard and its texts."""


class EmbedTexts(beam.PTransform):
    """Texts, repeats allowed -> a `ShardResult` for every shard that got some.

    Args:
        target: where the embeddings go.
        t5: the encoder's Hugging Face directory; None for the built-in `tiny-random`.
    """

    def __init__(self, target: Target, t5: str | None):
        super().__init__()
        self._target, self._t5 = target, t5

    def expand(self, input_or_inputs):
        target = self._target
        distinct = input_or_inputs | "Distinct" >> beam.Distinct()
        if target.before is not None:
            distinct = distinct | "Missing" >> beam.ParDo(_Missing(target))
        _ = (
            distinct
            | "Count" >> beam.combiners.Count.Globally()
            | "Note" >> beam.Map(functools.partial(note_texts, target.work))
        )
        return (
            distinct
            | "Bucket" >> beam.Map(_bucketed, target.num_shards).with_output_types(tuple[int, str])
            | "Gather" >> beam.GroupByKey()
            | "Encode"
            >> RunInference(EmbedHandler(target, self._t5)).with_output_types(ShardResult)
        )


def _bucketed(text: str, num_shards: int) -> tuple[int, str]:
    return bucket_of(text_key(text), num_shards), text


class _Missing(beam.DoFn):
    """Drops the texts that have an embedding already."""

    def __init__(self, target: Target):
        self._target = target

    def setup(self) -> None:
        before = self._target.before
        assert before is not None
        path = files.join(self._target.out, table.text_keys(before.name, before.rows))
        with files.local_copy(path) as local:
            local_file = files.is_local(path)
            keys = np.load(local, mmap_mode="r" if local_file else None, allow_pickle=False)
        self._keys = keys.view(f"S{KEY_BYTES}")[:, 0]

    def process(self, element: str) -> Iterator[str]:  # type: ignore[override]
        key = np.bytes_(text_key(element))
        at = int(np.searchsorted(self._keys, key))
        if at == len(self._keys) or self._keys[at] != key:
            yield element


class Model:
    """The encoder of a worker process, loaded when the first text wants it: a worker that finds
    its shards done, or gets none, never pays for it."""

    def __init__(self, target: Target, t5: str | None):
        self._encoder = functools.partial(_load, t5, target.encoder)
        self.tally = TextTally(target.work)

    def encoder(self) -> TextEncoder:
        with _loading:
            return self._encoder()


_loading = threading.Lock()


# Beam shares a model among the threads of a process, but lets go of it between bundles
@functools.lru_cache(maxsize=1)
def _load(t5: str | None, info: EncoderInfo) -> TextEncoder:
    Metrics.counter("text", "encoders_loaded").inc()
    return TextEncoder.load(t5, info)


class EmbedHandler(ModelHandler[Shard, ShardResult, Model]):
    """Whole shards in, finished files out; batching by tokens is the encoder's own.

    Args:
        target, t5: as for `EmbedTexts`.
    """

    def __init__(self, target: Target, t5: str | None):
        # a batch of Beam's is one shard: what a killed worker loses is one shard
        super().__init__(min_batch_size=1, max_batch_size=1)
        self._target, self._t5 = target, t5

    def load_model(self) -> Model:
        return Model(self._target, self._t5)

    def run_inference(
        self, batch: Sequence[Shard], model: Model, inference_args: dict[str, Any] | None = None
    ) -> Iterator[ShardResult]:
        for shard, texts in batch:
            result = embed_shard(self._target, shard, texts, model.encoder, model.tally.add)
            for name in ("added", "truncated"):
                Metrics.counter("text", name).inc(getattr(result, name))
            yield result

    def get_num_bytes(self, batch: Sequence[Shard]) -> int:
        return sum(len(text) for _, texts in batch for text in texts)

    def get_metrics_namespace(self) -> str:
        return "text"
