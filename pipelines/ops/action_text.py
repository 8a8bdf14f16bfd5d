"""Writing controls as text, for actions that nobody described. Pure.

UniSim keeps low-level controls both as text and as bins; an action's text is never empty.
"""

from __future__ import annotations

import math

import numpy as np

from pipelines.ops import pose
from schemas.controls import INDEX, SLOTS

_WORDS = {
    "ee": "move the arm",
    "base": "drive the base",
}
_AXES = ("dx", "dy", "dz", "droll", "dpitch", "dyaw")
_CAMERA = [INDEX[f"camera_{axis}"] for axis in _AXES]


def controls_text(control: np.ndarray, mask: np.ndarray) -> str:
    """A control vector in words, e.g. `move the arm x +0.012 y -0.030 m, open the gripper`; a
    camera's as `pipelines.ops.pose.describe` has them: `turn left 30°, move forward 1.2 m`.

    Args:
        control: float `[S]`, composed over the whole action.
        mask: bool `[S]`; slots outside it are not spoken of.

    Returns:
        Never empty: `observe` where there is no control, `stay` where nothing moves.
    """
    if not mask.any():
        return "observe"
    parts = []
    for body, words in _WORDS.items():
        moved = _moved(body, control, mask)
        if moved:
            parts.append(f"{words} {moved}")
    camera = pose.describe(np.where(mask, control, 0.0)[_CAMERA])
    if camera != "stay":
        parts.append(camera)
    joints = [i for i, slot in enumerate(SLOTS) if slot.name.startswith("joint_") and mask[i]]
    if joints:
        values = " ".join(f"{math.degrees(control[i]):.0f}" for i in joints)
        parts.append(f"set the joints to {values} degrees")
    gripper = _gripper(control, mask)
    if gripper:
        parts.append(gripper)
    return ", ".join(parts) or "stay"


def _moved(body: str, control: np.ndarray, mask: np.ndarray) -> str:
    """`x +0.012 y -0.030 m yaw +5 degrees` of one body; nothing below a millimetre, a degree."""
    metres, degrees = [], []
    for axis in _AXES:
        i = INDEX.get(f"{body}_{axis}")
        if i is None or not mask[i]:
            continue
        if SLOTS[i].unit == "m" and abs(control[i]) >= 0.0005:
            metres.append(f"{axis[1:]} {control[i]:+.3f}")
        elif SLOTS[i].unit == "rad" and abs(control[i]) >= math.radians(0.5):
            degrees.append(f"{axis[1:]} {math.degrees(control[i]):+.0f}")
    text = " ".join([*metres, "m"]) if metres else ""
    return " ".join(filter(None, [text, " ".join([*degrees, "degrees"]) if degrees else ""]))


def _gripper(control: np.ndarray, mask: np.ndarray) -> str:
    opening, delta = INDEX["gripper"], INDEX["gripper_delta"]
    if mask[opening]:
        percent = round(100 * float(control[opening]))
        words = {0: "close the gripper", 100: "open the gripper"}
        return words.get(percent, f"open the gripper to {percent} percent")
    if mask[delta] and control[delta]:
        return "open the gripper" if control[delta] > 0 else "close the gripper"
    return ""
