"""Which action values of which robots fill which control slots.

`info.json` names the action's values but states neither units nor whether they are positions or
motions, so a table is kept per robot, of what the recording code is known to write. What no table
holds is not guessed: users state it in `meta/unisim_controls.json`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from pipelines import files
from pipelines.episode import Control
from pipelines.sources import _lerobot_meta as meta
from schemas import DataError, did_you_mean
from schemas.controls import INDEX

FILE = "unisim_controls.json"
_DEGREE = math.pi / 180
_FIELDS = ("slot", "unit", "scale", "offset", "low", "high", "wrap")


class Robot(NamedTuple):
    """A robot's table.

    Attributes:
        types: its `robot_type`s, in lower case.
        names: all values of its action; one more or less, and it is another robot.
        controls: those of them whose meaning is certain.
    """

    types: tuple[str, ...]
    names: tuple[str, ...]
    controls: tuple[Control, ...]


_ARM = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll")
# up to lerobot 0.1: joints in degrees, at most ±270, from a calibrated zero pose
_OLD_ARM = tuple(
    Control(
        name=f"main_{name}", slot=f"joint_{i}", unit="deg", scale=_DEGREE, low=-270.0, high=270.0
    )
    for i, name in enumerate(_ARM, 1)
)
_OLD_NAMES = (*(control.name for control in _OLD_ARM), "main_gripper")


def _percent(name: str) -> Control:
    """A gripper from 0, closed, to 100, open."""
    return Control(name=name, slot="gripper", unit="%", scale=0.01, low=0.0, high=100.0)


_FRANKA_JOINTS = tuple(
    Control(name=f"joint_{i}", slot=f"joint_{i + 1}", unit="rad") for i in range(7)
)
_EE = {"x": "dx", "y": "dy", "z": "dz", "roll": "droll", "pitch": "dpitch", "yaw": "dyaw"}

ROBOTS = (
    Robot(("so100", "so101"), _OLD_NAMES, (*_OLD_ARM, _percent("main_gripper"))),
    # its gripper is in degrees as well, and how far it opens is nowhere stated
    Robot(("koch",), _OLD_NAMES, _OLD_ARM),
    # from lerobot 0.2 on the joints are degrees or -100..100 of the calibrated range, as the
    # operator set `use_degrees`, which is not recorded: only the gripper is certain
    Robot(
        ("so100_follower", "so101_follower", "so_follower"),
        tuple(f"{name}.pos" for name in (*_ARM, "gripper")),
        (_percent("gripper.pos"),),
    ),
    # lerobot's port of DROID: joint positions, and a gripper that counts how closed it is
    Robot(
        ("franka",),
        (*(control.name for control in _FRANKA_JOINTS), "gripper"),
        (
            *_FRANKA_JOINTS,
            Control(
                name="gripper", slot="gripper", unit="1", scale=-1.0, offset=1.0, low=0.0, high=1.0
            ),
        ),
    ),
    # ports of Bridge. Others have the same names for what is absolute, or scaled to ±1 (LIBERO)
    Robot(
        ("widowx",),
        (*_EE, "gripper"),
        (
            *(
                Control(
                    name=name,
                    slot=f"ee_{axis}",
                    unit="m" if i < 3 else "rad",
                    wrap=i >= 3,
                )
                for i, (name, axis) in enumerate(_EE.items())
            ),
            Control(name="gripper", slot="gripper", unit="1", low=0.0, high=1.0),
        ),
    ),
)


def all_controls() -> tuple[Control, ...]:
    """Every table's controls, each once."""
    return tuple(dict.fromkeys(control for robot in ROBOTS for control in robot.controls))


def table(dataset: meta.Dataset) -> tuple[Control, ...]:
    """The controls of a dataset: those that its `meta/unisim_controls.json` states, else its
    robot's, else none.

    Raises:
        DataError: if that file is wrong.
    """
    uri = files.join(dataset.root, "meta", FILE)
    if files.exists(uri):
        try:
            return _stated(meta.read_json(uri), dataset.action)
        except DataError as e:
            e.uri = uri
            raise
    for robot in ROBOTS:
        if dataset.robot in robot.types and sorted(robot.names) == sorted(dataset.action):
            return robot.controls
    return ()


def _stated(value: dict[str, Any], names: tuple[str, ...]) -> tuple[Control, ...]:
    controls = tuple(_control(name, fields, names) for name, fields in value.items())
    slots = [control.slot for control in controls]
    if len(set(slots)) < len(slots):
        raise DataError(f"{FILE}: two values for one slot, of {', '.join(slots)}")
    return controls


def _control(name: str, fields: Any, names: tuple[str, ...]) -> Control:
    if name not in names:
        raise DataError(f"{FILE}: no action value {name[:80]!r}; {did_you_mean(name, list(names))}")
    if not isinstance(fields, dict) or not set(fields) <= set(_FIELDS):
        raise DataError(f"{FILE}: {name!r} may have {', '.join(_FIELDS)}")
    slot, unit, wrap = (fields.get(x) for x in ("slot", "unit", "wrap"))
    if not isinstance(slot, str) or slot not in INDEX:
        near = did_you_mean(meta.shown(slot), list(INDEX))
        raise DataError(f"{FILE}: the slot of {name!r} is {meta.shown(slot)}; {near}")
    if not isinstance(unit, str) or not isinstance(wrap, bool | None):
        raise DataError(f"{FILE}: the unit of {name!r} is no text, or wrap neither true nor false")
    numbers = {x: fields[x] for x in ("scale", "offset", "low", "high") if x in fields}
    for field, number in numbers.items():
        if not meta.is_number(number):
            raise DataError(f"{FILE}: {field} of {name!r} is {meta.shown(number)}, wanted a number")
    if numbers.get("low", -math.inf) > numbers.get("high", math.inf):
        raise DataError(f"{FILE}: low of {name!r} is above high")
    return Control(name=name, slot=slot, unit=unit, wrap=bool(wrap), **numbers)
