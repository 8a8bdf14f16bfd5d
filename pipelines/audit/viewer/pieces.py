"""`Pieces`: how a text is cut for the encoder, by a vocabulary that takes its time to load."""

from __future__ import annotations

import threading

from pipelines.text.tokenizer import Tokenizer


class Pieces:
    """Texts as pieces of a SentencePiece vocabulary, once it is loaded.

    Args:
        spiece: the bytes of a `spiece.model`; None knows no pieces.
    """

    def __init__(self, spiece: bytes | None):
        self._tokenizer: Tokenizer | None = None
        self.loading = spiece is not None
        if spiece is not None:
            # it imports TensorFlow, for which nobody should wait who only looks at frames
            threading.Thread(target=self._load, args=(spiece,), daemon=True).start()

    def _load(self, spiece: bytes) -> None:
        try:
            self._tokenizer = Tokenizer(spiece)
        finally:
            self.loading = False

    def of(self, text: str) -> list[str]:
        """The pieces that the encoder reads; none while they are not known."""
        return self._tokenizer.pieces(text) if self._tokenizer else []
