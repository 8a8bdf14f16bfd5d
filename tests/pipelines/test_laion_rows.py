"""LAION: what the options reject, and what untrusted rows and images may hold."""

import decimal
import io
import json
import struct
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines import plan, prepare
from pipelines.episode import Episode
from pipelines.ops.images import encode_jpeg
from pipelines.sources import _laion_rows, laion
from pipelines.write import write_shard
from schemas import DataError, Tier
from tests.pipelines.test_laion import JPEG, episode, errors, frame, good, member, read, row, shard

OPTIONS = {option.name: option.default for option in laion.INFO.options}


def write(path, columns, members=None, name="00000"):
    """A shard with these columns (pyarrow arrays keep their types) and one image per key."""
    keys = [f"00000{i}" for i in range(len(next(iter(columns.values()))))]
    base = {"key": keys, "status": ["success"] * len(keys), "caption": [f"a {k}" for k in keys]}
    shard(path, [], members or [member(f"{key}.jpg") for key in keys], name)
    pq.write_table(pa.table(base | columns), path / f"{name}.parquet")
    return path


def kept(found) -> list[str]:
    """Ids of the episodes whose image decodes; the others' errors must be declared losses."""
    ids = []
    for item in found:
        try:
            if isinstance(item, DataError):
                raise item
            assert frame(item).image().dtype == np.uint8
            ids.append(item.id)
        except DataError as e:
            assert (e.stage, e.counts) == ("filter", False), e.reason
    return ids


@pytest.mark.parametrize(
    ("column", "values", "options", "wanted"),
    [
        ("similarity", [0.1, 0.2799, 0.28, 0.9, None, float("nan")], {}, "2345"),
        ("similarity", [0.1, 0.2799, 0.28, 0.9, -1, 0], {"min_similarity": 0.1}, "0123"),
        ("similarity", ["0.1", "0.9", "", "high", None, "nan"], {}, "12345"),
        ("similarity", np.array([0.28, 0.27], np.float32), {}, "0"),  # float32 has no 0.28
        ("similarity", [decimal.Decimal("0.30"), decimal.Decimal("0.20")], {}, "0"),
        ("similarity", [[0.1], [0.2]], {}, "01"),  # a list is no number
        ("Similarity", [0.1, 0.9], {}, "1"),
        ("pwatermark", [0.1, 0.8, 0.81, None], {}, "013"),
        ("pwatermark", [0.1, 0.8, 0.81, None], {"max_pwatermark": 0.5}, "03"),
        ("punsafe", [0.1, 0.5, 0.51, None], {}, "013"),
        ("punsafe", [0, 1, 2**40], {"max_punsafe": 1}, "01"),
        ("NSFW", ["UNLIKELY", "UNSURE", "NSFW", "?", None, " nsfw\n"], {}, "0134"),
        ("NSFW", ["UNLIKELY", "UNSURE", "NSFW", "?", None, "unlikely"], {"max_nsfw": 0}, "05"),
        ("NSFW", ["UNLIKELY", "UNSURE", "NSFW", "?", None], {"max_nsfw": 2}, "01234"),
        ("NSFW", [0.5, 1.0], {}, "01"),
        ("nsfw", ["NSFW", "UNSURE"], {}, "1"),
        ("width", [7, 8, 300, None, 0, -3], {"min_size": 8}, "12345"),  # the images have 8 x 8
        ("original_height", [7, 8, 300, None, 0, -3], {"min_size": 8}, "12345"),
        ("WIDTH", ["7", "8", "x"], {"min_size": 8}, "12"),
        ("width", [300, None], {"min_size": 9}, ""),  # the row is wrong, or says nothing
        ("width", [1, 1], {}, "01"),
    ],
)  # fmt: skip
def test_options_reject_what_is_beyond_them(tmp_path, column, values, options, wanted):
    found = read(write(tmp_path, {column: values}), **OPTIONS | options)
    assert kept(found) == [f"00000{i}" for i in wanted]


def test_the_defaults_hold_for_units_that_were_not_planned(tmp_path):
    write(tmp_path, {"similarity": [0.279, 0.281]})
    assert kept(read(tmp_path)) == kept(read(tmp_path, **OPTIONS)) == ["000001"]


def test_a_loss_says_value_limit_and_option(tmp_path):
    (lost,) = errors(read(write(tmp_path, {"similarity": [0.25]}))).values()
    assert lost.reason == "similarity is 0.25, below min_similarity = 0.28"
    (lost,) = errors(read(write(tmp_path, {"NSFW": ["x"]}), max_nsfw=0)).values()
    assert lost.reason == "NSFW is UNTAGGED; its level is 1, above max_nsfw = 0"
    with pytest.raises(DataError, match="smallest side is 8, below min_size = 9"):
        frame(read(write(tmp_path, {"width": [None]}), min_size=9)[0]).image()


