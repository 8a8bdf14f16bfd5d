"""What moves, by the control slots: the effector, the base, the camera, and the ways they take."""

from __future__ import annotations

import dataclasses

import numpy as np

from pipelines.ops import pose
from schemas import Chunk
from schemas.controls import INDEX


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mover:
    """Something whose motion from frame to frame is in slots.

    Attributes:
        name: for people.
        slots: of x, y, z forward, left and up, then of roll, pitch and yaw; "" where it has none.
        own_frame: whether a motion is in the axes that it has by then, as a camera's, or in those
            of the room, as an effector's.
    """

    name: str
    slots: tuple[str, ...]
    own_frame: bool

    @property
    def columns(self) -> list[int]:
        """Of the slots that it has."""
        return [INDEX[name] for name in self.slots if name]

    def motion(self, controls: np.ndarray) -> np.ndarray:
        """float64 `[t, 6]` of controls `[t, S]`; zeros for slots that it has not."""
        found = np.zeros((len(controls), 6))
        for i, name in enumerate(self.slots):
            if name:
                found[:, i] = controls[:, INDEX[name]]
        return found

    def way(self, controls: np.ndarray) -> np.ndarray:
        """Where it is at each frame from where the first one leaves it, float64 `[t, 3]` metres."""
        motion = self.motion(controls)
        motion[0] = 0
        if not self.own_frame:
            return np.cumsum(motion[:, :3], 0)
        at, places = np.eye(4), []
        for step in motion:
            at = at @ pose.matrix(step)
            places.append(at[:3, 3].copy())
        return np.array(places)


def _six(prefix: str) -> tuple[str, ...]:
    return tuple(f"{prefix}_d{axis}" for axis in ("x", "y", "z", "roll", "pitch", "yaw"))


EFFECTOR = Mover(name="effector", slots=_six("ee"), own_frame=False)
BASE = Mover(name="base", slots=("base_dx", "base_dy", "", "", "", "base_dyaw"), own_frame=True)
CAMERA = Mover(name="camera", slots=_six("camera"), own_frame=True)
MOVERS = (EFFECTOR, BASE, CAMERA)


def movers(chunk: Chunk) -> list[Mover]:
    """Those that a chunk tells of."""
    return [mover for mover in MOVERS if chunk.control_mask[mover.columns].any()]
