"""Something-Something V2: labels and clips to episodes, and what may be wrong with either."""

import dataclasses
import json
import shutil

import av
import cv2
import numpy as np
import pytest

from pipelines import sources
from pipelines.episode import Episode, Source
from pipelines.ops import video
from pipelines.sources import something_something_v2 as ssv2
from schemas import DataError, UsageError
from tests.samples import sample


def read(path) -> dict[str, Episode | DataError]:
    """Every item of every unit by id; units as they come back from a plan's JSON."""
    found = {}
    for unit in ssv2.units(str(path)):
        kept = type(unit)(**json.loads(json.dumps(dataclasses.asdict(unit))))
        for item in ssv2.episodes(kept):
            key = item.key if isinstance(item, DataError) else item.id
            assert key not in found
            found[key] = item
    return found


def episode(item) -> Episode:
    assert isinstance(item, Episode)
    return item


def error(item) -> DataError:
    assert isinstance(item, DataError)
    return item


def write(path, entries, name="train.json"):
    path.mkdir(parents=True, exist_ok=True)
    (path / name).parent.mkdir(exist_ok=True)
    (path / name).write_text(json.dumps(entries))
    return path


def label(key, **changes):
    return {"id": key, "label": "moving a cup", "template": "Moving [something]"} | changes


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    return ssv2.fake(tmp_path_factory.mktemp("fake"), 0)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.webm"
    video.write_video(str(path), [np.full((48, 64, 3), 10 * i, np.uint8) for i in range(6)], 12.0)
    return path


def test_the_module_is_a_source():
    source = sources.get("something_something_v2")
    assert isinstance(source, Source) and source.INFO.name == "something_something_v2"
    assert source.INFO.slots == () and source.INFO.native_fps == 12


def test_real_videos_become_their_frames(tmp_path):
    """Real H.264 under the names of the dataset, one of them .webm: the content decides."""
    names = {"101": ("video/bikes.mp4", "webm"), "102": ("video/bigbuckbunny.mp4", "mp4")}
    (tmp_path / "videos").mkdir()
    for key, (name, suffix) in names.items():
        shutil.copy(sample(name), tmp_path / "videos" / f"{key}.{suffix}")
    write(tmp_path, [label("101", label="riding a bike"), label("102", label="waking up")])
    found = read(tmp_path)
    for key, (name, suffix) in names.items():
        item = episode(found[key])
        assert item.source_uri == str(tmp_path / "videos" / f"{key}.{suffix}")
        assert item.fps is None and not item.controls
        capture, count = cv2.VideoCapture(str(sample(name))), 0
        with av.open(str(sample(name))) as container:
            for frame, theirs in zip(item.frames, container.decode(video=0), strict=True):
                ok, bgr = capture.read()
                assert ok and frame.time == theirs.time
                if count % 25 == 0:
                    image = frame.image()
                    assert np.abs(image.astype(int) - bgr[..., ::-1]).mean() < 1.5
                assert frame.text == ("riding a bike" if key == "101" else "waking up")
                assert frame.control is None
                count += 1
        assert count == (250 if key == "101" else 132) and not capture.read()[0]


def test_the_fake_holds_its_traps(fake):
    found = read(fake)
    lost = {key for key, item in found.items() if isinstance(item, DataError)}
    assert lost == {"1005"}
    missing = error(found["1005"])
    assert missing.stage == "read" and missing.counts and "1005.webm" in missing.reason
    texts = {}
    for key in found.keys() - lost - {"1004"}:
        frames = list(episode(found[key]).frames)
        assert len(frames) == 24
        assert np.allclose([f.time for f in frames], np.arange(24) / 12, atol=1e-3)
        assert all(f.image().shape == (48, 64, 3) for f in frames)
        texts[key] = {f.text for f in frames}
    assert texts["1003"] == {"Moving a square down"}
    assert texts["1006"] == {"Moving one something from right to left"}
    assert texts["1008"] == {"Moving part of something up"}
    with pytest.raises(DataError, match=r"1004\.webm: cut short"):
        list(episode(found["1004"]).frames)
    # one .mp4 is WebM inside, as in the real dataset, and says neither length nor frame count
    with av.open(episode(found["1002"]).source_uri) as container:
        assert episode(found["1002"]).source_uri.endswith(".mp4")
        assert "webm" in container.format.name
        assert container.streams.video[0].frames == 0
        assert container.streams.video[0].duration is None


def test_the_fake_is_deterministic_and_small(fake, tmp_path):
    def contents(root):
        return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}

    again = ssv2.fake(tmp_path / "a", 0)
    assert contents(again) == contents(fake)
    assert contents(ssv2.fake(tmp_path / "b", 1)) != contents(fake)
    assert sum(map(len, contents(fake).values())) < 300_000


