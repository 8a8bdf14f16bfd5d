"""LAION: img2dataset's shards to one-frame episodes, and what may be wrong with them."""

import dataclasses
import gzip
import io
import json
import shutil
import tarfile

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import sources
from pipelines.episode import Episode, Source
from pipelines.ops.images import encode_jpeg
from pipelines.sources import _laion_tar, laion
from schemas import DataError, UsageError
from tests.samples import sample

JPEG = encode_jpeg(np.full((8, 8, 3), 200, np.uint8))


def read(path, **options) -> list[Episode | DataError]:
    found = []
    for unit in laion.units(str(path)):
        kept = json.loads(json.dumps(dataclasses.asdict(unit) | {"options": options}))
        found += laion.episodes(type(unit)(**kept))
    return found


def episode(item) -> Episode:
    assert isinstance(item, Episode)
    return item


def errors(items) -> dict[str, DataError]:
    return {item.key: item for item in items if isinstance(item, DataError)}


def frame(item):
    (only,) = episode(item).frames
    return only


def row(key, **changes):
    return {"key": key, "status": "success", "caption": f"caption {key}"} | changes


def member(name, data=JPEG, **changes):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in changes.items():
        setattr(info, field, value)
    return info, data


def shard(path, rows, members, name="00000", **options):
    """A shard by hand: `rows` for the parquet, `members` for the tar."""
    with tarfile.open(path / f"{name}.tar", "w", **options) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data) if info.isreg() else None)
    columns = {column: [r.get(column) for r in rows] for r in rows for column in r}
    pq.write_table(pa.table(columns), path / f"{name}.parquet")
    return path


def good(keys):
    return [row(key) for key in keys], [member(f"{key}.jpg") for key in keys]


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    return laion.fake(tmp_path_factory.mktemp("fake"), 0)


def test_the_module_is_a_source():
    source = sources.get("laion")
    assert isinstance(source, Source) and source.INFO.name == "laion"
    assert source.INFO.fit == "crop"
    assert source.INFO.native_fps is None and source.INFO.target_fps is None


def test_real_shards_are_read_whole():
    """All six rows against a reading of its own: tarfile, pyarrow and OpenCV."""
    root = sample("laion/img2dataset")
    with tarfile.open(root / "00000.tar") as tar:
        names = tar.getnames()
        wanted = {}
        for name in names:
            file = tar.extractfile(name)
            assert file is not None
            wanted[name] = file.read()
    rows = pq.read_table(root / "00000.parquet").to_pylist()
    keys = sorted(r["key"] for r in rows)
    assert [n[:-4] for n in names if n.endswith(".jpg")] != keys  # the trap: not in order
    found = read(root)
    assert [episode(item).id for item in found[:5]] == keys
    captions = {r["key"]: r["caption"] for r in rows}
    for item in found[:5]:
        item = episode(item)
        only = frame(item)
        assert only.time == 0.0 and only.control is None and item.fps == 0.0
        assert only.text == captions[item.id] == wanted[f"{item.id}.txt"].decode()
        data = np.frombuffer(wanted[f"{item.id}.jpg"], np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
        assert image is not None
        assert np.abs(only.image().astype(int) - image).max() <= 1
        assert item.source_range == f"{item.id}.jpg"
        assert item.license == ""  # the rows say "?"
    (lost,) = errors(found[5:]).values()
    failed = pq.read_table(root / "00001.parquet").to_pylist()[0]
    assert lost.key == failed["key"] == "000010"
    assert lost.stage == "download" and not lost.counts
    assert failed["status"] in lost.reason and failed["error_message"] in lost.reason


def test_units_are_the_tars():
    root = sample("laion/img2dataset")
    first, second = laion.units(str(root))
    assert first.id == "00000" and first.uri == str(root / "00000.tar")
    assert first.cost == (root / "00000.tar").stat().st_size
    assert first.split is None and first.episodes > 0
    assert second.id == "00001"


def test_the_fake_holds_its_traps(fake):
    with tarfile.open(fake / "00000.tar") as tar:
        names = [name for name in tar.getnames() if name.endswith(".jpg")]
        assert sorted(names) != names

        def content(key):
            file = tar.extractfile(f"{key}.jpg")
            assert file is not None
            return file.read()

        assert content("000001")[8:12] == b"WEBP"
        assert content("000003")[1:4] == b"PNG"
    found = read(fake)
    lost = errors(found)
    assert {key: (e.stage, e.counts) for key, e in lost.items()} == {
        "000002": ("download", False),
        "000008": ("filter", False),
    }
    by_id = {episode(item).id: item for item in found if isinstance(item, Episode)}
    assert list(by_id) == sorted(by_id) and len(by_id) == 7
    with pytest.raises(DataError, match="truncated") as e:
        frame(by_id.pop("000007")).image()
    assert e.value.stage == "decode"
    colours = ["red", "green", "blue"]
    for key, item in by_id.items():
        image = frame(item).image()
        assert image.shape == ((64, 48, 3) if key == "000005" else (48, 64, 3))  # turned by EXIF
        # the square on a light grey ground: its own channel changes least
        strongest = np.ptp(image.reshape(-1, 3).astype(int), 0).argmin()
        assert frame(item).text == f"a {colours[strongest]} square"
    assert episode(by_id["000006"]).license == "CC BY 2.0"


def test_the_fake_is_deterministic_and_small(fake, tmp_path):
    def contents(root):
        return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}

    assert contents(laion.fake(tmp_path / "a", 0)) == contents(fake)
    assert contents(laion.fake(tmp_path / "b", 1)) != contents(fake)
    assert sum(map(len, contents(fake).values())) < 300_000


