"""The real Bridge release against an independent reading by TensorFlow and Pillow."""

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.ops import tfrecord
from pipelines.sources import bridge
from schemas import SLOTS, DataError, Tier
from tests.command import unisim
from tests.conftest import BRIDGE
from tests.samples import sample
from tests.table import read_table

INDEX_NAMES = [slot.name for slot in SLOTS]
CAMERAS = [f"image_{i}" for i in range(4)]


def read_raw() -> list[dict]:
    """Every episode as TensorFlow parses it."""
    import tensorflow as tf

    path = sample(BRIDGE) / "bridge_dataset-train.tfrecord-00000-of-00001"
    episodes = []
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        feature = tf.train.Example.FromString(record).features.feature
        images = {
            camera: np.stack(
                [
                    np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
                    for data in feature[f"steps/observation/{camera}"].bytes_list.value
                ]
            )
            for camera in CAMERAS
        }
        episodes.append(
            {
                "actions": np.array(feature["steps/action"].float_list.value).reshape(-1, 7),
                "states": np.array(feature["steps/observation/state"].float_list.value),
                "text": feature["steps/language_instruction"].bytes_list.value[0].decode(),
                "images": {c: v for c, v in images.items() if v.max() > 0},
            }
        )
    return episodes


def test_every_frame_action_and_instruction_is_that_of_the_raw_file(bridge_table):
    raw = read_raw()
    assert len(raw) == 25
    views = [(e, camera) for e in range(25) for camera in raw[e]["images"]]
    chunks = read_table(bridge_table, Tier(64, 64, "raw"))
    assert len(chunks) == len(views) == 75
    frames = 0
    for chunk, (number, camera) in zip(chunks, views, strict=True):
        episode = raw[number]
        assert chunk.episode_id == f"train-00000-{number:06d}@{camera}"
        np.testing.assert_array_equal(chunk.frames, episode["images"][camera])
        np.testing.assert_allclose(chunk.times, np.arange(10) / 5, atol=1e-6)
        assert chunk.text == episode["text"]
        moves = chunk.controls[:, [INDEX_NAMES.index(n) for n in bridge.INFO.slots]]
        wanted = episode["actions"][:-1].astype(np.float32)
        wanted[:, 5] = (wanted[:, 5] + np.pi) % (2 * np.pi) - np.pi
        np.testing.assert_allclose(moves[1:], wanted, atol=1e-6)
        assert (moves[0, :6] == 0).all()
        assert moves[0, 6] == np.clip(np.float32(episode["states"][6]), 0, 1)
        frames += chunk.num_frames
    assert frames == 750


def test_no_view_of_the_black_camera(bridge_table):
    names = pq.read_table(bridge_table / "index.parquet").column("episode_id").to_pylist()
    assert {name.split("@")[1] for name in names} == {"image_0", "image_1", "image_2"}


@pytest.fixture(scope="module")
def units(tmp_path_factory):
    """A clean fake, as units."""
    path = bridge.fake(tmp_path_factory.mktemp("bridge"), 3, traps=False)
    return list(bridge.units(str(path)))


def test_a_fake_reads_back_what_was_written(units):
    episodes = [e for unit in units for e in bridge.episodes(unit)]
    assert all(not isinstance(e, DataError) for e in episodes)
    assert len(episodes) == 4
    for episode in episodes:
        assert not isinstance(episode, DataError)
        assert episode.view == "image_0"
        controls = np.stack([f.control for f in episode.frames if f.control is not None])
        assert np.abs(controls).max() <= np.pi


def _damaged(tmp_path: Path, change) -> list:
    path = bridge.fake(tmp_path, 3, traps=False)
    file = path / "bridge_dataset-train.tfrecord-00000-of-00002"
    file.write_bytes(change(file.read_bytes()))
    found = []
    for unit in bridge.units(str(path)):
        try:
            for item in bridge.episodes(unit):
                found.append(item)
        except DataError as e:
            found.append(e)
    return found


def test_a_cut_file_loses_its_end_only(tmp_path):
    found = _damaged(tmp_path, lambda data: data[:-100])
    assert [isinstance(e, DataError) for e in found] == [False, False, True, False]
    assert "ends inside a record" in str(found[2])


def test_a_changed_byte_loses_one_episode(tmp_path):
    def change(data: bytes) -> bytes:
        at = list(tfrecord.offsets(io.BytesIO(data)))[1] + 500
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]

    found = _damaged(tmp_path, change)
    assert [isinstance(e, DataError) for e in found] == [False, True, False, False]
    assert found[1].key == "train-00000-000001"


def test_a_record_that_is_no_example(tmp_path):
    def change(data: bytes) -> bytes:
        stream = io.BytesIO()
        tfrecord.write(stream, [b"\xff" * 50])
        return stream.getvalue() + data

    found = _damaged(tmp_path, change)
    assert [isinstance(e, DataError) for e in found] == [True, False, False, False, False]


def test_a_large_file_is_cut_into_units_at_record_starts(tmp_path):
    path = bridge.fake(tmp_path, 3, traps=False, episodes=6)
    whole = [e for u in bridge.units(str(path)) for e in bridge.episodes(u)]
    parts = list(bridge.units(str(path), 20_000))
    assert len(parts) > 3
    again = [e for u in parts for e in bridge.episodes(u)]
    assert [(e.id, e.source_range) for e in again if not isinstance(e, DataError)] == [
        (e.id, e.source_range) for e in whole if not isinstance(e, DataError)
    ]


def test_at_half_the_rate_the_real_motion_is_kept_whole(tmp_path):
    """Sums of moves and matrix products of turns, against every action of the raw file."""
    from scipy.spatial.transform import Rotation

    out, tier = tmp_path / "out", Tier(24, 40, "raw")
    source = f"bridge={sample(BRIDGE)}"
    unisim("prepare", "--source", source, "--out", out, "--fps", "bridge=2.5")
    assert "0 violations, 0 warnings" in unisim("audit", out).stdout
    raw, chunks = read_raw(), read_table(out, tier)
    assert len(chunks) == 75
    slots = [INDEX_NAMES.index(name) for name in bridge.INFO.slots]
    for chunk in chunks:
        actions = raw[int(chunk.episode_id.split("@")[0][-6:])]["actions"]
        np.testing.assert_allclose(chunk.times, np.arange(5) / 2.5, atol=1e-6)
        controls = chunk.controls[:, slots]
        # frames 0, 2, 4, 6, 8 are kept: actions 0 to 7 lie between the first and the last of them
        np.testing.assert_allclose(controls[:, :3].sum(0), actions[:8, :3].sum(0), atol=1e-6)
        np.testing.assert_allclose(controls[1:, 6], actions[1:8:2, 6], atol=1e-6)
        turns = [Rotation.identity(), Rotation.identity()]
        for i, rows in enumerate((controls[:, 3:6], actions[:8, 3:6])):
            for angles in rows:
                turns[i] = Rotation.from_euler("xyz", angles) * turns[i]
        np.testing.assert_allclose(turns[0].as_matrix(), turns[1].as_matrix(), atol=1e-6)
