"""The fake of each source, scaled up: a 2-hour video, 2 GB of TFRecord or tar, large panoramas."""

from __future__ import annotations

import gzip
import io
import json
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import sources
from pipelines.ops.images import encode_jpeg
from tests.memory.scale import (
    BYTES,
    SECONDS,
    big_depth,
    big_hdr,
    big_jpeg,
    big_tfrecord,
    long_video,
)

_UID = "5f82c2d9-cfeb-4fa3-a1d7-d982f8bd1045"


def rlds(name: str) -> Callable[[Path], Path]:
    """One shard of the fake repeated to 2 GB."""

    def make(root: Path) -> Path:
        path = sources.get(name).fake(root, 0, traps=False)
        first, *others = sorted(path.glob("*.tfrecord*"))
        for other in others:
            other.unlink()
        count = big_tfrecord(first)
        info = json.loads((path / "dataset_info.json").read_text())
        info["splits"] = [s for s in info["splits"] if f"-{s['name']}." in first.name]
        info["splits"][0]["shardLengths"] = [str(count)]
        (path / "dataset_info.json").write_text(json.dumps(info))
        return path

    return make


def something_something_v2(root: Path) -> Path:
    """One clip that lasts two hours: one episode."""
    label = {"id": "1", "label": "moving a block", "template": "", "placeholders": []}
    (root / "train.json").write_text(json.dumps([label]))
    long_video(root / "1.mp4")
    return root


