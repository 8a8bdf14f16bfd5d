"""Making raw files large: a long video, a big TFRecord, from small ones of the same kind."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from pipelines.ops import tfrecord
from schemas import DataError

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
    """Repeats the records of a TFRecord file until it is that large; their number."""
    with path.open("rb") as stream:
        items = list(tfrecord.records(stream))
    bodies = [item.data for item in items if not isinstance(item, DataError)]
    count, written = 0, 0
    with path.open("wb") as stream:
        while written < size:
            tfrecord.write(stream, bodies)
            count += len(bodies)
            written = stream.tell()
    return count
