"""Making raw files large: a long video, a big TFRecord, big images, from small ones of the same
kind."""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from PIL import Image

from pipelines.ops import tfrecord
from pipelines.ops.images import decode_image, encode_jpeg, is_black, resize
from schemas import DataError
from schemas.example import Example, encode

SECONDS = 7200
BYTES = 2_000_000_000


def moving_images(count: int, height: int, width: int) -> Iterator[np.ndarray]:
    """A bright block that wanders over a coarse ground."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 80, (height // 40, width // 40, 3), np.uint8)
    ground = coarse.repeat(40, 0).repeat(40, 1)
    for i in range(count):
        image = ground.copy()
        x = (7 * i) % max(1, width - 40)
        image[height // 3 : height // 2, x : x + 40] = (220, 60, 60)
        yield image


def long_video(path: Path, *, seconds: float = SECONDS, fps: int = 30, size=(480, 640)) -> None:
    """An H.264 MP4: four seconds are encoded, and their packets repeated."""
    piece = path.with_name("piece.mp4")
    frames = 4 * fps
    with av.open(str(piece), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast"})
        stream.height, stream.width = size  # type: ignore[attr-defined]
        stream.pix_fmt, stream.gop_size = "yuv420p", fps  # type: ignore[attr-defined]
        stream.codec_context.max_b_frames = 0  # type: ignore[attr-defined]
        for image in moving_images(frames, *size):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))  # type: ignore[attr-defined]
        container.mux(stream.encode())  # type: ignore[attr-defined]
    with av.open(str(piece)) as source, av.open(str(path), "w", format="mp4") as target:
        video = source.streams.video[0]
        packets = [(bytes(p), p.is_keyframe) for p in source.demux(video) if p.size]
        copy = target.add_stream_from_template(video)
        copy.time_base = Fraction(1, fps)
        for i in range(int(seconds * fps)):
            data, key = packets[i % frames]
            packet = av.Packet(data)
            packet.stream, packet.time_base = copy, Fraction(1, fps)
            packet.pts = packet.dts = i
            packet.is_keyframe = key
            target.mux(packet)
    piece.unlink()


def big_tfrecord(path: Path, *, size: int = BYTES) -> int:
    """Gives the images of an RLDS file the size of real ones and repeats its records until it is
    that large; their number."""
    with path.open("rb") as stream:
        items = list(tfrecord.records(stream))
    bodies = [_enlarged(item.data) for item in items if not isinstance(item, DataError)]
    count, written = 0, 0
    with path.open("wb") as stream:
        while written < size:
            tfrecord.write(stream, bodies)
            count += len(bodies)
            written = stream.tell()
    return count


def big_jpeg(image: bytes, height: int, width: int) -> bytes:
    """A JPEG at another size, with the noise that gives it the size of a photograph's file."""
    large = resize(decode_image(image), height, width, "stretch")
    noise = np.random.default_rng(len(image)).integers(0, 30, large.shape, np.uint8)
    return encode_jpeg(large // 8 * 7 + noise)


def big_depth(path: Path, times: int) -> None:
    """A depth image becomes so many times as wide and as high."""
    units = np.array(Image.open(path))
    buffer = io.BytesIO()
    Image.fromarray(units.repeat(times, 0).repeat(times, 1)).save(buffer, "PNG", compress_level=1)
    path.write_bytes(buffer.getvalue())


def big_hdr(path: Path, height: int) -> None:
    """A panorama in high dynamic range becomes so high."""
    small = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert small is not None
    noise = np.random.default_rng(0).uniform(0.9, 1.1, (height, 2 * height, 1))
    large = cv2.resize(small, (2 * height, height)) * noise.astype(np.float32)
    assert cv2.imwrite(str(path), large)


def _enlarged(record: bytes) -> bytes:
    values = {}
    for name, value in Example(record).items():
        is_image = isinstance(value, list) and value[0][:2] == b"\xff\xd8"
        values[name] = [_noisy(image) for image in value] if is_image else value
    return encode(values)


def _noisy(image: bytes) -> bytes:
    pixels = decode_image(image)
    if is_black(pixels):
        return image
    large = resize(pixels, 256, 320, "stretch")
    noise = np.random.default_rng(len(image)).integers(0, 60, large.shape, np.uint8)
    return encode_jpeg(large // 2 + noise)
