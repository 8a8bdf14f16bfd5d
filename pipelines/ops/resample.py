"""Resampling a stream of frames by their timestamps, composing the controls in between. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from pipelines.episode import Frame
from pipelines.ops.controls import compose
from schemas import NUM_SLOTS, DataError

# a timestamp may fall this part of a period short of its slot, from rounding in the container
_SLACK = 1e-3


def resample(frames: Iterable[Frame], fps: float | None) -> Iterator[Frame]:
    """The first frame of each period of 1/`fps` seconds, counted from the first frame.

    Args:
        frames: in order of time; `time` in seconds.
        fps: wanted rate; None, or a rate above the recording's own, keeps every frame.

    Yields:
        The kept frames with `time` since the first one and `control` float64 `[S]`: the motion
        since the kept frame before, composed over the frames dropped.

    Raises:
        DataError: if times do not increase strictly, or a time or control is not finite.
    """
    start: float | None = None
    last_time = -math.inf
    last_period = -1
    pending: list[np.ndarray] = []
    for i, frame in enumerate(frames):
        if not math.isfinite(frame.time) or frame.time <= last_time:
            raise DataError(
                f"frame {i} has time {frame.time}, after {last_time}; wanted increasing times",
                stage="resample",
            )
        last_time = frame.time
        if frame.control is not None:
            pending.append(_finite(frame.control, i))
        start = frame.time if start is None else start
        time = frame.time - start
        period = i if fps is None else math.floor(time * fps + _SLACK)
        if period == last_period:
            continue
        last_period = period
        control = compose(np.stack(pending)) if pending else np.zeros(NUM_SLOTS)
        pending = []
        yield Frame(time=time, image=frame.image, control=control, text=frame.text)


def _finite(control: np.ndarray, i: int) -> np.ndarray:
    if control.shape != (NUM_SLOTS,) or not np.isfinite(control).all():
        raise DataError(f"the control of frame {i} is not {NUM_SLOTS} finite numbers", stage="act")
    return control
