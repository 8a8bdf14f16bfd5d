"""Samples of the table as training examples of fixed shape, with the history cut from the rows
before.

A row is p(o_t | h_{t-1}, a_{t-1}) (UniSim, section 2): its frames are the target, its text and its
controls the action, and the frames that the rows before it end with are the history. An episode's
first row has no row before it: if it has two frames or more, its first frame is the history and the
rest, with their controls, the target. This is right because row i of `controls` is the motion that
led to frame i, so frame 0 is where the first motion begins. A row of one frame (an image) is all
target and has no history.

A sample that begins within a row (`--windows any`) has that row's text for its action. Its target
goes on into the rows after it as long as they have the same text, each frame with its own controls.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

import ml_dtypes
import numpy as np

from schemas import NUM_SLOTS, UsageError
from trainer.data.embeddings import Embeddings
from trainer.data.records import reading
from trainer.data.samples import Sample, Windows
from trainer.data.stored import Stored
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
        frames: T, target frames; shorter samples are padded, of longer ones the first T are used.
        history: offsets of the history's frames, oldest first; see `history_offsets`.
        tokens: L, of the action text; longer texts are cut.
        windows: whether targets end with their row ("actions") or go on after it ("any").
    """

    frames: int
    history: tuple[int, ...]
    tokens: int
    windows: Windows = "actions"


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
    """Makes the examples of samples. It may be shared by threads.

    An example is a mapping of arrays: T target frames, k history frames, L tokens, S slots.

    ```
    row           int64 []           number of the row in the table
    begin         int32 []           where in it the target begins, as of `Sample`
    frames        uint8 [T, h, w, 3] frame_mask   bool [T]
    history       uint8 [k, h, w, 3] history_mask bool [k]   oldest first, zeros where absent
    tokens        bfloat16 [L, d]    token_mask   bool [L]
    controls      int32 [T, S]       control_mask bool [S]   bins of the motion to each frame
    ```

    Args:
        rejected: rows that no example may show; an episode begins anew after one, and ends before.
    """

    def __init__(
        self,
        table: Table,
        embeddings: Embeddings,
        spec: ExampleSpec,
        rejected: frozenset[int] = frozenset(),
    ):
        self.table = table
        self.embeddings = embeddings
        self.spec = spec
        self._rejected = rejected

    def example(self, row: int, begin: int = 0) -> Example:
        """The example of one sample. Raises as `batch`."""
        return {name: value[0] for name, value in self.batch([Sample(int(row), begin)]).items()}

    def batch(self, samples: Sequence[Sample]) -> Example:
        """The examples of samples, stacked: every array has a leading dimension of samples.

        Raises:
            UsageError: if a record or an embedding is missing or damaged.
        """
        n, spec, tier = len(samples), self.spec, self.table.tier
        size = (tier.height, tier.width, 3)
        batch = {
            "row": np.array([sample.row for sample in samples], np.int64),
            "begin": np.array([sample.begin for sample in samples], np.int32),
            # what stays unread is zeroed below: it is little
            "frames": np.empty((n, spec.frames, *size), np.uint8),
            "frame_mask": np.zeros((n, spec.frames), bool),
            "history": np.empty((n, len(spec.history), *size), np.uint8),
            "history_mask": np.zeros((n, len(spec.history)), bool),
            "tokens": np.zeros((n, spec.tokens, self.embeddings.info.width), ml_dtypes.bfloat16),
            "token_mask": np.zeros((n, spec.tokens), bool),
            "controls": np.zeros((n, spec.frames, NUM_SLOTS), np.int32),
            "control_mask": np.zeros((n, NUM_SLOTS), bool),
        }
        opened, done = _Opened(self.table), np.zeros((n, 1), np.int64)
        try:
            with opened.reading():
                for i, sample in enumerate(samples):
                    done[i] = self._fill(batch, i, sample, opened)
                self._fill_tokens(batch, samples, opened)
        except UsageError:
            self.table.check_unchanged()  # which would be why
            raise
        batch["frame_mask"][:] = np.arange(spec.frames) < done
        return batch

    def _fill(self, batch: Example, i: int, sample: Sample, opened: _Opened) -> int:
        """All but the tokens of one example; returns how many target frames it has."""
        row = sample.row
        first = opened.get(row)
        batch["control_mask"][i] = first.control_mask
        begins = first.is_first or row - 1 in self._rejected
        begin = sample.begin + (begins and first.num_frames > 1)
        frames = batch["frames"][i]
        done = self._fill_target(frames, batch["controls"][i], row, begin, opened)
        if done < len(frames):
            frames[done:] = 0
        if self.spec.history:
            self._fill_history(batch["history"][i], batch["history_mask"][i], row, begin, opened)
        return done

    def _fill_target(
        self, frames: np.ndarray, controls: np.ndarray, row: int, begin: int, opened: _Opened
    ) -> int:
        """The target's frames and their controls; returns how many there are."""
        text_key, done = None, 0
        while True:
            record = opened.get(row)
            n = min(record.num_frames - begin, len(frames) - done)
            if n <= 0:
                raise ValueError(f"it has {record.num_frames} frames, wanted one at {begin}")
            record.read_frames(begin, frames[done : done + n])
            controls[done : done + n] = record.control_bins[begin : begin + n]
            done += n
            if done == len(frames) or self.spec.windows == "actions":
                return done
            text_key = text_key or record.text_key
            if record.is_last or row + 1 in self._rejected:
                return done
            if opened.neighbour(row, row + 1).text_key != text_key:
                return done
            row, begin = row + 1, 0

    def _fill_history(
        self, history: np.ndarray, mask: np.ndarray, row: int, begin: int, opened: _Opened
    ) -> None:
        """The frames before the target, row by row backwards, neighbours in one read."""
        offsets = self.spec.history
        i, low = len(offsets), -begin  # of those left, and where the row begins from the target on
        record = opened.get(row)
        while i:
            inside = i
            while inside and -offsets[inside - 1] >= low:
                inside -= 1
            for start, stop in _runs(offsets, inside, i):
                record.read_frames(-offsets[start] - low, history[start:stop])
            mask[inside:i] = True
            i = inside
            if not i or record.is_first or row - 1 in self._rejected:
                break
            record = opened.neighbour(row, row - 1)
            row, low = row - 1, low - record.num_frames
        if i:
            history[:i] = 0

    def _fill_tokens(self, batch: Example, samples: Sequence[Sample], opened: _Opened) -> None:
        keys = [opened.get(sample.row).text_key for sample in samples]
        found, tokens, lengths = self.embeddings.of_keys(keys), batch["tokens"], []
        for i, key in enumerate(keys):
            if key not in found:
                raise self.embeddings.missing(opened.get(samples[i].row).text)
            embedding = found[key][: self.spec.tokens]
            tokens[i, : len(embedding)] = embedding
            lengths.append([len(embedding)])
        batch["token_mask"][:] = np.arange(self.spec.tokens) < np.array(lengths)


class _Opened:
    """The records that a batch has asked for; what goes wrong is said of the last one asked for."""

    def __init__(self, table: Table):
        self._table, self._records = table, {}
        self._row = 0

    def reading(self) -> reading:
        """Turns what goes wrong into a UsageError that names the record."""

        def place():
            path, position = self._table.place(self._row)
            return path, [position]

        return reading(place)

    def get(self, row: int) -> Stored:
        """A row's record."""
        self._row = row
        found = self._records.get(row)
        if found is None:
            found = self._records[row] = self._table.stored(row)
        return found

    def neighbour(self, row: int, other: int) -> Stored:
        """The record of the row before or after, which must be of the same episode."""
        episode = self._records[row].episode_id
        found = self.get(other)
        if found.episode_id != episode:
            raise ValueError(f"it is not of episode {episode.decode(errors='replace')}")
        return found


def _runs(offsets: Sequence[int], start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Places `start` to `stop` of offsets, in parts whose frames are neighbours."""
    for i in range(start, stop):
        if i + 1 == stop or offsets[i + 1] != offsets[i] - 1:
            yield start, i + 1
            start = i + 1
