"""`Statistics`: what a dataset is like, in histograms that add up over shards and compare."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import numpy as np

from pipelines.audit.record import Record
from schemas import BINS, MAX_FRAMES, NUM_SLOTS, SLOTS

_LEVELS = 32
_OCTAVES, _PARTS = 10, 4  # of a control's range on each side of its middle
_MIDDLE = BINS // 2


def _edges() -> np.ndarray:
    side = 2.0 ** (np.arange(-_OCTAVES * _PARTS, 1) / _PARTS)
    return np.concatenate([-side[::-1], side])


EDGES = _edges()
"""Of a control histogram's bins over a slot's range, which goes from -1 to 1: finer around the
middle, where the motions of a moment are."""
_BIN_OF = np.searchsorted(EDGES, (np.arange(BINS) + 0.5 - _MIDDLE) / _MIDDLE, side="right") - 1


@dataclasses.dataclass
class Statistics:
    """Of one dataset.

    Attributes:
        records, frames, episodes: how many; an episode seen by several cameras is several.
        frames_per_record: int64 `[17]`.
        records_per_episode: records -> episodes.
        fps: rate as text -> records.
        splits, licences: name -> records.
        text_length: int64 `[64]`, in steps of 8 characters.
        brightness: int64 `[32]`, of frames' mean grey levels.
        controls: int64 `[S, len(EDGES) - 1]`, of the slots' values; zero where masked.
    """

    records: int = 0
    frames: int = 0
    episodes: int = 0
    frames_per_record: np.ndarray = dataclasses.field(
        default_factory=lambda: np.zeros(MAX_FRAMES + 1, np.int64)
    )
    records_per_episode: Counter[str] = dataclasses.field(default_factory=Counter)
    fps: Counter[str] = dataclasses.field(default_factory=Counter)
    splits: Counter[str] = dataclasses.field(default_factory=Counter)
    licences: Counter[str] = dataclasses.field(default_factory=Counter)
    text_length: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(64, np.int64))
    brightness: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(_LEVELS, np.int64))
    controls: np.ndarray = dataclasses.field(
        default_factory=lambda: np.zeros((NUM_SLOTS, len(EDGES) - 1), np.int64)
    )

    def add_row(self, row: dict[str, Any]) -> None:
        """What the index tells of a record."""
        self.records += 1
        self.frames += row["num_frames"]
        self.frames_per_record[min(max(row["num_frames"], 0), MAX_FRAMES)] += 1
        self.fps[f"{row['fps']:.4g}"] += 1
        self.splits[row["split"]] += 1
        self.licences[row["license"]] += 1
        self.text_length[min(len(row["text"]) // 8, 63)] += 1
        if row["is_last"]:
            self.episodes += 1
            self.records_per_episode[str(row["step"] + 1)] += 1

    def add_record(self, record: Record) -> None:
        """What only its frames and controls tell."""
        if record.first is None:
            return
        if record.gray is not None:
            levels = (record.gray.mean((1, 2)) * (_LEVELS / 256)).astype(np.int64)
            self.brightness += np.bincount(levels, minlength=_LEVELS)
        chunk = record.first[1]
        used = np.flatnonzero(chunk.control_mask)
        bins = chunk.control_bins[1 if chunk.is_first else 0 :, used]
        if not ((bins >= 0) & (bins < BINS)).all():
            return
        coarse = _BIN_OF[bins]
        at, of = np.broadcast_to(used, coarse.shape).ravel(), coarse.ravel()
        np.add.at(self.controls, (at, of), 1)

    def merge(self, other: Statistics) -> None:
        """Adds those of another shard."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name) + getattr(other, field.name)
            setattr(self, field.name, value)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it; controls by slot name, only those that are there."""
        value: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            each = getattr(self, field.name)
            value[field.name] = each.tolist() if isinstance(each, np.ndarray) else each
        value["controls"] = {
            slot.name: counts.tolist()
            for slot, counts in zip(SLOTS, self.controls, strict=True)
            if counts.any()
        }
        return value

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Statistics:
        """The inverse. Raises KeyError, TypeError or ValueError if it is none."""
        made = cls()
        for field in dataclasses.fields(cls):
            before, each = getattr(made, field.name), value[field.name]
            if field.name == "controls":
                for i, slot in enumerate(SLOTS):
                    before[i] += np.array(each.get(slot.name, 0), np.int64)
            elif isinstance(before, np.ndarray):
                before += np.array(each, np.int64)
            elif isinstance(before, Counter):
                before.update({str(name): int(count) for name, count in each.items()})
            else:
                setattr(made, field.name, int(each))
        return made
