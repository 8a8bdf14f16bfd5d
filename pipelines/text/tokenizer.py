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
from pipelines.text.vocabulary import SPACE, ModelProto
from schemas import UsageError

# A text of more characters is shortened first. What is in the way of one of a megabyte is time:
# the op merges a run of unknown characters in time that grows with the run's square.
_LONG = 4096
_GROWTH = 16  # of the beginning that is tried next
_STRIDE = 256  # characters; far above what the normaliser or a piece looks at together
_STRANGER = "\U0010fffd"  # for private use: unknown to any vocabulary

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
        model = ModelProto.FromString(spiece)
        self._names = pieces = [piece.piece for piece in model.pieces]
        self._unknown = model.trainer_spec.unk_id
        self._space = pieces.index(SPACE) if SPACE in pieces else self._unknown
        # of T5's vocabulary, and of every other that was trained on words
        self._words_are_apart = not any(SPACE in piece[1:] or " " in piece for piece in pieces)

    def encode(self, texts: Sequence[str]) -> Tokens:
        """The texts' pieces, each ending in the end piece (id 1) as T5 was trained.

        A text that is too long keeps its first `max_tokens - 1` pieces and the end piece.

        Raises:
            UsageError: for a text that is not Unicode: it has lone surrogates.
        """
        ids = np.full((len(texts), self.max_tokens), PAD_ID, np.int32)
        flat, starts, counts = self._pieces([self._shortened(text) for text in texts])
        kept = np.minimum(counts, self.max_tokens - 1)
        for row, start, count in zip(ids, starts, kept, strict=True):
            row[:count] = flat[start : start + count]
            row[count] = EOS_ID
        return Tokens(ids=ids, lengths=(kept + 1).astype(np.int32), truncated=counts > kept)

    def pieces(self, text: str) -> list[str]:
        """What `encode` makes of a text, as the vocabulary writes it. Raises UsageError as that."""
        tokens = self.encode([text])
        return [self._names[i] for i in tokens.ids[0, : tokens.lengths[0]]]

    def _pieces(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All pieces one after another, and where each text's start and how many they are."""
        if not texts:
            none = np.zeros(0, np.int32)
            return none, none, none
        pieces = self._op.tokenize([_utf8(text) for text in texts])
        return (
            pieces.flat_values.numpy(),
            pieces.row_starts().numpy(),
            pieces.row_lengths().numpy(),
        )

    def _shortened(self, text: str) -> str:
        """A text with the same first `max_tokens` pieces, and more of them only where `text` has.

        Of a long text the beginning up to a space is taken. No piece goes on over a space, so the
        pieces of the beginning are the first of the whole text; only if they are too few, because
        the normaliser deletes characters and one piece may stand for many unknown ones, a longer
        beginning is tried.
        """
        size = _LONG
        while size < len(text) and self._words_are_apart:
            end = text.rfind(" ", 0, size)
            if end > 0:
                beginning = self._without_unknown(text[:end])
                if self._pieces([beginning])[2][0] >= self.max_tokens:
                    return beginning
            size *= _GROWTH
        return self._without_unknown(text)

    def _without_unknown(self, text: str) -> str:
        """The text without the middle of long runs of unknown characters, which are one piece.

        Every stretch of 2 x _STRIDE characters is tokenised by itself, from each multiple of
        _STRIDE on. Where seven in a row are nothing but unknown, what the middle one begins with is
        at least 3 x _STRIDE away from anything else.
        """
        if len(text) <= _LONG:
            return text
        stretches = [text[i : i + 2 * _STRIDE] for i in range(0, len(text), _STRIDE)]
        # the second time between others, as spaces at the ends of a text go
        blank = self._is_one_unknown(stretches)
        blank &= self._is_one_unknown([_STRANGER + stretch + _STRANGER for stretch in stretches])
        gone = np.convolve(blank, np.ones(7), "same") == 7
        kept = (stretches[i][:_STRIDE] for i in np.flatnonzero(~gone))
        return "".join(kept)

    def _is_one_unknown(self, texts: Sequence[str]) -> np.ndarray:
        """Bool `[n]`: whether a text is the unknown piece alone, but for the space before it."""
        flat, starts, counts = self._pieces(texts)
        flat = np.append(flat, PAD_ID)  # so that an empty text has a place there
        spaced = (counts == 2) & (flat[starts] == self._space)
        return ((counts == 1) | spaced) & (flat[starts + counts - 1] == self._unknown)


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as e:
        raise UsageError(
            f"the text {text[:80]!r} is not Unicode: character {e.start} is"
            f" {text[e.start]!r}, half of a pair; clean it before it is embedded"
        ) from e


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
