"""The real LAION shards and the real videos, through the command, against independent readers."""

import io
import json
import shutil
import tarfile

import av
import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from schemas import Tier
from tests.command import unisim
from tests.samples import sample
from tests.table import read_table

VIDEOS = {"101": "bigbuckbunny.mp4", "102": "bikes.mp4"}


def test_laion_through_prepare_and_audit(tmp_path):
    raw = sample("laion/img2dataset")
    unisim("prepare", "--source", f"laion={raw}", "--out", tmp_path / "out", "--tier", "24x40:raw")
    assert "0 violations, 0 warnings" in unisim("audit", tmp_path / "out").stdout
    expected = {}
    with tarfile.open(raw / "00000.tar") as tar:
        members = {m.name: tar.extractfile(m) for m in tar.getmembers()}
        data = {name: stream.read() for name, stream in members.items() if stream}
    for name, image in data.items():
        if name.endswith(".jpg"):
            key = name.removesuffix(".jpg")
            pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR_RGB)
            assert pixels is not None
            expected[key] = (centre_crops(pixels), data[key + ".txt"].decode())
    chunks = read_table(tmp_path / "out", Tier(24, 40, "raw"))
    assert {chunk.episode_id for chunk in chunks} == set(expected) and len(chunks) == 5
    for chunk in chunks:
        pixels, caption = expected[chunk.episode_id]
        found = chunk.pixels()[0].astype(int)
        assert min(np.abs(found - p).mean() for p in pixels) < 4, chunk.episode_id
        assert chunk.text == caption.strip()
        assert chunk.num_frames == 1 and chunk.fps == 0 and not chunk.control_mask.any()
    letters = pq.read_table(tmp_path / "out/dead_letters.parquet").to_pylist()
    failed = pq.read_table(raw / "00001.parquet").to_pylist()
    assert [(x["key"], x["episodes"]) for x in letters] == [(failed[0]["key"], 0)]
    assert failed[0]["status"] in letters[0]["reason"]


def centre_crops(image: np.ndarray) -> list[np.ndarray]:
    """24×40 by OpenCV, after cutting the image to 24:40 around its middle, or four pixels off: a
    JPEG may be decoded at a quarter, and is cut then."""
    h, w = image.shape[:2]
    height, width = (h, round(h * 40 / 24)) if w / h > 40 / 24 else (round(w * 24 / 40), w)
    top, left = (h - height) // 2, (w - width) // 2
    return [
        cv2.resize(image[y : y + height, x : x + width], (40, 24), interpolation=cv2.INTER_AREA)
        for y in range(max(top - 4, 0), min(top + 4, h - height) + 1)
        for x in range(max(left - 4, 0), min(left + 4, w - width) + 1)
    ]


@pytest.fixture
def wrapped(tmp_path):
    """The two real videos as Something-Something V2 would hold them; both are H.264 MP4."""
    root = tmp_path / "ssv2"
    root.mkdir()
    shutil.copy(sample("video/bigbuckbunny.mp4"), root / "101.webm")
    shutil.copy(sample("video/bikes.mp4"), root / "102.mp4")
    label = {"id": "101", "label": "showing a rabbit", "template": "Showing [something]"}
    other = {"id": "102", "label": "riding bikes", "template": "Riding [something]"}
    train = [label | {"placeholders": ["a rabbit"]}]
    (root / "train.json").write_text(json.dumps(train))
    (root / "validation.json").write_text(json.dumps([other | {"placeholders": ["bikes"]}]))
    return root


