"""The family "schema": every record obeys the rules, and its episode hangs together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from pipelines.audit.check import Finding, Where, check, declare
from pipelines.audit.record import Record
from schemas import mask_of
from schemas.validate import RULES

_GAP = 4.0  # periods
PARSES = declare("record", "schema", "error", "a record's bytes are a chunk of its tier")
_RULES = [(declare(rule.name, "schema", "error", rule.says), rule.broken) for rule in RULES]


def rules(record: Record) -> Iterator[Finding]:
    """The rules that the writer obeys too, `schemas.validate.RULES`."""
    for tier, chunk in record.chunks.items():
        for made, broken in _RULES:
            for message in broken(chunk, tier):
                yield made.found(record.row, f"{tier.name}: {message}")


@check("frames-decode", "schema")
def frames_decode(record: Record) -> Iterator[tuple[Where, str]]:
    """Every frame decodes, and has the tier's size."""
    for tier, chunk in record.chunks.items():
        if tier.encoding == "jpeg" and len(chunk.frames) and record.pixels(tier) is None:
            yield (
                record.row,
                f"{tier.name}: its frames are not {chunk.num_frames} JPEGs of that size",
            )


@check("declared-slots", "schema")
def declared_slots(record: Record) -> Iterator[tuple[Where, str]]:
    """A control mask has no slot that the manifest does not declare for the dataset."""
    declared = mask_of(record.dataset.slots)
    for tier, chunk in record.chunks.items():
        if chunk.control_mask.shape == declared.shape and (chunk.control_mask & ~declared).any():
            yield (
                record.row,
                f"{tier.name}: its control mask has slots that the manifest does not declare",
            )


@check("times-agree", "schema")
def times_agree(record: Record) -> Iterator[tuple[Where, str]]:
    """Frames are as far apart in time as the frame rate says, in the middle."""
    for tier, chunk in record.chunks.items():
        if chunk.num_frames < 3 or not chunk.fps > 0 or not np.isfinite(chunk.times).all():
            continue
        steps = np.diff(chunk.times)
        step = float(np.sort(steps)[len(steps) // 2])
        if not 0.5 <= step * chunk.fps <= 2:
            message = (
                f"{tier.name}: frames are {step:.3f} s apart, at {chunk.fps:g} frames per second"
            )
            yield record.row, message


@check("times-gap", "schema", "warning")
def times_gap(record: Record) -> Iterator[tuple[Where, str]]:
    """No frame comes later than four periods of the frame rate after the one before it."""
    if record.first is None or not record.first[1].fps > 0:
        return
    times, fps = record.first[1].times, record.first[1].fps
    before = record.before.first if record.before is not None else None
    if before is not None and before[1].num_frames:
        times = np.concatenate([before[1].times[-1:], times])
    if len(times) > 1 and np.isfinite(times).all():
        steps = np.sort(np.diff(times))
        period = max(1 / fps, float(steps[(len(steps) - 1) // 2]))
        if steps[-1] > _GAP * period:
            yield record.row, f"a gap of {steps[-1]:.2f} s, at {fps:g} frames per second"


class Episodes:
    """Follows the rows of one file through its episodes.

    Attributes:
        views: the episodes' ids that have been seen.
    """

    def __init__(self):
        self.views: set[str] = set()
        self._before: dict[str, Any] | None = None

    def rows(self, rows: Iterable[dict[str, Any]]) -> Iterator[Finding]:
        """The next rows of the file."""
        for row in rows:
            yield from self._order(row)
            yield from self._flow(row)
            self._before = row

    def end(self) -> Iterator[Finding]:
        """There are no more."""
        yield from self._order(None)

    @check("episode-steps", "schema")
    def _order(self, row: dict[str, Any] | None) -> Iterator[tuple[Where, str]]:
        """The records of an episode are adjacent, its steps run from 0, and only its last one
        is_last"""
        before = self._before
        same = row and before and row["episode_id"] == before["episode_id"]
        if before and not same and not before["is_last"]:
            yield before, "the last of its episode, but not is_last"
        if row and same and before:
            if row["step"] != before["step"] + 1:
                yield row, f"follows step {before['step']}"
            if before["is_last"]:
                yield before, "is_last, but the episode goes on"
        elif row:
            if row["episode_id"] in self.views:
                yield row, "its episode's records are not adjacent"
            if row["step"] != 0:
                yield row, "begins its episode, but is not step 0"
            self.views.add(row["episode_id"])

    @check("episode-times", "schema")
    def _flow(self, row: dict[str, Any]) -> Iterator[tuple[Where, str]]:
        """A record begins later than the one before it in its episode."""
        before = self._before
        if before is None or row["episode_id"] != before["episode_id"]:
            return
        begin, earlier = row["start"], before["start"]
        if None not in (begin, earlier) and begin <= earlier:
            yield row, f"begins at {begin:g} s, the record before it at {earlier:g} s"


RECORD = (rules, declared_slots, times_agree, times_gap, frames_decode)
