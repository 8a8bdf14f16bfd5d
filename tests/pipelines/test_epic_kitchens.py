"""EPIC-KITCHENS-100: rows and spans to episodes, by either clock, and what may be wrong."""

import csv
import dataclasses
import io
import json
import random
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from pipelines import sources
from pipelines.episode import Episode, Source
from pipelines.ops import video
from pipelines.ops.labels import epic_text
from pipelines.ops.resample import resample
from pipelines.ops.unify import unify
from pipelines.sources import epic_kitchens as epic
from schemas import DataError, UsageError
from tests.samples import sample

HEADER = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,"
    "start_frame,stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes"
).split(",")


def read(path, target_bytes=16_000_000) -> dict[str, Episode | DataError]:
    """Every item of every unit by id; units as they come back from a plan's JSON."""
    found = {}
    for unit in epic.units(str(path), target_bytes):
        kept = type(unit)(**json.loads(json.dumps(dataclasses.asdict(unit))))
        for item in epic.episodes(kept):
            key = item.key if isinstance(item, DataError) else item.id
            assert key not in found
            found[key] = item
    return found


def episode(item) -> Episode:
    assert isinstance(item, Episode), item
    return item


def error(item) -> DataError:
    assert isinstance(item, DataError), item
    return item


def times(item) -> list[float]:
    return [frame.time for frame in episode(item).frames]


def row(key="P01_01_0", start=0.2, stop=0.6, **changes) -> dict[str, str]:
    """A row as the owners write it, with frame numbers at 60 (50 in the extension) a second."""
    video_id = key.rpartition("_")[0]
    rate = 50 if len(video_id) == 7 else 60
    stamps = [f"{int(t) // 3600:02d}:{int(t) // 60 % 60:02d}:{t % 60:05.2f}" for t in (start, stop)]
    values = [key, video_id[:3], video_id, stamps[0] + "9", *stamps]
    values += [str(max(1, int(start * rate))), str(int(stop * rate))]
    values += ["open door", "open", "3", "door", "3", "['door', 'side']", "[3, 42]"]
    return dict(zip(HEADER, values, strict=True)) | changes


def line(**values) -> bytes:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerow([values[name] for name in HEADER])
    return stream.getvalue().encode()


def write(path: Path, *rows, name="EPIC_100_train.csv") -> Path:
    """A CSV of rows, given by column or as raw lines."""
    path.mkdir(parents=True, exist_ok=True)
    lines = [r if isinstance(r, bytes) else line(**r) for r in rows]
    (path / name).parent.mkdir(exist_ok=True)
    (path / name).write_bytes((",".join(HEADER) + "\n").encode() + b"".join(lines))
    return path


def write_info(path: Path, *rows: str) -> None:
    text = "\n".join(["video_id,duration,fps,resolution", *rows, ""])
    (path / "EPIC_100_video_info.csv").write_text(text)


def make_video(path: Path, fps: float, count: int) -> None:
    """Frame i has the grey value 2 i."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = (np.full((48, 64, 3), 2 * i % 250, np.uint8) for i in range(count))
    video.write_video(str(path), frames, fps, "libx264")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """60 frames at 50 fps."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    make_video(path, 50.0, 60)
    return path


def put(clip: Path, root: Path, name: str = "P01/videos/P01_01.MP4") -> Path:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(clip, root / name))


def put_frames(root: Path, name: str, numbers) -> Path:
    """Frame n has the grey value n, up to 255."""
    folder = root / name
    folder.mkdir(parents=True)
    for n in numbers:
        Image.new("L", (64, 48), min(n, 255)).save(folder / f"frame_{n:010d}.jpg", quality=95)
    return folder


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    return epic.fake(tmp_path_factory.mktemp("fake"), 0)


def test_the_module_is_a_source():
    source = sources.get("epic_kitchens")
    assert isinstance(source, Source) and source.INFO.name == "epic_kitchens"
    assert source.INFO.slots == () and source.INFO.weight == 0.1 and source.INFO.examples == "25k"


