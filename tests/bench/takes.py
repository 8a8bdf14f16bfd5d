"""Episodes of a robot with defects planted in some, as our table, as a LeRobotDataset (v2.1), and
as TFRecords of flat features, so that auditors of all three can look at the same."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.ops import tfrecord
from pipelines.ops.video import write_video
from schemas import NUM_SLOTS, Chunk, Tier, example, mask_of
from tests.pipelines.planted import texture
from trainer.data.fake import fake_chunk, write_chunks

TIER = Tier(48, 80, "raw")
FPS, LENGTH, PART = 5, 48, 16
_TEXTS = ("push the block left", "push it right", "lift the block", "put the block down")
_PATH = "{}/chunk-{{episode_chunk:03d}}/{}episode_{{episode_index:06d}}.{}"
_NAMES = ["x", "y", "gripper"]


@dataclasses.dataclass
class Take:
    """One episode.

    Attributes:
        images: uint8 `[n, 48, 80, 3]`.
        actions: float32 `[n, 3]`, of `ee_dx`, `ee_dy` and `gripper`.
        times: float32 `[n]` seconds.
    """

    images: np.ndarray
    actions: np.ndarray
    times: np.ndarray
    text: str
    split: str = "train"


def take(number: int) -> Take:
    """A textured block that moves as the actions say, before a still background."""
    background, block = texture(10_000 + number), texture(20_000 + number, 18, 18)
    rng = np.random.default_rng(30_000 + number)
    images, actions = np.repeat(background[None], LENGTH, 0), np.zeros((LENGTH, 3), np.float32)
    at = np.array([20, 30])
    for i in range(LENGTH):
        if i:
            move = np.clip(at + rng.integers(-2, 3, 2), 2, (26, 58)) - at
            at = at + move
            actions[i] = (*(0.01 * move[::-1]), i > LENGTH // 2)
        images[i, at[0] : at[0] + 18, at[1] : at[1] + 18] = block
    times = (np.arange(LENGTH) / FPS).astype(np.float32)
    split = "val" if number % 10 == 9 else "train"
    return Take(images, actions, times, _TEXTS[number % len(_TEXTS)], split)


def _set(name: str, where, value) -> Callable[[list[Take], int], None]:
    def plant(takes: list[Take], i: int) -> None:
        getattr(takes[i], name)[where] = value

    return plant


def _later(takes: list[Take], i: int) -> None:
    takes[i].times[20:] += 4


def _again(takes: list[Take], i: int) -> None:
    takes[i] = dataclasses.replace(takes[i - 1], split="val")


def _still(takes: list[Take], i: int) -> None:
    takes[i].images[:] = takes[i].images[:1]


def _text(text: str) -> Callable[[list[Take], int], None]:
    def plant(takes: list[Take], i: int) -> None:
        takes[i].text = text

    return plant


# what is planted, and which features of the flat records it is in
DEFECTS: dict[str, tuple[Callable[[list[Take], int], None], tuple[str, ...]]] = {
    "an action that is no number": (_set("actions", (7, 1), np.nan), ("actions",)),
    "an action of 50 m": (_set("actions", (7, 0), 50.0), ("actions",)),
    "a gripper of 3": (_set("actions", (slice(5, 9), 2), 3.0), ("actions",)),
    "a time that repeats": (_set("times", 9, 1.6), ("times",)),
    "a gap of 4 s": (_later, ("times",)),
    "frozen frames": (_still, ("brightness",)),
    "black frames": (_set("images", slice(10, 20), 0), ("brightness",)),
    "frames of one colour": (_set("images", slice(10, 20), 120), ("brightness",)),
    "an episode in two splits": (_again, ("split",)),
    "an empty text": (_text(" "), ("text",)),
    "markup in a text": (_text("lift <b>the block</b>"), ("text",)),
    "a text in another script": (_text("подними кубик"), ("text",)),
    "a text that steers a terminal": (_text("lift \x1b[2J the block"), ("text",)),
}


def takes(count: int, *, defects: bool) -> tuple[list[Take], dict[str, int]]:
    """Episodes, and which of them has which defect."""
    found = [take(i) for i in range(count)]
    places = {}
    for k, (name, (plant, _)) in enumerate(DEFECTS.items() if defects else ()):
        places[name] = 10 * (k % (count // 10)) + 3 + 2 * (k // (count // 10))
        plant(found, places[name])
    return found, places


def write_table(out: Path, found: list[Take]) -> Path:
    """Ours; rules are not checked."""
    episodes = [_chunks(i, each) for i, each in enumerate(found)]
    with np.errstate(all="ignore"):
        return write_chunks(out, {"arm": {TIER: episodes}}, shards=4, width=8, checked=False)


def _chunks(number: int, each: Take) -> list[Chunk]:
    chunks = []
    for step, start in enumerate(range(0, LENGTH, PART)):
        part = slice(start, start + PART)
        controls = np.zeros((PART, NUM_SLOTS), np.float32)
        controls[:, mask_of(["ee_dx", "ee_dy", "gripper"])] = each.actions[part]
        with np.errstate(all="ignore"):
            chunk = fake_chunk(
                dataset="arm",
                episode_id=f"{number:06d}",
                step=step,
                split=each.split,
                frames=each.images[part],
                times=each.times[part],
                fps=float(FPS),
                text=each.text,
                controls=controls,
                control_mask=mask_of(["ee_dx", "ee_dy", "gripper"]),
                is_last=start + PART == LENGTH,
            )
        chunks.append(chunk)
    return chunks


def write_lerobot(root: Path, found: list[Take]) -> Path:
    """A LeRobotDataset v2.1, a video and a Parquet file for each episode."""
    texts = list(dict.fromkeys(each.text for each in found))
    data, videos = root / "data/chunk-000", root / "videos/chunk-000/observation.images.front"
    for folder in (data, videos, root / "meta"):
        folder.mkdir(parents=True)
    for i, each in enumerate(found):
        count = len(each.times)
        columns = {
            "action": list(each.actions),
            "observation.state": list(np.cumsum(each.actions, 0)),
            "timestamp": each.times,
            "frame_index": np.arange(count),
            "episode_index": np.full(count, i),
            "index": i * LENGTH + np.arange(count),
            "task_index": np.full(count, texts.index(each.text)),
        }
        pq.write_table(pa.table(columns), data / f"episode_{i:06d}.parquet")
        write_video(str(videos / f"episode_{i:06d}.mp4"), each.images, FPS, "libx264")
    _write_meta(root / "meta", found, texts)
    return root


def _write_meta(meta: Path, found: list[Take], texts: list[str]) -> None:
    train = [i for i, each in enumerate(found) if each.split == "train"]
    number = {"dtype": "int64", "shape": [1], "names": None}
    names = ("frame_index", "episode_index", "index", "task_index")
    vector = {"dtype": "float32", "shape": [3], "names": _NAMES}
    camera = {"dtype": "video", "shape": [48, 80, 3], "names": ["height", "width", "channels"]}
    info = {
        "codebase_version": "v2.1",
        "robot_type": "arm",
        "fps": FPS,
        "total_episodes": len(found),
        "total_frames": LENGTH * len(found),
        "total_tasks": len(texts),
        "total_videos": len(found),
        "total_chunks": 1,
        "chunks_size": 1000,
        "splits": {"train": f"0:{max(train) + 1}"},
        "data_path": _PATH.format("data", "", "parquet"),
        "video_path": _PATH.format("videos", "{video_key}/", "mp4"),
        "features": {
            "action": vector,
            "observation.state": vector,
            "observation.images.front": camera,
            "timestamp": {"dtype": "float32", "shape": [1], "names": None},
            **dict.fromkeys(names, number),
        },
    }
    (meta / "info.json").write_text(json.dumps(info))
    episodes = (
        {"episode_index": i, "tasks": [each.text], "length": len(each.times)}
        for i, each in enumerate(found)
    )
    (meta / "episodes.jsonl").write_text("".join(json.dumps(e) + "\n" for e in episodes))
    tasks = ({"task_index": i, "task": text} for i, text in enumerate(texts))
    (meta / "tasks.jsonl").write_text("".join(json.dumps(t) + "\n" for t in tasks))


def write_flat(path: Path, found: list[Take]) -> Path:
    """TFRecords of an Example per record: numbers as numbers, frames as their mean levels."""
    items = []
    for i, each in enumerate(found):
        for start in range(0, LENGTH, PART):
            part = slice(start, start + PART)
            values: dict[str, example.Value] = {
                "episode": f"{i:06d}",
                "split": each.split,
                "text": each.text,
                "actions": each.actions[part].astype(np.float32),
                "times": each.times[part],
                "brightness": each.images[part].mean((1, 2, 3)).astype(np.float32),
            }
            items.append(example.encode(values))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as f:
        tfrecord.write(f, items)
    return path
