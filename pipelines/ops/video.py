"""Video files: the frames of a time span, streamed, and small files for fakes."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import BinaryIO, NamedTuple

import av
import av.container
import numpy as np
from av.error import FFmpegError
from av.stream import Disposition
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from pipelines.episode import Shrink, Shrinkable
from schemas import DataError

MAX_PIXELS = 8192 * 4608
# containers only: playlists and image sequences can name other files on the machine
_FORMATS = "mov,matroska,webm,avi"
# swscale's default takes short cuts whose rounding depends on the processor
_EXACT = Interpolation.ACCURATE_RND | Interpolation.BITEXACT
_CONVERSION = Interpolation.BILINEAR | _EXACT
_SHRINKING = (
    Interpolation.AREA | Interpolation.FULL_CHR_H_INP | Interpolation.FULL_CHR_H_INT | _EXACT
)
_LONGEST_LAST_FRAME = 1.5  # seconds
_STEPS_BACK = (0.0, 1.0, 4.0, 16.0, 64.0)
_CONTAINERS = {"libvpx-vp9": "webm", "libx264": "mp4"}
# x264's macroblock tree reads memory that nobody has written at the edges of small pictures
_ENCODING = {
    "libvpx-vp9": {"crf": "12"},
    "libx264": {"crf": "12", "x264-params": "mbtree=0"},
}

Source = str | os.PathLike[str] | BinaryIO


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoFrame:
    """One frame.

    Attributes:
        time: seconds on the stream's own clock, which may start after 0.
        image: converts the pixels to uint8 `[H, W, 3]` RGB, upright. Raises DataError.
    """

    time: float
    image: Shrinkable


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a file's header says; it may say little, or be wrong.

    Attributes:
        duration: seconds, or None.
        fps: average frame rate, or None.
        width, height: of the coded frames, in pixels, before any rotation.
        frames: their number, or None.
    """

    duration: float | None
    fps: float | None
    width: int
    height: int
    frames: int | None


def frames(source: Source, start: float = 0.0, end: float | None = None) -> Iterator[VideoFrame]:
    """The frames with start <= time < end, in order; only what these need is read and decoded.

    Times are the time stamps that the file holds, on the stream's own clock: a stream may start
    after 0, the rate may vary. A start of 0 or less means the first frame, whatever its time. Spans
    that share a boundary share no frame. Decoding uses one thread, and the conversion to RGB (made
    only by `image()`) is bit-exact, so the pixels are the same everywhere.

    Args:
        source: a local path, or a seekable binary file, of MP4/MOV, WebM/Matroska or AVI content.

    Raises:
        DataError: while iterating; if this is no such file, if a frame is damaged or too large, if
            time runs backwards, if the file ends early, or if the span has no frame.
    """
    with _opened(source) as (container, stream, file):
        previous = -math.inf
        converter = _Converter(source)
        for time, frame in _from(source, container, stream, start):
            if end is not None and time >= end:
                break
            if time <= previous:
                raise _error(source, f"time runs backwards, from {previous:.6f} to {time:.6f} s")
            previous = time
            yield VideoFrame(time=time, image=_Picture(converter, frame))
        else:
            _check_whole(source, container, file, previous)
        if previous == -math.inf:
            until = "its end" if end is None else f"{end:g} s"
            raise _error(source, f"no frame between {start:g} s and {until}")


def probe(source: Source) -> VideoInfo:
    """What the header says; no frame is converted, and hardly any decoded.

    Raises:
        DataError: if this is not a video that `frames` reads.
    """
    with _opened(source) as (container, stream, _):
        duration = None
        if stream.duration is not None and stream.time_base:
            duration = float(stream.duration * stream.time_base)
        elif container.duration is not None:
            duration = container.duration / 1e6
        rate = stream.average_rate or stream.guessed_rate
        return VideoInfo(
            duration=duration,
            fps=float(rate) if rate else None,
            width=stream.codec_context.width,
            height=stream.codec_context.height,
            frames=stream.frames or None,
        )


