"""SE(3) poses with named frames. Pure numpy.

A pose is a float64 `[4, 4]` matrix that takes points from a camera's frame to the world's, metres.
What a camera's axes are has a name:

- "body": x forward, y left, z up. The camera slots of `schemas.controls` are in this one, as ROS's
  REP 103 has it: yaw turns left, pitch tilts *down*, roll leans to the right.
- "opencv": x right, y down, z forward (Matterport3DSimulator's connectivity, COLMAP).
- "opengl": x right, y up, looking along -z (Matterport's .conf, Habitat, Blender, NeRF).

A world is "z_up" (Matterport, ours) or "y_up" (glTF, Habitat); both are right-handed.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from pipelines.ops.controls import euler, rotation
from schemas import DataError

Camera = Literal["body", "opencv", "opengl"]
World = Literal["z_up", "y_up"]

# columns: the named camera's x, y and z axes in the body frame
_AXES: dict[str, np.ndarray] = {
    "body": np.eye(3),
    "opencv": np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]),
    "opengl": np.array([[0.0, 0, -1], [-1, 0, 0], [0, 1, 0]]),
}
_Z_UP_OF_Y_UP = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
_TOLERANCE = 1e-3  # of a rotation written with few digits
_FARTHEST = 1e6  # metres


def rigid(values: object, what: str = "pose") -> np.ndarray:
    """A row-major 4×4 matrix from a file, checked, its rotation made exactly orthonormal.

    Args:
        values: 16 numbers, or 4 rows of 4.
        what: named in the error.

    Raises:
        DataError: if it is not finite, not rigid (rotation not orthonormal, determinant not 1), or
            further than 1,000 km off.
    """
    try:
        matrix = np.array(values, np.float64)
    except (TypeError, ValueError, OverflowError) as e:
        raise DataError(f"{what} is not 16 numbers", stage="act") from e
    if matrix.size != 16 or matrix.shape not in ((16,), (4, 4)):
        raise DataError(f"{what} has shape {matrix.shape}, wanted 16 numbers", stage="act")
    matrix = matrix.reshape(4, 4)
    if not np.isfinite(matrix).all() or np.abs(matrix).max() > _FARTHEST:
        raise DataError(f"{what} is not finite, or very far away", stage="act")
    turn = matrix[:3, :3]
    if np.abs(matrix[3] - [0, 0, 0, 1]).max() > _TOLERANCE:
        raise DataError(f"{what} is not rigid: its last row is not 0 0 0 1", stage="act")
    if abs(np.linalg.det(turn) - 1) > _TOLERANCE:
        raise DataError(
            f"{what} is not rigid: its determinant is {np.linalg.det(turn):.4g}, wanted 1",
            stage="act",
        )
    if np.abs(turn.T @ turn - np.eye(3)).max() > 2 * _TOLERANCE:
        raise DataError(f"{what} is not rigid: its axes are not perpendicular", stage="act")
    u, _, vt = np.linalg.svd(turn)
    return make(u @ vt, matrix[:3, 3])


def make(turn: np.ndarray, position: np.ndarray) -> np.ndarray:
    """The pose `[4, 4]` of a rotation `[3, 3]` and a position `[3]`."""
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = turn, position
    return pose


def facing(position: np.ndarray, yaw: float, pitch: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """The body pose at a position of a z-up world.

    Args:
        position: `[3]` metres.
        yaw: radians to the left of the world's x axis.
        pitch: radians downwards.
        roll: radians to the right.
    """
    return make(rotation(np.array([roll, pitch, yaw])), position)


def change_camera(pose: np.ndarray, old: Camera, new: Camera) -> np.ndarray:
    """The same camera with its axes named otherwise: poses `[..., 4, 4]`."""
    change = np.eye(4)
    change[:3, :3] = _AXES[old].T @ _AXES[new]
    return pose @ change


def level(camera: Camera) -> np.ndarray:
    """A camera at the origin of a z-up world, upright, looking along the world's x axis."""
    return change_camera(np.eye(4), "body", camera)


def change_world(pose: np.ndarray, world: World) -> np.ndarray:
    """Poses `[..., 4, 4]` of a world of that kind, in a z-up world: y up becomes z up, x stays."""
    if world == "z_up":
        return pose
    return make(_Z_UP_OF_Y_UP, np.zeros(3)) @ pose


def inverse(pose: np.ndarray) -> np.ndarray:
    """World to camera."""
    turn = pose[:3, :3].T
    return make(turn, -turn @ pose[:3, 3])


def relative(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """`end` as seen from `start`: `start @ relative(start, end) = end`."""
    return inverse(start) @ end


def delta(motion: np.ndarray) -> np.ndarray:
    """A motion `[4, 4]` in the body frame as the camera slots: float64 `[6]`, metres forward, left
    and up, radians of roll, pitch and yaw."""
    return np.concatenate([motion[:3, 3], euler(motion[:3, :3])])


def matrix(slots: np.ndarray) -> np.ndarray:
    """The inverse of `delta`."""
    return make(rotation(np.asarray(slots[3:6], np.float64)), slots[:3])


def describe(slots: np.ndarray) -> str:
    """A motion in words, from its slots `[6]` as of `delta`. See `say`."""
    return say(matrix(slots)[:3, :3].T @ np.asarray(slots[:3], np.float64), *slots[3:6])


def say(way: np.ndarray, roll: float, pitch: float, yaw: float) -> str:
    """A motion in words: `turn left 30°, tilt up 5°, move forward 1.2 m`.

    The words are in the order of doing, first the turn, then the way. Nothing below 0.05° or 5 mm
    is spoken of; where nothing is left, `stay`.

    Args:
        way: `[3]` metres forward, left and up, as seen *after* the turn.
        roll, pitch, yaw: radians to the right, down, to the left.
    """
    turns = [
        _degrees(yaw, "turn left", "turn right"),
        _degrees(pitch, "tilt down", "tilt up"),
        _degrees(roll, "roll right", "roll left"),
    ]
    moves = [
        _metres(way[0], "forward", "back"),
        _metres(way[1], "left", "right"),
        _metres(way[2], "up", "down"),
    ]
    return ", ".join(filter(None, turns + moves)) or "stay"


def _degrees(angle: float, positive: str, negative: str) -> str:
    amount = f"{abs(math.degrees(angle)):.1f}".removesuffix(".0")
    return "" if float(amount) == 0 else f"{positive if angle > 0 else negative} {amount}°"


def _metres(way: float, positive: str, negative: str) -> str:
    amount = f"{abs(way):.2f}".rstrip("0").removesuffix(".")
    return "" if float(amount) == 0 else f"move {positive if way > 0 else negative} {amount} m"
