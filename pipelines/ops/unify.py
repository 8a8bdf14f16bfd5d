"""A source's own action values -> the unified control slots. Pure numpy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from pipelines.episode import Control, Frame
from pipelines.ops.controls import wrap
from schemas import NUM_SLOTS, DataError
from schemas.controls import INDEX


class Step(NamedTuple):
    """A `Frame` whose control is in the unified slots.

    Attributes:
        time, image, text: the frame's.
        control: float64 `[S]`, the motion since the step before.
        clipped: int `[S]`, how many of the values behind it were outside the source's bounds.
        overlap: with the step before, 0..1; None where it is unknown.
    """

    time: float
    image: Callable[[], np.ndarray]
    text: str
    control: np.ndarray
    clipped: np.ndarray
    overlap: float | None = None


def mask_of_controls(table: tuple[Control, ...]) -> np.ndarray:
    """The bool mask `[S]` of the slots that a table fills."""
    mask = np.zeros(NUM_SLOTS, bool)
    mask[[INDEX[control.slot] for control in table]] = True
    return mask


def unify(frames: Iterable[Frame], table: tuple[Control, ...]) -> Iterator[Step]:
    """Each frame with its control mapped: wrapped, clipped to the source's bounds, scaled.

    Args:
        frames: their `control` is float `[n]` in the order of `table`, or None if it is empty.

    Raises:
        DataError: for a control that is not n finite numbers.
    """
    slots = [INDEX[control.slot] for control in table]
    if len(set(slots)) < len(slots):
        raise ValueError(f"two values for one slot: {[control.slot for control in table]}")
    low = np.array([-math.inf if c.low is None else c.low for c in table])
    high = np.array([math.inf if c.high is None else c.high for c in table])
    scale = np.array([control.scale for control in table])
    offset = np.array([control.offset for control in table])
    turns = np.array([control.wrap for control in table], bool)
    for number, frame in enumerate(frames):
        control, clipped = np.zeros(NUM_SLOTS), np.zeros(NUM_SLOTS, np.int32)
        if table:
            values = _values(frame, len(table), number)
            far = turns & (np.abs(values) > np.pi)
            values = np.where(far, wrap(values), values)
            # a bound may have passed through float32 on its way
            clipped[slots] = (values < low - 1e-6) | (values > high + 1e-6)
            control[slots] = scale * np.clip(values, low, high) + offset
        yield Step(frame.time, frame.image, frame.text, control, clipped, frame.overlap)


def _values(frame: Frame, n: int, number: int) -> np.ndarray:
    values = np.asarray([] if frame.control is None else frame.control, np.float64)
    if values.shape != (n,) or not np.isfinite(values).all():
        raise DataError(f"the control of frame {number} is not {n} finite numbers", stage="act")
    return values