def write_video(
    path: str,
    images: Iterable[np.ndarray],
    fps: float,
    codec: str = "libvpx-vp9",
    *,
    start: float = 0.0,
    gop: int = 12,
) -> None:
    """A small video; equal arguments give equal bytes.

    Args:
        path: the name is taken as it is, the codec decides the container.
        images: uint8 `[H, W, 3]` RGB of one size.
        codec: "libvpx-vp9" makes WebM, "libx264" (even sizes only) makes MP4.
        start: seconds, the first frame's time, as near as the frame rate allows.
        gop: frames from key frame to key frame.
    """
    rate = Fraction(fps).limit_denominator(1001)
    with av.open(
        path, "w", format=_CONTAINERS[codec], options={"fflags": "+bitexact"}
    ) as container:
        stream = container.add_stream(codec, rate=rate, options=_ENCODING[codec])
        assert isinstance(stream, VideoStream)
        stream.pix_fmt = "yuv420p"
        stream.gop_size = gop
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = 1 / rate
        for i, image in enumerate(images):
            if i == 0:
                stream.height, stream.width = image.shape[:2]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame = frame.reformat(format="yuv420p", interpolation=_CONVERSION, threads=1)
            frame.pts = round(start * rate) + i
            frame.time_base = 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _path(source: Source) -> str:
    """The path, or "" of a file that does not know its own."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    name = getattr(source, "name", "")
    return name if isinstance(name, str) else ""


def _error(source: Source, reason: str, stage: str = "decode") -> DataError:
    path = _path(source)
    return DataError(f"{os.path.basename(path) or 'video'}: {reason}", stage=stage, uri=path)


class _File:
    """A file for libav to read. Damaged indexes send it to before the start or far past the end,
    where the system's own errors would look like the disk's."""

    def __init__(self, source: Source, file: BinaryIO):
        self.source, self.file = source, file
        self.read, self.tell = file.read, file.tell
        self.size = file.seek(0, os.SEEK_END)
        file.seek(0)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self.size}
        position = base[whence] + offset
        if position < 0:
            raise _error(self.source, "not a whole video (its index points before its start)")
        self.file.seek(min(position, self.size))
        return position


@contextlib.contextmanager
def _opened(source: Source) -> Iterator[tuple[av.container.InputContainer, VideoStream, _File]]:
    """Container, video stream and file; libav's errors are DataError while these are in use."""
    limit = {"max_pixels": str(MAX_PIXELS)}
    with contextlib.ExitStack() as stack:
        try:
            if isinstance(source, str | os.PathLike):
                # not by name: libav would take some names for its protocols
                file = _File(source, stack.enter_context(open(source, "rb")))
            else:
                file = _File(source, source)
            options = {"format_whitelist": _FORMATS, **limit}
            container = av.open(file, "r", options=options, metadata_errors="replace")
            stack.enter_context(container)
            stream = _video_stream(source, container)
            stream.codec_context.options = limit
            stream.codec_context.thread_count = 1
            stream.thread_type = "NONE"  # type: ignore[assignment]
            yield container, stream, file
        except FileNotFoundError as e:
            raise _error(source, "no such file", "read") from e
        except FFmpegError as e:
            raise _error(source, f"not a whole MP4, WebM or AVI video ({e.strerror})") from e


def _video_stream(source: Source, container: av.container.InputContainer) -> VideoStream:
    for stream in container.streams.video:
        if stream.disposition & Disposition.attached_pic:
            continue  # a cover picture
        if stream.codec_context is None:
            raise _error(source, "no decoder for its video stream")
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > MAX_PIXELS:
            raise _error(source, f"frames of {width}x{height}, more than {MAX_PIXELS} pixels")
        return stream
    raise _error(source, "no video stream")


Timed = tuple[float, av.VideoFrame]


def _from(
    source: Source, container: av.container.InputContainer, stream: VideoStream, start: float
) -> Iterator[Timed]:
    """The frames from the first at or after `start` on, decoded from the key frame before it."""
    if start <= 0:
        yield from _decode(source, container, stream, -math.inf)
        return
    tick = stream.time_base or Fraction(1, av.time_base)
    first = stream.start_time or 0
    for back in _STEPS_BACK:
        target = math.floor((start - back) / tick)
        if target <= first:
            break
        # an index may go by decoding times, and then the key frame it finds can be shown too late
        container.seek(target, stream=stream)
        decoded = _decode(source, container, stream, start)
        head = next(decoded, None)
        if head is not None and head[0] <= start:
            yield from (x for x in itertools.chain([head], decoded) if x[0] >= start)
            return
    container.seek(first, stream=stream)
    yield from (x for x in _decode(source, container, stream, start) if x[0] >= start)


def _decode(
    source: Source, container: av.container.InputContainer, stream: VideoStream, start: float
) -> Iterator[Timed]:
    """Every frame from the container's position on. Damage before a first key frame, where the
    frames of an open group lack their references, matters only from `start` on."""
    whole = False
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise _error(source, f"damaged data near {_seconds(packet.pts, packet.time_base)}")
        for frame in packet.decode():
            if frame.pts is None:
                raise _error(source, "a frame without a time stamp")
            whole = whole or frame.key_frame
            if frame.is_corrupt and (whole or frame.time >= start):
                raise _error(source, f"damaged frame at {frame.time:.6f} s")
            yield frame.time, frame


