"""`TextEncoder`: action texts to T5 embeddings."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.text.directory import TINY_NAME, Directory
from pipelines.text.tiny import write_tiny
from pipelines.text.weights import WEIGHTS
from schemas import EncoderInfo, UsageError
from schemas.embedding import Compute, EmbeddingDtype

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from pipelines.text.tokenizer import Tokens

# Tokens of every call of the model, padding included, and the lengths that texts are padded to. A
# matrix product adds in an order that depends on its shape, so a length's texts always travel in
# its one shape [TOKEN_BUDGET / length, length], filled up with empty rows: a text then has the same
# bytes alone or among others, in any order, on one worker or on many.
TOKEN_BUDGET = 2048
BUCKETS = (8, 16, 32, 64)
FEWEST_ROWS = TOKEN_BUDGET // BUCKETS[-1]


def check_directory(
    path: str | None, *, compute: Compute = "float32", dtype: EmbeddingDtype = "bfloat16"
) -> EncoderInfo:
    """What `TextEncoder.load(path, compute=compute)` would be, without TensorFlow or JAX.

    It costs the time to read the weights once. None stands for the built-in tiny-random encoder.

    Args:
        compute: what the encoder computes in.
        dtype: how its embeddings are stored.

    Raises:
        UsageError: one line, if the directory cannot be used; see `Directory.open` and `digest`.
    """
    with _opened(path) as (directory, name):
        _ = name or directory.name  # a bad name should not cost the reading of 40 GB first
        return directory.info(name, compute=compute, dtype=dtype)


class TextEncoder:
    """A T5 encoder with its tokenizer, in memory. Made in a worker's setup, never pickled.

    Attributes:
        info: what it is; the tables that it makes say so.
        tokenizer: its `Tokenizer`.
    """

    def __init__(self, directory: Directory, info: EncoderInfo, mesh: Mesh | None = None):
        # heavy imports stand here, so that checking a directory costs none of them
        from pipelines.text import sharding, t5
        from pipelines.text.tokenizer import Tokenizer

        self.info = info
        self.tokenizer = Tokenizer(directory.spiece, info.max_tokens)
        config, weights, compute = directory.config, directory.weights, info.compute
        if mesh is None:
            mesh = sharding.choose_mesh(config, t5.kept_bytes(weights, compute), FEWEST_ROWS)
        self._batch = sharding.batch_sharding(mesh, FEWEST_ROWS)
        self._params = t5.load_params(weights, compute, sharding.shardings(config, mesh))
        self._encode = functools.partial(t5.encode, config=config, compute=compute)

    @classmethod
    def load(
        cls,
        directory: str | None,
        info: EncoderInfo | None = None,
        *,
        compute: Compute | None = None,
        mesh: Mesh | None = None,
    ) -> TextEncoder:
        """The encoder in a Hugging Face directory, local or `gs://`; None is tiny-random.

        Args:
            directory: holds config.json, spiece.model and model.safetensors, the last perhaps in
                several files with an index.
            info: what `check_directory` gave for it, to spare every worker the hashing.
            compute: what it computes in: `info`'s, or float32.
            mesh: the devices that it lies on, see `sharding.make_mesh`; default: all of this
                process's, the weights cut only as far as their memory asks for.

        Raises:
            UsageError: one line, if the directory cannot be used; see `Directory.open`.
            ValueError: if `compute` is not `info`'s.
        """
        if info and compute not in (None, info.compute):
            raise ValueError(f"compute {compute} for an encoder checked for {info.compute}")
        with _opened(directory) as (opened, name):
            return cls(opened, info or opened.info(name, compute=compute or "float32"), mesh)

    def embed(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Each text's embedding, float32 `[tokens, width]`: real tokens only, the end piece last.

        The empty text has one token; it is the action of the unconditional branch in guidance.

        Raises:
            UsageError: if a text is not Unicode, or the weights give values that are not finite.
        """
        return self.embed_tokens(self.tokenizer.encode(texts))

    def embed_tokens(self, tokens: Tokens) -> list[np.ndarray]:
        """`embed` of texts that are tokenised already."""
        import jax

        rows: list[Any] = [None] * len(tokens.lengths)
        waiting = None  # the devices work on a batch while the one before is taken apart
        for taken, length in _batches(tokens.lengths):
            ids = np.zeros((TOKEN_BUDGET // length, length), np.int32)
            lengths = np.ones(len(ids), np.int32)
            ids[: len(taken)] = tokens.ids[taken, :length]
            lengths[: len(taken)] = tokens.lengths[taken]
            states = self._encode(self._params, *jax.device_put((ids, lengths), self._batch))
            if waiting:
                self._take_apart(rows, *waiting)
            waiting = taken, lengths, states
        if waiting:
            self._take_apart(rows, *waiting)
        return rows

    def _take_apart(self, rows: list[Any], taken: np.ndarray, lengths: np.ndarray, states) -> None:
        for row, length, state in zip(taken, lengths, np.asarray(states), strict=False):
            if not np.isfinite(state[:length]).all():
                raise UsageError(
                    f"T5 encoder {self.info.name}: its weights give embeddings that are not"
                    f" finite; fetch {WEIGHTS} again"
                )
            rows[row] = state[:length].copy()  # so that no row keeps the whole batch


def _batches(lengths: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """The rows of each batch, in order within a length bucket, and the bucket."""
    buckets = np.searchsorted(BUCKETS, lengths)
    for i, length in enumerate(BUCKETS):
        rows = np.flatnonzero(buckets == i)
        for start in range(0, len(rows), TOKEN_BUDGET // length):
            yield rows[start : start + TOKEN_BUDGET // length], length


@contextlib.contextmanager
def _opened(path: str | None) -> Iterator[tuple[Directory, str | None]]:
    """The directory, and its name if that is not its own: None stands for tiny-random."""
    if path is not None:
        yield Directory.open(path), None
        return
    with tempfile.TemporaryDirectory() as folder:
        write_tiny(Path(folder))
        yield Directory.open(folder), TINY_NAME
