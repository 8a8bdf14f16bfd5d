"""RT-1 against TensorFlow's own reading and writing, real frames, and the real statistics."""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.episode import Episode
from pipelines.ops.unify import unify
from pipelines.sources import rt1
from schemas import SLOTS, DataError, Tier, UsageError
from tests.command import unisim
from tests.samples import sample
from tests.table import read_table

NAMES = [slot.name for slot in SLOTS]
FIELDS = {
    "world_vector": 3,
    "rotation_delta": 3,
    "gripper_closedness_action": 1,
    "base_displacement_vector": 2,
    "base_displacement_vertical_rotation": 1,
}
SLOTS_OF = "ee_dx ee_dy ee_dz ee_droll ee_dpitch ee_dyaw gripper_delta base_dx base_dy base_dyaw"
HALF_TURN = math.pi / 2
LIMITS = [1.0, 1.0, 1.0, HALF_TURN, HALF_TURN, HALF_TURN, 1.0, 1.0, 1.0, math.pi]


def tensorflow_record(actions: np.ndarray, frames: np.ndarray, texts: list[str]) -> bytes:
    """A record of the release's fields, written by TensorFlow alone."""
    import tensorflow as tf

    def numbers(values):
        return tf.train.Feature(float_list=tf.train.FloatList(value=np.ravel(values)))

    def strings(values):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))

    feature, start = {}, 0
    for name, width in FIELDS.items():
        feature[f"steps/action/{name}"] = numbers(actions[:, start : start + width])
        start += width
    modes = np.array([[0, 1, 0]] * (len(actions) - 1) + [[1, 0, 0]])
    feature["steps/action/terminate_episode"] = tf.train.Feature(
        int64_list=tf.train.Int64List(value=modes.ravel())
    )
    jpegs = [tf.io.encode_jpeg(frame, quality=95).numpy() for frame in frames]
    feature["steps/observation/image"] = strings(jpegs)
    instruction = "steps/observation/natural_language_instruction"
    feature[instruction] = strings([text.encode() for text in texts])
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def tensorflow_reading(path: Path) -> list[dict]:
    """Every trajectory of a file, as TensorFlow reads it, padding and all."""
    import tensorflow as tf

    found = []
    for data in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        feature = tf.train.Example.FromString(data).features.feature
        parts = [
            np.reshape(feature[f"steps/action/{name}"].float_list.value, (-1, width))
            for name, width in FIELDS.items()
        ]
        images = feature["steps/observation/image"].bytes_list.value
        exact = "INTEGER_ACCURATE"  # as libjpeg's default
        frames = [tf.io.decode_jpeg(data, dct_method=exact).numpy() for data in images]
        instruction = "steps/observation/natural_language_instruction"
        texts = [text.decode() for text in feature[instruction].bytes_list.value]
        found.append({"actions": np.hstack(parts), "frames": np.stack(frames), "texts": texts})
    return found


def motions(actions: np.ndarray) -> np.ndarray:
    """`[t, 10]` in the slots: what led to each frame after the first, within the bounds."""
    limited = np.clip(actions[:-1], -np.array(LIMITS), LIMITS)
    limited[:, 6] *= -1
    return np.vstack([np.zeros(10), limited])


def write(root: Path, items: list[bytes]) -> Path:
    folder = root / "fractal20220817_data" / "0.1.0"
    folder.mkdir(parents=True)
    rt1.write_rlds(folder, [items], rt1.FEATURES)
    return folder


def test_real_frames_through_prepare_and_audit(tmp_path):
    """One real episode's frames behind two black ones, with the real statistics' actions."""
    real = np.load(sample("rt1/fractal_episode.npz"))["image"]
    statistics = json.loads(sample("rt1/fractal_statistics.json").read_text())["action"]
    frames = np.concatenate([np.zeros_like(real[:2]), real])
    rng = np.random.default_rng(0)
    actions = np.zeros((24, 10), np.float32)
    actions[:, :6] = rng.normal(statistics["mean"][:6], statistics["std"][:6], (24, 6))
    actions[:, 6] = rng.choice([-1, 0, 1], 24)
    actions[:, 7:] = rng.uniform(-0.1, 0.1, (24, 3))
    actions[5, 1] = statistics["max"][1]
    actions[:2] = 0.7  # of the padding
    actions[-1] = np.nan  # of the terminal step
    texts = ["", ""] + ["pick rxbar chocolate from bottom drawer and place on counter"] * 22
    folder = write(tmp_path, [tensorflow_record(actions, frames, texts)])
    out = tmp_path / "out"
    unisim(
        *("prepare", "--source", f"rt1={folder}", "--out", out),
        *("--tier", "24x40:raw", "--tier", "256x320:raw"),
    )
    assert "0 violations" in unisim("audit", out).stdout

    (raw,) = tensorflow_reading(folder / "fractal20220817_data-train.tfrecord-00000-of-00001")
    chunks = read_table(out, Tier(256, 320, "raw"))
    assert [chunk.num_frames for chunk in chunks] == [16, 6]
    np.testing.assert_array_equal(np.concatenate([c.pixels() for c in chunks]), raw["frames"][2:])
    times = np.concatenate([chunk.times for chunk in chunks])
    np.testing.assert_allclose(times, np.arange(22) / 3, atol=1e-5)
    assert {chunk.text for chunk in chunks} == {raw["texts"][2]}
    assert chunks[0].fps == 3.0 and chunks[0].license == "CC BY 4.0"
    slots = [NAMES.index(name) for name in SLOTS_OF.split()]
    assert set(np.flatnonzero(chunks[0].control_mask)) == set(slots)
    controls = np.concatenate([chunk.controls for chunk in chunks])[:, slots]
    np.testing.assert_allclose(controls, motions(raw["actions"][2:]), atol=1e-6)
    assert controls[4, 1] == 1.0 and raw["actions"][5, 1] == np.float32(22.09052848815918)
    (dataset,) = json.loads((out / "manifest.json").read_text())["datasets"]
    assert dataset["clipped"] == {"ee_dy": 1}


