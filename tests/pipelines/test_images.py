"""Laws of decoding, resizing and encoding still images."""

import io
import struct
import tarfile
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.ops.images import decode_image, encode_jpeg, is_black, resize
from schemas import DataError
from tests.samples import sample


def picture(h: int = 48, w: int = 64, seed: int = 0) -> np.ndarray:
    """Smooth colours, so that lossy formats stay close."""
    y, x = np.mgrid[:h, :w] / max(h, w)
    phase = np.random.default_rng(seed).uniform(0, 6, 3)
    waves = [np.sin(3 * x + p) + np.cos(4 * y - p) for p in phase]
    return np.clip(127 + 60 * np.stack(waves, -1), 0, 255).astype(np.uint8)


def saved(image: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG written by hand, with any header."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    "kind, options",
    [("PNG", {}), ("WEBP", {"lossless": True})],
)
def test_lossless_formats_return_the_very_pixels(kind, options):
    image = picture(47, 31)
    assert (decode_image(saved(image, kind, **options)) == image).all()


def test_real_jpegs_decode_like_another_decoder():
    """OpenCV brings a libjpeg of its own; both are bit-exact by the same algorithm."""
    seen = 0
    with tarfile.open(sample("laion/img2dataset/00000.tar")) as tar:
        for info in tar:
            if info.name.endswith(".jpg"):
                file = tar.extractfile(info)
                assert file is not None
                data = file.read()
                wanted = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
                assert wanted is not None
                difference = np.abs(decode_image(data).astype(int) - wanted)
                assert difference.max() <= 1
                seen += 1
    assert seen == 5


def test_grey_cmyk_palette_and_16_bits_become_rgb():
    grey = picture()[..., 0]
    three = np.repeat(grey[..., None], 3, -1)
    assert (decode_image(saved(grey, "PNG")) == three).all()
    palette = Image.fromarray(picture()).quantize(16)
    assert (decode_image(saved(palette, "PNG")) == np.asarray(palette.convert("RGB"))).all()
    one = Image.fromarray(grey > 127)
    assert (decode_image(saved(one, "PNG")) == np.where(three > 127, 255, 0)).all()
    cmyk = decode_image(saved(Image.fromarray(picture()).convert("CMYK"), "JPEG", quality=98))
    assert np.abs(cmyk.astype(int) - picture()).mean() < 3
    # 16 bits keep the high byte: white stays white, mid grey stays mid grey
    values = np.array([[0, 255, 256, 32768, 65535]], ">u2")
    decoded = decode_image(png(5, 1, 16, 0, b"\0" + values.tobytes()))
    assert decoded[0, :, 0].tolist() == [0, 0, 1, 128, 255]
    assert (decoded == decoded[..., :1]).all()
    colour = np.array([65535, 32768, 0], ">u2")
    assert decode_image(png(1, 1, 16, 2, b"\0" + colour.tobytes())).tolist() == [[[255, 128, 0]]]


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_what_is_transparent_shows_white(kind):
    rgba = np.zeros((4, 6, 4), np.uint8)
    rgba[:, :2] = (200, 10, 20, 255)
    rgba[:, 4:] = (0, 0, 0, 128)
    decoded = decode_image(saved(rgba, kind, lossless=True))
    assert (decoded[:, :2] == (200, 10, 20)).all()
    assert (decoded[:, 2:4] == 255).all()
    assert np.abs(decoded[:, 4:].astype(int) - 127).max() <= 1


def test_a_transparent_palette_colour_shows_white():
    image = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60] + [0] * 762)
    decoded = decode_image(saved(image, "PNG", transparency=1))
    assert decoded.tolist() == [[[10, 20, 30], [255, 255, 255]]]


@pytest.mark.parametrize(
    "orientation, place",
    # where the stored image's first row and column are shown: EXIF 2.3, tag 274
    [
        (1, lambda y, x, h, w: (y, x)),
        (2, lambda y, x, h, w: (y, w - 1 - x)),
        (3, lambda y, x, h, w: (h - 1 - y, w - 1 - x)),
        (4, lambda y, x, h, w: (h - 1 - y, x)),
        (5, lambda y, x, h, w: (x, y)),
        (6, lambda y, x, h, w: (x, h - 1 - y)),
        (7, lambda y, x, h, w: (w - 1 - x, h - 1 - y)),
        (8, lambda y, x, h, w: (w - 1 - x, y)),
        (9, lambda y, x, h, w: (y, x)),
    ],
)
def test_exif_orientation_is_applied(orientation, place):
    image = np.random.default_rng(0).integers(0, 256, (3, 5, 3), np.uint8)
    exif = Image.Exif()
    exif[274] = orientation
    decoded = decode_image(saved(image, "PNG", exif=exif))
    h, w = image.shape[:2]
    for y in range(h):
        for x in range(w):
            assert (decoded[place(y, x, h, w)] == image[y, x]).all()


def test_broken_exif_costs_nothing():
    data = saved(picture(), "JPEG", exif=b"Exif\0\0not a TIFF header at all")
    assert (decode_image(data) == decode_image(saved(picture(), "JPEG"))).all()


