"""`Directory`: a T5 in Hugging Face layout, checked before any work starts.

Neither TensorFlow nor JAX is imported here: the check costs the time to read the weights once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
from collections.abc import Iterator

from pipelines import files
from pipelines.text.config import T5Config
from pipelines.text.vocabulary import count_pieces
from pipelines.text.weights import WEIGHTS, Weights
from schemas import EncoderInfo, UsageError
from schemas.embedding import Compute, EmbeddingDtype

CONFIG, VOCABULARY = "config.json", "spiece.model"
MAX_TOKENS = 64  # UniSim, Table 6
TINY_NAME = "tiny-random"

# part of every encoder's digest: raise it when the same files come to give other embeddings
CODE_VERSION = 2

_LAYOUT = f"wanted {CONFIG}, {WEIGHTS} and {VOCABULARY}"
_SMALL = 64 << 20  # bytes; far above any config.json or spiece.model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Directory:
    """A T5 directory that has passed every check.

    Attributes:
        path: local or `gs://`.
        config: its config.json, whose bytes are `settings`.
        weights: where the encoder's tensors are.
        spiece: the bytes of its spiece.model.
    """

    path: str
    config: T5Config
    settings: bytes
    weights: Weights
    spiece: bytes

    @classmethod
    def open(cls, path: str) -> Directory:
        """Checks that all is there and fits together; reads headers, not tensors.

        Raises:
            UsageError: in one line, for a path that is missing or no T5 directory, a file that is
                missing, damaged or cut short, tensors that are missing or of the wrong shape, a
                vocabulary larger than the embedding matrix.
        """
        if not files.exists(path):
            raise UsageError(f"{path}: no such T5 directory; {_LAYOUT} in it")
        with _unreadable(path):
            settings = _read(path, CONFIG)
            config = T5Config.from_json(settings, files.join(path, CONFIG))
            weights = Weights.open(path, config.tensors())
            spiece = _read(path, VOCABULARY)
        pieces = count_pieces(spiece, files.join(path, VOCABULARY))
        if pieces > config.vocab_size:
            raise UsageError(
                f"{path}: {VOCABULARY} has {pieces} pieces but {CONFIG} has vocab_size"
                f" {config.vocab_size}; give the vocabulary that belongs to the model"
            )
        return cls(path=path, config=config, settings=settings, weights=weights, spiece=spiece)

    @property
    def name(self) -> str:
        """The directory's own name, which becomes the folder under `text/` of a table.

        Raises:
            UsageError: if it cannot be one.
        """
        path = os.path.abspath(self.path) if files.is_local(self.path) else self.path
        name = files.name_of(path)
        built_in = name.startswith(TINY_NAME)
        if built_in or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}", name):
            raise UsageError(
                f"{self.path}: the encoder would be called {name!r}, which is"
                f" {'the built-in encoder' if built_in else 'no plain file name'};"
                " rename the directory, for example to t5-v1_1-xxl"
            )
        return name

    def digest(self, compute: Compute = "float32") -> str:
        """Hex BLAKE2b-128 of all that decides an embedding: configuration, vocabulary, weights,
        this code's version and what it computes in.

        Reads the weights once, and finds values in them that are not finite.

        Raises:
            UsageError: naming the tensor, if there are some, or if the files have changed.
        """
        made_by = f"open-unisim T5 encoder {CODE_VERSION} {compute}\n"
        total = hashlib.blake2b(made_by.encode(), digest_size=16)
        for data in (self.settings, self.spiece):
            total.update(hashlib.blake2b(data, digest_size=16).digest())
        with _unreadable(self.path):
            total.update(self.weights.digest().encode())
        return total.hexdigest()

    def info(
        self,
        name: str | None = None,
        *,
        compute: Compute = "float32",
        dtype: EmbeddingDtype = "bfloat16",
    ) -> EncoderInfo:
        """What a table says of this encoder. Reads the weights once, for the digest.

        Args:
            name: instead of the directory's own.
            compute: what the encoder computes in.
            dtype: how its embeddings are stored.

        Raises:
            UsageError: see `name` and `digest`.
        """
        config = self.config
        sizes = f"{config.num_layers} layers, width {config.d_model}"
        if name == TINY_NAME:
            description = (
                f"A tiny T5 encoder with random weights ({sizes}), made by this project: not a"
                " language model. Different texts get different embeddings, without meaning."
            )
        else:
            feed_forward = f"{'gated ' if config.gated else ''}{config.activation}"
            description = f"A T5 encoder ({sizes}, {feed_forward}) from a Hugging Face directory."
        # other bytes never share a folder
        suffix = ("-bf16" if compute == "bfloat16" else "") + ("-int8" if dtype == "int8" else "")
        return EncoderInfo(
            name=(name or self.name) + suffix,
            width=config.d_model,
            max_tokens=MAX_TOKENS,
            digest=self.digest(compute),
            description=description,
            dtype=dtype,
            compute=compute,
        )


@contextlib.contextmanager
def _unreadable(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise UsageError(f"{path}: cannot be read ({e}); check the path and access") from e


def _read(path: str, name: str) -> bytes:
    """A small file of the directory, whole."""
    file = files.join(path, name)
    if not files.exists(file):
        raise UsageError(f"{path}: not a T5 directory, {name} is missing; {_LAYOUT}")
    with files.open_read(file) as f:
        data = f.read(_SMALL + 1)
    if len(data) > _SMALL:
        raise UsageError(f"{file}: more than {_SMALL >> 20} MB, which no {name} has; restore it")
    return data
