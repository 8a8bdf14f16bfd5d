"""Resampling a stream of steps by their timestamps, composing the controls in between. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from pipelines.ops.controls import compose
from pipelines.ops.unify import Step
from schemas import DataError

# a timestamp may fall this part of a period short of its slot, from rounding in the container
_SLACK = 1e-3


def resample(steps: Iterable[Step], fps: float | None) -> Iterator[Step]:
    """The first step of each period of 1/`fps` seconds, counted from the first step.

    Args:
        steps: in order of time; `time` in seconds.
        fps: wanted rate; None, or a rate above the recording's own, keeps every step.

    Yields:
        The kept steps with `time` since the first one and `control` the motion since the kept step
        before, composed over the steps dropped; their clips are added up. Overlaps do not compose:
        after dropped steps it is unknown.

    Raises:
        DataError: if times do not increase strictly, or a time is not finite.
    """
    start: float | None = None
    last_time = -math.inf
    last_period = -1
    pending: list[Step] = []
    for i, step in enumerate(steps):
        if not math.isfinite(step.time) or step.time <= last_time:
            raise DataError(
                f"frame {i} has time {step.time}, after {last_time}; wanted increasing times",
                stage="resample",
            )
        last_time = step.time
        pending.append(step)
        start = step.time if start is None else start
        time = step.time - start
        period = i if fps is None else math.floor(time * fps + _SLACK)
        if period == last_period:
            continue
        last_period = period
        yield step._replace(
            time=time,
            control=compose(np.stack([s.control for s in pending])),
            clipped=np.sum([s.clipped for s in pending], 0, np.int32),
            overlap=step.overlap if len(pending) == 1 else None,
        )
        pending = []