@pytest.mark.parametrize(
    "kind, options",
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_every_cut_of_an_image_is_bad_data(kind, options):
    data = saved(picture(24, 32), kind, **options)
    decode_image(data)
    for length in range(len(data)):
        with pytest.raises(DataError) as e:
            decode_image(data[:length])
        assert e.value.stage == "decode"


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "WEBP"]), st.data())
def test_damaged_bytes_raise_nothing_but_data_errors(kind, data):
    good = bytearray(saved(picture(16, 16), kind))
    for _ in range(data.draw(st.integers(1, 8))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = decode_image(bytes(good), max_pixels=100_000)
    except DataError as e:
        assert e.stage == "decode" and " 0x" not in e.reason  # no addresses: equal runs, equal text
        return
    assert image.dtype == np.uint8 and image.shape[2] == 3 and image.size <= 300_000


@pytest.mark.parametrize("w, h", [(100_000, 100_000), (9_000, 8_000), (70_000_000, 1)])
def test_a_bomb_is_refused_by_its_header(w, h):
    # the pixels are not there, so that only a look at the header can say "announces"/"exceeds"
    with pytest.raises(DataError, match=r"announces|exceeds") as e:
        decode_image(png(w, h, 8, 2, bytes(1000)))
    assert e.value.stage == "decode"


def test_max_pixels_is_the_limit():
    data = saved(picture(10, 10), "PNG")
    assert decode_image(data, max_pixels=100).shape == (10, 10, 3)
    with pytest.raises(DataError, match="10x10"):
        decode_image(data, max_pixels=99)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "EPS"])
def test_other_formats_are_refused(kind):
    with pytest.raises(DataError, match="not a JPEG, PNG or WebP"):
        decode_image(saved(picture(), kind))


@settings(deadline=None)
@given(st.integers(16, 40), st.integers(16, 40), st.integers(0, 3))
def test_jpeg_is_close_and_deterministic(h, w, seed):
    image = picture(h, w, seed)
    data = encode_jpeg(image)
    assert data == encode_jpeg(image.copy())
    assert np.abs(decode_image(data).astype(int) - image).mean() < 4
    assert len(encode_jpeg(image, quality=30)) <= len(data)


def area_average(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The exact integral of the image over each target pixel's box, another way: by matrices."""

    def weights(n: int, m: int) -> np.ndarray:
        edges = np.arange(m + 1) * n / m
        cells = np.arange(n)
        overlap = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
        return np.clip(overlap, 0, None) * m / n

    h, w = image.shape[:2]
    return np.einsum("ai,bj,ijc->abc", weights(h, height), weights(w, width), image.astype(float))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_shrinking_averages_areas(data):
    h, w = data.draw(st.integers(2, 60)), data.draw(st.integers(2, 60))
    height, width = data.draw(st.integers(1, h)), data.draw(st.integers(1, w))
    image = np.random.default_rng(h * w).integers(0, 256, (h, w, 3), np.uint8)
    small = resize(image, height, width, "stretch")
    assert small.shape == (height, width, 3) and small.dtype == np.uint8
    assert np.abs(small - area_average(image, height, width)).max() <= 1


@settings(max_examples=60, deadline=None)
@given(*[st.integers(1, 50)] * 4, st.sampled_from(["stretch", "crop"]))
def test_resize_has_the_size_stays_in_range_and_is_deterministic(h, w, height, width, fit):
    image = np.random.default_rng(h).integers(100, 200, (h, w, 3), np.uint8)
    result = resize(image, height, width, fit)
    assert result.shape == (height, width, 3) and result.dtype == np.uint8
    assert result.min() >= image.min() and result.max() <= image.max()
    assert result.tobytes() == resize(image.copy(), height, width, fit).tobytes()


def test_enlarging_interpolates_linearly():
    ramp = np.repeat(np.arange(0, 200, 20).astype(np.uint8)[None, :, None], 3, -1)
    wide = resize(ramp, 1, 20, "stretch")[0, :, 0].astype(int)
    wanted = np.interp((np.arange(20) + 0.5) / 2 - 0.5, np.arange(10), ramp[0, :, 0])
    assert np.abs(wide - wanted).max() <= 1


def test_the_same_size_is_the_same_image():
    assert (resize(picture(), 48, 64, "stretch") == picture()).all()
    assert (resize(picture(), 48, 64, "crop") == picture()).all()


def test_crop_keeps_the_centre_and_stretch_keeps_all():
    image = np.zeros((40, 100, 3), np.uint8)
    image[:, 30:70] = 255
    assert (resize(image, 20, 20, "crop") == 255).all()
    assert resize(image, 20, 20, "stretch").mean() == pytest.approx(255 * 0.4, abs=1)
    turned = image.transpose(1, 0, 2)
    assert (resize(turned, 20, 20, "crop") == 255).all()


def test_black_is_black_and_a_dark_scene_is_not():
    black = np.zeros((24, 40, 3), np.uint8)
    assert is_black(black)
    assert is_black(decode_image(encode_jpeg(black)))
    night = black.copy()
    night[3, 4] = 60
    assert not is_black(night)
    assert is_black(night, threshold=60)
