"""The real Language Table release against an independent reading by TensorFlow and Pillow, its
fake against tensorflow-datasets, and what may be wrong with its files."""

import dataclasses
import io
import json
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines import sources
from pipelines.episode import Episode, Source
from pipelines.ops import tfrecord
from pipelines.sources import language_table
from schemas import SLOTS, Chunk, DataError, Tier, UsageError, example
from tests.command import unisim
from tests.samples import sample
from tests.table import read_table

NAME = "language_table_blocktoblock_oracle_sim"
FOLDER = f"language_table/{NAME}/0.0.1"
TIER = Tier(360, 640, "raw")  # the images' own size: no pixel is resized
XY = [[slot.name for slot in SLOTS].index(name) for name in ("ee_dx", "ee_dy")]
OTHERS = [i for i in range(len(SLOTS)) if i not in XY]
LENGTHS = [24, 46, 42]
FIRST = "language_table_sim-train.tfrecord-00000"  # of the fake


def read_raw() -> list[dict]:
    """Every episode as TensorFlow parses it."""
    import tensorflow as tf

    path = sample(FOLDER) / f"{NAME}-train.tfrecord-00000-of-00001"
    episodes = []
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        feature = tf.train.Example.FromString(record).features.feature
        codes = np.array(feature["steps/observation/instruction"].int64_list.value)
        target = feature["steps/observation/effector_target_translation"].float_list.value
        episodes.append(
            {
                "actions": np.array(feature["steps/action"].float_list.value).reshape(-1, 2),
                "targets": np.array(target).reshape(-1, 2),
                "terminal": np.array(feature["steps/is_terminal"].int64_list.value, bool),
                "texts": [
                    bytes(code for code in row if code).decode() for row in codes.reshape(-1, 512)
                ],
                "frames": [
                    np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
                    for data in feature["steps/observation/rgb"].bytes_list.value
                ],
            }
        )
    return episodes


@pytest.fixture(scope="module")
def raw() -> list[dict]:
    return read_raw()


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """The real sample, as the command makes it: every frame, no pixel resized."""
    out = tmp_path_factory.mktemp("language_table") / "table"
    source = f"language_table={sample(FOLDER)}"
    unisim("prepare", "--source", source, "--out", out, "--tier", str(TIER))
    return out


def by_episode(out: Path, tier: Tier) -> dict[str, list[Chunk]]:
    found: dict[str, list[Chunk]] = {}
    for chunk in read_table(out, tier):
        found.setdefault(chunk.episode_id, []).append(chunk)
    return found


def joined(chunks: list[Chunk], field: str) -> np.ndarray:
    return np.concatenate([getattr(chunk, field) for chunk in chunks])


def test_the_table_of_the_real_sample_passes_the_audit(table):
    assert "0 violations, 0 warnings" in unisim("audit", table).stdout
    index = pq.read_table(table / "index.parquet")
    assert sum(index.column("clipped").to_pylist()) == 0
    assert pq.read_table(table / "dead_letters.parquet").num_rows == 0


