"""What the rows on decoding read: a textured picture that a camera wanders over, as films and as
robots' episodes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.stream import VideoStream

from pipelines.ops.images import encode_jpeg
from pipelines.sources import bridge

NOISE = 4.0  # standard deviation, as a camera's sensor has it
HOUR, PIECE = 3600, 60  # seconds
SLOW, KEYS = 10, 80  # frames per second of the hour, and from key frame to key frame
SECONDS = 20  # of film
LABEL = "moving the camera over a table"


def moving_crops(rng: np.random.Generator, count: int, height: int, width: int) -> Iterator:
    """uint8 `[height, width, 3]`: crops of one picture along a smooth path, with new noise each."""
    picture = _texture(rng, height + 160, width + 160)
    noise = rng.normal(0, NOISE, (height + 64, width + 64, 3)).astype(np.int16)
    for i in range(count):
        motion = cv2.getRotationMatrix2D((width / 2, height / 2), 3 * np.sin(i / 41), 1.1)
        motion[:, 2] -= [80 + 40 * np.sin(i / 23), 80 + 40 * np.sin(i / 37)]
        crop = cv2.warpAffine(picture, motion, (width, height)).astype(np.int16)
        top, left = rng.integers(0, 64, 2)
        crop += noise[top : top + height, left : left + width]
        yield np.clip(crop, 0, 255).astype(np.uint8)


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Noise of every scale, the coarser the stronger, as photographs have it."""
    total = np.full((height, width, 3), 118, np.float32)
    for scale in (1, 2, 4, 8, 16, 32, 64, 128):
        shape = (height // scale + 2, width // scale + 2, 3)
        coarse = rng.normal(0, 6 * scale**0.3, shape).astype(np.float32)
        total += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(total, 0, 255).astype(np.uint8)


def film(folder: Path) -> Path:
    """The film of 720p that the rows share, made if it is not there."""
    path = folder / "film.mp4"
    if not path.exists():
        write_film(path, SECONDS)
    return path


def write_film(
    path: Path, seconds: int, *, fps: int = 30, size: tuple[int, int] = (720, 1280), gop: int = 250
) -> None:
    """H.264 as x264 makes it unless told otherwise: medium, CRF 23, three B frames."""
    rng = np.random.default_rng(11)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "23"})
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = size
        stream.pix_fmt, stream.gop_size = "yuv420p", gop
        for image in moving_crops(rng, seconds * fps, *size):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def write_hour(path: Path) -> None:
    """An hour of 180x320: a minute is encoded, and its packets repeated."""
    piece = path.with_name("minute.mp4")
    write_film(piece, PIECE, fps=SLOW, size=(180, 320), gop=KEYS)
    with av.open(str(piece)) as source, av.open(str(path), "w", format="mp4") as target:
        video = source.streams.video[0]
        packets = [p for p in source.demux(video) if p.size]
        tick = packets[0].time_base
        copy = target.add_stream_from_template(video)
        for start in range(0, HOUR, PIECE):
            for old in packets:
                assert old.pts is not None and old.dts is not None
                packet = av.Packet(bytes(old))
                packet.stream, packet.time_base = copy, tick
                shift = int(start / Fraction(tick))
                packet.pts, packet.dts = old.pts + shift, old.dts + shift
                packet.is_keyframe = old.is_keyframe
                target.mux(packet)


def write_clips(folder: Path, film: Path, count: int) -> Path:
    """A corpus of Something-Something V2 whose clips are all the same film."""
    folder.mkdir()
    labels = [{"id": str(i), "label": LABEL, "template": LABEL} for i in range(count)]
    (folder / "train.json").write_text(json.dumps(labels))
    for label in labels:
        (folder / f"{label['id']}.mp4").hardlink_to(film)
    return folder


def write_episodes(
    root: Path, count: int, *, steps: int = 40, per_file: int = 25, size=(256, 320)
) -> Path:
    """A corpus of Bridge 1.0.0, RLDS; eight different episodes, again and again."""
    folder = root / "bridge_dataset" / "1.0.0"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(12)
    different = [_motions(rng, steps, size) for _ in range(min(8, count))]
    records = [bridge.record(*different[i % 8], LABEL, i) for i in range(count)]
    files = [records[i : i + per_file] for i in range(0, count, per_file)]
    bridge.write_rlds(folder, "bridge_dataset", {"train": files})
    return folder


def _motions(
    rng: np.random.Generator, steps: int, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Actions, states and frames of one episode."""
    actions = rng.uniform(-0.03, 0.03, (steps, 7)).astype(np.float32)
    actions[:, 6] = 1
    frames = np.stack(list(moving_crops(rng, steps, *size)))
    return actions, np.cumsum(actions, 0), frames


def jpegs_of(folder: Path, episodes: int, steps: int = 40, size=(256, 320)) -> Path:
    """The images of such episodes as files `EPISODE/STEP.jpg`, for who cannot read RLDS."""
    rng = np.random.default_rng(12)
    for i in range(episodes):
        (folder / str(i)).mkdir(parents=True)
        for j, frame in enumerate(_motions(rng, steps, size)[2]):
            (folder / str(i) / f"{j:03d}.jpg").write_bytes(encode_jpeg(frame))
    return folder
