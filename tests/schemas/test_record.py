"""decode(encode(chunk)) = chunk, at every tier; what is not a chunk is refused."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import (
    NUM_SLOTS,
    Chunk,
    DataError,
    Tier,
    decode,
    discretise,
    encode,
    mask_of,
    text_key,
)
from schemas.columns import index_fields
from schemas.validate import violations

RAW = Tier(6, 10, "raw")
JPEG = Tier(6, 10, "jpeg")
_JPEG_BYTES = b"\xff\xd8 not decoded here \xff\xd9"


def chunk_of(seed: int = 0, t: int = 3, tier: Tier = RAW, text: str = "push the block") -> Chunk:
    rng = np.random.default_rng(seed)
    mask = mask_of(["ee_dx", "gripper"])
    controls = np.where(mask, rng.uniform(0, 1, (t, NUM_SLOTS)), 0).astype(np.float32)
    pixels = rng.integers(0, 256, (t, tier.height, tier.width, 3), np.uint8)
    return Chunk(
        dataset="bridge",
        episode_id="train-00000-000001@image_0",
        step=2,
        split="train",
        frames=pixels if tier.encoding == "raw" else (_JPEG_BYTES,) * t,
        times=np.arange(t, dtype=np.float32) / 5,
        fps=5.0,
        text=text,
        text_key=text_key(text),
        controls=controls,
        control_bins=discretise(controls, mask),
        control_mask=mask,
        overlap=np.where(rng.random(t) < 0.5, np.nan, rng.random(t)).astype(np.float32),
        is_first=False,
        is_last=True,
        source_uri="a.tfrecord",
        source_range="bytes 0-10",
        source_version="1.0.0",
        license="CC BY 4.0",
        recipe="none",
    )


def assert_equal(a: Chunk, b: Chunk):
    for field in dataclasses.fields(Chunk):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, np.ndarray):
            assert x.dtype == y.dtype and x.shape == y.shape, field.name
            np.testing.assert_array_equal(x, y, field.name)
        else:
            assert x == y, field.name


@settings(deadline=None)
@given(
    st.integers(0, 99),
    st.integers(1, 16),
    st.sampled_from([RAW, JPEG]),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
)
def test_round_trip(seed, t, tier, text):
    chunk = chunk_of(seed, t, tier, text)
    assert_equal(decode(encode(chunk), tier), chunk)
    assert encode(chunk) == encode(decode(encode(chunk), tier))


def test_a_good_chunk_has_no_violations():
    assert violations(chunk_of(), RAW) == []
    assert violations(chunk_of(tier=JPEG), JPEG) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"times": np.array([0, 1, 1], np.float32)}, "increase"),
        ({"times": np.array([0, 1, np.nan], np.float32)}, "finite"),
        ({"times": np.zeros(17, np.float32)}, "17 frames"),
        ({"text": " ", "text_key": text_key(" ")}, "empty"),
        ({"text_key": b"0" * 16}, "text_key"),
        ({"split": "training"}, "split"),
        ({"license": ""}, "license"),
        ({"step": 0}, "is_first"),
        ({"fps": 0.0}, "still"),
        ({"control_bins": np.full((3, NUM_SLOTS), 9, np.int32)}, "bins"),
        ({"controls": np.full((3, NUM_SLOTS), np.inf, np.float32)}, "finite"),
        ({"controls": np.full((3, NUM_SLOTS), 0.5, np.float32)}, "outside the mask"),
        ({"frames": np.zeros((3, 6, 9, 3), np.uint8)}, "wanted uint8"),
        ({"overlap": np.zeros(2, np.float32)}, "overlap (2,), wanted (3,)"),
        ({"overlap": np.array([np.nan, 0.5, 1.001], np.float32)}, "outside 0..1"),
        ({"overlap": np.array([np.nan, 0.5, -np.inf], np.float32)}, "outside 0..1"),
    ],
)
def test_each_broken_rule_is_named(change, message):
    found = violations(dataclasses.replace(chunk_of(), **change), RAW)
    assert any(message in line for line in found), found


_shares = st.none() | st.floats(0, 1)


@given(st.lists(_shares, min_size=1, max_size=16))
def test_overlap_keeps_its_values_and_the_index_has_the_least(shares):
    chunk = chunk_of(t=len(shares))
    chunk = dataclasses.replace(chunk, overlap=np.array(shares, np.float32))
    assert violations(chunk, RAW) == []
    back = decode(encode(chunk), RAW)
    known = [np.float32(share) for share in shares if share is not None]
    assert np.isnan(back.overlap).tolist() == [share is None for share in shares]
    assert [x for x in back.overlap if not np.isnan(x)] == known
    assert index_fields(back)["overlap"] == (float(min(known)) if known else None)


@pytest.mark.parametrize("cut", [1, 10, 100, 500])
def test_damaged_bytes_are_a_data_error(cut):
    with pytest.raises(DataError):
        decode(encode(chunk_of())[:-cut], RAW)


def test_another_tier_is_a_data_error():
    with pytest.raises(DataError):
        decode(encode(chunk_of()), Tier(7, 11, "raw"))


@pytest.mark.parametrize("text", ["24", "24x", "24x40:png", "0x40", "99999x9", "24x40:raw:raw"])
def test_tier_texts_that_are_none(text):
    with pytest.raises(ValueError, match="tier"):
        Tier.parse(text)
