"""Open X-Embodiment's Bridge against an independent reading by TensorFlow and Pillow."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.audit import Opened, audit
from pipelines.ops import tfrecord
from pipelines.ops.unify import unify
from pipelines.sources import _bridge, bridge
from schemas import SLOTS, DataError, Tier, UsageError, example
from tests.command import files_of, unisim
from tests.table import read_table

SLOT_NAMES = [slot.name for slot in SLOTS]
TRAIN = "bridge-train.tfrecord-00000-of-00001"


def read_raw(path: Path) -> dict[str, dict]:
    """Every readable episode as TensorFlow parses it."""
    import tensorflow as tf

    episodes = {}
    for split in ("train", "test"):
        file = path / f"bridge-{split}.tfrecord-00000-of-00001"
        data = io.BytesIO(file.read_bytes())
        for number, record in enumerate(tfrecord.records(data)):
            if isinstance(record, DataError):
                continue
            feature = tf.train.Example.FromString(record.data).features.feature
            prefix = "steps/observation/"
            episodes[f"{split}-00000-{number:06d}"] = {
                "images": feature[f"{prefix}image"].bytes_list.value,
                "text": feature[f"{prefix}natural_language_instruction"].bytes_list.value,
                "state": np.array(feature[f"{prefix}state"].float_list.value).reshape(-1, 7),
                "action": np.concatenate(
                    [
                        np.array(feature["steps/action/world_vector"].float_list.value),
                        np.array(feature["steps/action/rotation_delta"].float_list.value),
                        np.array(feature["steps/action/open_gripper"].int64_list.value),
                    ]
                ),
            }
    return episodes


def test_plan_prepare_audit_twice_and_every_value_is_that_of_the_raw_file(tmp_path):
    path = bridge.fake_oxe(tmp_path, 0)
    tables = []
    for i in range(2):
        out = tmp_path / f"out{i}"
        flags = ["--source", f"bridge={path}", "--out", out, "--tier", "48x64:raw"]
        unisim("prepare", *flags, "--error-budget", "1")
        assert list(audit(Opened(str(out)))) == []
        tables.append(files_of(out))
    assert tables[0] == tables[1]
    out = tmp_path / "out0"
    dead = pq.read_table(out / "dead_letters.parquet").to_pylist()
    assert [row["key"] for row in dead] == [f"train-00000-{i:06d}" for i in (2, 3, 4)]
    chunks = read_table(out, Tier(48, 64, "raw"))
    assert {chunk.source_version for chunk in chunks} == {"0.1.0"}
    assert {chunk.split for chunk in chunks} == {"train", "test"}
    raw, whole = read_raw(path), {}
    for chunk in chunks:
        whole.setdefault(chunk.episode_id, []).append(chunk)
    assert set(whole) == {"test-00000-000000", "train-00000-000000", "train-00000-000001"}
    for name, parts in whole.items():
        episode = raw[name]
        n = len(episode["images"])
        frames = np.concatenate([part.frames for part in parts])
        wanted = [np.asarray(Image.open(io.BytesIO(data))) for data in episode["images"]]
        np.testing.assert_array_equal(frames, wanted)
        times = np.concatenate([part.times for part in parts])
        np.testing.assert_allclose(times, np.arange(n) / 5, atol=1e-5)
        text = episode["text"][0].decode()
        assert all(part.text == text or not text for part in parts)
        controls = np.concatenate([part.controls for part in parts])
        controls = controls[:, [SLOT_NAMES.index(slot) for slot in bridge.INFO.slots]]
        flat = episode["action"]
        actions = np.column_stack(
            [flat[: 3 * n].reshape(n, 3), flat[3 * n : 6 * n].reshape(n, 3), flat[6 * n :]]
        )
        np.testing.assert_allclose(controls[1:], actions[:-1], atol=1e-6)
        assert (controls[0, :6] == 0).all()
        assert controls[0, 6] == np.float32(episode["state"][0, 6])


def test_an_empty_instruction_lets_the_controls_speak(tmp_path):
    path = bridge.fake_oxe(tmp_path, 0, traps=False)
    texts = {
        e.id: {f.text for f in e.frames}
        for unit in bridge.units(str(path))
        for e in bridge.episodes(unit)
        if not isinstance(e, DataError)
    }
    assert texts["train-00000-000001"] == {""}
    assert texts["train-00000-000000"] == {"push the square left"}


def record(**changed) -> bytes:
    """A good episode of six steps, some features replaced (None leaves one out)."""
    rng = np.random.default_rng(0)
    actions, states, frames = _bridge.fake_push(rng, 6)
    fields = {
        "action/world_vector": actions[:, :3],
        "action/rotation_delta": actions[:, 3:6],
        "action/open_gripper": actions[:, 6].astype(bool),
        "action/terminate_episode": np.zeros(6),
        "observation/image": [bridge.encode_jpeg(frame) for frame in frames],
        "observation/state": states,
        "observation/natural_language_instruction": [b"push"] * 6,
    }
    fields |= {name.replace("__", "/"): value for name, value in changed.items()}
    return example.encode({f"steps/{k}": v for k, v in fields.items() if v is not None})


def write(path: Path, records: list[bytes]) -> None:
    with (path / TRAIN).open("wb") as stream:
        tfrecord.write(stream, records)
    info = json.loads((path / "dataset_info.json").read_text())
    info["splits"][0]["shardLengths"] = [str(len(records))]
    (path / "dataset_info.json").write_text(json.dumps(info))


def read(path: Path) -> list:
    """Each episode, or its error, whether it comes at once or with the frames."""
    found = []
    for unit in bridge.units(str(path)):
        if unit.split != "train":
            continue
        for item in bridge.episodes(unit):
            try:
                if not isinstance(item, DataError):
                    item = [(s.control, s.image()) for s in unify(item.frames, item.controls)]
            except DataError as e:
                item = e
            found.append(item)
    return found


BAD = {
    "no actions": {"action__world_vector": None},
    "no gripper": {"action__open_gripper": None},
    "no instruction": {"observation__natural_language_instruction": None},
    "no images": {"observation__image": []},
    "an image short": {"observation__image": [b"x"] * 5},
    "no image at all": {"observation__image": [b"x"] * 6},
    "an action short": {"action__rotation_delta": np.zeros((5, 3))},
    "half an action": {"action__rotation_delta": np.zeros(17)},
    "bytes for numbers": {"action__world_vector": [b"a"] * 18},
    "numbers for bytes": {"observation__image": np.zeros(6)},
    "grippers short": {"action__open_gripper": np.zeros(5, bool)},
    "states short": {"observation__state": np.zeros((5, 7))},
    "instructions short": {"observation__natural_language_instruction": [b"push"] * 5},
    "not UTF-8": {"observation__natural_language_instruction": [b"\xff\xfe"] * 6},
    "NaN": {"action__world_vector": np.full((6, 3), np.nan)},
    "infinite": {"action__rotation_delta": np.full((6, 3), np.inf)},
    "NaN in the state": {"observation__state": np.full((6, 7), np.nan)},
    "nothing": dict.fromkeys(
        ("action__world_vector", "action__rotation_delta", "observation__state"), np.zeros(0)
    )
    | {"action__open_gripper": np.zeros(0), "observation__image": []},
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_costs_itself_alone(tmp_path, name):
    path = bridge.fake_oxe(tmp_path, 0, traps=False)
    write(path, [record(), record(**BAD[name]), record()])
    found = read(path)
    assert [isinstance(item, DataError) for item in found] == [False, True, False]
    assert str(found[1]) and "\n" not in str(found[1])


def test_black_frames_throughout_are_no_episode(tmp_path):
    path = bridge.fake_oxe(tmp_path, 0, traps=False)
    black = bridge.encode_jpeg(np.zeros((48, 64, 3), np.uint8))
    write(path, [record(observation__image=[black] * 6), record()])
    found = read(path)
    assert [isinstance(item, DataError) for item in found] == [True, False]


def test_turns_over_pi_are_wrapped(tmp_path):
    path = bridge.fake_oxe(tmp_path, 0, traps=False)
    turns = np.zeros((6, 3))
    turns[2, 2] = 6.27
    write(path, [record(action__rotation_delta=turns)])
    controls = np.array([control for control, _ in read(path)[0]])
    yaw = controls[:, SLOT_NAMES.index("ee_dyaw")]
    np.testing.assert_allclose(yaw, [0, 0, 0, 6.27 - 2 * np.pi, 0, 0], atol=1e-5)


def test_the_release_is_told_by_its_features_not_by_its_folder(tmp_path):
    oxe = bridge.fake_oxe(tmp_path, 0, traps=False)
    renamed = oxe.rename(tmp_path / "somewhere")
    units = list(bridge.units(str(renamed)))
    assert {unit.version for unit in units} == {"0.1.0"}
    table = {e.controls for u in units for e in bridge.episodes(u) if not isinstance(e, DataError)}
    assert [{c.name.split()[0] for c in controls} for controls in table] == [{"0.1.0"}]


def test_another_datasets_features_are_refused(tmp_path):
    path = bridge.fake_oxe(tmp_path, 0, traps=False)
    features = (path / "features.json").read_text()
    (path / "features.json").write_text(features.replace("open_gripper", "gripper_closedness"))
    with pytest.raises(UsageError, match=r"neither release 1\.0\.0 nor 0\.1\.0"):
        list(bridge.units(str(path)))
    for junk in ("[]", "null", "{}", '{"featuresDict": []}', "[" * 100_000):
        (path / "features.json").write_text(junk)
        with pytest.raises(UsageError) as error:
            list(bridge.units(str(path)))
        assert "\n" not in str(error.value)


def test_all_releases_controls_are_listed_by_name():
    names = [control.name for control in bridge.INFO.controls]
    assert len(set(names)) == len(names) == 21
    wanted = (
        "1.0.0 action[0]",
        "0.1.0 world_vector[0]",
        "0.1.0 rotation_delta[2]",
        "raw actions[5]",
    )
    assert set(wanted) <= set(names)
    assert json.dumps(bridge.INFO.slots) == json.dumps(SLOT_NAMES[:7])
