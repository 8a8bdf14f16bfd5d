"""RT-2's action string, both ways: "1 128 91 241 5 101 127 217". Pure.

RT-2 (arXiv 2307.15818, section 3.2) writes an action as eight integers, "terminate Δx Δy Δz Δroll
Δpitch Δyaw gripper", on the discretisation of RT-1. That is the tokenizer that RT-1's authors
published (google-research/robotics_transformer): a value is clipped to its bounds, scaled to 0..1,
multiplied by 255 and cut to an integer. So the 256 bins are one 255th of the range wide, and the
last one holds the upper bound alone. The authors read an integer back as its bin's lower edge; here
it is read as the bin's middle, which is within half a bin of what was written, and by which an arm
that was held still (127) stays exactly where it is.

The first integer is the class that RT-1 gives its `terminate_episode`: 0 ends the episode, 1 goes
on.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import numpy as np

from schemas import DataError

BINS = 256
NAMES = ("Δx", "Δy", "Δz", "Δroll", "Δpitch", "Δyaw", "gripper")
"""What the seven values are: metres, radians, and how far the gripper closes (1) or opens (-1)."""
HIGH = np.array([1.0] * 3 + [math.pi / 2] * 3 + [1.0])
LOW = -HIGH
WIDTH = (HIGH - LOW) / (BINS - 1)
"""Of a bin, in each value's unit."""

_INTEGER = re.compile(r"0|[1-9][0-9]{0,8}")


class Action(NamedTuple):
    """What a string says: float64 `[7]` in the order of `NAMES`, and whether the episode ends."""

    values: np.ndarray
    terminate: bool


def encode(values: np.ndarray, terminate: bool = False) -> str:
    """The string of an action.

    Args:
        values: float `[7]` in the order of `NAMES`; those outside `LOW..HIGH` are clipped.
        terminate: whether the episode ends.

    Raises:
        DataError: if they are not seven finite numbers.
    """
    values = np.asarray(values, np.float64)
    if values.shape != HIGH.shape or not np.isfinite(values).all():
        raise DataError(f"an action of RT-2 is {len(HIGH)} finite numbers", stage="act")
    share = (np.clip(values, LOW, HIGH) - LOW) / (HIGH - LOW)
    bins = (share * (BINS - 1)).astype(int)
    return " ".join(map(str, [int(not terminate), *bins]))


def decode(text: str) -> Action:
    """The inverse: the middle of each value's bin, so that `encode(*decode(text))` is `text`.

    Raises:
        DataError: if the text is not eight integers in their ranges with single spaces between.
    """
    words = text.split(" ")
    if len(words) != 1 + len(HIGH):
        raise DataError(_wrong(text, f"{len(words)} words"), stage="act")
    strange = [word for word in words if not _INTEGER.fullmatch(word)]
    if strange:
        raise DataError(_wrong(text, f"{strange[0][:20]!r} is no integer"), stage="act")
    flag, *bins = map(int, words)
    if flag > 1:
        raise DataError(_wrong(text, f"the terminate flag {flag} is not 0 or 1"), stage="act")
    for name, number in zip(NAMES, bins, strict=True):
        if number >= BINS:
            raise DataError(_wrong(text, f"{name} {number} is above {BINS - 1}"), stage="act")
    share = np.minimum((np.array(bins) + 0.5) / (BINS - 1), 1.0)
    return Action(LOW + share * (HIGH - LOW), flag == 0)


def _wrong(text: str, found: str) -> str:
    return f"{text[:60]!r} is not an action of RT-2: {found}; wanted {1 + len(HIGH)} integers"
