"""The rows of `make bench` on T5 embeddings: texts per second, alone and in a stream."""

from __future__ import annotations

import functools
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pipelines.text import TextEncoder, shards_for, write_embeddings
from pipelines.text.encoder import BUCKETS
from schemas.embedding import EmbeddingDtype, decode_embedding, encode_embedding
from tests.bench.narrations import SPIECE, Sizes, distinct_texts, stream_of
from tests.bench.timing import Peer, Row, interleaved, progress, run_alone
from tests.pipelines.t5_directory import T5_SMALL, write_random

ROUNDS, WHOLE_ROUNDS = 5, 3
BATCHES = (4, 8, 16, 32, 64)  # of the peer's; its best is taken
TRIED = 200  # texts, to find it
NAME = "T5 small, float32"
LEAST_COSINE: dict[EmbeddingDtype, float] = {"bfloat16": 0.9999, "int8": 0.999}
OUTLIERS, OUTLIER = 8, 10  # channels, and by how much they are made larger than the others


class Remote:
    """The peer, with the batch size that suits it best."""

    def __init__(self, peer: Peer, model: Path, sample: Path):
        self._peer = peer
        self.load_seconds = peer.ask(library="transformers", directory=str(model))["seconds"]
        tried = sample.with_suffix(".tried.json")
        tried.write_text(json.dumps(json.loads(sample.read_text())[:TRIED]))
        self.batch = BATCHES[0]
        taken = interleaved(2, {n: functools.partial(self.seconds, tried, n) for n in BATCHES})
        self.batch = min(taken, key=taken.__getitem__)
        progress(f"transformers is fastest with batches of {self.batch} texts")

    def seconds(self, texts: Path, batch: int | None = None, out: Path | None = None) -> float:
        """Of embedding the texts of a file."""
        return self._peer.ask(
            library="transformers",
            texts=str(texts),
            batch=batch or self.batch,
            out=out and str(out),
        )["seconds"]


def rows(peer: Peer, folder: Path, sizes: Sizes) -> Iterator[Row]:
    """All rows; the model, the texts and the tables are laid into the folder."""
    if not SPIECE.exists():
        progress("no T5 vocabulary in ../shared/data: the text rows are left out")
        return
    model, sample, part = folder / "small", folder / "sample.json", folder / "part.json"
    write_random(model, SPIECE, **T5_SMALL)
    texts = distinct_texts(sizes.distinct)
    stream = stream_of(sizes.distinct, sizes.stream)
    sample.write_text(json.dumps(texts[: sizes.sample]))
    part.write_text(json.dumps([texts[i] for i in stream[: sizes.sample]]))
    progress(f"loading T5 small, {sizes.sample} texts a turn")
    remote, encoder = Remote(peer, model, sample), TextEncoder.load(str(model))
    row, embedding, seconds = _warm(remote, encoder, sample)
    yield row
    progress(f"{WHOLE_ROUNDS} times the whole of {sizes.distinct} texts")
    whole, parts = [], []
    for i in range(WHOLE_ROUNDS):
        out = folder / f"table{i}"
        whole.append(run_alone(embed_stream, model, out, sizes.distinct, sizes.stream))
        parts.append(remote.seconds(part))
    ours = {name: statistics.median(taken[name] for taken in whole) for name in whole[0]}
    scaled = {
        "distinct": seconds * sizes.distinct / sizes.sample,
        "stream": statistics.median(parts) * sizes.stream / sizes.sample,
    }
    yield from _from_nothing(sizes, ours, remote.load_seconds, scaled)
    yield from _storage(embedding)


def _warm(remote: Remote, encoder: TextEncoder, sample: Path) -> tuple[Row, np.ndarray, float]:
    """The row of loaded encoders, our embeddings one after another, and the peer's seconds."""
    embedding, nearness = _compared(remote, encoder, sample)
    texts = json.loads(sample.read_text())
    taken = interleaved(
        ROUNDS,
        {
            "ours": lambda: _seconds(encoder, texts),
            "peer": functools.partial(remote.seconds, sample),
        },
    )
    ours, peer = (f"{len(texts) / taken[side]:.0f}/s" for side in ("ours", "peer"))
    label = f"{NAME}, {len(embedding) / len(texts):.0f} tokens each"
    row = _row(label, ours, peer, taken["peer"] / taken["ours"])
    return row._replace(quality=f"cos {nearness:.5f}"), embedding, taken["peer"]