def test_what_cannot_pass_is_not_even_read(tmp_path):
    """A rejected row needs no image and no caption: what it lacks does not count."""
    rows = [row("000000"), row("000001", punsafe=0.9, caption=None), row("000002", punsafe=0.9)]
    found = read(shard(tmp_path, rows, [member("000000.jpg"), member("000001.jpg")]))
    assert kept(found) == ["000000"]


def test_options_reach_the_worker_by_the_plan(tmp_path):
    raw, out = laion.fake(tmp_path, 0, traps=False), str(tmp_path / "out")
    options = {"laion.min_similarity": 0.31}
    made = plan.make([("laion", str(raw))], tiers=[Tier(24, 40, "raw")], fps={}, options=options)
    (receipt,) = [write_shard(task) for task in prepare.tasks(made, out)]
    assert receipt.episodes == 0 and len(receipt.dead_letters) == 8
    for letter in receipt.dead_letters:
        assert letter["stage"] == "filter" and letter["episodes"] == 0
        assert letter["reason"] == "similarity is 0.3, below min_similarity = 0.31"


cells = st.dictionaries(
    st.sampled_from(["similarity", "punsafe", "NSFW", "width", "WIDTH", "original_width", "exif"]),
    st.sampled_from(
        [
            pa.array([None, None]),
            pa.array([True, False]),
            pa.array([0, -(2**63)]),
            pa.array([float("inf"), float("nan")]),
            pa.array(["", "NaN"]),
            pa.array([b"\xff", b"0.9"]),
            pa.array([[0.5], None]),
            pa.array([{"a": {"b": [1]}}, None]),
            pa.array([0, 2**60], pa.timestamp("ns")),
            pa.array(["x", "y"]).dictionary_encode(),
            pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int8())),
            pa.array(["[" * 9_000, json.dumps({"Image Orientation": "\ud800"})]),
        ]
    ),
    min_size=1,
)


@settings(deadline=None, max_examples=40)
@given(cells)
def test_columns_of_any_type_cost_no_more_than_their_rows(tmp_path_factory, columns):
    path = tmp_path_factory.mktemp("odd")
    found = read(write(path, columns), min_size=2)
    for item in found:
        assert isinstance(item, Episode) or item.key in ("000000", "000001")
    assert len(found) == 2


def test_required_columns_must_hold_texts(tmp_path):
    for columns, lacking in [
        ({"key": [["000000"]]}, "key"),
        ({"status": [{"a": "success"}]}, "status"),
        ({"key": [0], "status": [0]}, "key, status"),
    ]:
        with pytest.raises(DataError, match=rf"lacks the text columns {lacking}$"):
            read(write(tmp_path, columns))
    twice = pa.Table.from_arrays([pa.array(["x"])] * 3, names=["key", "status", "key"])
    pq.write_table(twice, tmp_path / "00000.parquet")
    with pytest.raises(DataError, match="columns of one name"):
        read(tmp_path)


def raw_strings(*values: bytes) -> pa.Array:
    """A string array of bytes that nobody checks, as some writers leave them."""
    offsets = np.cumsum([0, *map(len, values)], dtype=np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(values))]
    return pa.Array.from_buffers(pa.string(), len(values), buffers)


def test_texts_that_are_not_utf8_cost_their_row(tmp_path):
    captions = raw_strings(b"a caf\xc3\xa9", b"a caf\xe9", b"a dog")
    found = read(write(tmp_path, {"caption": captions}))
    assert frame(found[0]).text == "a café" and frame(found[2]).text == "a dog"
    lost = errors(found)["000001"]
    assert "caption is not UTF-8" in lost.reason and lost.counts
    found = read(write(tmp_path, {"key": raw_strings(b"000000", b"\xff", b"000002")}))
    assert {item.id for item in found if isinstance(item, Episode)} == {"000000", "000002"}
    members = [member("000000.jpg"), member("000000.txt", b"caf\xe9"), member("000001.jpg")]
    found = read(write(tmp_path, {"caption": [None, "a dog"]}, members))
    assert "000000.txt is not UTF-8" in errors(found)["000000"].reason
    assert frame(found[1]).text == "a dog"


def test_a_row_without_a_status_is_bad_data(tmp_path):
    found = read(write(tmp_path, {"status": ["success", None, " "]}))
    assert [e.reason for e in errors(found).values()] == ["the row has no status"] * 2
    assert all(e.counts for e in errors(found).values()) and episode(found[0]).id == "000000"