def test_the_stated_bounds_hold_the_real_actions_but_for_world_vector():
    statistics = json.loads(sample("rt1/fractal_statistics.json").read_text())["action"]
    table = {control.slot: control for control in rt1.INFO.controls}
    for i, slot in enumerate(SLOTS_OF.split()[:6]):
        low, high = table[slot].low, table[slot].high
        assert low is not None and high is not None
        assert low < statistics["p01"][i] < statistics["p99"][i] < high
        inside = low <= statistics["min"][i] and statistics["max"][i] <= high
        assert inside == (slot in ("ee_droll", "ee_dpitch", "ee_dyaw")), slot
        # the bounds of turns are real ones: some command comes within a fortieth of them
        assert not inside or statistics["max"][i] > high * 39 / 40
    assert max(statistics["max"]) == pytest.approx(22.09, abs=0.01)


def test_the_fake_with_its_traps_through_prepare(tmp_path):
    folder = rt1.fake(tmp_path / "raw", 5)
    unisim(
        *("prepare", "--source", f"rt1={folder}", "--out", tmp_path / "out"),
        *("--tier", "48x64:raw", "--error-budget", "1"),
    )
    letters = pq.read_table(tmp_path / "out/dead_letters.parquet").to_pylist()
    lost = [(letter["key"], letter["stage"]) for letter in letters]
    assert lost == [("train-00000-000000", "read"), ("train-00001-000003", "decode")]
    (dataset,) = json.loads((tmp_path / "out/manifest.json").read_text())["datasets"]
    assert dataset["clipped"] == {"ee_dy": 1}  # the 22.09; the terminal 1e6 are not looked at
    assert dataset["controls"]["ee_dy"]["max"] == 1.0
    chunks = read_table(tmp_path / "out", Tier(48, 64, "raw"))
    assert all(chunk.pixels().max((1, 2, 3)).min() > 8 for chunk in chunks)
    first = {chunk.episode_id: chunk for chunk in chunks if chunk.is_first}
    assert len(first) == 5
    base = [NAMES.index(f"base_{axis}") for axis in ("dx", "dy", "dyaw")]
    driven = first["train-00001-000000"].controls[3, base]
    np.testing.assert_allclose(driven, [0.2, -0.1, 0.5], atol=1e-6)
    assert first["train-00001-000001"].text.startswith("move the arm")  # no instruction


def test_padding_is_dropped_and_its_actions_are_no_motion(tmp_path):
    frames = np.full((6, 48, 64, 3), 90, np.uint8)
    frames[:3] = 0
    frames[4] = 0  # a black frame among real ones is no padding
    actions = np.arange(60, dtype=np.float32).reshape(6, 10) / 100
    item = rt1.record(actions, np.array([1, 1, 1, 1, 1, 0]), frames, "push")
    (episode,) = read(write(tmp_path, [item]))
    assert isinstance(episode, Episode)
    kept = list(episode.frames)
    assert [frame.time for frame in kept] == [0, 1 / 3, 2 / 3]
    assert [int(frame.image().max()) > 8 for frame in kept] == [True, False, True]
    controls = np.stack([frame.control for frame in kept if frame.control is not None])
    np.testing.assert_array_equal(controls, [np.zeros(10), actions[3], actions[4]])


def test_an_instruction_that_changes_is_that_of_the_step_before(tmp_path):
    frames = np.full((4, 48, 64, 3), 90, np.uint8)
    texts = ["pick", "pick", "plaçe  it", "nothing"]
    (episode,) = read(write(tmp_path, [tensorflow_record(np.zeros((4, 10)), frames, texts)]))
    assert isinstance(episode, Episode)
    assert [frame.text for frame in episode.frames] == ["pick", "pick", "pick", "plaçe  it"]


def read(folder: Path) -> list[Episode | DataError]:
    """All episodes, their frames decoded; what is raised on the way stands in their place."""
    found = []
    for unit in rt1.units(str(folder)):
        try:
            for item in rt1.episodes(unit):
                try:
                    if isinstance(item, Episode):
                        _ = [frame.image() for frame in item.frames]
                    found.append(item)
                except DataError as e:
                    found.append(e)
        except DataError as e:
            found.append(e)
    return found