def _seconds(encoder: TextEncoder, texts: Sequence[str]) -> float:
    begin = time.process_time()
    encoder.embed(texts)
    return time.process_time() - begin


def _compared(remote: Remote, encoder: TextEncoder, sample: Path) -> tuple[np.ndarray, float]:
    """Our embeddings of a sample one after another, and how near the peer's are to them."""
    ours = np.concatenate(encoder.embed(json.loads(sample.read_text())))
    out = sample.with_suffix(".npy")
    remote.seconds(sample, out=out)
    nearness = least_cosine(ours, np.load(out))
    if nearness < 0.9999:
        raise RuntimeError(f"transformers gives other embeddings: cosine {nearness}")
    return ours, nearness


def _from_nothing(
    sizes: Sizes, ours: dict[str, float], load: float, scaled: dict[str, float]
) -> Iterator[Row]:
    """From nothing to a table, start-up and compilation included; the peer's is scaled from the
    samples, and writes no table.

    Args:
        ours: of `embed_stream`.
        load: the peer's, seconds.
        scaled: what the peer takes for all distinct texts and for the stream, without loading.
    """
    start = ours["load"] + ours["compile"]
    compiling = f"XLA {ours['compile']:.1f} s"
    label = "  start-up and compilation"
    row = _row(label, f"{start:.1f} s", f"{load:.1f} s", load / start)
    yield row._replace(quality=compiling)
    for label, mine, theirs in (
        (f"  {sizes.distinct:,} texts from nothing", "alone", "distinct"),
        (f"  a stream of {sizes.stream:,} of them", "total", "stream"),
    ):
        seconds = load + scaled[theirs]
        row = _row(label, f"{ours[mine]:.0f} s", f"{seconds:.0f} s", seconds / ours[mine])
        yield row._replace(peer_quality="scaled")


def embed_stream(model: str, out: str, distinct: str, stream: str) -> dict[str, float]:
    """A stream of texts to a table, in a process that has done nothing else.

    Returns:
        Seconds on the core: of loading and of compiling; in total; and in total but for finding the
        distinct texts in the stream.
    """
    texts = distinct_texts(int(distinct))
    occurrences = stream_of(int(distinct), int(stream)).tolist()
    begin = time.process_time()
    encoder = TextEncoder.load(model)
    loaded = time.process_time()
    one_of_each = [("go " * (length - 2)).strip() for length in BUCKETS]
    encoder.embed(one_of_each)
    first = time.process_time()
    encoder.embed(one_of_each)
    second = time.process_time()
    wanted = dict.fromkeys(texts[i] for i in occurrences)
    found = time.process_time()
    made = write_embeddings(out, encoder, wanted, shards_for(len(wanted), encoder.info))
    assert made.info.rows == int(distinct), made.info
    total = time.process_time() - begin - (second - first)
    compiling = (first - loaded) - (second - first)
    alone = total - (found - second)
    return {"load": loaded - begin, "compile": compiling, "total": total, "alone": alone}


def _storage(embedding: np.ndarray) -> Iterator[Row]:
    """What each way to store rows costs, on the encoder's own rows and on some with outliers."""
    rng = np.random.default_rng(24)
    outliers = embedding.copy()
    outliers[:, rng.choice(embedding.shape[1], OUTLIERS, replace=False)] *= OUTLIER
    for dtype, limit in LEAST_COSINE.items():
        for name, values in (("", embedding), (f", {OUTLIERS} channels x{OUTLIER}", outliers)):
            data = encode_embedding(values, dtype)
            stored = decode_embedding(data, values.shape[1], dtype).astype(np.float32)
            least = least_cosine(values, stored)
            error, most = 1 - least, 1 - limit
            label = f"1 - cosine of {dtype} rows{name}"
            yield Row(label, "(limit)", f"{error:.2e}", f"{most:.0e}", f"{most / error:.2f}")


def least_cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of the tokens `[n, width]` of two embeddings."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(1) / norms).min())


def _row(name: str, ours: str, peer: str, ratio: float) -> Row:
    return Row(name, "transformers", ours, peer, f"{ratio:.1f}")
