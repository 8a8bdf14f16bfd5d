"""Radiance .hdr: all of its ways to write pixels agree, and tone mapping keeps what it must."""

import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.ops.hdr import decode_hdr, is_hdr, tone_map
from schemas import DataError
from tests.samples import sample

FORMAT = b"FORMAT=32-bit_rle_rgbe\n"


def hdr(h: int, w: int, body: bytes, *, magic=b"#?RADIANCE\n", lines=FORMAT) -> bytes:
    return magic + lines + b"\n-Y %d +X %d\n" % (h, w) + body


def mantissas(h: int, w: int, seed: int = 0) -> np.ndarray:
    """uint8 `[h, w, 4]` as encoders write them, the largest mantissa at 128 or above, with runs."""
    rng = np.random.default_rng(seed)
    rgbe = rng.integers(0, 256, (h, w, 4), np.uint8)
    rgbe[..., 0] |= 128
    rgbe[..., 3] = rng.integers(120, 136, (h, w))
    rgbe[rng.random((h, w)) < 0.1] = 0
    flat = rgbe.reshape(-1, 4)
    for at in rng.integers(0, h * w, 4):
        flat[at : at + rng.integers(1, h * w + 1)] = flat[at]
    return rgbe


def values_of(rgbe: np.ndarray) -> np.ndarray:
    """What they stand for, by the format's text: mantissa / 256 · 2^(exponent - 128)."""
    wide = rgbe.astype(np.float64)
    values = wide[..., :3] / 256 * 2.0 ** (wide[..., 3:] - 128)
    return np.where(rgbe[..., 3:] == 0, 0, values).astype(np.float32)


def old_runs(rgbe: np.ndarray) -> bytes:
    out = bytearray()
    for pixel, group in itertools.groupby(map(bytes, rgbe.reshape(-1, 4))):
        out += pixel
        more = len(list(group)) - 1
        while more:
            out += bytes((1, 1, 1, more & 255))
            more >>= 8
    return bytes(out)


def new_runs(rgbe: np.ndarray) -> bytes:
    w = rgbe.shape[1]
    out = bytearray()
    for row in rgbe:
        out += bytes((2, 2, w >> 8, w & 255))
        for channel in row.T:
            for value, group in itertools.groupby(channel.tolist()):
                n = len(list(group))
                while n:
                    part = min(n, 127)
                    run = (128 + part, value) if part > 2 else (part, *[value] * part)
                    out += bytes(run)
                    n -= part
    return bytes(out)


def scene(h: int = 48, w: int = 64, seed: int = 0) -> np.ndarray:
    """Linear light over many stops, with a lamp."""
    rng = np.random.default_rng(seed)
    light = np.exp(rng.normal(0, 1.5, (h, w, 1)) + np.linspace(-3, 3, w)[:, None])
    linear = (light * rng.uniform(0.2, 1, (h, w, 3))).astype(np.float32)
    linear[:3, :3] = 5000
    return linear


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 30), st.integers(1, 300), st.integers(0, 99))
def test_flat_pixels_and_both_kinds_of_runs_are_the_same_image(h, w, seed):
    rgbe = mantissas(h, w, seed)
    bodies = [rgbe.tobytes(), old_runs(rgbe)] + [new_runs(rgbe)] * (w >= 8)
    for body in bodies:
        image = decode_hdr(hdr(h, w, body))
        assert image.dtype == np.float32 and (image == values_of(rgbe)).all()


def test_old_runs_across_a_large_image():
    """Longer than what is read at a time, and runs of more than two bytes."""
    rgbe = mantissas(1, 700_000)
    rgbe[0, 100_000:250_000] = (200, 1, 1, 130)
    rgbe[0, 262_140:262_150] = (201, 1, 1, 130)
    body = old_runs(rgbe)
    assert b"\1\1\1\xef\1\1\1\x49\1\1\1\2" in body  # 149,999 times
    assert (decode_hdr(hdr(700, 1000, body)).reshape(1, -1, 3) == values_of(rgbe)).all()


def test_an_image_wider_than_new_runs_can_be():
    rgbe = mantissas(2, 40_000)
    assert (decode_hdr(hdr(2, 40_000, old_runs(rgbe))) == values_of(rgbe)).all()


def test_opencv_writes_what_is_read():
    linear = scene()
    image = decode_hdr(cv2.imencode(".hdr", linear[..., ::-1])[1].tobytes())
    assert (np.abs(image - linear) <= linear.max(-1, keepdims=True) / 127).all()