def _seconds(pts: int | None, time_base: Fraction | None) -> str:
    return "an unknown time" if pts is None or not time_base else f"{float(pts * time_base):.6f} s"


class _Picture(NamedTuple):
    """A decoded frame, converted when it is asked for."""

    converter: _Converter
    frame: av.VideoFrame

    def __call__(self) -> np.ndarray:
        return self.converter.rgb(self.frame)

    def shrunk(self, shrink: Shrink) -> np.ndarray:
        return self.converter.rgb(self.frame, shrink)


class _Converter:
    """Turns the frames of one stream into upright RGB. One serves all, as each holds megabytes of
    tables."""

    def __init__(self, source: Source):
        self._source = source
        self._reformatter = VideoReformatter()
        self._matrices: dict[int, np.ndarray | None] = {}

    def rgb(self, frame: av.VideoFrame, shrink: Shrink | None = None) -> np.ndarray:
        """uint8 `[H, W, 3]`, of the frame's size or just as large as wanted. Raises DataError."""
        matrix = self._matrix(frame)
        height, width = frame.height, frame.width
        if shrink is not None:
            turned = matrix is not None and _is_sideways(matrix)
            height, width = shrink(width, height)[::-1] if turned else shrink(height, width)
        same = (height, width) == (frame.height, frame.width)
        try:
            converted = self._reformatter.reformat(
                frame,
                width=width,
                height=height,
                format="rgb24",
                interpolation=_CONVERSION if same else _SHRINKING,
                threads=1,
            )
            pixels = converted.to_ndarray()
        except (FFmpegError, ValueError) as e:
            reason = f"frame at {frame.time:.6f} s has no RGB form ({e})"
            raise _error(self._source, reason) from e
        return np.ascontiguousarray(pixels if matrix is None else _upright(pixels, matrix))

    def _matrix(self, frame: av.VideoFrame) -> np.ndarray | None:
        """The display matrix, from the first frame of its rotation. Asking a frame for its side
        data ties it into a reference cycle, and hundreds of frames would wait for the collector."""
        rotation = frame.rotation
        if rotation not in self._matrices:
            found = frame.side_data.get("DISPLAYMATRIX")
            numbers = None if found is None else np.frombuffer(bytes(found), np.int32)
            self._matrices[rotation] = None if numbers is None else numbers[[0, 1, 3, 4]].copy()
        return self._matrices[rotation]


def _upright(pixels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Pixels turned and mirrored as the display matrix `[[a, b], [c, d]]` says.

    A pixel at (x, y), y down, is shown at (a x + c y, b x + d y); angles that are no multiple of 90
    degrees are taken as the nearest one.
    """
    a, b, c, d = (int(value) for value in matrix)
    if _is_sideways(matrix):
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _is_sideways(matrix: np.ndarray) -> bool:
    """Whether the display matrix `[[a, b], [c, d]]` makes columns of rows."""
    a, b, c, d = (abs(int(value)) for value in matrix)
    return b + c > a + d


def _check_whole(
    source: Source, container: av.container.InputContainer, file: _File, last: float
) -> None:
    """Raises DataError if a Matroska file ends early, which its demuxer takes for the end.

    Other containers need no such check: their index or their packets show what is missing.
    """
    if "matroska" not in container.format.name:
        return
    file.seek(0)
    promised = _segment_end(file.read(64))
    if promised is not None and file.size < promised:
        raise _error(source, f"cut short: {file.size} bytes of {promised}")
    # damage can also throw the demuxer off for good
    if math.isfinite(last) and len(container.streams) == 1 and container.duration is not None:
        duration = container.duration / av.time_base
        if duration - last > _LONGEST_LAST_FRAME:
            raise _error(source, f"the last frame is at {last:.3f} s of {duration:.3f} s")


def _segment_end(head: bytes) -> int | None:
    """The file size that a Matroska file's first bytes promise; None if they promise none."""
    if head[:4] != b"\x1a\x45\xdf\xa3":
        return None
    size, start = _vint(head, 4)
    if size is None or head[start + size : start + size + 4] != b"\x18\x53\x80\x67":
        return None
    size, start = _vint(head, start + size + 4)
    return None if size is None else start + size


def _vint(data: bytes, at: int) -> tuple[int | None, int]:
    """EBML's variable-length integer at a position, None if unknown, and the position after it."""
    if at >= len(data) or data[at] == 0:
        return None, at
    length = 9 - data[at].bit_length()
    mask = (1 << 7 * length) - 1
    value = int.from_bytes(data[at : at + length], "big") & mask
    return (None if value == mask else value), at + length
