"""Badly distributed corpora: in each the bytes are in one file, one video, one scan or at its end.

Real formats, but sparse where only a size is looked at while a plan is made.
"""

import gzip
import io
import itertools
import json
import math
import tarfile
import uuid
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import sources
from pipelines.ops import tfrecord
from pipelines.sources import lerobot
from tests.pipelines.lerobot_corpus import LISTING, edit

CORPORA: dict[str, Callable[[Path], Path]] = {}
"""By the name that `tests.fuzz.harness.corpora` has for the form; several of one form have a
suffix after "/"."""

_TINY, _LARGEST = 1_000, 100_000
# one byte in all, then many small ones, then all the bytes; and rising from first to last
_AT_THE_END = [1] + [_TINY] * 300 + [_LARGEST] * 80
_RISING = [_LARGEST * (i + 1) // 120 for i in range(120)]


def corpus(*names: str):
    def registered(make: Callable[[Path], Path]) -> Callable[[Path], Path]:
        CORPORA.update(dict.fromkeys(names, make))
        return make

    return registered


def sparse(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)


def _rlds(name: str, fake: str) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        """One file of 300 episodes beside files of one; the longest ones are at its end."""
        path = getattr(sources.get(name), fake)(root, 0, traps=False)
        files = sorted(path.glob("*.tfrecord*"))
        records = [
            record.data
            for file in files
            for record in tfrecord.records(io.BytesIO(file.read_bytes()))
            if isinstance(record, tfrecord.Record)
        ]
        records.sort(key=len)
        for file, items in itertools.zip_longest(files, [records[:1] * 300 + records[:2] * 20]):
            with file.open("wb") as stream:
                tfrecord.write(stream, items or records[:1])
        return path

    return make


for _name, _fake in (
    ("bridge", "fake"),
    ("bridge", "fake_oxe"),
    ("language_table", "fake"),
    ("rt1", "fake"),
    ("rt2", "fake"),
):
    corpus(_name if _fake == "fake" else f"{_name}.{_fake}")(_rlds(_name, _fake))


@corpus("bridge.fake_raw")
def bridge_raw(root: Path) -> Path:
    """Long trajectories after short ones, and one camera's images larger than all others."""
    for i, size in enumerate(_AT_THE_END):
        folder = root / f"2022-01-01_00-00-00/raw/traj_group0/traj{i:04d}"
        sparse(folder / "obs_dict.pkl", size // 10)
        sparse(folder / "policy_out.pkl", size // 20)
        sparse(folder / "images0/im_0.jpg", 200 if i % 2 else 400)
    return root


@corpus("something_something_v2")
def something_something_v2(root: Path) -> Path:
    labels = []
    for i, size in enumerate(_AT_THE_END):
        sparse(root / "videos" / f"{i}.webm", size)
        label = {"id": str(i), "label": "moving a square", "template": "", "placeholders": []}
        labels.append(label)
    (root / "train.json").write_text(json.dumps(labels))
    return root


def _ego4d(root: Path, videos: dict[str, int], minutes: Callable[[int], list[float]]) -> Path:
    """Videos of so many bytes, 1 MB a minute, narrated at the given seconds of each minute."""
    spoken, steps, described = {}, [], []
    for uid, size in videos.items():
        end = size / 1e6 * 60
        times = [60 * m + t for m in range(int(end // 60)) for t in minutes(m)]
        said = [{"timestamp_sec": t, "narration_text": "#C C walks"} for t in times]
        spoken[uid] = {f"narration_pass_{n}": {"narrations": said} for n in (1, 2)}
        # all begin within a minute, and last one
        parts = [
            {"start_time": i * 0.5, "end_time": i * 0.5 + 50, "step_description": "cook"}
            for i in range(100 if end > 200 else 0)
        ]
        steps.append({"video_uid": uid, "segments": parts})
        described.append({"video_uid": uid, "duration_sec": end, "redacted_intervals": []})
        sparse(root / "full_scale" / f"{uid}.mp4", size)
    (root / "annotations").mkdir()
    (root / "ego4d.json").write_text(json.dumps({"videos": described}))
    (root / "annotations" / "narration.json").write_text(json.dumps(spoken))
    (root / "annotations" / "goalstep_train.json").write_text(json.dumps({"videos": steps}))
    return root


@corpus("ego4d")
def ego4d(root: Path) -> Path:
    """An hour beside minutes, and a hundred steps that begin in the same minute."""
    videos = {str(uuid.UUID(int=i + 1)): 1_100_000 for i in range(20)}
    videos[str(uuid.UUID(int=10**6))] = 60_000_000
    return _ego4d(root, videos, lambda minute: [0.5 + 2 * i for i in range(30)])


@corpus("ego4d/quiet")
def ego4d_quiet(root: Path) -> Path:
    """Two hours that are narrated densely at their end alone."""
    videos = {str(uuid.UUID(int=1)): 120_000_000}
    return _ego4d(root, videos, lambda m: [0.5 + i for i in range(0, 60, 2 if m > 90 else 59)])


def _epic(root: Path, spans: dict[str, list[tuple[float, float]]]) -> None:
    header = (
        "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,"
        "start_frame,stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,"
        "all_noun_classes"
    )

    def clock(t: float) -> str:
        return f"{int(t // 3600):02d}:{int(t // 60) % 60:02d}:{t % 60:05.2f}"

    lines = [header]
    for video, found in spans.items():
        for i, (a, b) in enumerate(found):
            place = f"{clock(a)},{clock(a)},{clock(b)},{int(a * 60) + 1},{int(b * 60) + 1}"
            text = "wash cup,wash,2,cup,13,['cup'],[13]"
            lines.append(f"{video}_{i},{video[:3]},{video},{place},{text}")
    (root / "EPIC_100_train.csv").write_text("\n".join(lines) + "\n")


_KITCHENS = {f"P02_{i:02d}": [(0.0, 2.0), (1.0, 3.0)] for i in range(20)}
# an hour in which every other action is thirty times as long, and overlaps its neighbours
_HOUR = [(4.0 * i, 4.0 * i + (30 if i % 2 else 1)) for i in range(800)]


@corpus("epic_kitchens")
def epic_kitchens(root: Path) -> Path:
    _epic(root, {"P01_01": _HOUR} | _KITCHENS)
    for video in _KITCHENS:
        sparse(root / f"P02/videos/{video}.MP4", 10_000)
    sparse(root / "P01/videos/P01_01.MP4", 60_000_000)
    return root


@corpus("epic_kitchens/frames")
def epic_kitchens_frames(root: Path) -> Path:
    _epic(root, {"P01_01": _HOUR} | _KITCHENS)
    for video in ("P01_01", *_KITCHENS):
        size = 200_000 if video in ("P01_01", "P02_07") else 2_000
        sparse(root / f"rgb_frames/{video}/frame_0000000001.jpg", size)
    return root


@corpus("habitat")
def habitat(root: Path) -> Path:
    """A scene whose last episodes have all the bytes, one of rising ones, and small ones."""
    scenes = {"aB3dE5fG7hJ": _AT_THE_END[::2], "kL2mN4pQ6rS": _RISING}
    scenes |= {f"tU8vW1xY3z{i}": [_TINY] for i in range(9)}
    for scene, sizes in scenes.items():
        # the file's order is not that of the names
        listed = [
            {"episode_id": f"{i:03d}", "scene_id": f"{scene}.basis.glb"} for i in range(len(sizes))
        ][::-1]
        path = root / f"train/content/{scene}.json.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(json.dumps({"episodes": listed}).encode(), mtime=0))
        for i, size in enumerate(sizes):
            name = f"{i:03d}.mp4" if i % 3 else f"{i:03d}/000000.jpg"
            sparse(root / "train/frames" / scene / name, size)
    return root


@corpus("matterport3d")
def matterport3d(root: Path) -> Path:
    """A house of panoramas that have ever more depth, one without any, and single rooms."""
    houses = {"aB3dE5fG7hJ": _RISING, "kL2mN4pQ6rS": [0] * 60}
    houses |= {f"tU8vW1xY3z{i}": [0] for i in range(9)}
    for scan, depths in houses.items():
        for i, size in enumerate(depths):
            for face in range(6):
                folder = root / scan / "matterport_skybox_images"
                sparse(folder / f"{i:032x}_skybox{face}_sami.jpg", 500)
            if size:
                sparse(root / scan / "undistorted_depth_images" / f"{i:032x}_d0_0.png", size)
    return root


def _poses(folder: Path, entries: list[dict[str, object]]) -> None:
    value = {"world": "z_up", "camera": "opencv", "panoramas": entries}
    (folder / "poses.json").write_text(json.dumps(value))


@corpus("panorama")
def panorama(root: Path) -> Path:
    """Depth that is nearly all the bytes, whose names stand apart from those of the images."""
    for name, sizes in {"house": _RISING, "hut": [_TINY], "loose": _AT_THE_END[:320]}.items():
        entries = []
        for i, size in enumerate(sizes):
            image = f"pano_{i:03d}.jpg"
            sparse(root / name / image, 2_000 if name == "house" else size)
            if name == "house":
                sparse(root / name / f"depth_{i:03d}.png", size)
                pose = [1, 0, 0, 0, 0, 0, 1, 0, 0, -1, 0, 0, 0, 0, 0, 1]
                entries.append({"image": image, "depth": f"depth_{i:03d}.png", "pose": pose})
        if entries:
            _poses(root / name, entries)
    return root


def _laion(root: Path, shards: dict[str, list[int]]) -> Path:
    """Tars whose images have so many bytes, by key; in them the keys are out of order."""
    root.mkdir(parents=True, exist_ok=True)
    for stem, sizes in shards.items():
        keys = [f"{stem}{i:04d}" for i in range(len(sizes))]
        with tarfile.open(root / f"{stem}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for step in range(7):
                for key, size in list(zip(keys, sizes, strict=True))[step::7]:
                    info = tarfile.TarInfo(f"{key}.jpg")
                    info.size = size
                    tar.addfile(info, io.BytesIO(bytes(size)))
        rows = [{"key": key, "status": "success", "caption": "a square"} for key in keys]
        pq.write_table(pa.Table.from_pylist(rows), root / f"{stem}.parquet")
    return root


@corpus("laion")
def laion(root: Path) -> Path:
    """One large tar, its last images the largest, beside small ones."""
    small = {f"{i:05d}": [_TINY] * 3 for i in range(20)}
    return _laion(root, small | {"00020": [size // 10 for size in _AT_THE_END]})


@corpus("laion/rising")
def laion_rising(root: Path) -> Path:
    return _laion(root, {"00000": [_TINY], "00001": [size // 10 for size in _RISING * 2]})


_LENGTHS = [5] * 200 + [100] * 60


@corpus("lerobot")
def lerobot_v3(root: Path) -> Path:
    """All episodes in one file of each kind, the long ones last, and a file with a short one."""
    path = lerobot.fake(root, 0, traps=False)
    row = pq.read_table(path / LISTING).to_pylist()[0]
    rows: list[dict[str, object]] = []
    done = 0
    for i, n in enumerate(_LENGTHS):
        places = {k: int(i == 0) for k in row if k.endswith("file_index")}
        times = {k: done / 10 for k in row if k.endswith("from_timestamp")}
        times |= {k: (done + n) / 10 for k in row if k.endswith("to_timestamp")}
        rows.append(row | places | times | {"episode_index": i, "length": n})
        done += n * (i > 0)
    pq.write_table(pa.Table.from_pylist(rows), path / LISTING)
    for video in (path / "videos").rglob("file-000.mp4"):
        sparse(video, 20_000_000)
    edit(path / "meta/info.json", lambda info: info.update(splits={"train": f"0:{len(rows)}"}))
    return path


@corpus("lerobot.fake_v21")
def lerobot_v21(root: Path) -> Path:
    path = lerobot.fake_v21(root, 0, traps=False)
    edit(path / "meta/info.json", lambda info: info.update(splits={}))
    lines = [{"episode_index": i, "tasks": [], "length": n} for i, n in enumerate(_LENGTHS)]
    (path / "meta/episodes.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    for i, n in enumerate(_LENGTHS):
        sparse(path / f"data/chunk-000/episode_{i:06d}.parquet", 20 * n)
        folder = path / "videos/chunk-000/observation.images.front"
        sparse(folder / f"episode_{i:06d}.mp4", 1000 * n)
    return path


def shard_bytes(largest: int, total: int) -> int:
    """The smallest shards, or tens of them, in which no item is more than a sixth."""
    return max(6 * largest, math.ceil(total / 40))