@pytest.mark.parametrize(
    "magic, lines",
    [
        (b"#?RADIANCE\n", b""),
        (b"#?RGBE\n", FORMAT + b"EXPOSURE= 2.5\n"),
        (b"#?RADIANCE\n", b"# a comment\nGAMMA=2.2\n" + FORMAT + b"VIEW= -vta\n"),
        (b"#?RADIANCE\r\n", b"FORMAT= 32-bit_rle_rgbe \r\n\r"),
        (b"#?RADIANCE\n", b"x" * 9000 + b"\n" + FORMAT),
    ],
)
def test_headers_that_programs_write(magic, lines):
    rgbe = mantissas(5, 20)
    data = hdr(5, 20, new_runs(rgbe), magic=magic, lines=lines)
    assert is_hdr(data) and (decode_hdr(data) == values_of(rgbe)).all()


@pytest.mark.parametrize("write", [np.ndarray.tobytes, old_runs, new_runs])
def test_every_cut_is_bad_data(write):
    data = hdr(7, 20, write(mantissas(7, 20)))
    decode_hdr(data)
    for length in range(len(data)):
        with pytest.raises(DataError) as e:
            decode_hdr(data[:length])
        assert e.value.stage == "decode"


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([np.ndarray.tobytes, old_runs, new_runs]), st.data())
def test_damaged_bytes_raise_nothing_but_data_errors(write, data):
    good = bytearray(hdr(7, 20, write(mantissas(7, 20))))
    for _ in range(data.draw(st.integers(1, 8))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = decode_hdr(bytes(good), max_pixels=10_000)
    except DataError as e:
        assert e.stage == "decode" and "\n" not in e.reason
        return
    assert image.ndim == 3 and image.size <= 30_000
    assert np.isfinite(image).all() and image.min() >= 0
    assert tone_map(image).shape == image.shape


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\1\1\1\5" + bytes(4 * 160), id="a repeat of nothing"),
        pytest.param(bytes(4 * 100) + b"\1\1\1\xff", id="a run past the end"),
        pytest.param(bytes(4) + b"\1\1\1\1" * 159, id="five repeats in a row"),
        pytest.param(bytes(4) + b"\1\1\1\xff" * 4, id="four billion times"),
        pytest.param(b"\2\2\0\x15" + bytes(999), id="rows of another width"),
        pytest.param((b"\2\2\0\x14" + b"\x95\0" * 4) * 8, id="a run past the row"),
        pytest.param((b"\2\2\0\x14" + b"\0\0" * 4) * 8, id="runs of nothing"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_broken_runs_are_bad_data(body):
    with pytest.raises(DataError, match="damaged"):
        decode_hdr(hdr(8, 20, body))


@pytest.mark.parametrize("size", [b"+Y 4 +X 4", b"-Y 4 -X 4", b"+X 4 -Y 4", b"-Y 4", b"-Y -4 +X 4"])
def test_other_orientations_are_refused(size):
    with pytest.raises(DataError, match=r"-Y height \+X width"):
        decode_hdr(b"#?RADIANCE\n" + FORMAT + b"\n" + size + b"\n" + bytes(64))


def test_other_formats_are_refused():
    with pytest.raises(DataError, match="32-bit_rle_rgbe"):
        decode_hdr(hdr(4, 4, bytes(64), lines=b"FORMAT=32-bit_rle_xyze\n"))
    for data in (b"", b"#?", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"):
        assert not is_hdr(data)
        with pytest.raises(DataError, match=r"not a Radiance \.hdr"):
            decode_hdr(data)


@pytest.mark.parametrize("h, w", [(100_000, 100_000), (999_999_999, 1), (0, 4), (4, 0)])
def test_a_bomb_is_refused_by_its_header(h, w):
    with pytest.raises(DataError, match="announces"):
        decode_hdr(hdr(h, w, b"\2\2" + bytes(99)))


def test_a_header_without_an_end_is_refused():
    with pytest.raises(DataError, match="a header of more than"):
        decode_hdr(b"#?RADIANCE\n" + b"x=1\n" * 1_000_000)


def test_max_pixels_is_the_limit():
    data = hdr(10, 10, mantissas(10, 10).tobytes())
    assert decode_hdr(data, max_pixels=100).shape == (10, 10, 3)
    with pytest.raises(DataError, match="10x10"):
        decode_hdr(data, max_pixels=99)


def test_all_exponents_are_finite_and_the_first_is_black():
    rgbe = np.full((1, 256, 4), 255, np.uint8)
    rgbe[0, :, 3] = np.arange(256)
    for body in (rgbe.tobytes(), new_runs(rgbe)):
        image = decode_hdr(hdr(1, 256, body))
        assert np.isfinite(image).all() and (image[0, 0] == 0).all()
        assert (np.diff(image[0, :, 0]) > 0).all()


def reference(linear: np.ndarray) -> np.ndarray:
    """The paper's equations as they stand, on the whole image at once; 0 to 255, not rounded."""
    luminance = linear.astype(np.float64) @ [0.2126, 0.7152, 0.0722]
    scaled = 0.18 / np.exp(np.log(luminance).mean()) * luminance
    white = max(1, np.quantile(scaled, 0.99, method="inverted_cdf"))
    scaled_or_white = np.minimum(scaled, white)
    shown = scaled_or_white * (1 + scaled_or_white / white**2) / (1 + scaled_or_white)
    x = np.minimum(linear * (shown / luminance)[..., None], 1)
    return 255 * np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("seed", range(4))
def test_tone_mapping_is_the_papers(seed):
    linear = scene(seed=seed)
    assert np.abs(tone_map(linear) - reference(linear)).max() < 2


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 99), st.floats(1e-9, 1e9))
def test_the_exposure_of_the_file_does_not_matter(seed, exposure):
    linear = scene(16, 20, seed)
    shown = tone_map(linear).astype(int)
    assert np.abs(tone_map(linear * np.float32(exposure)) - shown).max() <= 2
    assert (tone_map(linear * np.float32(2**20)) == shown).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 99))
