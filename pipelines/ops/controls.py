"""Composing controls when frames are dropped: nothing of the motion is lost. Pure numpy.

Poses are right-handed; roll, pitch and yaw turn about x, y and z, R = Rz(yaw) Ry(pitch) Rx(roll).
"""

from __future__ import annotations

import numpy as np

from schemas.controls import INDEX, NUM_SLOTS, SLOTS

_EE_TURN = [INDEX[f"ee_d{axis}"] for axis in ("roll", "pitch", "yaw")]
_BASE = [INDEX[f"base_d{axis}"] for axis in ("x", "y", "yaw")]
_CAMERA_MOVE = [INDEX[f"camera_d{axis}"] for axis in "xyz"]
_CAMERA_TURN = [INDEX[f"camera_d{axis}"] for axis in ("roll", "pitch", "yaw")]
_SUM = [i for i, slot in enumerate(SLOTS) if slot.compose == "sum"]
_LAST = [i for i, slot in enumerate(SLOTS) if slot.compose == "last"]


def compose(controls: np.ndarray) -> np.ndarray:
    """One control vector with the motion of n consecutive ones.

    Args:
        controls: float `[n, S]`, n >= 1, oldest first.

    Returns:
        float64 `[S]`. Each slot by its `compose` rule; for n = 1 the row itself, bit for bit.
    """
    rows = np.asarray(controls, np.float64)
    if len(rows) == 1:
        return rows[0].copy()
    total = np.zeros(NUM_SLOTS)
    if not rows.any():
        return total
    total[_SUM] = rows[:, _SUM].sum(0)
    total[_LAST] = rows[-1, _LAST]
    turn = np.eye(3)
    for row in rows:
        # the axes are fixed in the robot's base, so a later turn multiplies from the left
        turn = rotation(row[_EE_TURN]) @ turn
    total[_EE_TURN] = euler(turn)
    total[_BASE] = _compose_planar(rows[:, _BASE])
    move, turn = np.zeros(3), np.eye(3)
    for row in rows:
        # each step is given in the camera's frame before the step, so it multiplies from the right
        move = move + turn @ row[_CAMERA_MOVE]
        turn = turn @ rotation(row[_CAMERA_TURN])
    total[_CAMERA_MOVE], total[_CAMERA_TURN] = move, euler(turn)
    return total


def _compose_planar(steps: np.ndarray) -> np.ndarray:
    """SE(2) steps `[n, 3]` (x, y, yaw), each in the body's frame before it, as one step."""
    x = y = yaw = 0.0
    for dx, dy, dyaw in steps:
        x += np.cos(yaw) * dx - np.sin(yaw) * dy
        y += np.sin(yaw) * dx + np.cos(yaw) * dy
        yaw += dyaw
    return np.array([x, y, wrap(yaw)])


def wrap(angle):
    """An angle, or an array of them, brought into [-π, π)."""
    return (np.asarray(angle) + np.pi) % (2 * np.pi) - np.pi


def rotation(angles: np.ndarray) -> np.ndarray:
    """The 3×3 rotation of (roll, pitch, yaw) in radians."""
    (cr, cp, cy), (sr, sp, sy) = np.cos(angles), np.sin(angles)
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


def euler(matrix: np.ndarray) -> np.ndarray:
    """(roll, pitch, yaw) in radians of a 3×3 rotation; at pitch = ±π/2 roll is taken as 0."""
    pitch = np.arctan2(-matrix[2, 0], np.hypot(matrix[0, 0], matrix[1, 0]))
    if np.hypot(matrix[0, 0], matrix[1, 0]) < 1e-9:
        return np.array([0.0, pitch, np.arctan2(-matrix[0, 1], matrix[1, 1])])
    roll = np.arctan2(matrix[2, 1], matrix[2, 2])
    return np.array([roll, pitch, np.arctan2(matrix[1, 0], matrix[0, 0])])
