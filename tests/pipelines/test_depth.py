"""Depth images: every value comes back or the bytes are refused, and pixels lie where they were."""

import io
import resource
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.ops import pose
from pipelines.ops.depth import decode_depth, flip_origin
from schemas import DataError

MAGIC = b"\x89PNG\r\n\x1a\n"


def values(h: int = 24, w: int = 32, seed: int = 0) -> np.ndarray:
    """A slope with noise and holes, as a depth camera has it."""
    rng = np.random.default_rng(seed)
    metres = 1 + np.linspace(0, 5, w) + rng.normal(0, 0.01, (h, w))
    return np.where(rng.random((h, w)) < 0.2, 0, metres * 4000).astype(np.uint16)


def by_pillow(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def header(h: int, w: int, bits: int = 16, colour: int = 0, interlaced: int = 0) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, bits, colour, 0, 0, interlaced))


def frame(number: int, h: int, w: int) -> bytes:
    """An animation's fcTL."""
    return chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, w, h, 0, 0, 1, 10, 0, 0))


def rows_of(image: np.ndarray) -> bytes:
    return b"".join(b"\0" + row.astype(">u2").tobytes() for row in image)


def png(image: np.ndarray, *, before=b"", after=b"", rows: bytes | None = None) -> bytes:
    """A PNG by hand, with other chunks around the pixels."""
    pixels = chunk(b"IDAT", zlib.compress(rows_of(image) if rows is None else rows))
    return MAGIC + header(*image.shape) + before + pixels + after + chunk(b"IEND", b"")


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 9))
def test_every_value_comes_back(h, w, seed):
    image = np.random.default_rng(seed).integers(0, 1 << 16, (h, w), np.uint16)
    for data in (by_pillow(image), cv2.imencode(".png", image)[1].tobytes(), png(image)):
        decoded = decode_depth(data)
        assert decoded.dtype == np.uint16 and (decoded == image).all()


def test_what_else_a_png_holds_changes_nothing():
    """Transparency, a palette, colour spaces, orientation, and an animation whose frames have other
    sizes, which crashes OpenCV 5.0 as it stands."""
    image = values(6, 5)
    exif = b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"
    aside = [
        (chunk(b"tRNS", image[2, 3].astype(">u2").tobytes()), b""),
        (chunk(b"gAMA", struct.pack(">I", 100_000)) + chunk(b"sBIT", b"\x0c"), b""),
        (chunk(b"eXIf", exif), b""),
        (chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(1_000_000))), b""),
        (chunk(b"acTL", struct.pack(">II", 7, 0)), frame(1, 1, 1)),
        (chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)), frame(1, 4, 2**31 - 1)),
        (b"", chunk(b"IEND", b"") + b"something after it"),
    ]
    for before, after in aside:
        for _ in range(20):
            assert (decode_depth(png(image, before=before, after=after)) == image).all()


def test_every_cut_is_bad_data():
    data = by_pillow(values())
    for length in range(len(data)):
        with pytest.raises(DataError) as e:
            decode_depth(data[:length])
        assert e.value.stage == "decode"


def test_a_changed_byte_never_changes_a_value():
    """The kinds, the sizes, the pixels and their checksums: only the end's own does not matter."""
    data = by_pillow(values(8, 8))
    for at in range(len(data) - 4):
        with pytest.raises(DataError):
            decode_depth(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :])


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFFFFF, 1 << 24])
def test_a_chunk_that_claims_to_be_huge_reserves_nothing(length):
    """OpenCV would believe it."""
    data = by_pillow(values())
    at = data.index(b"IDAT") - 4
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match="ends early"):
        decode_depth(data[:at] + struct.pack(">I", length) + data[at + 4 :])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_bytes_raise_nothing_but_data_errors(data):
    good = bytearray(png(values(8, 8), before=chunk(b"tEXt", b"depth\0metres")))
    for _ in range(data.draw(st.integers(1, 8))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert (decode_depth(bytes(good), max_pixels=10_000) == values(8, 8)).all()
    except DataError as e:
        assert e.stage == "decode" and "\n" not in e.reason


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(rows_of(values())[:-1], id="a byte too few"),
        pytest.param(b"", id="none"),
        pytest.param(b"\7" + rows_of(values())[1:], id="an unknown filter"),
    ],
)
def test_pixels_that_are_not_all_there_are_bad_data_whatever_the_checksums_say(rows):
    with pytest.raises(DataError, match="damaged"):
        decode_depth(png(values(), rows=rows))


@pytest.mark.parametrize(
    "bits, colour, interlaced",
    [(8, 0, 0), (1, 0, 0), (8, 2, 0), (16, 2, 0), (16, 4, 0), (16, 0, 1)],
)
def test_other_kinds_of_png_are_refused_by_their_header(bits, colour, interlaced):
    with pytest.raises(DataError, match=f"{bits} bits, colour type {colour}.*wanted 16 bits, grey"):
        decode_depth(MAGIC + header(4, 4, bits, colour, interlaced) + bytes(100))


@pytest.mark.parametrize("data", [b"", b"\x89PNG", b"\xff\xd8\xff" + bytes(99), MAGIC + bytes(9)])
def test_other_files_are_refused(data):
    with pytest.raises(DataError, match="not a PNG"):
        decode_depth(data)


@pytest.mark.parametrize("h, w", [(100_000, 100_000), (4000, 4001), (0, 5), (2**32 - 1, 2**32 - 1)])
def test_a_bomb_is_refused_by_its_header(h, w):
    with pytest.raises(DataError, match="announces"):
        decode_depth(MAGIC + header(h, w) + bytes(100))


def test_max_pixels_is_the_limit():
    data = by_pillow(values(10, 10))
    assert decode_depth(data, max_pixels=100).shape == (10, 10)
    with pytest.raises(DataError, match="10x10"):
        decode_depth(data, max_pixels=99)


@settings(deadline=None)
@given(st.integers(0, 50))
def test_flipped_intrinsics_see_a_point_in_the_same_pixel(seed):
    """In Matterport's own count, and in OpenCV's: with the camera's axes renamed as well."""
    rng = np.random.default_rng(seed)
    height, width = 1024, 1280
    intrinsics = np.array([[1076.45, 0, 631.116], [0, 1077.19, 509.202], [0, 0, 1]])
    row, column = rng.integers(height), rng.integers(width)
    # the ray through the pixel's middle in the OpenGL frame, counted from the bottom left corner
    corner = np.array([column + 0.5, height - row - 0.5, 1])
    x, y, _ = np.linalg.inv(intrinsics) @ corner
    opengl = rng.uniform(1, 5) * np.array([x, y, -1, 0])
    opencv = np.linalg.inv(pose.change_camera(np.eye(4), "opengl", "opencv")) @ opengl
    u, v, w = flip_origin(intrinsics, height) @ opencv[:3]
    assert (u / w, v / w) == pytest.approx((column, row), abs=1e-9)


def test_flipping_keeps_the_focal_lengths_and_the_original():
    intrinsics = np.array([[2.0, 0, 1.5], [0, 3, 0.5], [0, 0, 1]])
    flipped = flip_origin(intrinsics, 4)
    assert flipped.tolist() == [[2, 0, 1], [0, 3, 3], [0, 0, 1]]
    assert intrinsics[1, 2] == 0.5