def test_brighter_stays_brighter(seed):
    grey = np.random.default_rng(seed).lognormal(0, 3, (20, 30)).astype(np.float32)
    shown = tone_map(np.repeat(grey[..., None], 3, -1))
    assert (shown == shown[..., :1]).all()
    assert (np.diff(shown[..., 0].ravel()[grey.ravel().argsort()].astype(int)) >= 0).all()
    assert shown.min() < 60 and shown.max() == 255


def test_black_stays_black_and_does_not_count():
    assert (tone_map(np.zeros((5, 7, 3), np.float32)) == 0).all()
    linear = scene()
    framed = np.pad(linear, [(40, 40), (40, 40), (0, 0)])
    shown = tone_map(framed)
    assert (shown[40:-40, 40:-40] == tone_map(linear)).all()
    assert shown[:40].max() == 0


def test_one_grey_is_a_middle_grey():
    shown = tone_map(np.full((9, 9, 3), 700, np.float32))
    assert np.abs(shown.astype(int) - 118).max() <= 1  # 18% reflectance on the sRGB curve


def test_blocks_do_not_show():
    """The image is mapped in parts; a picture that repeats stays one."""
    linear = scene(90, 1000)
    tall = np.tile(linear, (9, 1, 1))
    assert (tone_map(tall) == np.tile(tone_map(linear), (9, 1, 1))).all()
    assert (tone_map(tall.transpose(1, 0, 2)) == tone_map(tall).transpose(1, 0, 2)).all()


def test_the_largest_and_the_smallest_values_stay_in_range():
    extremes = np.array([0, 1e-45, 1e-38, 1e-20, 1, 1e20, 3.4e38], np.float32)
    pixels = np.array(list(itertools.product(extremes, repeat=3)), np.float32)
    shown = np.empty(0)
    for n in (1, 2, 50, 343):
        with np.errstate(over="raise", invalid="raise", divide="raise"):
            shown = tone_map(pixels[-n:].reshape(1, n, 3))
        assert shown.shape == (1, n, 3) and (shown[0, -1] == shown.max()).all()
    assert shown[0, 0].tolist() == [0, 0, 0] and shown[0, -1].tolist() == [255, 255, 255]


def test_a_real_panorama_is_well_exposed():
    path = sample("panorama/lythwood_room_1k.hdr")
    linear = decode_hdr(path.read_bytes())
    wanted = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert wanted is not None and (linear == wanted[..., ::-1]).all()
    grey = tone_map(linear).mean(-1)
    assert 90 < np.median(grey) < 150
    assert (grey > 250).mean() < 0.02 and (grey < 5).mean() < 0.02
    window = grey[230:300, 590:650]  # a garden in the sun, 6 stops above the room
    assert 150 < window.mean() < 250 and window.std() > 20
