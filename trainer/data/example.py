"""One row of the table as a training example of fixed shape, with the history cut from its
neighbours.

A row is p(o_t | h_{t-1}, a_{t-1}) (UniSim, section 2): its frames are the target, its text and its
controls the action, and the frames that the rows before it end with are the history. An episode's
first row has no row before it: if it has two frames or more, its first frame is the history and the
rest, with their controls, the target. This is right because row i of `controls` is the motion that
led to frame i, so frame 0 is where the first motion begins. A row of one frame (an image) is all
target and has no history.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import ml_dtypes
import numpy as np

from schemas import NUM_SLOTS, Chunk, DataError, UsageError
from trainer.data.embeddings import Embeddings
from trainer.data.table import Table

Example = dict[str, np.ndarray]
HistoryKind = Literal["recent", "distant", "single"]


def history_offsets(kind: HistoryKind, frames: int) -> tuple[int, ...]:
    """How far before the target each history frame lies, oldest first; 1 is the frame before.

    "recent" are the last ones (4, 3, 2, 1); "distant" are spaced exponentially (8, 4, 2, 1);
    "single" is the last one (1), whose `frames` is 1. The paper compares the three (Table 1) and
    takes 4 recent; its exact spacing is unpublished.
    """
    back = range(frames, 0, -1)
    return tuple(back) if kind == "recent" else tuple(2 ** (i - 1) for i in back)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExampleSpec:
    """The fixed shape of an example.

    Attributes:
        frames: T, target frames; shorter rows are padded, of longer ones the first T are used.
        history: offsets of the history's frames, oldest first; see `history_offsets`.
        tokens: L, of the action text; longer texts are cut.
    """

    frames: int
    history: tuple[int, ...]
    tokens: int


def past_frames(frames: np.ndarray, offsets: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The history at the end of what has been seen.

    Args:
        frames: `[n, h, w, 3]`, oldest first; n may be 0.
        offsets: as of `history_offsets`.

    Returns:
        history `[k, h, w, 3]`, zeros where n is too small, and its mask, bool `[k]`.
    """
    history = np.zeros((len(offsets), *frames.shape[1:]), frames.dtype)
    mask = np.array([offset <= len(frames) for offset in offsets], bool)
    for i, offset in enumerate(offsets):
        if mask[i]:
            history[i] = frames[-offset]
    return history, mask


def pad_tokens(embedding: np.ndarray, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """An embedding `[n, d]` as `[tokens, d]`, zero padded or cut, and its mask, bool `[tokens]`."""
    n = min(len(embedding), tokens)
    padded = np.zeros((tokens, embedding.shape[1]), embedding.dtype)
    padded[:n] = embedding[:n]
    return padded, np.arange(tokens) < n


class ExampleMaker:
    """Makes the examples of rows. It may be shared by threads.

    An example is a mapping of arrays: T target frames, k history frames, L tokens, S slots.

    ```
    row           int64 []           number of the row in the table
    frames        uint8 [T, h, w, 3] frame_mask   bool [T]
    history       uint8 [k, h, w, 3] history_mask bool [k]   oldest first, zeros where absent
    tokens        bfloat16 [L, d]    token_mask   bool [L]
    controls      int32 [T, S]       control_mask bool [S]   bins of the motion to each frame
    ```
    """

    def __init__(self, table: Table, embeddings: Embeddings, spec: ExampleSpec):
        self.table = table
        self.embeddings = embeddings
        self.spec = spec

    def examples(self, rows: Sequence[int]) -> list[Example]:
        """The examples of rows; every record they need is read once.

        Raises:
            UsageError: if a record or an embedding is missing or damaged.
        """
        rows = [int(row) for row in rows]
        before = {row: list(self._reach(row)) for row in rows}
        needed = sorted({*rows, *(r for reach in before.values() for r in reach)})
        chunks = dict(zip(needed, self.table.chunks(needed), strict=True))
        return [self._example(row, before[row], chunks) for row in rows]

    def _reach(self, row: int) -> Iterator[int]:
        """Rows before, newest first, until the farthest history frame is among them."""
        missing = max(self.spec.history, default=0)
        while missing > 0 and (row := self.table.previous(row)) is not None:  # type: ignore[assignment]
            yield row
            missing -= int(self.table.columns.num_frames[row])

    def _example(self, row: int, before: list[int], chunks: Mapping[int, Chunk]) -> Example:
        chunk, spec = chunks[row], self.spec
        past, begin = self._past([chunks[r] for r in reversed(before)]), 0
        if not before and self.table.previous(row) is None and chunk.num_frames > 1:
            past, begin = self._pixels(chunk, 0, 1), 1
        n = min(chunk.num_frames - begin, spec.frames)
        frames = np.zeros((spec.frames, *past.shape[1:]), np.uint8)
        frames[:n] = self._pixels(chunk, begin, begin + n)
        controls = np.zeros((spec.frames, NUM_SLOTS), np.int32)
        controls[:n] = chunk.control_bins[begin : begin + n]
        history, history_mask = past_frames(past, spec.history)
        tokens, token_mask = pad_tokens(self.embeddings.lookup(chunk.text), spec.tokens)
        return {
            "row": np.int64(row),  # type: ignore[dict-item]
            "frames": frames,
            "frame_mask": np.arange(spec.frames) < n,
            "history": history,
            "history_mask": history_mask,
            "tokens": tokens.astype(ml_dtypes.bfloat16),
            "token_mask": token_mask,
            "controls": controls,
            "control_mask": chunk.control_mask,
        }

    def _past(self, chunks: list[Chunk]) -> np.ndarray:
        """The last frames of consecutive chunks, as many as the history reaches back."""
        tier, left = self.table.tier, max(self.spec.history, default=0)
        parts = [np.zeros((0, tier.height, tier.width, 3), np.uint8)]
        for chunk in reversed(chunks):
            n = chunk.num_frames
            parts.insert(1, self._pixels(chunk, max(0, n - left), n))
            left -= n
        return np.concatenate(parts)

    def _pixels(self, chunk: Chunk, begin: int, end: int) -> np.ndarray:
        """Some of a chunk's frames, uint8 `[end - begin, h, w, 3]`; only they are decoded."""
        tier = self.table.tier
        try:
            pixels = dataclasses.replace(chunk, frames=chunk.frames[begin:end]).pixels()
            if pixels.shape[1:] != (tier.height, tier.width, 3):
                raise DataError(f"frames are {pixels.shape[1:]}, wanted {tier.name}")
        except (DataError, ValueError) as e:
            raise UsageError(
                f"{self.table.path}: {chunk.key} does not decode ({e}); run `unisim audit` on the"
                " table, then prepare it again"
            ) from e
        return pixels
