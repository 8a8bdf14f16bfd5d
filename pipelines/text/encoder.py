"""`TextEncoder`: action texts to T5 embeddings."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from pipelines.text.directory import TINY_NAME, Directory
from pipelines.text.tiny import write_tiny
from schemas import EncoderInfo, UsageError

if TYPE_CHECKING:
    from pipelines.text.tokenizer import Tokens

# Rows of every call of the model. A matrix product adds in an order that depends on its shape, so
# texts always travel in the one shape [BATCH, max_tokens], filled up with padding: a text then has
# the same bytes alone or among others, in any order, on one worker or on many.
BATCH = 32


def check_directory(path: str | None) -> EncoderInfo:
    """What `TextEncoder.load(path)` would be, without TensorFlow, JAX or reading a tensor.

    It costs the time to hash the files. None stands for the built-in tiny-random encoder.

    Raises:
        UsageError: one line, if the directory cannot be used; see `Directory.open`.
    """
    if path is None:
        with tempfile.TemporaryDirectory() as folder:
            write_tiny(Path(folder))
            return Directory.open(folder).info(TINY_NAME)
    directory = Directory.open(path)
    _ = directory.name  # a bad name should not cost the hashing of 40 GB first
    return directory.info()


class TextEncoder:
    """A T5 encoder with its tokenizer, in memory. Made in a worker's setup, never pickled.

    Attributes:
        info: what it is; the tables that it makes say so.
        tokenizer: its `Tokenizer`.
    """

    def __init__(self, directory: Directory, info: EncoderInfo):
        # heavy imports stand here, so that checking a directory costs none of them
        from pipelines.text import t5
        from pipelines.text.tokenizer import Tokenizer

        self.info = info
        self.tokenizer = Tokenizer(directory.spiece, info.max_tokens)
        self._config = directory.config
        self._params = t5.load_params(directory.path, directory.config)
        self._encode = t5.encode

    @classmethod
    def load(cls, directory: str | None, info: EncoderInfo | None = None) -> TextEncoder:
        """The encoder in a Hugging Face directory, local or `gs://`; None is tiny-random.

        Args:
            directory: holds config.json, model.safetensors and spiece.model.
            info: what `check_directory` gave for it, to spare every worker the hashing.

        Raises:
            UsageError: one line, if the directory cannot be used; see `Directory.open`.
        """
        if directory is None:
            with tempfile.TemporaryDirectory() as folder:
                write_tiny(Path(folder))
                opened = Directory.open(folder)
                return cls(opened, info or opened.info(TINY_NAME))
        opened = Directory.open(directory)
        return cls(opened, info or opened.info())

    def embed(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Each text's embedding, bfloat16 `[tokens, width]`: real tokens only, the end piece last.

        The empty text has one token; it is the action of the unconditional branch in guidance.

        Raises:
            UsageError: if the weights give values that are not finite.
        """
        return self.embed_tokens(self.tokenizer.encode(texts))

    def embed_tokens(self, tokens: Tokens) -> list[np.ndarray]:
        """`embed` of texts that are tokenised already."""
        rows = []
        for start in range(0, len(tokens.lengths), BATCH):
            taken = slice(start, start + BATCH)
            count = len(tokens.lengths[taken])
            ids = np.zeros((BATCH, tokens.ids.shape[1]), np.int32)
            lengths = np.ones(BATCH, np.int32)
            ids[:count], lengths[:count] = tokens.ids[taken], tokens.lengths[taken]
            states = np.asarray(self._encode(self._params, ids, lengths, self._config))
            for state, length in zip(states[:count], lengths[:count], strict=True):
                if not np.isfinite(state[:length]).all():
                    raise UsageError(
                        f"T5 encoder {self.info.name}: its weights give embeddings that are not"
                        " finite; fetch model.safetensors again"
                    )
                rows.append(state[:length].astype(ml_dtypes.bfloat16))
        return rows
