"""The unified control slots: robots, people and cameras write their motion into one fixed vector.

A control vector is float32 `[S]` in SI units, with a bool mask `[S]` that says which slots a
source has. Values are also kept as one of 4096 uniform bins (UniSim, section 3.1), with an inverse.

Row i of a chunk's `controls` is the motion that *led to* frame i, so the rows of an episode compose
to its total motion and the first row of an episode is zero for every delta.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np

BINS = 4096

Compose = Literal["sum", "last", "rotation", "planar", "pose"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slot:
    """One place in the control vector.

    Attributes:
        name: the slot's name, in every table and error.
        unit: "m", "rad" or "1".
        low, high: the range that the bins divide; values outside are clipped and counted.
        compose: how the values of consecutive frames become one when frames are dropped:
            "sum" adds; "last" keeps the newest (absolute values); "rotation" multiplies rotations
            about fixed axes (roll, pitch, yaw as a group); "planar" composes SE(2) steps in the
            body's own frame; "pose" composes SE(3) steps in the camera's own frame.
    """

    name: str
    unit: str
    low: float
    high: float
    compose: Compose


def _slots() -> tuple[Slot, ...]:
    def group(prefix: str, axes: str, unit: str, limit: float, compose: Compose) -> list[Slot]:
        return [
            Slot(name=f"{prefix}_d{axis}", unit=unit, low=-limit, high=limit, compose=compose)
            for axis in axes.split()
        ]

    return (
        *group("ee", "x y z", "m", 1.0, "sum"),
        *group("ee", "roll pitch yaw", "rad", math.pi, "rotation"),
        Slot(name="gripper", unit="1", low=0.0, high=1.0, compose="last"),
        Slot(name="gripper_delta", unit="1", low=-1.0, high=1.0, compose="sum"),
        *group("base", "x y", "m", 1.0, "planar"),
        *group("base", "yaw", "rad", math.pi, "planar"),
        *group("camera", "x y z", "m", 8.0, "pose"),
        *group("camera", "roll pitch yaw", "rad", math.pi, "pose"),
        *(
            Slot(name=f"joint_{i}", unit="rad", low=-2 * math.pi, high=2 * math.pi, compose="last")
            for i in range(1, 8)
        ),
    )


SLOTS: tuple[Slot, ...] = _slots()
NUM_SLOTS = len(SLOTS)
INDEX: dict[str, int] = {slot.name: i for i, slot in enumerate(SLOTS)}

_LOW = np.array([slot.low for slot in SLOTS], np.float64)
_HIGH = np.array([slot.high for slot in SLOTS], np.float64)
_WIDTH = (_HIGH - _LOW) / BINS


def mask_of(names: list[str] | tuple[str, ...]) -> np.ndarray:
    """The bool mask `[S]` with the named slots set. Raises KeyError for a name that is no slot."""
    mask = np.zeros(NUM_SLOTS, bool)
    mask[[INDEX[name] for name in names]] = True
    return mask


def clip(controls: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Controls `[..., S]` limited to the slots' ranges as float32, and bool `[..., S]`: which
    values that changed."""
    clipped = np.clip(controls, _LOW, _HIGH).astype(np.float32)
    # float32 rounding may step just over a bound that float64 keeps: such a value was not clipped
    outside = (controls < _LOW - 1e-6) | (controls > _HIGH + 1e-6)
    return clipped, outside


def discretise(controls: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The bin 0..4095 of each control.

    Args:
        controls: float `[..., S]` in SI units.
        mask: bool `[S]`; the bin of an absent slot is 0.

    Returns:
        int32 `[..., S]`. Values outside a slot's range fall into its first or last bin.
    """
    scaled = (np.asarray(controls, np.float64) - _LOW) / _WIDTH
    bins = np.clip(np.floor(scaled), 0, BINS - 1).astype(np.int32)
    return np.where(mask, bins, 0).astype(np.int32)


def undiscretise(bins: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The middle of each bin, float32 `[..., S]`: within half a bin of the discretised value."""
    values = _LOW + (np.asarray(bins, np.float64) + 0.5) * _WIDTH
    return np.where(mask, values, 0.0).astype(np.float32)