def test_a_span_of_a_real_video_is_the_frames_that_pyav_finds_in_it(tmp_path):
    put(sample("video/bikes.mp4"), tmp_path)
    spans = {"P01_01_0": (1.3, 2.71), "P01_01_1": (2.0, 4.5), "P01_01_2": (0.0, 0.1)}
    write(tmp_path, *(row(key, *span) for key, span in spans.items()))
    with av.open(str(sample("video/bikes.mp4"))) as container:
        theirs = [(f.time, f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
    found = read(tmp_path)
    assert found.keys() == spans.keys()
    for key, (start, stop) in spans.items():
        wanted = [(t, pixels) for t, pixels in theirs if start <= t < stop]
        frames = list(episode(found[key]).frames)
        assert [f.time for f in frames] == [t for t, _ in wanted] and wanted
        for frame, (_, pixels) in list(zip(frames, wanted, strict=True))[::20]:
            assert np.abs(frame.image().astype(int) - pixels).mean() < 1.5
        assert {f.text for f in frames} == {"open door"}
        assert all(f.control is None for f in frames)


def test_the_fake_holds_its_traps(fake):
    found = read(fake)
    lost = {key: item for key, item in found.items() if isinstance(item, DataError)}
    assert lost.keys() == {"P02_102_0", "P09_07_1", "line 14"}
    assert "not UTF-8" in lost["line 14"].reason and lost["line 14"].stage == "read"
    assert "P02_102.MP4" in lost["P02_102_0"].reason and lost["P02_102_0"].stage == "read"
    assert "not after its start" in lost["P09_07_1"].reason
    assert all(item.counts for item in lost.values())
    for key in ("P01_01_12", "P02_101_3"):  # wholly past the end
        with pytest.raises(DataError, match="no frame"):
            list(episode(found[key]).frames)
    # an independent reading of the table, and of the lengths
    ends = {"P01_01": 0.8, "P09_07": 1.2, "P02_101": 1.0, "P01_101": 0.8}
    count = 0
    for name in ("train", "validation"):
        text = (fake / f"EPIC_100_{name}.csv").read_bytes().decode(errors="replace")
        for fields in csv.DictReader(io.StringIO(text)):
            key = fields["narration_id"]
            if not isinstance(found.get(key), Episode) or key in ("P01_01_12", "P02_101_3"):
                continue
            start, stop = (
                float(fields[f"{end}_timestamp"][6:]) + 60 * int(fields[f"{end}_timestamp"][3:5])
                for end in ("start", "stop")
            )
            frames = list(episode(found[key]).frames)
            rate = episode(found[key]).fps
            assert rate
            length = min(stop, ends[fields["video_id"]]) - start
            assert abs(len(frames) - length * rate) <= 1.5
            assert abs(frames[0].time - start) <= 1.5 / rate
            assert {f.text for f in frames} == {fields["narration"]}
            assert frames[0].image().shape == (48, 64, 3)
            count += 1
    assert count == 10


def test_a_clean_fake_is_whole_and_shows_what_it_says(tmp_path):
    found = read(epic.fake(tmp_path, 3, traps=False))
    assert len(found) == 8
    channels = {"red": 0, "green": 1, "blue": 2}
    for item in found.values():
        frames = list(episode(item).frames)
        colour = frames[0].text.split()[1]
        where = []
        for frame in (frames[0], frames[-1]):
            image = frame.image().astype(int)
            others = [image[..., c] for c in range(3) if c != channels[colour]]
            square = image[..., channels[colour]] - np.maximum(*others) > 80
            assert square.sum() > 150
            where.append(np.argwhere(square)[:, 1].mean())
        assert where[1] - where[0] > 8


def test_units_are_runs_of_a_video_and_open_none(fake, monkeypatch):
    def opened(*_):
        raise AssertionError("units opened a video or an image")

    for name in ("frames", "probe"):
        monkeypatch.setattr(video, name, opened)
    monkeypatch.setattr(epic.images, "decode_image", opened)
    units = list(epic.units(str(fake)))
    assert [(u.id, u.split, u.episodes) for u in units] == [
        ("train-P01_01-000000", "train", 5),
        ("train-P09_07-000000", "train", 1),
        ("train-P02_101-000000", "train", 4),
        ("train-problems-000000", "train", 0),
        ("validation-P01_101-000000", "val", 2),
    ]
    assert all(u.frames > 0 and u.cost > 0 for u in units if u.episodes)
    # the actions of a video are in order of time
    assert [a["id"] for a in units[0].params["actions"]][:2] == ["P01_01_0", "P01_01_1"]


def test_units_do_not_depend_on_the_place(fake, tmp_path):
    moved = shutil.copytree(fake, tmp_path / "elsewhere")
    for here, there in zip(epic.units(str(fake)), epic.units(str(moved)), strict=True):
        assert Path(here.uri).relative_to(fake) == Path(there.uri).relative_to(moved)
        assert dataclasses.replace(there, uri="") == dataclasses.replace(here, uri="")


def test_an_action_costs_its_share_of_the_file_and_runs_are_cut_by_it(tmp_path, clip):
    size = put(clip, tmp_path).stat().st_size
    write(tmp_path, *(row(f"P01_01_{i}", 0.1 * i, 0.1 * i + 0.1) for i in range(10)))
    write_info(tmp_path, "P01_01,1.2,50.0,64x48")
    (whole,) = epic.units(str(tmp_path))
    assert abs(whole.cost - size * 1.0 / 1.2) <= 1
    units = list(epic.units(str(tmp_path), size * 3 // 12))
    assert [u.id for u in units] == [f"train-P01_01-{i:06d}" for i in (0, 3, 6, 9)]
    assert abs(sum(u.cost for u in units) - whole.cost) <= 4
    together, apart = read(tmp_path), read(tmp_path, 1)
    assert together.keys() == apart.keys()
    assert all(times(together[key]) == times(apart[key]) for key in together)
    # without the lengths, the last action is taken to end the video
    (tmp_path / "EPIC_100_video_info.csv").unlink()
    (whole,) = epic.units(str(tmp_path))
    assert abs(whole.cost - size) <= 1


def test_a_long_video_is_decoded_near_its_actions_only(tmp_path, monkeypatch):
    """Ten actions of 2 s in an hour at 1 fps, key frames 12 s apart."""
    path = tmp_path / "P01" / "videos" / "P01_01.MP4"
    path.parent.mkdir(parents=True)
    grey = [np.full((16, 16, 3), i, np.uint8) for i in range(0, 250, 10)]
    video.write_video(str(path), (grey[i % 25] for i in range(3600)), 1.0, "libx264")
    write(tmp_path, *(row(f"P01_01_{i}", 350.0 * i + 7, 350.0 * i + 9) for i in range(10)))
    decoded = 0
    decode = video._decode

    def counted(*args):
        nonlocal decoded
        for item in decode(*args):
            decoded += 1
            yield item

    monkeypatch.setattr(video, "_decode", counted)
    found = read(tmp_path)
    assert [times(found[f"P01_01_{i}"]) for i in range(10)] == [
        [350.0 * i + 7, 350.0 * i + 8] for i in range(10)
    ]
    assert 20 <= decoded < 10 * 3 * 12  # of 3600


@pytest.mark.parametrize("fps", [29.97002997002997, 47.952047952047955, 50.0, 59.9400599400599, 90])
def test_every_recorded_rate_is_resampled_by_time(tmp_path, fps):
    make_video(tmp_path / "P01/videos/P01_01.MP4", fps, round(1.5 * fps))
    write(tmp_path, row(start=0.2, stop=1.4))
    write_info(tmp_path, f"P01_01,1.5,{fps},64x48")
    item = episode(read(tmp_path)["P01_01_0"])
    assert item.fps == fps
    kept = list(resample(unify(item.frames, ()), 5.0))
    np.testing.assert_allclose([s.time for s in kept], np.arange(6) / 5, atol=1 / fps)
    grey = [s.image().mean() for s in kept]
    wanted = [2 * np.ceil(0.2 * fps - 1e-9) + 2 * np.ceil(i * fps / 5 - 1e-9) for i in range(6)]
    np.testing.assert_allclose(grey, np.array(wanted) % 250, atol=5)


@pytest.mark.parametrize("info", [None, "", "P01_01,1.2,nan,a", "P01_01,x,-3,a", 'P01_01,"', "\0"])
def test_rates_without_a_usable_video_info(tmp_path, clip, info):
    put(clip, tmp_path)
    put(clip, tmp_path, "P01/videos/P01_101.MP4")
    write(tmp_path, row("P01_01_0"), row("P01_101_0"))
    if info is not None:
        write_info(tmp_path, info)
    found = read(tmp_path)
    assert episode(found["P01_01_0"]).fps == pytest.approx(59.94, abs=1e-3)
    assert episode(found["P01_101_0"]).fps == 50
    assert len(times(found["P01_01_0"])) == 20


def test_frames_are_numbered_at_50_or_60_whatever_was_recorded(tmp_path):
    """By the frame numbers; frame n shows (n - 1) / 60 s, or (n - 1) / 50 s in the extension."""
    put_frames(tmp_path, "P01/rgb_frames/P01_01", range(1, 61))
    put_frames(tmp_path, "rgb_frames/P01_101", range(1, 61))
    write(
        tmp_path,
        row("P01_01_0", 0.2, 0.75),
        row("P01_101_0", 0.2, 0.75),
        # the row's own clocks decide: 1530 / 30.6 is 50 a second
        row("P01_01_1", start_frame="10", stop_frame="1530", stop_timestamp="00:00:30.60"),
        # where they do not tell, the video's name does
        row("P01_01_2", start_frame="5", stop_frame="9", stop_timestamp="00:00:30.50"),
        row("P01_01_3", start_frame="0", stop_frame="2", stop_timestamp="-"),
    )
    write_info(tmp_path, "P01_01,1.0,29.97002997002997,a", "P01_101,1.2,50.0,a")
    found = read(tmp_path)
    for key, rate, start, stop in [
        ("P01_01_0", 60, 12, 45),
        ("P01_101_0", 50, 10, 37),
        ("P01_01_1", 50, 10, 61),
        ("P01_01_2", 60, 5, 9),
        ("P01_01_3", 60, 1, 2),
    ]:
        item = episode(found[key])
        frames = list(item.frames)
        assert item.fps == rate
        assert [f.time for f in frames] == [(n - 1) / rate for n in range(start, stop)]
        assert [round(f.image().mean()) for f in frames] == list(range(start, stop))


def test_only_the_frames_that_are_kept_are_read(tmp_path):
    folder = put_frames(tmp_path, "P01/rgb_frames/P01_101", range(1, 61))
    write(tmp_path, row("P01_101_0", 0.2, 1.1))
    for n in range(11, 54):
        if (n - 10) % 10:
            (folder / f"frame_{n:010d}.jpg").unlink()
    item = episode(read(tmp_path)["P01_101_0"])
    kept = list(resample(unify(item.frames, ()), 5.0))
    assert [round(s.image().mean()) for s in kept] == [10, 20, 30, 40, 50]
    (folder / "frame_0000000030.jpg").unlink()
    with pytest.raises(DataError, match=r"no file frame_0000000030\.jpg"):
        kept[2].image()


@pytest.mark.parametrize("last", [30, 31, 57, 299])
def test_a_stop_past_the_last_frame_is_drawn_back_to_it(tmp_path, last):
    put_frames(tmp_path, "P01/rgb_frames/P01_01", [1, *range(30, last + 1)])
    write(
        tmp_path,
        row("P01_01_0", start_frame="30", stop_frame="999999999"),
        row("P01_01_1", start_frame="300", stop_frame="400"),
        row("P01_01_2", start_frame="30", stop_frame=str(last + 1)),
    )
    found = read(tmp_path)
    wanted = [(n - 1) / 60 for n in range(30, last + 1)]
    assert times(found["P01_01_0"]) == times(found["P01_01_2"]) == wanted
    with pytest.raises(DataError, match="there is no frame 300 in P01_01"):
        times(found["P01_01_1"])


def test_a_stop_past_the_end_of_a_video_is_drawn_back_to_it(tmp_path, clip):
    put(clip, tmp_path)
    write(tmp_path, row(start=1.0, stop=7000.0), row("P01_01_1", 2.0, 3.0))
    found = read(tmp_path)
    np.testing.assert_allclose(times(found["P01_01_0"]), np.arange(50, 60) / 50, atol=1e-6)
    with pytest.raises(DataError, match="no frame between 2 s and 3 s"):
        times(found["P01_01_1"])


@pytest.mark.parametrize("name", ["P01/videos/P01_01.MP4", "videos/P01_01.mp4"])
@pytest.mark.parametrize("folder", ["", "epic-kitchens-100-annotations", "annotations"])
def test_the_layouts_are_read(tmp_path, clip, name, folder):
    put(clip, tmp_path, name)
    put_frames(tmp_path, "P01/rgb_frames/P01_01", [1])  # a video is preferred
    write(tmp_path / folder, row())
    write_info(tmp_path / folder, "P01_01,1.2,50.0,64x48")
    (item,) = read(tmp_path).values()
    assert episode(item).fps == 50 and len(times(item)) == 20
    (unit,) = epic.units(str(tmp_path))
    assert unit.uri == str(tmp_path / name)


def test_validation_alone_is_enough_and_the_test_rows_are_not_read(tmp_path, clip):
    put(clip, tmp_path)
    write(tmp_path, row(), name="EPIC_100_validation.csv")
    (tmp_path / "EPIC_100_test_timestamps.csv").write_bytes(b"\xff\0")
    (unit,) = epic.units(str(tmp_path))
    assert unit.split == "val"


def test_columns_are_found_by_name_and_a_byte_order_mark_is_none_of_it(tmp_path, clip):
    """Early versions have a `uid` before the others."""
    put(clip, tmp_path)
    values = row() | {"all_nouns": "", "narration": 'take "the" pan, slowly'}
    stream = io.StringIO()
    writer = csv.DictWriter(stream, ["uid", *reversed(HEADER)], lineterminator="\r\n")
    writer.writeheader()
    writer.writerow({"uid": "0", **values})
    text = "\ufeff" + stream.getvalue() + "\r\n"
    (tmp_path / "EPIC_100_train.csv").write_bytes(text.encode())
    (item,) = read(tmp_path).values()
    assert next(iter(episode(item).frames)).text == 'take "the" pan, slowly'


GOOD = line(**row("P01_01_77"))
BAD_ROWS = [
    (GOOD.replace(b"open door", b"open \xff door"), "not UTF-8"),
    (GOOD.replace(b"open door", b"open \0 door"), "NUL"),
    (GOOD.replace(b"open door", b'"open door'), "no CSV"),
    (GOOD.replace(b"open door", b"x" * 200_000), "a line of"),
    (GOOD.replace(b",open door", b""), "14 fields, wanted 15"),
    (GOOD.replace(b"open door", b"open,door"), "16 fields, wanted 15"),
    (b"\xef\xbb\xbf\n", "0 fields, wanted 15"),
    (row("P01_01_77", video_id="../P01_01"), "no id of a video"),
    (row("P01_01_77", video_id="P01_1"), "no id of a video"),
    (row("P01_01_77", video_id="P\u0661\u0661_01"), "no id of a video"),
    (row("P01_01_77", video_id="/etc/passwd"), "no id of a video"),
    (row("P01_01_77", participant_id="../P01"), "the participant"),
    (row("P01_01_77", participant_id="P02"), "the participant"),
    (row("P01_01_77", narration_id="../../x"), "not P01_01_NUMBER"),
    (row("P01_01_77", narration_id="P01_02_77"), "not P01_01_NUMBER"),
    (row("P01_01_77", narration_id="P01_01_"), "not P01_01_NUMBER"),
    (row("P01_02_77"), "no video: neither P01_02.MP4"),
    (row("P01_01_77", start_timestamp="soon"), "no time"),
    (row("P01_01_77", start_timestamp="-00:00:00.10"), "no time"),
    (row("P01_01_77", stop_timestamp="nan"), "no time"),
    (row("P01_01_77", stop_timestamp="00:00:61.00"), "no time"),
    (row("P01_01_77", stop_timestamp="9" * 5000), "no time"),
    (row("P01_01_77", 0.5, 0.5), "not after its start"),
    (row("P01_01_77", 0.5, 0.2), "not after its start"),
    (row("P01_01_77", narration=" ", verb="-", noun=":"), "hold a word"),
]


@pytest.mark.parametrize("bad, match", BAD_ROWS)
def test_a_bad_row_costs_itself_alone(tmp_path, clip, bad, match):
    put(clip, tmp_path)
    write(tmp_path, row("P01_01_1"), bad, row("P01_01_2"))
    found = read(tmp_path)
    assert len(times(found.pop("P01_01_1"))) == len(times(found.pop("P01_01_2"))) == 20
    (item,) = found.values()
    problem = error(item)
    assert match in problem.reason and problem.where == "line 3" and problem.counts
    assert problem.key and len(problem.reason) < 300
    json.dumps(problem.key + problem.reason).encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"all_nouns": "['door'"},
        {"all_nouns": "[" * 9999, "noun": ""},
        {"narration_timestamp": ""},
        {"verb_class": "x", "noun_class": "", "all_noun_classes": "[3"},
        {"start_frame": "-1"},
    ],
)
def test_what_is_not_needed_may_be_wrong(tmp_path, clip, changes):
    put(clip, tmp_path)
    write(tmp_path, row() | changes)
    (item,) = read(tmp_path).values()
    assert len(times(item)) == 20


def test_a_bad_frame_number_matters_where_frames_are_read(tmp_path):
    put_frames(tmp_path, "P01/rgb_frames/P01_01", range(1, 31))
    bad = ["-1", "1.5", "", "1" * 5000, "30"]
    rows = [row(f"P01_01_{i}", start_frame=text) for i, text in enumerate(bad)]
    write(tmp_path, *(r | {"stop_frame": "20"} for r in rows), row("P01_01_9", 0.1, 0.4))
    found = read(tmp_path)
    assert len(times(found.pop("P01_01_9"))) == 18
    assert all(error(item).stage == "annotate" for item in found.values()) and len(found) == 5


def test_a_narration_is_read_once(tmp_path, clip):
    put(clip, tmp_path)
    write(tmp_path, row(), row(narration="other"))
    write(tmp_path, row(), row("P01_01_1"), name="EPIC_100_validation.csv")
    items = [list(epic.episodes(unit)) for unit in epic.units(str(tmp_path))]
    assert [[isinstance(item, Episode) for item in some] for some in items] == [
        [True],
        [False],
        [True],
        [False],
    ]
    assert all("listed before" in error(items[i][0]).reason for i in (1, 3))


def test_many_bad_rows_come_in_bounded_units(tmp_path, clip):
    put(clip, tmp_path)
    write(tmp_path, row(), *[b"x\n"] * 2500)
    units = list(epic.units(str(tmp_path)))
    assert [len(u.params.get("problems", ())) for u in units] == [0, 1000, 1000, 500]
    assert len(read(tmp_path)) == 2501


def damage(data: bytes, how: str) -> bytes:
    if how == "cut":
        return data[: len(data) * 2 // 3]
    if how == "changed":
        middle = len(data) // 2
        return data[:middle] + bytes(b ^ 0x55 for b in data[middle : middle + 64]) + data[-1:]
    return {"empty": b"", "text": b"no video\n" * 99}[how]


@pytest.mark.parametrize("how", ["cut", "changed", "empty", "text", "gone", "folder"])
def test_a_damaged_video_costs_its_own_actions(tmp_path, clip, how):
    bad = put(clip, tmp_path)
    put(clip, tmp_path, "P01/videos/P01_02.MP4")
    write(tmp_path, row("P01_01_0"), row("P01_02_0"))
    found = read(tmp_path)
    if how in ("gone", "folder"):
        bad.unlink()
        if how == "folder":
            bad.mkdir()
    else:
        bad.write_bytes(damage(clip.read_bytes(), how))
    with pytest.raises(DataError, match=r"P01_01\.MP4"):
        times(found["P01_01_0"])
    assert len(times(found["P01_02_0"])) == 20


@pytest.mark.parametrize("how", ["cut", "empty", "text", "folder"])
def test_a_damaged_image_costs_its_own_action(tmp_path, how):
    folder = put_frames(tmp_path, "P01/rgb_frames/P01_01", range(1, 61))
    write(tmp_path, row("P01_01_0", 0.1, 0.4), row("P01_01_1", 0.5, 0.9))
    bad = folder / "frame_0000000010.jpg"
    data = bad.read_bytes()
    bad.unlink()
    if how == "folder":
        bad.mkdir()
    else:
        bad.write_bytes(damage(data, how))
    found = read(tmp_path)
    with pytest.raises(DataError):
        [frame.image() for frame in episode(found["P01_01_0"]).frames]
    assert len([frame.image() for frame in episode(found["P01_01_1"]).frames]) == 24


@pytest.mark.parametrize(
    "content, match",
    [
        (b"", "has no column 'narration_id'"),
        (b"\xff\xfen\0a\0", "not a CSV"),
        (b"\x89PNG\r\n\x1a\n\0\0", "not a CSV"),
        (b'"' + b"x" * 100, "not a CSV"),
        (",".join(HEADER).replace("stop_timestamp", "end").encode(), "no column 'stop_timestamp'"),
        (b"narration_id,participant_id", "no column 'video_id'"),
        (b"\n" * 2_000_001, "more than 1000000 lines"),
    ],
)
def test_a_file_that_is_no_such_table(tmp_path, clip, content, match):
    put(clip, tmp_path)
    write(tmp_path, row(), name="EPIC_100_validation.csv")
    (tmp_path / "EPIC_100_train.csv").write_bytes(content)
    with pytest.raises(UsageError, match=match) as e:
        list(epic.units(str(tmp_path)))
    assert str(e.value).startswith(str(tmp_path / "EPIC_100_train.csv"))
    assert "download it again" in str(e.value) and "\n" not in str(e.value)


def test_what_the_user_gets_wrong_is_said(tmp_path, clip):
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(UsageError, match=r"neither EPIC_100_train\.csv nor .*sources epic_k"):
            list(epic.units(str(path)))
    write(tmp_path, row())
    with pytest.raises(UsageError, match=r"none of their videos or frames.*sources epic_kitchens"):
        list(epic.units(str(tmp_path)))
    put(clip, tmp_path)
    (tmp_path / "EPIC_100_video_info.csv").write_text("video,fps\n")
    with pytest.raises(UsageError, match=r"EPIC_100_video_info\.csv: has no column 'video_id'"):
        list(epic.units(str(tmp_path)))
    (tmp_path / "EPIC_100_video_info.csv").unlink()
    (tmp_path / "EPIC_100_train.csv").unlink()
    (tmp_path / "EPIC_100_train.csv").mkdir()
    with pytest.raises(UsageError, match="not a CSV"):
        list(epic.units(str(tmp_path)))


def test_whatever_the_bytes_of_a_table_are(tmp_path):
    """Only the two kinds of error, and no path out of the folder."""
    root = epic.fake(tmp_path, 1)
    rng = random.Random(0)
    for name in ("EPIC_100_train.csv", "EPIC_100_video_info.csv"):
        data = (root / name).read_bytes()
        for _ in range(60):
            changed = bytearray(data)
            for _ in range(rng.choice((1, 5, 50))):
                at = rng.randrange(len(changed))
                extra = rng.choice((b"", b'"', b"\n", b",", b"..", b"/", rng.randbytes(3)))
                changed[at : at + rng.randrange(4)] = extra
            (root / name).write_bytes(changed)
            try:
                units = list(epic.units(str(root)))
            except UsageError:
                continue
            for unit in units:
                assert Path(unit.uri).resolve().is_relative_to(root)
                for item in epic.episodes(unit):
                    assert isinstance(item, Episode | DataError)
                    if isinstance(item, Episode) and unit.params["frames"]:
                        try:
                            next(iter(item.frames))
                        except DataError as e:
                            assert e.reason
        (root / name).write_bytes(data)


@pytest.mark.parametrize(
    "narration, verb, noun, wanted",
    [
        ("put sandwiches in lunch box", "put-in", "sandwich", "put sandwiches in lunch box"),
        ("turn-on tap", "turn-on", "tap", "turn on tap"),
        ("pour water into v60", "pour-into", "water", "pour water into v60"),
        ("set timer to 10:30", "set", "timer", "set timer to 10:30"),
        ("take box:lunch", "take", "box:lunch", "take lunch box"),
        # the head of a noun comes first, the rest in its own order
        ("", "clean", "bowl:washing:up", "clean washing up bowl"),
        (" ", "pick-up", "cover:food:processor", "pick up food processor cover"),
        (None, "open", "tin:condensed:milk", "open condensed milk tin"),
        (None, "wash", None, "wash"),
    ],
)
def test_epic_text_by_example(narration, verb, noun, wanted):
    assert epic_text(narration, verb, noun) == wanted