def test_a_clean_fake_is_whole_and_moves_as_it_says(tmp_path):
    found = read(ssv2.fake(tmp_path, 0, traps=False))
    assert len(found) == 8
    for item in found.values():
        frames = list(episode(item).frames)
        first, last = (
            np.argwhere(f.image().max(-1) > 135).mean(0) for f in (frames[0], frames[-1])
        )
        dy, dx = last - first
        direction = {
            "from left to right": dx > 20,
            "from right to left": dx < -20,
            "down": dy > 20,
            "up": dy < -20,
        }
        assert [name for name, holds in direction.items() if holds] == [
            frames[0].text.removeprefix("moving a square ")
        ]


def test_units_are_the_splits_and_cheap(fake, monkeypatch):
    def opened(*_):
        raise AssertionError("units opened a video")

    monkeypatch.setattr(video, "frames", opened)
    monkeypatch.setattr(video, "probe", opened)
    units = list(ssv2.units(str(fake)))
    assert [(u.id, u.split, u.episodes) for u in units] == [
        ("train-000000", "train", 5),
        ("validation-000000", "val", 2),
    ]
    folder = fake / "20bn-something-something-v2"
    assert sum(u.cost for u in units) == sum(p.stat().st_size for p in folder.iterdir())
    assert all(u.frames > 0 and u.version == "2.0.0" for u in units)


def test_units_do_not_depend_on_the_place(fake, tmp_path):
    moved = shutil.copytree(fake, tmp_path / "elsewhere")
    for here, there in zip(ssv2.units(str(fake)), ssv2.units(str(moved)), strict=True):
        assert dataclasses.replace(there, uri="") == dataclasses.replace(here, uri="")


def test_units_are_split_by_size_and_by_number(tmp_path, clip, monkeypatch):
    keys = [str(1000 + i) for i in range(10)]
    write(tmp_path, [label(key) for key in keys])
    for key in keys:
        shutil.copy(clip, tmp_path / f"{key}.webm")
    size = clip.stat().st_size
    units = list(ssv2.units(str(tmp_path), 3 * size))
    assert [u.cost for u in units] == [3 * size, 3 * size, 3 * size, size]
    assert [u.id for u in units] == [f"train-{i:06d}" for i in (0, 3, 6, 9)]
    assert list(read(tmp_path)) == keys  # in the order of the labels
    monkeypatch.setattr(ssv2, "_UNIT_CLIPS", 2)
    assert [u.episodes for u in ssv2.units(str(tmp_path))] == [2] * 5


@pytest.mark.parametrize(
    "name", ["train.json", "labels/train.json", "labels/something-something-v2-train.json"]
)
@pytest.mark.parametrize("folder", ["", "videos", "20bn-something-something-v2"])
def test_the_official_layouts_are_read(tmp_path, clip, name, folder):
    write(tmp_path, [label(7)], name)  # an id may be a number
    (tmp_path / folder).mkdir(exist_ok=True)
    shutil.copy(clip, tmp_path / folder / "7.webm")
    frames = list(episode(read(tmp_path)["7"]).frames)
    assert len(frames) == 6 and frames[0].text == "moving a cup"


def test_validation_alone_is_enough_and_test_labels_are_not_read(tmp_path, clip):
    write(tmp_path, [label("1")], "validation.json")
    write(tmp_path, [{"id": "2"}], "test.json")
    shutil.copy(clip, tmp_path / "1.webm")
    shutil.copy(clip, tmp_path / "2.webm")
    assert [(u.split, u.episodes) for u in ssv2.units(str(tmp_path))] == [("val", 1)]


def test_bad_labels_cost_themselves_alone(tmp_path, clip):
    secret = tmp_path / "secret.webm"
    shutil.copy(clip, secret)
    root = tmp_path / "data"
    entries = [
        label("../secret"),
        label(str(tmp_path / "secret")),
        label("a\\b"),
        label(".."),
        label("\ud800"),
        label(None),
        {"label": "moving a cup"},
        "not an object",
        label("1"),
        label("1"),
        label("2", label="", template=None),
        label("3", label="[something]", template="[]", placeholders=[{}]),
    ]
    write(root, entries)
    for key in ("1", "2", "3"):
        shutil.copy(clip, root / f"{key}.webm")
    (unit,) = ssv2.units(str(root))
    items = list(ssv2.episodes(unit))
    assert len(items) == len(entries)
    good = {i.id: i for i in items if isinstance(i, Episode)}
    assert good.keys() == {"1", "3"}
    assert next(iter(good["3"].frames)).text == "something"
    for item in items[:8]:
        assert error(item).stage == "annotate" and "no id" in error(item).reason
        error(item).key.encode()  # can be written down
    assert "before" in error(items[9]).reason
    assert "word" in error(items[10]).reason


def test_an_id_in_both_splits_is_read_once(tmp_path, clip):
    write(tmp_path, [label("1")])
    write(tmp_path, [label("1")], "validation.json")
    shutil.copy(clip, tmp_path / "1.webm")
    train, val = (list(ssv2.episodes(u)) for u in ssv2.units(str(tmp_path)))
    assert isinstance(train[0], Episode) and "before" in error(val[0]).reason