def test_a_clean_fake_is_whole(tmp_path):
    found = read(laion.fake(tmp_path, 0, traps=False))
    assert len(found) == 8
    assert all(frame(item).image().shape == (48, 64, 3) for item in found)


def test_the_order_in_the_tar_is_no_matter(tmp_path):
    rows, members = good(["000001", "000000", "000003", "000002"])
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    shard(tmp_path / "a", rows, members)
    shard(tmp_path / "b", rows[::-1], members[::-1])
    orders = [[episode(i).id for i in read(tmp_path / name)] for name in "ab"]
    assert orders[0] == orders[1] == ["000000", "000001", "000002", "000003"]


def test_metadata_may_be_odd_or_missing(tmp_path):
    rows = [
        row("000000", NSFW="WHATEVER", similarity=None, exif='{"a": '),
        row("000001", NSFW=None, LICENSE="CC\nBY 4.0"),
        row("000002", caption="  two\tlines\u2028of \u200btext "),
        row("000003", caption=None),
        row("000004", LICENSE="?"),
    ]
    members = [member(f"{r['key']}.jpg") for r in rows]
    members += [member("000003.txt", b"from the tar\n")]
    found = {episode(i).id: i for i in read(shard(tmp_path, rows, members))}
    assert len(found) == 5
    assert episode(found["000001"]).license == "CC BY 4.0"
    assert episode(found["000004"]).license == ""
    assert frame(found["000002"]).text == "two lines of text"
    assert frame(found["000003"]).text == "from the tar"


@pytest.mark.parametrize("caption", [None, "", " \n\t", "\u200b"])
def test_no_caption_is_bad_data_that_counts(tmp_path, caption):
    rows = [row("000000"), row("000001", caption=caption)]
    found = read(shard(tmp_path, rows, good(["000000", "000001"])[1]))
    assert episode(found[0]).id == "000000"
    lost = errors(found)["000001"]
    assert "caption" in lost.reason and lost.counts and lost.where == "000001.jpg"