def test_two_real_videos_through_prepare_and_audit(tmp_path, wrapped):
    out, tier = tmp_path / "out", Tier(24, 40, "raw")
    unisim("prepare", "--source", f"something_something_v2={wrapped}", "--out", out)
    assert "0 violations, 0 warnings" in unisim("audit", out).stdout
    chunks = read_table(out, tier)
    for name, split, text in (("101", "train", "showing a rabbit"), ("102", "val", "riding bikes")):
        mine = [chunk for chunk in chunks if chunk.episode_id == name]
        assert {(c.split, c.text) for c in mine} == {(split, text)}
        assert [c.step for c in mine] == list(range(len(mine)))
        times, images = kept_frames(sample(f"video/{VIDEOS[name]}").read_bytes(), 6.0)
        np.testing.assert_allclose(np.concatenate([c.times for c in mine]), times, atol=1e-5)
        got = np.concatenate([c.pixels() for c in mine]).astype(int)
        shrunk = [cv2.resize(image, (40, 24), interpolation=cv2.INTER_AREA) for image in images]
        # two conversions from YUV differ by a level or two at edges, not more
        assert np.abs(got - np.stack(shrunk)).mean() < 1.5, name


def kept_frames(data: bytes, fps: float) -> tuple[np.ndarray, list[np.ndarray]]:
    """The first decoded frame at or after each multiple of 1/fps, by PyAV's own RGB conversion."""
    kept: dict[int, tuple[float, np.ndarray]] = {}
    with av.open(io.BytesIO(data), "r") as container:
        start = None
        for frame in container.decode(video=0):
            start = frame.time if start is None else start
            time = frame.time - start
            kept.setdefault(int(time * fps + 1e-3), (time, frame.to_ndarray(format="rgb24")))
    return np.array([time for time, _ in kept.values()]), [image for _, image in kept.values()]


def test_the_real_goal_steps_beside_a_real_video_through_prepare_and_audit(tmp_path):
    """The owners publish no times for the test split's steps: each is a declared loss, and what
    else is said of the same video is kept."""
    root, out = tmp_path / "ego4d", tmp_path / "out"
    (root / "annotations").mkdir(parents=True)
    (root / "full_scale").mkdir()
    steps = json.loads(sample("ego4d/goalstep_test.json").read_text())
    uid = steps["videos"][0]["video_uid"]
    shutil.copy(sample("ego4d/goalstep_test.json"), root / "annotations/goalstep_test.json")
    shutil.copy(sample("video/bikes.mp4"), root / "full_scale" / f"{uid}.mp4")
    said = [{"timestamp_sec": 2.0, "timestamp_frame": 60, "narration_text": "#C C rides a bike"}]
    narrated = {"narration_pass_1": {"narrations": said, "summaries": []}, "status": "complete"}
    (root / "annotations/narration.json").write_text(json.dumps({uid: narrated}))
    about = [
        {"video_uid": video["video_uid"], "duration_sec": None, "redacted_intervals": []}
        for video in steps["videos"]
    ]
    (root / "ego4d.json").write_text(json.dumps({"version": "v2", "videos": about}))
    unisim("prepare", "--source", f"ego4d={root}", "--out", out)
    assert "0 violations, 0 warnings" in unisim("audit", out).stdout
    chunks = read_table(out, Tier(24, 40, "raw"))
    assert {c.text for c in chunks} == {"the camera wearer rides a bike"}
    assert {c.split for c in chunks} == {"test"}
    times, images = kept_frames(sample("video/bikes.mp4").read_bytes(), 5.0)
    spoken_of = int((times < 4.0).sum())  # two seconds to either side
    np.testing.assert_allclose(
        np.concatenate([c.times for c in chunks]), times[:spoken_of], atol=1e-5
    )
    got = np.concatenate([c.pixels() for c in chunks]).astype(int)
    shrunk = [cv2.resize(x, (40, 24), interpolation=cv2.INTER_AREA) for x in images[:spoken_of]]
    assert np.abs(got - np.stack(shrunk)).mean() < 1.5
    lost = pq.read_table(out / "dead_letters.parquet").to_pylist()
    wanted = sum(len(video["step_segments"]) for video in steps["videos"])
    assert len(lost) == wanted and {row["episodes"] for row in lost} == {0}
