"""Which action values of a LeRobotDataset become controls, and which are not guessed."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.ops.unify import unify
from pipelines.sources import lerobot
from schemas import DataError, UsageError
from tests.pipelines.lerobot_corpus import (
    JOINTS,
    SLOT_NAMES,
    edit,
    names,
    read,
)


@pytest.fixture
def v3(tmp_path):
    return lerobot.fake(tmp_path, 3, traps=False)


def robot(path: Path, kind: object, action: object, state: object = None) -> None:
    """Makes the dataset that of another robot, whose rows are k + row / 100 in column k."""

    def change(info: dict) -> None:
        info["robot_type"] = kind
        for key, value in (("action", action), ("observation.state", state)):
            flat: Any = next(iter(value.values())) if isinstance(value, dict) else value
            size = len(flat) if flat else 6
            info["features"][key] = {"dtype": "float32", "shape": [size], "names": value}

    edit(path / "meta/info.json", change)
    features = json.loads((path / "meta/info.json").read_text())["features"]
    for file in path.glob("data/*/*.parquet"):
        rows = pq.read_table(file).to_pylist()
        for row in rows:
            for key, sign in (("action", 1), ("observation.state", -1)):
                size = features[key]["shape"][0]
                row[key] = [sign * (k / 10 + row["frame_index"] / 100) for k in range(size)]
        pq.write_table(pa.Table.from_pylist(rows), file)


def slots_of(path: Path) -> dict[str, list[float]]:
    """Slot -> the values of the first three frames of the first episode."""
    unit = next(iter(lerobot.units(str(path))))
    episode = next(iter(lerobot.episodes(unit)))
    assert not isinstance(episode, DataError)
    steps = list(unify(episode.frames, episode.controls))[:3]
    found = {SLOT_NAMES.index(control.slot) for control in episode.controls}
    return {SLOT_NAMES[i]: [float(step.control[i]) for step in steps] for i in sorted(found)}


def test_the_droid_port_has_radians_and_counts_how_closed_the_gripper_is(v3):
    values = [*(f"joint_{i}" for i in range(7)), "gripper"]
    robot(v3, "Franka", {"axes": values}, {"axes": values})
    found = slots_of(v3)
    assert list(found) == ["gripper", *(f"joint_{i}" for i in range(1, 8))]
    np.testing.assert_allclose(found["joint_3"], [-0.2, 0.2, 0.21], atol=1e-6)
    np.testing.assert_allclose(found["gripper"], [1.0, 0.3, 0.29], atol=1e-6)


def test_the_bridge_port_has_motions_which_begin_with_zero(v3):
    poses = ["x", "y", "z", "roll", "pitch", "yaw"]
    robot(v3, "widowx", {"motors": [*poses, "gripper"]}, {"motors": [*poses, "pad", "gripper"]})
    found = slots_of(v3)
    axes = ["dx", "dy", "dz", "droll", "dpitch", "dyaw"]
    assert list(found) == [*(f"ee_{axis}" for axis in axes), "gripper"]
    np.testing.assert_allclose(found["ee_dz"], [0, 0.2, 0.21], atol=1e-6)
    np.testing.assert_allclose(found["gripper"], [0, 0.6, 0.61], atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "values", "slots"),
    [
        ("koch", [f"main_{x}" for x in JOINTS], [f"joint_{i}" for i in range(1, 6)]),
        ("so101_follower", [f"{x}.pos" for x in JOINTS], ["gripper"]),
        ("aloha", [f"{side}_{x}" for side in ("left", "right") for x in JOINTS], []),
        ("panda", ["x", "y", "z", "roll", "pitch", "yaw", "gripper"], []),
        ("so100", None, []),
        (None, [f"main_{x}" for x in JOINTS], []),
        (["so100"], [f"main_{x}" for x in JOINTS], []),
    ],
)
def test_what_is_not_certain_is_not_used_and_said_once(v3, caplog, kind, values, slots):
    robot(v3, kind, values, values)
    with caplog.at_level("WARNING", "unisim"):
        units = list(lerobot.units(str(v3), 1))
    said = [record.getMessage() for record in caplog.records]
    assert len(units) == 5 and len(said) == 1
    unused = [x for x in values or ["action[0]"] if slots != ["gripper"] or "gripper" not in x]
    assert "unisim_controls.json" in said[0]
    if len(slots) != 5:
        assert all(name in said[0] for name in unused)
    assert ("the task alone is the action" in said[0]) == (not slots)
    assert list(slots_of(v3)) == slots
    assert set(read(v3)[0]) == names(*range(5))


def test_a_position_begins_with_the_first_action_where_no_state_has_its_name(v3):
    robot(v3, "koch", [f"main_{x}" for x in JOINTS])
    found = slots_of(v3)
    np.testing.assert_allclose(found["joint_2"], np.deg2rad([0.1, 0.1, 0.11]), atol=1e-6)


def test_users_state_controls_of_their_own(v3, caplog):
    robot(v3, "mine", ["base", "arm.pos", "jaw"], ["arm.pos"])
    stated = {
        "jaw": {"slot": "gripper", "unit": "%", "scale": 2, "low": 0, "high": 0.205},
        "arm.pos": {"slot": "joint_7", "unit": "deg", "scale": math.pi / 180},
        "base": {"slot": "base_dx", "unit": "m", "offset": 0.5},
    }
    (v3 / "meta/unisim_controls.json").write_text(json.dumps(stated))
    with caplog.at_level("WARNING", "unisim"):
        found = slots_of(v3)
    assert not caplog.records
    np.testing.assert_allclose(found["joint_7"], np.deg2rad([0.0, 0.1, 0.11]), atol=1e-6)
    np.testing.assert_allclose(found["gripper"], [0.4, 0.4, 0.41], atol=1e-6)
    np.testing.assert_allclose(found["base_dx"], [0.5, 0.5, 0.51], atol=1e-6)


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ([], "wanted an object"),
        ({"main_griper": {"slot": "gripper", "unit": "1"}}, "did you mean 'main_gripper'"),
        ({"main_gripper": {"slot": "griper", "unit": "1"}}, "did you mean 'gripper'"),
        ({"main_gripper": {"slot": "gripper"}}, "unit"),
        ({"main_gripper": {"slot": "gripper", "unit": "1", "bias": 1}}, "may have"),
        ({"main_gripper": {"slot": "gripper", "unit": "1", "scale": math.nan}}, "number"),
        ({"main_gripper": {"slot": "gripper", "unit": "1", "low": 1, "high": 0}}, "above"),
        ({x: {"slot": "gripper", "unit": "1"} for x in ("main_gripper", "main_wrist_roll")}, "two"),
        ({"main_gripper": 3}, "may have"),
    ],
)
def test_a_wrong_statement_is_refused_at_once(v3, stated, said):
    path = v3 / "meta/unisim_controls.json"
    path.write_text(json.dumps(stated))
    with pytest.raises(UsageError, match=said) as e:
        list(lerobot.units(str(v3)))
    assert str(path) in str(e.value) and "\n" not in str(e.value)