def test_members_that_are_no_plain_files_below_cost_themselves(tmp_path):
    outside = tmp_path / "outside.jpg"
    rows, members = good(["000000", "000001"])
    hostile = [
        member("../000009.jpg"),
        member("/000009.jpg"),
        member(str(outside)),
        member("a/000009.jpg"),
        member("000009"),
        member("\udcff\udcfe.jpg"),
        member("x" * 300 + ".jpg"),
        member("000009.jpg", b"", type=tarfile.SYMTYPE, linkname="000000.jpg"),
        member("000008.jpg", b"", type=tarfile.LNKTYPE, linkname="000000.jpg"),
        member("000007.jpg", b"", type=tarfile.DIRTYPE),
        member("000006.jpg", b"", type=tarfile.FIFOTYPE),
        member("000005.jpg", b"", type=tarfile.CHRTYPE),
        member("000000.png", b"not the first image of its key"),
    ]
    root = tmp_path / "data"
    root.mkdir()
    mixed = [members[0], *hostile, members[1]]
    found = read(shard(root, rows, mixed, encoding="utf-8", errors="surrogateescape"))
    lost = [item for item in found if isinstance(item, DataError)]
    assert [episode(i).id for i in found if isinstance(i, Episode)] == ["000000", "000001"]
    assert len(lost) == len(hostile)
    for item in lost:
        assert item.counts and item.stage == "read"
        (item.key + item.where + item.reason).encode()  # can be written down
    assert [p.name for p in tmp_path.iterdir()] == ["data"]  # nothing was unpacked


def test_names_may_begin_with_a_dot_slash(tmp_path):
    found = read(shard(tmp_path, [row("000000")], [member("./000000.jpg")]))
    assert episode(found[0]).source_range == "./000000.jpg"


def test_a_member_beyond_the_limit_is_refused_unread(tmp_path, monkeypatch):
    rows, members = good(["000000", "000002"])
    huge = member("000001.jpg", bytes(5000))
    shard(tmp_path, [*rows, row("000001")], [members[0], huge, members[1]])
    monkeypatch.setattr(_laion_tar, "MAX_MEMBER", 4999)
    found = read(tmp_path)
    assert [episode(i).id for i in found if isinstance(i, Episode)] == ["000000", "000002"]
    assert "5000 bytes" in errors(found)["000001.jpg"].reason
    assert "no image" in errors(found)["000001"].reason


def test_a_header_beyond_the_limit_is_refused_unread(tmp_path, monkeypatch):
    """tarfile reads extended headers whole, whatever size they announce."""
    rows, members = good(["000000", "000001"])
    long = member("000002.jpg", b"", pax_headers={"comment": "x" * 100_000})
    mixed = [members[0], long, members[1]]
    shard(tmp_path, rows, mixed, format=tarfile.PAX_FORMAT)
    monkeypatch.setattr(_laion_tar, "MAX_MEMBER", 50_000)
    found = read(tmp_path)
    assert episode(next(i for i in found if isinstance(i, Episode))).id == "000000"
    assert "damaged" in errors(found)["00000.tar"].reason
    assert errors(found).keys() == {"00000.tar", "000001"}


def test_rows_and_members_that_do_not_meet_are_bad_data(tmp_path):
    rows = [row("000000"), row("000001"), row("000001"), row("../x"), row(None)]
    found = read(shard(tmp_path, rows, [member("000000.jpg"), member("000002.jpg")]))
    lost = errors(found)
    assert [episode(i).id for i in found if isinstance(i, Episode)] == ["000000"]
    assert "in the tar but not in the parquet" in lost["000002"].reason
    assert "no key" in lost["../x"].reason and "no key" in lost["row 4"].reason
    reasons = [i.reason for i in found if isinstance(i, DataError) and i.key == "000001"]
    assert sorted(reasons) == ["a second row", "a success in the parquet, but no image in the tar"]