def changed(change) -> bytes:
    """A good record after `change(feature)` of TensorFlow's map of its features."""
    import tensorflow as tf

    frames = np.full((4, 48, 64, 3), 90, np.uint8)
    parsed = tf.train.Example.FromString(
        rt1.record(np.zeros((4, 10)), np.array([1, 1, 1, 0]), frames, "push")
    )
    change(parsed.features.feature)
    return parsed.SerializeToString()


ACTION, SEEN = "steps/action/", "steps/observation/"


def replaced(name: str, values: list):
    def change(feature):
        feature[name].Clear()
        kind = "bytes_list" if isinstance((values or [0.0])[0], bytes) else "float_list"
        getattr(feature[name], kind).value.extend(values)

    return change


def inflate(values) -> None:
    """Has the header of the third JPEG announce 65535 × 65535 pixels."""
    size = values[2].index(b"\xff\xc0") + 5
    values[2] = values[2][:size] + b"\xff" * 4 + values[2][size + 4 :]


def images(change):
    def apply(feature):
        change(feature[f"{SEEN}image"].bytes_list.value)

    return apply


BAD = {
    "no images": (images(lambda v: v.__delitem__(slice(None))), "no frame"),
    "no image feature": (lambda f: f.pop(f"{SEEN}image"), "is missing"),
    "one image less": (images(lambda v: v.pop()), "4 steps, but there are 3 images"),
    "images as numbers": (replaced(f"{SEEN}image", [1.0]), "wanted bytes"),
    "first image cut short": (images(lambda v: v.__setitem__(0, v[0][:-30])), "damaged JPEG"),
    "last image cut short": (images(lambda v: v.__setitem__(3, v[3][:-30])), "damaged JPEG"),
    "an image bomb": (images(inflate), "decompression bomb"),
    "no action": (lambda f: f.pop(f"{ACTION}rotation_delta"), "is missing"),
    "a number short": (lambda f: f[f"{ACTION}world_vector"].float_list.value.pop(), "11 numbers"),
    "a step short": (replaced(f"{ACTION}base_displacement_vector", [0.0] * 6), "has 3 steps"),
    "action as bytes": (replaced(f"{ACTION}world_vector", [b"x"] * 12), "wanted numbers"),
    "not UTF-8": (replaced(f"{SEEN}natural_language_instruction", [b"\xff"] * 4), "not UTF-8"),
    "one instruction": (replaced(f"{SEEN}natural_language_instruction", [b"a"]), "has 1 steps"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_is_lost_alone(name, tmp_path):
    change, reason = BAD[name]
    good = changed(lambda feature: None)
    found = read(write(tmp_path, [good, changed(change), good]))
    assert [isinstance(item, DataError) for item in found] == [False, True, False]
    assert reason in str(found[1])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_command_that_is_no_number_costs_its_episode(tmp_path, value):
    good = changed(lambda feature: None)
    bad = changed(replaced(f"{ACTION}world_vector", [0.0, value] + [0.0] * 10))
    first, second, third = read(write(tmp_path, [good, bad, good]))
    for episode in (first, third):
        assert isinstance(episode, Episode)
        assert len(list(unify(episode.frames, episode.controls))) == 4
    assert isinstance(second, Episode)
    with pytest.raises(DataError, match="control of frame 1 is not 10 finite numbers"):
        list(unify(second.frames, second.controls))


def test_all_black_is_no_episode(tmp_path):
    frames = np.zeros((3, 48, 64, 3), np.uint8)
    black = rt1.record(np.zeros((3, 10)), np.array([1, 1, 0]), frames, "push")
    found = read(write(tmp_path, [black, changed(lambda feature: None)]))
    assert [isinstance(item, DataError) for item in found] == [True, False]
    assert isinstance(found[0], DataError) and found[0].key == "train-00000-000000"


def test_a_cut_file_loses_its_end_only(tmp_path):
    folder = rt1.fake(tmp_path, 3, traps=False)
    file = folder / "fractal20220817_data-train.tfrecord-00000-of-00002"
    file.write_bytes(file.read_bytes()[:-100])
    assert [isinstance(item, DataError) for item in read(folder)] == [False, False, True] + [
        False
    ] * 3


def test_a_folder_of_something_else_is_refused(tmp_path):
    from pipelines.sources import bridge

    with pytest.raises(UsageError, match=r"no dataset_info\.json here"):
        list(rt1.units(str(tmp_path)))
    with pytest.raises(UsageError, match="not the release of RT-1; `unisim sources rt1`"):
        list(rt1.units(str(bridge.fake(tmp_path, 0))))
    folder = rt1.fake(tmp_path, 0)
    for file in folder.glob("*.tfrecord*"):
        file.unlink()
    with pytest.raises(UsageError, match="download the dataset's shards"):
        list(rt1.units(str(folder)))
