"""What is wrong in a LeRobotDataset costs what it is in, and nothing else."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.sources import lerobot
from schemas import DataError, UsageError
from tests.pipelines.lerobot_corpus import (
    FAKES,
    FRONT,
    LISTING,
    WRIST,
    consume,
    decoded,
    edit,
    names,
    read,
    rewrite,
)


@pytest.fixture
def v3(tmp_path):
    return lerobot.fake(tmp_path, 3, traps=False)


@pytest.fixture
def v21(tmp_path):
    return lerobot.fake_v21(tmp_path, 3, traps=False)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"codebase_version": "v1.6"}, "convert"),
        ({"codebase_version": None}, "convert"),
        ({"codebase_version": ["v3.0"]}, "convert"),
        ({"fps": 0}, "fps"),
        ({"fps": "10"}, "fps"),
        ({"fps": 10**400}, "fps"),
        ({"features": []}, "features"),
        ({"features": {"a": None, "action": {"dtype": "float32"}}}, "no feature"),
        ({"features": {"../x": {"dtype": "video"}}}, "camera's name"),
        ({"splits": ["train"]}, "splits"),
        ({"splits": {"train": "0:80%"}}, "split"),
        ({"data_path": None}, "path"),
        ({"data_path": "/etc/{file_index}"}, "path"),
        ({"data_path": "data/../../x-{file_index:03d}.parquet"}, "path"),
        ({"data_path": "data/{file_index.__class__}.parquet"}, "path"),
        ({"video_path": "../{video_key}/{chunk_index}.mp4"}, "path"),
        ({"video_path": "{nothing}/{video_key}.mp4"}, "path"),
        ({"video_path": "gs://bucket/{file_index}"}, "path"),
    ],
)
def test_wrong_info_is_one_line_at_plan_time(v3, change, said):
    edit(v3 / "meta/info.json", lambda info: info.update(change))
    with pytest.raises(UsageError, match=said) as e:
        list(lerobot.units(str(v3)))
    assert str(v3) in str(e.value) and "unisim sources lerobot" in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("text", [b"[" * 100_000, b"{", b"\xff\xfe\xff", b"null", b"1" * 5000, b""])
def test_info_that_is_no_object(v3, text):
    (v3 / "meta/info.json").write_bytes(text)
    with pytest.raises(UsageError, match=r"info\.json"):
        list(lerobot.units(str(v3)))


@pytest.mark.parametrize(
    ("version", "name"),
    [
        ("v3.0", "meta/tasks.parquet"),
        ("v3.0", LISTING),
        ("v2.1", "meta/tasks.jsonl"),
        ("v2.1", "meta/episodes.jsonl"),
        ("v2.1", "meta/info.json"),
    ],
)
def test_missing_metadata_are_named_at_plan_time(version, name, tmp_path):
    path = FAKES[version](tmp_path, 3, traps=False)
    units = list(lerobot.units(str(path)))
    (path / name).unlink()
    with pytest.raises(UsageError, match=name.split("/")[1].split(".")[0]):
        list(lerobot.units(str(path)))
    if name not in (LISTING, "meta/episodes.jsonl"):  # the plan has what these say
        with pytest.raises(DataError):
            list(lerobot.episodes(units[0]))


def test_a_path_that_is_no_dataset(tmp_path):
    with pytest.raises(UsageError, match=r"no meta/info\.json"):
        list(lerobot.units(str(tmp_path)))


def test_a_damaged_file_of_several_that_list_episodes(v3):
    rows = pq.read_table(v3 / LISTING).to_pylist()
    pq.write_table(pa.Table.from_pylist(rows[:3]), v3 / LISTING)
    second = v3 / LISTING.replace("file-000", "file-001")
    pq.write_table(pa.Table.from_pylist(rows[3:]), second)
    assert set(read(v3)[0]) == names(*range(5))
    second.write_bytes(second.read_bytes()[:-20])
    good, lost = read(v3)
    assert set(good) == names(0, 1, 2)
    assert list(lost) == [LISTING.replace("file-000", "file-001")]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("length", 0),
        ("length", -3),
        ("length", None),
        ("length", 10**12),
        ("episode_index", None),
        ("episode_index", -1),
        ("episode_index", 0),
        ("data/file_index", 7),
        ("data/file_index", -1),
        (f"videos/{FRONT}/chunk_index", None),
        (f"videos/{FRONT}/from_timestamp", math.nan),
        (f"videos/{FRONT}/from_timestamp", -1.0),
        (f"videos/{FRONT}/to_timestamp", None),
        (f"videos/{FRONT}/to_timestamp", math.inf),
    ],
)
def test_a_wrong_value_of_an_episode_costs_that_episode(v3, field, value):
    def change(rows: list[dict]) -> None:
        rows[1][field] = value

    rewrite(v3 / LISTING, change)
    good, lost = read(v3)
    assert set(good) == names(0, 2, 3, 4) and len(lost) == 1


@pytest.mark.parametrize("shift", [-0.1, 0.1, 0.06])
def test_a_time_span_of_another_length_is_refused_for_that_camera(v3, shift):
    def change(rows: list[dict]) -> None:
        rows[2][f"videos/{WRIST}/to_timestamp"] += shift

    rewrite(v3 / LISTING, change)
    good, lost = read(v3)
    assert set(lost) == {"000002@wrist"} and len(good) == 9


def test_rounding_in_the_times_is_taken(v3):
    def change(rows: list[dict]) -> None:
        for row in rows:
            for key in row:
                if key.endswith("timestamp"):
                    row[key] += 0.004

    rewrite(v3 / LISTING, change)
    before = read(v3)[0]
    assert set(before) == names(*range(5))


DATA = "data/chunk-000/file-000.parquet"


@pytest.mark.parametrize(
    "change",
    [
        lambda row: row.update(task_index=9),
        lambda row: row.update(task_index=None),
        lambda row: row.update(frame_index=40),
        lambda row: row.update(timestamp=math.nan),
        lambda row: row.update(timestamp=77.0),
        lambda row: row.update(episode_index=88),
        lambda row: row.update(action=[1.0]),
        lambda row: row.update(action=None),
        lambda row: row["action"].__setitem__(2, math.inf),
        lambda row: row["action"].__setitem__(2, None),
    ],
)
def test_a_wrong_value_of_a_row_costs_its_episode(v3, change):
    def of_one(rows: list[dict]) -> None:
        change(next(row for row in rows if row["episode_index"] == 1 and row["frame_index"] == 3))

    table = pq.read_table(v3 / DATA)
    rewrite(v3 / DATA, of_one)
    with pq.ParquetWriter(v3 / DATA, (changed := pq.read_table(v3 / DATA)).schema) as writer:
        for number in range(3):  # as LeRobot writes: a row group for each episode
            of = [i for i in range(len(table)) if table["episode_index"][i].as_py() == number]
            writer.write_table(changed.take(of))
    good, lost = read(v3)
    assert set(good) == names(0, 2, 3, 4)
    assert {name[:6] for name in lost} == {"000001"}


@pytest.mark.parametrize("column", ["action", "task_index", "timestamp", "episode_index"])
@pytest.mark.parametrize("kind", ["absent", "text", "nested"])
def test_a_column_of_another_kind_costs_the_file(v3, column, kind):
    def change(rows: list[dict]) -> None:
        for row in rows:
            value = row.pop(column)
            if kind != "absent":
                row[column] = str(value) if kind == "text" else [[{"a": 1}]]

    rewrite(v3 / DATA, change)
    good, lost = read(v3)
    assert set(good) == names(3, 4) and set(lost) == {"000000", "000001", "000002"}


def test_lines_that_are_none_cost_themselves(v21):
    path = v21 / "meta/episodes.jsonl"
    lines = path.read_bytes().splitlines()
    deep = b'{"episode_index": ' + b"[" * 100_000
    bad = [b"\xff\xfe", b"null", b"[1]", deep, b'{"length": 3}', b'{"episode_index": 1e999}']
    path.write_bytes(b"\n".join([bad[0], lines[0], *bad[1:], *lines[1:], lines[0], b"", b""]))
    good, lost = read(v21)
    assert set(good) == names(*range(4))
    assert set(lost) == {"000000", *(f"episodes.jsonl-{i}" for i in (1, 3, 4, 5, 6, 7))}
    assert "before" in lost["000000"]


def test_a_task_line_that_is_none_costs_its_episodes(v21):
    path = v21 / "meta/tasks.jsonl"
    path.write_text('{"task_index": 0, "ta\n' + "\n".join(path.read_text().splitlines()[1:]))
    good, lost = read(v21)
    assert set(good) == names(0, 2)
    assert set(lost) == {"000001", "000003"} and "no task 0" in lost["000001"]


@pytest.mark.parametrize("data", [None, b"<svg/>", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_a_bad_image_costs_its_camera_of_the_episode(v21, data):
    def change(rows: list[dict]) -> None:
        rows[4][WRIST]["bytes"] = data

    rewrite(v21 / "data/chunk-000/episode_000001.parquet", change)
    good, lost = read(v21)
    assert set(lost) == {"000001@wrist"} and len(good) == 7


def test_a_video_with_more_or_fewer_frames_than_rows(v21):
    folder = v21 / "videos/chunk-000" / FRONT
    sizes = {i: len(decoded(folder / f"episode_{i:06d}.mp4")) for i in range(4)}
    short, long = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
    paths = [folder / f"episode_{i:06d}.mp4" for i in (short, long)]
    data = [path.read_bytes() for path in paths]
    for path, other in zip(paths, reversed(data), strict=True):
        path.write_bytes(other)
    good, lost = read(v21)
    assert set(lost) == {f"{i:06d}@front" for i in (short, long)} and len(good) == 6
    assert "more frames" in lost[f"{short:06d}@front"]
    assert f"for {sizes[long]} rows" in lost[f"{long:06d}@front"]


@pytest.mark.parametrize("version", FAKES)
def test_no_bytes_raise_anything_else(version, tmp_path):
    """Every file cut, emptied, removed, and with bytes changed, before and after the plan."""
    rng = np.random.default_rng(11)
    path = FAKES[version](tmp_path, 5)
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        whole = file.read_bytes()
        units = list(lerobot.units(str(path)))
        for kind in range(6):
            data = bytearray(whole)
            if kind < 2:
                data = data[: int(rng.integers(0, len(whole)))]
            else:
                for at in rng.integers(0, len(whole), 1 << kind % 5):
                    data[at] = int(rng.integers(0, 256))
            file.write_bytes(bytes(data))
            try:
                read(path)
            except UsageError as e:
                assert "\n" not in str(e)
            for unit in units:
                try:
                    for item in lerobot.episodes(unit):
                        if not isinstance(item, DataError):
                            consume(item)
                except DataError:
                    continue
        file.write_bytes(whole)