def test_a_video_that_goes_after_the_plan_costs_itself(tmp_path, clip):
    write(tmp_path, [label("1")])
    shutil.copy(clip, tmp_path / "1.webm")
    (unit,) = ssv2.units(str(tmp_path))
    (tmp_path / "1.webm").unlink()
    with pytest.raises(DataError, match=r"1\.webm has gone"):
        list(episode(next(ssv2.episodes(unit))).frames)


def test_what_the_user_gets_wrong_is_said(tmp_path, clip):
    with pytest.raises(UsageError, match=r"neither train\.json nor validation\.json"):
        list(ssv2.units(str(tmp_path / "nowhere")))
    with pytest.raises(UsageError, match=r"`unisim sources something_something_v2` shows"):
        list(ssv2.units(str(tmp_path)))
    write(tmp_path, [label("1")])
    with pytest.raises(UsageError, match=r"labels but no videos.*unpack"):
        list(ssv2.units(str(tmp_path)))
    shutil.copy(clip, tmp_path / "1.webm")
    assert len(list(ssv2.units(str(tmp_path)))) == 1
    for content, match in [
        (b"[{", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[" * 200_000, "not JSON"),
        (b'{"id": "1"}', "wanted a list"),
    ]:
        (tmp_path / "train.json").write_bytes(content)
        with pytest.raises(UsageError, match=match) as e:
            list(ssv2.units(str(tmp_path)))
        assert str(tmp_path / "train.json") in str(e.value)


def vp9_bomb(data: bytes) -> bytes:
    """A WebM whose first frame announces 65,536 x 65,536 pixels, the most that VP9 can say."""
    at = data.index(b"\x49\x83\x42") + 3  # the key frame's sync code; 4 bits on come the two sizes
    bits = int.from_bytes(data[at : at + 5], "big") | (2**32 - 1) << 4
    return data[:at] + bits.to_bytes(5, "big") + data[at + 5 :]


@pytest.mark.parametrize(
    "spoil",
    [
        vp9_bomb,
        lambda data: data[:-100],
        lambda data: data[:40],
        lambda data: b"",
        lambda data: b"<html>404</html>",
        lambda data: b"#EXTM3U\nfile:///etc/passwd\n",
        lambda data: json.dumps([label("2")]).encode(),
    ],
)
def test_what_is_no_whole_clip_costs_itself_alone(tmp_path, clip, spoil):
    write(tmp_path, [label("1"), label("2"), label("3")])
    for key in ("1", "2", "3"):
        shutil.copy(clip, tmp_path / f"{key}.webm")
    (tmp_path / "2.webm").write_bytes(spoil(clip.read_bytes()))
    found = read(tmp_path)
    with pytest.raises(DataError, match=r"2\.webm"):
        for frame in episode(found["2"]).frames:
            frame.image()
    for key in ("1", "3"):
        assert [frame.image().shape for frame in episode(found[key]).frames] == [(48, 64, 3)] * 6


def test_a_label_that_is_not_utf8_costs_itself_alone(tmp_path, clip):
    entries = [label("1", label="café"), label("2", label="caf?"), label("3", label="a \ud800")]
    for key in ("1", "2", "3"):
        shutil.copy(clip, tmp_path / f"{key}.webm")
    text = json.dumps(entries[:2], ensure_ascii=False)[:-1] + ", " + json.dumps(entries[2:])[1:]
    data = b"\xef\xbb\xbf" + text.encode().replace(b"?", b"\xe9")  # with a byte order mark
    (tmp_path / "train.json").write_bytes(data)
    found = read(tmp_path)
    assert next(iter(episode(found["1"]).frames)).text == "café"
    for key in ("2", "3"):
        assert "not UTF-8" in error(found[key]).reason and error(found[key]).counts


@pytest.mark.parametrize("odd", [None, 1.5, True, [], {}, "x" * 100_000, "[" * 500])
def test_values_of_any_type_cost_their_label_alone(tmp_path, clip, odd):
    nested = odd
    if odd == "[" * 500:
        nested = json.loads(odd + "]" * 500)
    fields = ("id", "label", "template", "placeholders")
    entries = [label("1"), *[label(f"2{x}", **{x: nested}) for x in fields], nested, label("3")]
    write(tmp_path, entries)
    for key in ("1", "2label", "2template", "2placeholders", "3"):
        shutil.copy(clip, tmp_path / f"{key}.webm")
    (unit,) = ssv2.units(str(tmp_path))
    items = list(ssv2.episodes(unit))
    assert len(items) == len(entries)
    good = [item.id for item in items if isinstance(item, Episode)]
    assert good[0] == "1" and good[-1] == "3"
    assert all(item.key for item in items if isinstance(item, DataError))
