"""Habitat's `reference_replay`: a demonstration's entries, and the motion that led to each frame.

The world has y up and a body looks along its own -z; quaternions are (x, y, z, w). Our base frame
has x forward, y to the left and yaw counter-clockwise seen from above (`schemas.controls`).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from pipelines.ops import labels
from pipelines.ops.controls import wrap
from schemas import DataError

_FARTHEST = 1e6  # metres
# steps forward and turns to the left
_NOMINAL = {
    "STOP": (0, 0),
    "MOVE_FORWARD": (1, 0),
    "MOVE_BACKWARD": (-1, 0),
    "TURN_LEFT": (0, 1),
    "TURN_RIGHT": (0, -1),
    "LOOK_UP": (0, 0),
    "LOOK_DOWN": (0, 0),
}


class _Pose(NamedTuple):
    """Where the body stands on the floor of Habitat's world (y up), and its heading: radians to
    the left of -z."""

    x: float
    z: float
    heading: float

    def motion_to(self, other: _Pose) -> np.ndarray:
        """Metres forward, metres left, radians left, in this pose's own frame."""
        sin, cos = math.sin(self.heading), math.cos(self.heading)
        dx, dz = other.x - self.x, other.z - self.z
        turn = wrap(other.heading - self.heading)
        return np.array([-sin * dx - cos * dz, -cos * dx + sin * dz, turn])

    def moved(self, forward: float, left: float, turn: float) -> _Pose:
        """The inverse of `motion_to`."""
        sin, cos = math.sin(self.heading), math.cos(self.heading)
        x, z = self.x - sin * forward - cos * left, self.z - cos * forward + sin * left
        return _Pose(x, z, self.heading + turn)


class Entry(NamedTuple):
    """An action and the pose after it, None where that is unknown."""

    action: str
    pose: _Pose | None


def read_entries(replay: Any) -> list[Entry]:
    """`reference_replay`, checked; the placeholder in front keeps its place, without its pose."""
    if not isinstance(replay, list) or len(replay) < 2:
        raise DataError("reference_replay holds no action", stage="act")
    entries = []
    for i, raw in enumerate(replay):
        action = raw.get("action") if isinstance(raw, dict) else None
        if not isinstance(action, str):
            raise DataError(f"entry {i} of reference_replay names no action", stage="act")
        state = raw.get("agent_state") if i else None
        pose = None
        if state is not None:
            state = state if isinstance(state, dict) else {}
            pose = _pose(state.get("position"), state.get("rotation"), f"agent_state of entry {i}")
        entries.append(Entry(action.upper(), pose))
    if entries[0].action != "STOP":
        raise DataError(
            f"reference_replay begins with {shown(entries[0].action)}, wanted the placeholder STOP",
            stage="act",
        )
    return entries


def read_motion(
    raw: dict[str, Any], entries: list[Entry], step: float, turn: float
) -> tuple[np.ndarray, str]:
    """The motion `[t, 3]` that led to each frame, and whether it was measured."""
    known = sum(entry.pose is not None for entry in entries[1:])
    pose = _Pose(0.0, 0.0, 0.0)
    if known:
        pose = _pose(raw.get("start_position"), raw.get("start_rotation"), "start")
    motion = np.zeros((len(entries), 3))
    for i, (action, after) in enumerate(entries[1:], 1):
        if after is None:
            if action not in _NOMINAL:
                raise DataError(f"entry {i} has neither a pose nor a known action", stage="act")
            steps, turns = _NOMINAL[action]
            motion[i] = steps * step, 0.0, turns * turn
            pose = pose.moved(*motion[i])
        else:
            motion[i] = pose.motion_to(after)
            pose = after
    kind = {0: "nominal", len(entries) - 1: "measured"}.get(known, "partly measured")
    return motion, kind


def _pose(position: Any, rotation: Any, what: str) -> _Pose:
    """A position (x, y, z) in metres and a quaternion (x, y, z, w), on the floor."""
    px, _, pz = _numbers(position, 3, f"{what}: position")
    quaternion = np.array(_numbers(rotation, 4, f"{what}: rotation"))
    length = float(np.linalg.norm(quaternion))
    if abs(length - 1) > 0.01:
        raise DataError(f"{what}: the rotation's length is {length:.3g}, wanted 1", stage="act")
    x, y, z, w = quaternion / length
    # the third column of the rotation matrix: the body looks along -z
    back_x, back_z = 2 * (x * z + w * y), 1 - 2 * (x * x + y * y)
    if math.hypot(back_x, back_z) < 1e-3:
        raise DataError(f"{what}: the body looks straight up or down", stage="act")
    return _Pose(px, pz, math.atan2(back_x, back_z))


def _numbers(value: Any, n: int, what: str) -> list[float]:
    given = value if isinstance(value, list) else []
    found = [float(x) for x in given if type(x) in (int, float) and abs(x) <= _FARTHEST]
    if len(found) != n or len(given) != n:
        raise DataError(f"{what} is not {n} finite numbers", stage="act")
    return found


def shown(value: Any) -> str:
    """A value from the file, short enough for an error line."""
    text = repr(value[:80]) if isinstance(value, str) else type(value).__name__
    return labels.clean_text(text)