def test_every_cut_of_a_tar_costs_only_what_is_behind_it(tmp_path):
    keys = [f"00000{i}" for i in range(4)]
    shard(tmp_path, *good(keys))
    data = (tmp_path / "00000.tar").read_bytes()
    block = 512 + -(-len(JPEG) // 512) * 512
    for length in range(0, 4 * block + 1, 100):
        (tmp_path / "00000.tar").write_bytes(data[:length])
        found = read(tmp_path)
        whole = [k for i, k in enumerate(keys) if length >= i * block + 512 + len(JPEG)]
        assert [i.id for i in found if isinstance(i, Episode)] == whole
        assert errors(found).keys() - {"00000.tar"} == set(keys) - set(whole)
        assert all(frame(i).image().shape == (8, 8, 3) for i in found if isinstance(i, Episode))


@pytest.mark.parametrize("content", [b"", b"no tar" * 1000, gzip.compress(bytes(10240), mtime=0)])
def test_what_is_no_tar_costs_all_its_rows(tmp_path, content):
    shard(tmp_path, *good(["000000", "000001"]))
    (tmp_path / "00000.tar").write_bytes(content)
    found = read(tmp_path)
    assert errors(found).keys() == {"00000.tar", "000000", "000001"} and len(found) == 3


def test_damaged_tar_headers_raise_nothing_but_data_errors(tmp_path):
    rng = np.random.default_rng(0)
    keys = [f"00000{i}" for i in range(4)]
    shard(tmp_path, *good(keys), format=tarfile.PAX_FORMAT)
    data = (tmp_path / "00000.tar").read_bytes()
    for _ in range(200):
        bad = bytearray(data)
        for at in rng.integers(0, len(bad) // 4, rng.integers(1, 30)):
            bad[at] = rng.integers(0, 256)
        (tmp_path / "00000.tar").write_bytes(bad)
        found = read(tmp_path)
        assert {i.key if isinstance(i, DataError) else i.id for i in found} >= set(keys)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_parquet_that_is_not_whole_costs_the_shard(tmp_path, share):
    shard(tmp_path, *good(["000000"]))
    data = (tmp_path / "00000.parquet").read_bytes()
    (tmp_path / "00000.parquet").write_bytes(data[: int(share * len(data))])
    with pytest.raises(DataError, match=r"00000\.parquet is not a whole parquet") as e:
        read(tmp_path)
    assert e.value.uri == str(tmp_path / "00000.parquet") and e.value.key == ""


def test_a_shard_in_parts_costs_the_shard(tmp_path):
    for name in ("00000", "00001", "00002"):
        shard(tmp_path, *good([f"{name}0"]), name=name)
    (tmp_path / "00001.parquet").unlink()
    (tmp_path / "00002.tar").unlink()
    first, second, third = laion.units(str(tmp_path))
    assert episode(next(laion.episodes(first))).id == "000000"
    with pytest.raises(DataError, match=r"00001\.parquet is missing"):
        list(laion.episodes(second))
    with pytest.raises(DataError, match=r"00002\.tar is missing"):
        list(laion.episodes(third))


def test_a_parquet_of_something_else_costs_the_shard(tmp_path):
    shard(tmp_path, [{"URL": "x", "TEXT": "y"}], [])
    with pytest.raises(DataError, match="lacks the text columns key, status"):
        read(tmp_path)


def test_equal_keys_of_two_shards_stay_apart(tmp_path):
    for name in ("00000", "00001"):
        shard(tmp_path, *good(["7"]), name=name)
    assert [episode(i).id for i in read(tmp_path)] == ["00000-7", "00001-7"]


def test_images_are_read_one_at_a_time(tmp_path):
    """What comes first is handed out before the rest of the tar's bytes are looked at."""
    rows, members = good(["000000", "000001"])
    filling = member("000000.bin", bytes(100_000))  # more than a read buffer
    shard(tmp_path, rows, [members[0], filling, members[1]])
    (unit,) = laion.units(str(tmp_path))
    items = laion.episodes(unit)
    first = next(items)
    at = (tmp_path / "00000.tar").read_bytes().rindex(JPEG)
    with open(tmp_path / "00000.tar", "r+b") as f:
        f.seek(at)
        f.write(b"changed!")
    assert frame(first).image().shape == (8, 8, 3)
    with pytest.raises(DataError, match="not a JPEG"):
        frame(next(items)).image()


def test_what_the_user_gets_wrong_is_said(tmp_path):
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(UsageError, match=r"found 0 \*\.tar and 0 \*\.parquet.*img2dataset"):
            list(laion.units(str(path)))
    shutil.copy(sample("laion/test_1000.parquet"), tmp_path)
    with pytest.raises(UsageError, match=r"found 0 \*\.tar and 1 \*\.parquet"):
        list(laion.units(str(tmp_path)))
