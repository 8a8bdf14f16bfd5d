"""The short ways through images give what the long ones give."""

import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.ops import images
from pipelines.ops.images import decode_image, encode_jpeg, resize, resize_each
from schemas import DataError

SIZES = st.tuples(st.integers(1, 90), st.integers(1, 90))
FITS = st.sampled_from(["stretch", "crop"])


def noise(h: int, w: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (h // 8 + 2, w // 8 + 2, 3), np.uint8)
    return cv2.resize(coarse, (w, h), interpolation=cv2.INTER_CUBIC)


def jpeg(image: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def by_pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@settings(max_examples=80)
@given(
    SIZES,
    st.booleans(),
    st.booleans(),
    st.integers(30, 100),
    st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]),
    st.sampled_from([0, 3]),
)
def test_a_plain_jpeg_has_pillows_pixels(size, grey, progressive, quality, subsampling, restart):
    image = noise(*size)
    options = {"quality": quality, "progressive": progressive, "restart_marker_blocks": restart}
    if grey:
        image = image[..., 0]
    else:
        options["subsampling"] = subsampling
    data = jpeg(image, **options)
    assert images._plain_jpeg(data, 10_000, None) is not None, "taken by the short way"
    assert (decode_image(data) == by_pillow(data)).all()


def test_what_may_be_turned_is_pillows():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = jpeg(noise(20, 30), exif=exif)
    assert images._plain_jpeg(data, 10_000, None) is None
    assert decode_image(data).shape == (30, 20, 3)


@settings(max_examples=300)
@given(st.data())
def test_of_damaged_bytes_pillow_judges(data):
    whole = jpeg(noise(40, 56), quality=80, progressive=data.draw(st.booleans()))
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(2, len(whole) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(damaged[: data.draw(st.integers(len(whole) // 2, len(whole)))])

    def verdict(decode) -> bytes | str:
        try:
            return decode(damaged, max_pixels=100_000, shrink=None).tobytes()
        except DataError as e:
            return str(e)

    assert verdict(decode_image) == verdict(images._by_pillow)


@pytest.mark.parametrize("n", range(1, 9))
def test_pairs_of_rows_are_opencvs_areas(n):
    image = np.random.default_rng(n).integers(0, 256, (12 * (n + 1), 17, 3), np.uint8)
    found = resize(image, 12 * n, 17, "stretch").astype(int)
    wanted = cv2.resize(image, (17, 12 * n), interpolation=cv2.INTER_AREA).astype(int)
    exact = n in (1, 3, 7)  # where weights are sums of powers of two; else a tie may go either way
    assert np.abs(found - wanted).max() <= (0 if exact else 1)
    turned = resize(np.asfortranarray(image), 12 * n, 17, "stretch")
    assert (turned == found).all(), "however it lies in memory"


@settings(max_examples=100)
@given(SIZES, st.lists(SIZES, min_size=1, max_size=4), FITS, st.integers(2, 4))
def test_all_sizes_at_once_are_each_but_for_a_rounding(of, sizes, fit, factor):
    image = noise(*of)
    sizes = [*sizes, (sizes[0][0] * factor, sizes[0][1] * factor)]
    for found, (height, width) in zip(resize_each(image, sizes, fit), sizes, strict=True):
        assert found.shape == (height, width, 3)
        alone = resize(image, height, width, fit).astype(int)
        assert np.abs(found - alone).max() <= 1
    same = resize_each(image, sizes[::-1], fit)[::-1]
    assert all((a == b).all() for a, b in zip(same, resize_each(image, sizes, fit), strict=True))


def test_the_finest_size_is_resize():
    image = noise(256, 320)
    fine, base = resize_each(image, [(192, 320), (24, 40)], "stretch")
    assert (fine == resize(image, 192, 320, "stretch")).all()
    assert np.abs(base.astype(int) - resize(image, 24, 40, "stretch")).mean() < 0.3


@settings(max_examples=30)
@given(SIZES, st.integers(1, 100))
def test_an_encoded_jpeg_has_pillows_bytes(size, quality):
    image = noise(*size)
    wanted = jpeg(image, quality=quality, subsampling="4:2:0")
    assert encode_jpeg(image, quality) == encode_jpeg(np.asfortranarray(image), quality) == wanted