def ego4d(root: Path) -> Path:
    """Two hours, narrated every 2.5 seconds, and two goal-steps over all of them."""
    folder = root / "v2/annotations"
    folder.mkdir(parents=True)
    (root / "v2/full_scale").mkdir()
    said = [
        {"timestamp_sec": t / 10, "timestamp_frame": 3 * t, "narration_text": f"#C C lifts {t}"}
        for t in range(10, 10 * SECONDS - 50, 25)
    ]
    narrated = {"narration_pass_1": {"narrations": said, "summaries": []}, "status": "complete"}
    (folder / "narration.json").write_text(json.dumps({_UID: narrated}))
    spans = ((0, SECONDS // 2), (SECONDS // 2, SECONDS - 5))
    segments = [{"start_time": a, "end_time": b, "step_description": "cook"} for a, b in spans]
    steps = {"videos": [{"video_uid": _UID, "segments": segments}]}
    (folder / "goalstep_train.json").write_text(json.dumps(steps))
    video = {"video_uid": _UID, "duration_sec": float(SECONDS), "redacted_intervals": []}
    video |= {"video_components": [], "split_em": None, "split_av": None, "split_fho": "train"}
    (root / "ego4d.json").write_text(json.dumps({"version": "v2", "videos": [video]}))
    long_video(root / "v2/full_scale" / f"{_UID}.mp4")
    return root


def epic_kitchens(root: Path) -> Path:
    """One action that lasts two hours: one episode."""
    fake = sources.get("epic_kitchens").fake(root, 0, traps=False)
    header = (fake / "EPIC_100_train.csv").read_text().splitlines()[0]
    row = "P01_01_0,P01,P01_01,00:00:00.000,00:00:00.00,01:59:59.00,1,431940"
    row += ",cook dinner,cook,1,dinner,1,['dinner'],[1]"
    (fake / "EPIC_100_train.csv").write_text(f"{header}\n{row}\n")
    (fake / "EPIC_100_validation.csv").write_text(f"{header}\n")
    info = f"video_id,duration,fps,resolution\nP01_01,{SECONDS},30,640x480\n"
    (fake / "EPIC_100_video_info.csv").write_text(info)
    long_video(fake / "P01/videos/P01_01.MP4")
    return fake


def habitat(root: Path) -> Path:
    """One demonstration of two hours at five actions a second, as a video."""
    scene, actions = "aB3dE5fG7hJ", 5 * SECONDS - 1
    replay = [{"action": "MOVE_FORWARD" if i % 7 else "TURN_LEFT"} for i in range(actions + 1)]
    replay[0]["action"] = "STOP"
    episode = {
        "episode_id": "0",
        "scene_id": f"hm3d/train/00001-{scene}/{scene}.basis.glb",
        "start_position": [0.0, 0.0, 0.0],
        "start_rotation": [0.0, 0.0, 0.0, 1.0],
        "object_category": "chair",
        "reference_replay": replay,
    }
    (root / "train/content").mkdir(parents=True)
    content = gzip.compress(json.dumps({"episodes": [episode]}).encode())
    (root / f"train/content/{scene}.json.gz").write_bytes(content)
    (root / f"train/frames/{scene}").mkdir(parents=True)
    long_video(root / f"train/frames/{scene}/0.mp4", fps=5)
    return root


def lerobot(root: Path) -> Path:
    """One episode of two hours at 30 frames a second, seen by one camera."""
    fake = sources.get("lerobot").fake(root, 0, traps=False)
    front, n = "observation.images.front", 30 * SECONDS
    info = json.loads((fake / "meta/info.json").read_text())
    del info["features"]["observation.images.wrist"]
    info["features"][front]["shape"] = [480, 640, 3]
    info |= {"fps": 30, "total_episodes": 1, "total_frames": n, "splits": {"train": "0:1"}}
    (fake / "meta/info.json").write_text(json.dumps(info))
    (path,) = (fake / "meta/episodes").rglob("*.parquet")
    row = {"episode_index": 0, "tasks": ["lift"], "length": n, "dataset_from_index": 0}
    row |= {"dataset_to_index": n, "data/chunk_index": 0, "data/file_index": 0}
    row |= {f"videos/{front}/chunk_index": 0, f"videos/{front}/file_index": 0}
    row |= {f"videos/{front}/from_timestamp": 0.0, f"videos/{front}/to_timestamp": float(SECONDS)}
    pq.write_table(pa.Table.from_pylist([row]), path)
    index = np.arange(n)
    motors = pa.FixedSizeListArray.from_arrays(
        np.tile(np.float32(index[:, None] % 90), 6).ravel(), 6
    )
    zeros = np.zeros(n, np.int64)
    columns = {"action": motors, "observation.state": motors, "timestamp": np.float32(index / 30)}
    columns |= {"frame_index": index, "episode_index": zeros, "index": index, "task_index": zeros}
    pq.write_table(pa.table(columns), fake / "data/chunk-000/file-000.parquet")
    (fake / "data/chunk-000/file-001.parquet").unlink()
    for video in (fake / "videos").rglob("*.mp4"):
        video.unlink()
    long_video(fake / f"videos/{front}/chunk-000/file-000.mp4")
    return fake


def matterport3d(root: Path) -> Path:
    """One house of 40 panoramas at their real size, three with depth: a row of the fake's rooms."""
    fake, name, count = sources.get("matterport3d").fake(root, 0, traps=False), "aB3dE5fG7hJ", 40
    (fake / "R2R_train.json").unlink()
    (fake / "connectivity/kL2mN4pQ6rS_connectivity.json").unlink()
    shutil.rmtree(fake / "kL2mN4pQ6rS")
    shutil.rmtree(fake / name / "undistorted_color_images")
    for depth in (fake / name / "undistorted_depth_images").iterdir():
        big_depth(depth, 16)
    conf = fake / name / f"undistorted_camera_parameters/{name}.conf"
    focal, x, y = 16 * 67.0, 16 * 39.5, 16 * 31.25
    line = f"intrinsics_matrix {focal} 0 {x} 0 {focal} {y} 0 0 1"
    conf.write_text(re.sub("intrinsics_matrix.*", line, conf.read_text()))
    graph = fake / "connectivity" / f"{name}_connectivity.json"
    room, faces = json.loads(graph.read_text()), fake / name / "matterport_skybox_images"
    large = {f: big_jpeg(f.read_bytes(), 1024, 1024) for f in sorted(faces.iterdir())}
    entries = []
    for i in range(count):
        entry = room[i % len(room)] | {"unobstructed": [abs(i - j) == 1 for j in range(count)]}
        old, new = entry["image_id"], entry["image_id"][:-2] + f"{i:02d}"
        if i < len(room):
            new = old
        entry["pose"] = [*entry["pose"]]
        entry["pose"][3] += 6.0 * (i // len(room))
        entries.append(entry | {"image_id": new})
        for file, data in large.items():
            if file.name.startswith(old):
                (faces / file.name.replace(old, new)).write_bytes(data)
    graph.write_text(json.dumps(entries))
    return fake


def panorama(root: Path) -> Path:
    """Twelve photographs of 8192x4096 with depth, and one of 4096x2048 in high dynamic range."""
    fake = sources.get("panorama").fake(root, 0, traps=False)
    (fake / "loose/garden.jpg").unlink()
    big_hdr(fake / "loose/hall.hdr", 2048)
    house = fake / "house"
    value = json.loads((house / "poses.json").read_text())
    big_depth(house / "0_depth.png", 4)
    image, depth = big_jpeg((house / "0.jpg").read_bytes(), 4096, 8192), house / "0_depth.png"
    entry, entries = value["panoramas"][0], []
    for i in range(12):
        pose = [*entry["pose"]]
        pose[3] += 0.5 * i
        (house / f"{i}.jpg").write_bytes(image)
        if i:
            shutil.copy(depth, house / f"{i}_depth.png")
        entries.append({"image": f"{i}.jpg", "pose": pose, "depth": f"{i}_depth.png"})
    (house / "poses.json").write_text(json.dumps(value | {"panoramas": entries}))
    return fake


def laion(root: Path) -> Path:
    """One tar of 2 GB."""
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    image, rows, written = encode_jpeg(noise), [], 0
    with tarfile.open(root / "00000.tar", "w") as tar:
        while written < BYTES:
            key = f"{len(rows):09d}"
            rows.append({"key": key, "status": "success", "caption": f"noise number {key}"})
            for suffix, data in (("jpg", image), ("txt", b"noise")):
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
                written += len(data)
    pq.write_table(pa.Table.from_pylist(rows), root / "00000.parquet")
    return root


CORPORA: dict[str, Callable[[Path], Path]] = {
    **{name: rlds(name) for name in ("bridge", "language_table", "rt1", "rt2")},
    "ego4d": ego4d,
    "epic_kitchens": epic_kitchens,
    "habitat": habitat,
    "laion": laion,
    "lerobot": lerobot,
    "matterport3d": matterport3d,
    "panorama": panorama,
    "something_something_v2": something_something_v2,
}
