"""Laws of reading video: times, spans, pixels, and what is wrong with a file."""

import contextlib
import functools
import io
import itertools
import struct
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import Interpolation
from av.video.stream import VideoStream
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.ops import video
from schemas import DataError
from tests.samples import sample

REAL = [("video/bikes.mp4", 250), ("video/bigbuckbunny.mp4", 132)]
CODECS = [("libvpx-vp9", "clip.webm"), ("libx264", "clip.mp4")]


def images(n: int = 36) -> list[np.ndarray]:
    """A bright bar that moves two pixels per frame over a smooth ground."""
    ground = np.repeat(np.linspace(40, 120, 64, dtype=np.uint8)[None, :, None], 48, 0)
    result = []
    for i in range(n):
        image = np.repeat(ground, 3, -1)
        image[:, 2 * (i % 28) : 2 * (i % 28) + 8] = (220, 200, 60)
        result.append(image)
    return result


def times(source, start=0.0, end=None) -> list[float]:
    return [frame.time for frame in video.frames(source, start, end)]


def encoded(path: Path, codec: str, pts: list[int], prepare=lambda stream: None, pix="yuv420p"):
    """A file with these time stamps in hundredths of a second, prepared by hand."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=100)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pix
        stream.codec_context.time_base = Fraction(1, 100)
        prepare(stream)
        for image, time in zip(images(len(pts)), pts, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@functools.cache
def clip(codec: str, name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        video.write_video(str(path), images(12), 12.0, codec)
        return path.read_bytes()


@pytest.fixture
def decoded(monkeypatch):
    """How many frames were decoded: the real decoder, watched."""
    count = itertools.count()
    decode = video._decode

    def watched(*args):
        for item in decode(*args):
            next(count)
            yield item

    monkeypatch.setattr(video, "_decode", watched)
    return lambda: next(count)


@pytest.mark.parametrize("name, number", REAL)
def test_real_videos_decode_like_others_decode_them(name, number):
    """OpenCV decodes by its own libav with its own colour conversion: the same number of frames,
    the same brightness; chroma differs at edges, where theirs is not interpolated. PyAV with all
    its threads and the bit-exact conversion gives the very same bytes."""
    path = str(sample(name))
    flags = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
    capture = cv2.VideoCapture(path)
    luma = np.array([0.299, 0.587, 0.114])
    seen = 0
    with av.open(path) as container:
        container.streams.video[0].thread_type = "AUTO"  # type: ignore[assignment]
        for ours, theirs in zip(video.frames(path), container.decode(video=0), strict=True):
            ok, bgr = capture.read()
            assert ok and ours.time == theirs.time == pytest.approx(seen / 25)
            if seen % 10 == 0:
                image = ours.image()
                assert image.dtype == np.uint8 and image.flags.c_contiguous
                assert (image == theirs.to_ndarray(format="rgb24", interpolation=flags)).all()
                assert np.abs(image.astype(int) - bgr[..., ::-1]).mean() < 1.5
                assert np.abs(image @ luma - bgr[..., ::-1] @ luma).max() < 5
            seen += 1
    assert seen == number and not capture.read()[0]


@pytest.mark.parametrize("name, number", REAL)
def test_probe_of_real_videos(name, number):
    path = str(sample(name))
    capture = cv2.VideoCapture(path)
    info = video.probe(path)
    assert info.frames == number == capture.get(cv2.CAP_PROP_FRAME_COUNT)
    assert info.fps == capture.get(cv2.CAP_PROP_FPS) == 25
    assert info.width == capture.get(cv2.CAP_PROP_FRAME_WIDTH)
    assert info.height == capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
    assert info.duration == pytest.approx(number / 25, abs=0.05)


def test_a_span_of_a_real_video_decodes_only_what_it_needs(decoded):
    path = str(sample("video/bikes.mp4"))
    with av.open(path) as container:
        keys = [float(f.time) for f in container.decode(video=0) if f.key_frame]
    start, end = keys[-1] + 0.05, keys[-1] + 0.15
    found = times(path, start, end)
    assert found == [t for t in times(path) if start <= t < end] != []
    total = decoded() - 250  # of the whole video, read for the line above
    assert total <= 8


@pytest.mark.parametrize("codec, name", CODECS)
@pytest.mark.parametrize("first", [0.0, 5.0])
def test_spans_agree_with_the_whole_and_share_no_frame(tmp_path, codec, name, first):
    path = str(tmp_path / name)
    video.write_video(path, images(), 12.0, codec, start=first, gop=10)
    whole = times(path)
    assert len(whole) == 36
    assert np.allclose(whole, first + np.arange(36) / 12, atol=1e-3)
    cuts = [first, first + 0.7, whole[10], whole[20] + 1e-4, whole[29], whole[-1] + 0.01]
    spans = [times(path, a, b) for a, b in itertools.pairwise(cuts)]
    assert [t for span in spans for t in span] == whole
    for start in whole:
        assert times(path, start) == [t for t in whole if t >= start]


@pytest.mark.parametrize("codec, name", CODECS)
def test_a_span_decodes_from_one_key_frame_and_stops_at_its_end(tmp_path, codec, name, decoded):
    path = str(tmp_path / name)
    video.write_video(path, images(240), 12.0, codec, gop=12)
    assert len(times(path, 15.0, 15.5)) == 6
    assert decoded() <= 12 + 12 + 6 + 1  # at most a group to look at, one to go through, the span


def test_a_span_reads_only_a_part_of_the_file():
    path = sample("video/bikes.mp4")

    class Counted(io.BytesIO):
        count = 0

        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            self.count += len(data)
            return data

    file = Counted(path.read_bytes())
    assert len(times(file, 9.0, 9.2)) == 5
    assert file.count < path.stat().st_size / 2


def test_frames_come_one_at_a_time(decoded):
    reader = video.frames(str(sample("video/bikes.mp4")))
    first = next(reader)
    second = next(reader)
    assert decoded() <= 3
    del reader  # what was handed out outlives the file
    assert first.image().shape == second.image().shape == (272, 640, 3)


@pytest.mark.parametrize("codec, name", CODECS)
def test_written_pixels_come_back_and_bytes_repeat(tmp_path, codec, name):
    one, two = tmp_path / name, tmp_path / ("2" + name)
    for path in (one, two):
        video.write_video(str(path), images(), 12.0, codec)
    assert one.read_bytes() == two.read_bytes()
    for frame, image in zip(video.frames(one), images(), strict=True):
        assert np.abs(frame.image().astype(int) - image).mean() < 6
    info = video.probe(one)
    assert (info.width, info.height, info.fps) == (64, 48, 12.0)
    assert info.duration == pytest.approx(3.0, abs=0.1)


def test_a_variable_rate_keeps_its_times(tmp_path):
    stamps = [0, 3, 4, 20, 21, 90, 100, 101, 150, 153]
    for codec, name in CODECS:
        encoded(tmp_path / name, codec, stamps)
        assert np.allclose(times(tmp_path / name), np.array(stamps) / 100, atol=1e-3)


@pytest.mark.parametrize(
    "pix, codec, name",
    [
        ("yuv444p", "libx264", "a.mp4"),
        ("yuv420p10le", "libx264", "a.mp4"),
        ("yuvj420p", "libx264", "a.mp4"),
        ("yuvj422p", "mjpeg", "a.avi"),
        ("bgr0", "ffv1", "a.mkv"),
        ("gray", "ffv1", "a.mkv"),
        ("yuva420p", "libvpx-vp9", "a.webm"),
    ],
)
def test_other_pixel_formats_become_the_same_rgb(tmp_path, pix, codec, name):
    path = tmp_path / name
    encoded(path, codec, [0, 10, 20], pix=pix)
    wanted = images(3)
    if pix == "gray":
        wanted = [np.repeat(cv2.cvtColor(x, cv2.COLOR_RGB2GRAY)[..., None], 3, -1) for x in wanted]
    for frame, image in zip(video.frames(path), wanted, strict=True):
        assert frame.image().shape == (48, 64, 3)
        assert np.abs(frame.image().astype(int) - image).mean() < 6


ONE = 1 << 16  # 1.0 in a display matrix


@pytest.mark.parametrize(
    "a, b, c, d",
    [
        *[(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)],  # turned
        *[(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)],  # and mirrored
    ],
)
def test_frames_are_shown_upright(tmp_path, a, b, c, d):
    """By the definition in the MP4 standard: a pixel (x, y) is shown at (a x + c y, b x + d y)."""
    path = tmp_path / "a.mp4"
    matrix = [a * ONE, b * ONE, 0, c * ONE, d * ONE, 0, 0, 0, 1 << 30]
    encoded(path, "libx264", [0], lambda stream: stream.set_display_matrix(matrix))
    with av.open(str(path)) as container:
        stored = next(container.decode(video=0)).to_ndarray(
            format="rgb24", interpolation=video._CONVERSION
        )
    shown = next(video.frames(path)).image()
    y, x = np.mgrid[:48, :64]
    column, row = a * x + c * y, b * x + d * y
    column, row = column - column.min(), row - row.min()
    assert shown.shape == (row.max() + 1, column.max() + 1, 3)
    assert (shown[row, column] == stored).all()


def test_opencv_agrees_about_rotation(tmp_path):
    for degrees in (90, 180, 270):
        path = tmp_path / f"{degrees}.mp4"
        encoded(path, "libx264", [0], lambda s, angle=degrees: s.set_display_rotation(angle))
        ok, bgr = cv2.VideoCapture(str(path)).read()
        ours = next(video.frames(path)).image()
        assert ok and ours.shape == bgr.shape
        assert np.abs(ours.astype(int) - bgr[..., ::-1]).mean() < 6


def bad(source, match, start=0.0, end=None) -> DataError:
    with pytest.raises(DataError, match=match) as e:
        for frame in video.frames(source, start, end):
            frame.image()
    return e.value


@pytest.mark.parametrize("content", [b"", b"no video", bytes(100_000), b"\x1a\x45\xdf\xa3" * 99])
def test_what_is_no_video_is_bad_data(tmp_path, content):
    path = tmp_path / "clip.webm"
    path.write_bytes(content)
    error = bad(path, "clip.webm: not a whole")
    assert error.uri == str(path) and error.stage == "decode"
    with pytest.raises(DataError, match=r"clip\.webm"):
        video.probe(path)
    bad(io.BytesIO(content), "video: not a whole")


def test_a_missing_file_is_bad_data(tmp_path):
    assert bad(tmp_path / "a.mp4", "no such file").stage == "read"


@pytest.mark.parametrize("codec, name", CODECS)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_a_file_cut_short_is_bad_data(tmp_path, codec, name, share):
    path = tmp_path / name
    video.write_video(str(path), images(), 12.0, codec)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    bad(path, r"not a whole|cut short")


@pytest.mark.parametrize("codec, name", CODECS)
def test_no_cut_loses_frames_in_silence(tmp_path, codec, name):
    video.write_video(str(tmp_path / name), images(), 12.0, codec)
    data = (tmp_path / name).read_bytes()
    for length in {*range(0, len(data), 41), *range(len(data) - 120, len(data))}:
        try:
            found = times(io.BytesIO(data[:length]))
        except DataError:
            continue
        assert len(found) == 36  # an MP4's last bytes are a note about its maker


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(CODECS),
    st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=10),
    st.sampled_from([0.0, 0.5]),
)
def test_damaged_bytes_raise_nothing_but_data_errors(kind, changes, start):
    data = bytearray(clip(*kind))
    for place, value in changes:
        data[int(place * len(data))] = value
    with contextlib.suppress(DataError):
        for frame in video.frames(io.BytesIO(data), start):
            assert frame.image().shape[2] == 3


def test_a_cut_file_still_gives_the_spans_before_the_cut(tmp_path):
    path = tmp_path / "a.webm"
    video.write_video(str(path), images(), 12.0)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    assert len(times(path, 0.0, 0.5)) == 6


@pytest.mark.parametrize("at", [0.4, 0.5, 0.8])
def test_damage_in_the_middle_is_bad_data(tmp_path, at):
    data = bytearray(sample("video/bikes.mp4").read_bytes())
    k = int(len(data) * at)
    data[k : k + 500] = np.random.default_rng(1).bytes(500)
    path = tmp_path / "a.mp4"
    path.write_bytes(data)
    error = bad(path, r"damaged frame at|not a whole")
    assert error.uri == str(path)


def test_damage_that_ends_a_webm_early_is_bad_data(tmp_path):
    path = tmp_path / "a.webm"
    video.write_video(str(path), images(60), 12.0)
    data = bytearray(path.read_bytes())
    cluster = data.index(b"\x1f\x43\xb6\x75")
    block = data.index(b"\xa3", cluster)
    data[block + 400 : block + 900] = bytes(500)
    path.write_bytes(data)
    bad(path, r"the last frame is at|damaged|not a whole")


def test_time_that_runs_backwards_is_bad_data(tmp_path):
    path = tmp_path / "a.mp4"
    video.write_video(str(path), images(12), 12.0, "libx264")
    data = bytearray(path.read_bytes())
    # every sample the same decoding time: stts' one entry (count, delta) gets delta 0
    at = data.index(b"stts")
    count, delta = struct.unpack(">II", data[at + 12 : at + 20])
    assert count == 12 and delta > 0
    data[at + 16 : at + 20] = bytes(4)
    path.write_bytes(data)
    bad(path, r"time runs backwards|not a whole")


def test_a_span_without_frames_is_bad_data(tmp_path):
    path = tmp_path / "a.mp4"
    video.write_video(str(path), images(12), 12.0, "libx264")
    bad(path, "no frame between 9 s and its end", 9.0)
    bad(path, r"no frame between 0\.09 s and 0\.1 s", 0.09, 0.1)
    bad(path, "no frame between 0 s and 0 s", 0.0, 0.0)


def test_sound_alone_is_bad_data(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    bad(path, "no video stream")


def test_frames_larger_than_the_limit_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.mp4"
    video.write_video(str(path), images(3), 12.0, "libx264")
    monkeypatch.setattr(video, "MAX_PIXELS", 64 * 48 - 1)
    bad(path, "frames of 64x48, more than")
    # where the container understates it, the decoder itself refuses
    data = path.read_bytes()
    entry = data.index(b"avc1", data.index(b"stsd"))
    small = data[: entry + 28] + struct.pack(">HH", 16, 16) + data[entry + 32 :]
    path.write_bytes(small)
    bad(path, r"frames of 64x48|not a whole")


def test_a_playlist_under_a_video_name_opens_no_other_file(tmp_path):
    """libav would follow an HLS playlist or a concat script to any path on the machine."""
    video.write_video(str(tmp_path / "secret.mp4"), images(3), 12.0, "libx264")
    hls = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.mp4\n#EXT-X-ENDLIST\n"
    for text in (hls, "ffconcat version 1.0\nfile secret.mp4\n"):
        path = tmp_path / "clip.mp4"
        path.write_text(text)
        bad(path, "not a whole")