def test_every_frame_control_time_and_text_is_that_of_the_raw_file(table, raw):
    episodes = by_episode(table, TIER)
    assert list(episodes) == [f"{NAME}-train-00000-{i:06d}" for i in range(3)]
    assert [len(episode["frames"]) for episode in raw] == LENGTHS
    for chunks, episode in zip(episodes.values(), raw, strict=True):
        n = len(episode["frames"])
        assert [chunk.num_frames for chunk in chunks] == [16] * (n // 16) + [n % 16]
        frames = joined(chunks, "frames")
        assert len(frames) == n
        for i in range(n):
            np.testing.assert_array_equal(frames[i], episode["frames"][i])
        np.testing.assert_allclose(joined(chunks, "times"), np.arange(n) / 10, atol=1e-6)
        controls = joined(chunks, "controls")
        wanted = np.concatenate([np.zeros((1, 2)), episode["actions"][:-1]])
        np.testing.assert_array_equal(controls[:, XY], wanted.astype(np.float32))
        assert not controls[:, OTHERS].any()
        bins = joined(chunks, "control_bins")
        np.testing.assert_array_equal(bins[:, XY], np.floor((wanted + 1) * 2048))
        for chunk in chunks:
            assert {chunk.text} == set(episode["texts"])
            assert list(np.flatnonzero(chunk.control_mask)) == XY
            assert (chunk.dataset, chunk.split, chunk.fps) == ("language_table", "train", 10.0)
            assert chunk.source_version == "0.0.1"
        assert [chunk.is_first for chunk in chunks] == [i == 0 for i in range(len(chunks))]
        assert [chunk.is_last for chunk in chunks][::-1] == [i == 0 for i in range(len(chunks))]


def test_at_half_the_rate_the_real_motion_is_summed(tmp_path, raw):
    out, tier = tmp_path / "out", Tier(24, 40, "raw")
    source = f"language_table={sample(FOLDER)}"
    unisim("prepare", "--source", source, "--out", out, "--fps", "language_table=5")
    assert "0 violations, 0 warnings" in unisim("audit", out).stdout
    for chunks, episode in zip(by_episode(out, tier).values(), raw, strict=True):
        kept = range(0, len(episode["frames"]), 2)
        np.testing.assert_allclose(joined(chunks, "times"), np.arange(len(kept)) / 5, atol=1e-6)
        controls = joined(chunks, "controls")[:, XY]
        actions, targets = episode["actions"], episode["targets"]
        assert not controls[0].any()
        wanted = [actions[i - 2] + actions[i - 1] for i in kept[1:]]
        np.testing.assert_allclose(controls[1:], wanted, atol=1e-7)
        # which is how far the effector's target moved between the frames that were kept
        np.testing.assert_allclose(controls[1:], np.diff(targets[kept], axis=0), atol=1e-6)
        np.testing.assert_allclose(controls.sum(0), targets[kept[-1]] - targets[0], atol=1e-6)
        assert {chunk.text for chunk in chunks} == set(episode["texts"])


def test_a_real_action_leads_from_its_own_step_to_the_next(raw):
    for episode in raw:
        moved = np.diff(episode["targets"], axis=0)
        np.testing.assert_allclose(episode["actions"][:-1], moved, atol=1e-7)
        # one step later or earlier it would not fit
        assert np.abs(episode["actions"][1:] - moved).max() > 1e-3
        assert list(np.flatnonzero(episode["terminal"])) == [len(episode["actions"]) - 1]
        assert np.abs(episode["actions"]).max() <= 0.1


def read(path: Path, target_bytes: int = 1 << 30) -> list[Episode | DataError]:
    """Everything in a folder, each unit by way of JSON, as a plan keeps it."""
    found: list[Episode | DataError] = []
    for unit in language_table.units(str(path), target_bytes):
        again = type(unit)(**json.loads(json.dumps(dataclasses.asdict(unit))))
        try:
            for item in language_table.episodes(again):
                found.append(item)
        except DataError as e:
            found.append(e)
    return found


def whole(item: Episode | DataError) -> Episode:
    assert isinstance(item, Episode), item
    return item


def contents(item: Episode | DataError) -> list[tuple]:
    """All that an episode's frames hold, decoded."""
    frames = whole(item).frames
    return [(f.time, f.image().tobytes(), np.asarray(f.control).tolist(), f.text) for f in frames]


@pytest.fixture
def clean(tmp_path) -> Path:
    return language_table.fake(tmp_path / "clean", 3, traps=False)


def test_the_module_is_a_source():
    assert isinstance(sources.get("language_table"), Source)
    assert [(c.slot, c.unit, c.low, c.high) for c in language_table.INFO.controls] == [
        ("ee_dx", "m", -0.1, 0.1),
        ("ee_dy", "m", -0.1, 0.1),
    ]


def test_tensorflow_datasets_reads_the_fake_as_we_do(clean):
    tfds = pytest.importorskip("tensorflow_datasets")
    config = tfds.ReadConfig(interleave_cycle_length=1)
    theirs = tfds.builder_from_directory(clean).as_dataset(split="train", read_config=config)
    count = 0
    for item, episode in zip(read(clean), theirs, strict=True):
        frames = list(whole(item).frames)
        steps = list(episode["steps"].as_numpy_iterator())
        assert len(frames) == len(steps)
        assert [step["is_last"] for step in steps] == [False] * (len(steps) - 1) + [True]
        for i, (frame, step) in enumerate(zip(frames, steps, strict=True)):
            before = steps[max(i - 1, 0)]
            instruction = bytes(before["observation"]["instruction"].astype(np.uint8))
            assert frame.text.encode() == instruction.rstrip(b"\0")
            np.testing.assert_array_equal(frame.control, before["action"] if i else np.zeros(2))
            # TensorFlow's JPEG decoder rounds otherwise than Pillow's
            pixels = step["observation"]["rgb"].astype(int)
            assert np.abs(pixels - frame.image()).max() <= 8
        count += 1
    assert count == 4


def test_the_open_x_embodiment_copy_reads_the_same(clean, tmp_path):
    """Version 0.1.0, whose files are named with -of-NNNNN."""
    copy = tmp_path / "language_table" / "0.1.0"
    copy.mkdir(parents=True)
    shutil.copy(clean / "features.json", copy)
    info = json.loads((clean / "dataset_info.json").read_text())
    info |= {"version": "0.1.0", "name": "language_table"}
    (copy / "dataset_info.json").write_text(json.dumps(info))
    for i in range(2):
        new = f"language_table-train.tfrecord-0000{i}-of-00002"
        shutil.copy(clean / f"language_table_sim-train.tfrecord-0000{i}", copy / new)
    assert {unit.version for unit in language_table.units(str(copy))} == {"0.1.0"}
    ours, theirs = read(clean), read(copy)
    assert [contents(e) for e in ours] == [contents(e) for e in theirs]
    assert whole(ours[0]).id == "language_table_sim-train-00000-000000"
    assert whole(theirs[0]).id == "language_table-train-00000-000000"


def test_the_estimate_follows_the_release_and_not_the_folder(clean, tmp_path):
    (plain,) = {unit.frames // unit.episodes for unit in language_table.units(str(clean))}
    moved = shutil.move(clean, tmp_path / "elsewhere")
    assert [dataclasses.replace(u, uri="") for u in language_table.units(str(moved))] == [
        dataclasses.replace(u, uri="")
        for u in language_table.units(str(language_table.fake(tmp_path, 3, traps=False)))
    ]
    assert plain == 26


def test_a_large_file_is_cut_into_units_at_record_starts(clean):
    parts = list(language_table.units(str(clean), 20_000))
    assert len(parts) == 4
    assert [contents(e) for e in read(clean, 20_000)] == [contents(e) for e in read(clean)]
    assert [whole(e).id for e in read(clean, 20_000)] == [whole(e).id for e in read(clean)]


N = 6  # steps of the episodes below


def jpeg(frame: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG")
    return buffer.getvalue()


def values(text: bytes = b"push it", **changes) -> dict:
    """An episode's features by hand; a change of None leaves the feature out."""
    codes = np.frombuffer(text.ljust(512, b"\0"), np.uint8).astype(np.int32)
    fields = {
        "steps/action": np.full((N, 2), 0.01, np.float32),
        "steps/observation/instruction": np.tile(codes, N),
        "steps/observation/rgb": [jpeg(np.full((48, 64, 3), 90, np.uint8))] * N,
    }
    named = {"action": "steps/action", "rgb": "steps/observation/rgb"}
    named |= {"instruction": "steps/observation/instruction"}
    fields |= {named[name]: value for name, value in changes.items()}
    return {name: value for name, value in fields.items() if value is not None}


def codes(*numbers: int) -> np.ndarray:
    row = np.zeros(512, np.int64)
    row[: len(numbers)] = numbers
    return np.tile(row, N)


def at(index: int, value: float) -> np.ndarray:
    actions = np.full((N, 2), 0.01, np.float32)
    actions[index, 1] = value
    return actions


def bomb() -> bytes:
    """A PNG of a few bytes whose header announces 9,000 x 9,000 pixels."""
    data = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", 9_000, 9_000, 8, 2, 0, 0, 0)
    for kind, body in (b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b""):
        data += struct.pack(">I", len(body)) + kind + body
        data += struct.pack(">I", zlib.crc32(kind + body))
    return data


def write(root: Path, *records: bytes) -> Path:
    folder = root / "language_table" / "0.0.1"
    folder.mkdir(parents=True)
    language_table.write_rlds(folder, "language_table", {"train": [list(records)]})
    return folder


GOOD = values()
BAD = {
    "no steps": values(action=np.zeros(0, np.float32), instruction=np.zeros(0, int), rgb=[]),
    "no action": values(action=None),
    "no images": values(rgb=None),
    "no instruction": values(instruction=None),
    "an odd number of actions": values(action=np.zeros(2 * N + 1, np.float32)),
    "actions of another robot": values(action=np.zeros((N, 7), np.float32)),
    "actions that are text": values(action=[b"left"] * N),
    "images that are numbers": values(rgb=np.zeros(N, int)),
    "an image less": values(rgb=[jpeg(np.zeros((8, 8, 3), np.uint8))] * (N - 1)),
    "instructions that are text": values(instruction=[b"push it"] * N),
    "instructions that are floats": values(instruction=np.zeros((N, 512), np.float32)),
    "an instruction less": values(instruction=codes(112)[:-512]),
    "an instruction cut short": values(instruction=codes(112)[:-1]),
    "half a character": values(text=b"d\xc3"),
    "no byte": values(instruction=codes(112, 256)),
    "a huge number": values(instruction=codes(112, 2**62)),
    "a negative number": values(instruction=codes(112, -5)),
    "zeros inside": values(instruction=codes(112, 0, 112)),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_episode_is_named_and_its_neighbours_are_kept(name, tmp_path):
    good, bad = example.encode(GOOD), example.encode(BAD[name])
    before, error, after = read(write(tmp_path, good, bad, good))
    assert isinstance(error, DataError)
    assert error.key == "language_table-train-00000-000001"
    start, end = (int(x) for x in error.where.removeprefix("bytes ").split("-"))
    assert end - start == len(bad) + tfrecord.OVERHEAD
    assert "\n" not in error.reason
    assert contents(before) == contents(after) != []


IMAGE = jpeg(np.full((48, 64, 3), 90, np.uint8))
BAD_FRAMES = {
    "act": values(action=at(2, np.nan)),
    "act, the first": values(action=at(0, -np.inf)),
    "decode, cut": values(rgb=[IMAGE] * (N - 1) + [IMAGE[: len(IMAGE) // 2]]),
    "decode, empty": values(rgb=[IMAGE, b"", *[IMAGE] * (N - 2)]),
    "decode, another kind of file": values(rgb=[b"<html>404</html>"] * N),
    "decode, a bomb": values(rgb=[*[IMAGE] * (N - 1), bomb()]),
}
ODD = {  # text in the table -> features
    "push it": values(action=at(1, 0.3)),
    "nobody said anything, so the controls speak": values(text=b""),
    "d" * 512: values(text=b"d" * 512),
    "pousse la lune → à gauche": values(text="pousse la lune → à gauche".encode()),
    "the end means nothing": values(text=b"the end means nothing", action=at(N - 1, np.nan)),
    "left": values(text=b"left", action=at(2, -0.1)),
}


@pytest.fixture(scope="module")
def odd_table(tmp_path_factory) -> Path:
    """Bad and odd episodes by turns, as the command makes a table of them."""
    root = tmp_path_factory.mktemp("odd")
    pairs = zip(BAD_FRAMES.values(), ODD.values(), strict=True)
    folder = write(root, *(example.encode(fields) for pair in pairs for fields in pair))
    source = f"language_table={folder}"
    unisim("prepare", "--source", source, "--out", root / "out", "--error-budget", 1)
    assert "0 violations" in unisim("audit", root / "out").stdout
    return root / "out"


def test_what_is_wrong_with_a_frame_costs_its_episode(odd_table):
    """Damage that shows only when frames are read."""
    dead = pq.read_table(odd_table / "dead_letters.parquet").to_pylist()
    keys = [f"language_table-train-00000-{i:06d}" for i in range(12)]
    assert [row["key"] for row in dead] == keys[::2]
    assert [row["stage"] for row in dead] == [name.split(",")[0] for name in BAD_FRAMES]
    assert "9000x9000" in dead[-1]["reason"]
    assert [c.episode_id for c in read_table(odd_table, Tier(24, 40, "raw"))] == keys[1::2]


def test_what_is_only_odd_is_kept(odd_table):
    """Bounds clip and are counted, and the terminal action means nothing."""
    chunks = read_table(odd_table, Tier(24, 40, "raw"))
    texts = list(ODD)
    texts[1] = "move the arm x +0.050 y +0.050 m"
    assert [chunk.text for chunk in chunks] == texts
    wanted = np.full((len(ODD), N, 2), 0.01, np.float32)
    wanted[:, 0] = 0
    wanted[0, 2, 1], wanted[5, 3, 1] = 0.1, -0.1
    np.testing.assert_allclose([c.controls[:, XY] for c in chunks], wanted, atol=1e-8)
    index = pq.read_table(odd_table / "index.parquet")
    assert index.column("clipped").to_pylist() == [1, 0, 0, 0, 0, 0]


def test_an_instruction_that_changes_acts_from_the_step_after_its_own(tmp_path):
    first, then = (values(text=text)["steps/observation/instruction"] for text in (b"a", b"b"))
    mixed = np.concatenate([first[: 2 * 512], then[2 * 512 :]])
    (item,) = read(write(tmp_path, example.encode(values(instruction=mixed))))
    assert [frame.text for frame in whole(item).frames] == ["a", "a", "a", "b", "b", "b"]


def test_images_are_decoded_only_when_asked_for(tmp_path):
    (item,) = read(write(tmp_path, example.encode(values(rgb=[b"no image"] * N))))
    frames = list(whole(item).frames)
    assert len(frames) == N
    with pytest.raises(DataError):
        frames[0].image()


def _damage(folder: Path, change) -> list[Episode | DataError]:
    file = folder / FIRST
    file.write_bytes(change(file.read_bytes()))
    return read(folder)


def _bad(items: list[Episode | DataError]) -> list[bool]:
    return [isinstance(item, DataError) for item in items]


def test_a_cut_file_loses_its_end_only(clean):
    before = [contents(e) for e in read(clean)]
    found = _damage(clean, lambda data: data[:-100])
    assert _bad(found) == [False, True, False, False]
    assert "ends inside a record" in str(found[1])
    assert [contents(e) for e in found if isinstance(e, Episode)] == [before[i] for i in (0, 2, 3)]


def test_a_changed_byte_loses_one_episode(clean):
    found = _damage(clean, lambda data: data[:500] + bytes([data[500] ^ 1]) + data[501:])
    assert _bad(found) == [True, False, False, False]
    assert isinstance(found[0], DataError)
    assert found[0].key == "language_table_sim-train-00000-000000"


@pytest.mark.parametrize(
    "content", [b"\xff" * 50, b"<html>404</html>", b"\x0a\xff\xff\xff\xff\x0f"]
)
def test_a_record_that_is_no_example(clean, content):
    def change(data: bytes) -> bytes:
        stream = io.BytesIO()
        tfrecord.write(stream, [content])
        return stream.getvalue() + data

    assert _bad(_damage(clean, change)) == [True, False, False, False, False]


def test_a_file_that_is_no_tfrecord_costs_itself(clean):
    assert _bad(_damage(clean, lambda data: b"<html>404</html>")) == [True, False, False]


def test_a_file_cut_between_records_is_noticed(clean):
    """dataset_info.json says how many it should hold."""
    end = list(tfrecord.offsets(io.BytesIO((clean / FIRST).read_bytes())))[1]
    for size, kept in (end, 1), (0, 0):
        found = _damage(clean, lambda data, size=size: data[:size])
        assert _bad(found) == [False] * kept + [True, False, False]
        assert f"holds {kept} of the 2 episodes" in str(found[kept])


def test_a_file_that_went_after_the_plan_costs_itself(clean):
    units = list(language_table.units(str(clean)))
    (clean / FIRST).unlink()
    with pytest.raises(DataError, match="gone since the plan"):
        list(language_table.episodes(units[0]))
    assert len(list(language_table.episodes(units[1]))) == 2


def usage_error(path: Path) -> str:
    with pytest.raises(UsageError) as e:
        list(language_table.units(str(path)))
    text = str(e.value)
    assert str(path) in text and "\n" not in text
    return text


def test_a_parent_folder_is_told_which_of_its_folders_to_give(clean):
    for parent in (clean.parent, clean.parent.parent):
        assert f"--source language_table={clean}" in usage_error(parent)


def test_the_command_says_so_in_one_line(clean, tmp_path):
    flags = ["--source", f"language_table={clean.parent}", "--out", tmp_path / "out"]
    (line,) = unisim("plan", *flags, code=2).stderr.strip().splitlines()[-1:]
    assert str(clean) in line


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("content", [None, b"", b"[]", b"null", b"\xff", b"[" * 100_000, b"{}"])
def test_metadata_that_is_not_what_it_should_be(clean, name, content):
    if content is None:
        (clean / name).unlink()
    else:
        (clean / name).write_bytes(content)
    assert name in usage_error(clean)


@pytest.mark.parametrize("lengths", [["9" * 400, "2"], ["-1", "2"], [None], 5, [[]], ["x"]])
def test_lengths_that_are_none(clean, lengths):
    path = clean / "dataset_info.json"
    info = json.loads(path.read_text())
    info["splits"][0]["shardLengths"] = lengths
    path.write_text(json.dumps(info))
    assert "shardLengths" in usage_error(clean)


def test_paths_that_hold_something_else(clean, tmp_path):
    assert "version folder" in usage_error(tmp_path)
    assert "version folder" in usage_error(clean / "features.json")
    bridge = sources.get("bridge").fake(tmp_path / "bridge", 0)
    assert "no steps/observation/rgb" in usage_error(bridge)
    for file in clean.glob("*.tfrecord-*"):
        file.unlink()
    assert "tfrecord" in usage_error(clean)


def test_the_traps_of_the_fake(tmp_path):
    items = read(language_table.fake(tmp_path, 0))
    errors = {item.key[-12:]: item.reason for item in items if isinstance(item, DataError)}
    assert errors.keys() == {"00001-000003", "00001-000004"}
    assert "checksum" in errors["00001-000003"] and "UTF-8" in errors["00001-000004"]
    episodes = [list(item.frames) for item in items if isinstance(item, Episode)]
    assert [len(frames) for frames in episodes][1] == 7
    reach = [max(np.abs(np.asarray(f.control)).max() for f in frames) for frames in episodes]
    assert reach[2] > 0.1 and max(reach[:2] + reach[3:]) < 0.1
    assert [frames[0].text for frames in episodes].count("") == 1
    for frame in episodes[4]:
        with pytest.raises(DataError):
            frame.image()