def test_memory_stays_small_whatever_the_parquet_repeats(tmp_path):
    """A few megabytes that would unfold to 20 GB."""
    count = 20_000
    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), ["x" * 1_000_000])
    lists = pa.array([[1] * 100_000] * 5 + [None] * (count - 5))
    keys = [f"{i:06d}" for i in range(count)]
    columns = {"key": keys, "caption": text, "similarity": lists}
    shard(tmp_path, [], [member("000000.jpg"), member("000000.txt", b"a" * 10_001)])
    pq.write_table(pa.table(columns | {"status": ["success"] * count}), tmp_path / "00000.parquet")
    assert (tmp_path / "00000.parquet").stat().st_size < 4_000_000
    before = pa.default_memory_pool().max_memory()
    lost = errors(read(tmp_path))
    assert len(lost) == count
    assert lost["000000"].reason == "the caption is longer than 10000 bytes"
    assert pa.default_memory_pool().max_memory() - before < 100_000_000


def test_a_table_that_unpacks_to_too_much_is_refused_unread(tmp_path, monkeypatch):
    write(tmp_path, {"caption": ["x" * 1000, "y"]})
    for name, limit, match in [("_MAX_BYTES", 500, "unpacks to"), ("_MAX_ROWS", 1, "2 rows")]:
        with monkeypatch.context() as patch:
            patch.setattr(_laion_rows, name, limit)
            with pytest.raises(DataError, match=match) as e:
                read(tmp_path)
            assert e.value.uri == str(tmp_path / "00000.parquet")


def jpeg_bomb() -> bytes:
    at = JPEG.index(b"\xff\xc0")  # start of frame: length, precision, height, width
    return JPEG[: at + 5] + struct.pack(">HH", 65_000, 65_000) + JPEG[at + 9 :]


def png_bomb() -> bytes:
    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(10_000_000)))
    return b"\x89PNG\r\n\x1a\n" + parts + chunk(b"IEND", b"")


def webp_bomb(lossless: bool) -> bytes:
    """WebP's header has 14 bits per side: 16,383 at most."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(stream, "WEBP", lossless=lossless)
    data = bytearray(stream.getvalue())
    if lossless:  # VP8L: 14 bits width - 1, 14 bits height - 1
        at = data.index(b"VP8L") + 9
        data[at : at + 4] = struct.pack("<I", 16_382 | 16_382 << 14)
    else:  # VP8: both after the start code
        at = data.index(b"\x9d\x01\x2a") + 3
        data[at : at + 4] = struct.pack("<HH", 16_383, 16_383)
    return bytes(data)


def webp_canvas_bomb() -> bytes:
    """The extended header has 24 bits per side."""
    stream = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(stream, "WEBP", save_all=True, append_images=frames[1:])
    data = bytearray(stream.getvalue())
    at = data.index(b"VP8X") + 12
    data[at : at + 6] = (99_999).to_bytes(3, "little") * 2
    return bytes(data)


BOMBS = {
    "JPEG": jpeg_bomb,
    "PNG": png_bomb,
    "lossy WebP": lambda: webp_bomb(False),
    "lossless WebP": lambda: webp_bomb(True),
    "extended WebP": webp_canvas_bomb,
}


@pytest.mark.parametrize("kind", BOMBS)
def test_image_bombs_cost_themselves(tmp_path, kind):
    bomb = BOMBS[kind]()
    assert len(bomb) < 20_000
    rows, _ = good(["000000", "000001", "000002"])
    members = [member("000000.jpg"), member("000001.jpg", bomb), member("000002.jpg")]
    first, second, third = read(shard(tmp_path, rows, members))
    with pytest.raises(DataError) as e:
        frame(second).image()
    assert e.value.stage == "decode" and e.value.counts
    for item in (first, third):
        assert (frame(item).image() == frame(first).image()).all()


def test_what_is_no_whole_image_costs_itself(tmp_path):
    large = encode_jpeg(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    bodies = {
        "000000.jpg": JPEG,
        "000001.jpg": large[: len(large) // 2],
        "000002.jpg": b"",
        "000003.jpg": b"<html>404</html>",
        "000004.png": b"GIF89a\x01\x00\x01\x00\x00\x00\x00;",
        "000005.jpg": JPEG,
    }
    rows, _ = good([name[:6] for name in bodies])
    found = read(shard(tmp_path, rows, [member(name, data) for name, data in bodies.items()]))
    assert len(found) == 6
    for item in found[1:5]:
        with pytest.raises(DataError):
            frame(item).image()
    assert frame(found[0]).image().shape == frame(found[5]).image().shape == (8, 8, 3)
