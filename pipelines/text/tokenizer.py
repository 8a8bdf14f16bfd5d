"""`Tokenizer`: T5's SentencePiece pieces, by tensorflow-text's op."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from pipelines.text.config import EOS_ID, PAD_ID

_CHATTER = (
    b"I0000 ",
    b" LOG(INFO) ",
    b"WARNING: All log messages before absl::InitializeLog()",
    b"failed call to cuInit",
)


class Tokens(NamedTuple):
    """n texts as pieces.

    Attributes:
        ids: int32 `[n, max_tokens]`, padded with zeros after the end piece.
        lengths: int32 `[n]`, with the end piece: at least 1.
        truncated: bool `[n]`, whether the text was longer and lost its end.
    """

    ids: np.ndarray
    lengths: np.ndarray
    truncated: np.ndarray


class Tokenizer:
    """Texts to T5's token ids. Loading it imports TensorFlow, so it belongs in a worker's setup.

    Args:
        spiece: the bytes of a `spiece.model`.
        max_tokens: of a text, the end piece included; longer texts are cut.
    """

    def __init__(self, spiece: bytes, max_tokens: int = 64):
        self.max_tokens = max_tokens
        with _without_chatter():
            tensorflow, tensorflow_text = _import_tensorflow()
            self._op = tensorflow_text.SentencepieceTokenizer(spiece, out_type=tensorflow.int32)

    def encode(self, texts: Sequence[str]) -> Tokens:
        """The texts' pieces, each ending in the end piece (id 1) as T5 was trained.

        A text that is too long keeps its first `max_tokens - 1` pieces and the end piece.
        """
        ids = np.full((len(texts), self.max_tokens), PAD_ID, np.int32)
        pieces = self._op.tokenize([text.encode() for text in texts]) if texts else None
        counts = np.zeros(0, np.int32) if pieces is None else pieces.row_lengths().numpy()
        kept = np.minimum(counts, self.max_tokens - 1)
        if pieces is not None:
            flat, starts = pieces.flat_values.numpy(), pieces.row_starts().numpy()
            for row, start, count in zip(ids, starts, kept, strict=True):
                row[:count] = flat[start : start + count]
                row[count] = EOS_ID
        return Tokens(ids=ids, lengths=(kept + 1).astype(np.int32), truncated=counts > kept)


def _import_tensorflow():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow
    import tensorflow_text

    # the accelerators are JAX's: TensorFlow only tokenises here, and would take their memory;
    # RuntimeError: something else in this process has put TensorFlow to work already
    for kind in ("GPU", "TPU"):
        with contextlib.suppress(RuntimeError):
            tensorflow.config.set_visible_devices([], kind)
    return tensorflow, tensorflow_text


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Drops what TensorFlow's libraries say on file descriptor 2 as they start.

    They say it before the log level is read, or without reading it, so no setting stops it: INFO
    lines, and an error that a machine without a GPU has none. Every other line is passed on when
    the block ends.
    """
    sys.stderr.flush()
    try:
        stderr = os.dup(2)
    except OSError:  # standard error is closed: nobody listens
        yield
        return
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            captured.seek(0)
            for line in captured:
                if not any(words in line for words in _CHATTER):
                    os.write(2, line)
