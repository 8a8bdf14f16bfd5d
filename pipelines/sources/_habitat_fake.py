"""A tiny Habitat corpus in which a walker's frames are drawn from where it stands."""

from __future__ import annotations

import gzip
import io
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from pipelines.ops import images, video

_CATEGORIES = ("bed", "chair", "plant", "sofa", "toilet", "tv_monitor")
_ACTIONS = ("MOVE_FORWARD", "TURN_LEFT", "TURN_RIGHT", "LOOK_UP", "LOOK_DOWN")
_OFTEN = (0.5, 0.2, 0.2, 0.05, 0.05)
_WALL = 0.6  # metres from the room's middle
_SHAPE = (48, 64, 3)


class _Walk(NamedTuple):
    """One demonstration: its JSON, and an image `[48, 64, 3]` per action and of the start."""

    episode: dict[str, Any]
    frames: list[np.ndarray]


def write(path: Path, seed: int, *, traps: bool) -> Path:
    """Writes the corpus; see `habitat.fake`."""
    rng = np.random.default_rng(seed)
    walks = [_walk(rng, "aB3dE5fG7hJ", "A1FAKE:30WORK", 14), _walk(rng, "aB3dE5fG7hJ", "0", 9)]
    train = path / "train"
    _images(train / "frames", walks[0], "jpg")
    for entry in walks[1].episode["reference_replay"]:
        entry["agent_state"] = None  # as PIRLNav has it
    _images(train / "frames", walks[1], "png")
    spoilt = _spoilt(rng, train / "frames") if traps else []
    _content(train, "aB3dE5fG7hJ", [w.episode for w in walks] + spoilt, {})
    repeated = _walk(rng, "kL2mN4pQ6rS", "0", 11)
    _video(train / "frames", repeated)
    _content(train, "kL2mN4pQ6rS", [repeated.episode], {})
    if traps:
        cut = _content(train, "tU8vW1xY3zA", [repeated.episode], {})
        cut.write_bytes(cut.read_bytes()[:-200])
    sought = _walk(rng, "mN4pQ6rS8tU", "7", 8)
    goal = {"object_category": sought.episode.pop("object_category"), "object_id": "12"}
    sought.episode.update(goal_object_id="12", goal_image_id=3)
    _images(path / "frames", sought, "jpg")
    _content(path / "val", "mN4pQ6rS8tU", [sought.episode], {"mN4pQ6rS8tU_12": goal})
    for split in ("train", "val"):
        _gzip(path / split / f"{split}.json.gz", {"episodes": [], "goals_by_category": {}})
    return path


def _spoilt(rng: np.random.Generator, frames: Path) -> list[dict[str, Any]]:
    """Episodes of the first scene with one thing wrong in each."""
    names = ("start_only", "unrendered", "cut", "short", "nan", "../0")
    found = {name: _walk(rng, "aB3dE5fG7hJ", name, 6) for name in names}
    del found["start_only"].episode["reference_replay"]
    for name in ("cut", "short", "nan"):
        _images(frames, found[name], "jpg", skip=name == "short")
    last = frames / "aB3dE5fG7hJ" / "cut" / "000006.jpg"
    last.write_bytes(last.read_bytes()[: last.stat().st_size * 9 // 10])
    found["nan"].episode["reference_replay"][3]["agent_state"]["position"][2] = math.nan
    return [walk.episode for walk in found.values()]


def _walk(rng: np.random.Generator, scene: str, name: str, n: int) -> _Walk:
    """`n` actions and the final STOP; a step that would leave the room moves nothing."""
    x, z = rng.uniform(-0.2, 0.2, 2)
    heading, tilt, height = rng.uniform(-math.pi, math.pi), 0, round(rng.uniform(-3, 3), 3)
    landmarks = rng.uniform(-4, 4, (8, 2)), rng.integers(60, 256, (8, 3))
    start = _state(x, height, z, heading)
    replay, frames = [], [_view(x, z, heading, tilt, landmarks)]
    actions = [str(action) for action in rng.choice(_ACTIONS, n - 1, p=_OFTEN)]
    for action in [*actions, "MOVE_FORWARD", "STOP"]:
        if action == "MOVE_FORWARD":
            to = x - 0.25 * math.sin(heading), z - 0.25 * math.cos(heading)
            x, z = to if max(map(abs, to)) < _WALL else (x, z)
        heading += math.radians(30) * ((action == "TURN_LEFT") - (action == "TURN_RIGHT"))
        tilt += (action == "LOOK_UP") - (action == "LOOK_DOWN")
        replay.append({"action": action, "agent_state": _state(x, height, z, heading)})
        frames.append(_view(x, z, heading, tilt, landmarks))
    # the recorder's placeholder: a STOP with the state after the first action
    replay.insert(0, {"action": "STOP", "agent_state": dict(replay[0]["agent_state"])})
    episode = {
        "episode_id": name,
        "scene_id": f"hm3d/train/00001-{scene}/{scene}.basis.glb",
        "start_position": start["position"],
        "start_rotation": start["rotation"],
        "object_category": str(rng.choice(_CATEGORIES)),
        "goals": [],
        "info": {"geodesic_distance": 5.40846, "euclidean_distance": 4.94411},
        "reference_replay": replay,
    }
    return _Walk(episode, frames)


def _state(x: float, y: float, z: float, heading: float) -> dict[str, Any]:
    return {
        "position": [x, y, z],
        "rotation": [0.0, math.sin(heading / 2), 0.0, math.cos(heading / 2)],
    }


def _view(
    x: float, z: float, heading: float, tilt: int, landmarks: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Pillars before a horizon, as a camera of 90 degrees at (x, z) sees them."""
    image = np.full(_SHAPE, 200, np.uint8)
    horizon = 24 + 12 * max(-1, min(1, tilt))
    image[horizon:] = (90, 80, 70)
    for (px, pz), colour in zip(*landmarks, strict=True):
        dx, dz = px - x, pz - z
        ahead = -math.sin(heading) * dx - math.cos(heading) * dz
        if ahead > 0.2:
            left = -math.cos(heading) * dx + math.sin(heading) * dz
            column, half = int(32 - 32 * left / ahead), int(24 / ahead)
            rows = slice(max(horizon - half, 0), max(horizon + half, 0))
            image[rows, max(column - 3, 0) : max(column + 3, 0)] = colour
    return image


def _images(folder: Path, walk: _Walk, suffix: str, skip: int = 0) -> None:
    """The walk's frames but for the last `skip`, as numbered images."""
    target = _place(folder, walk)
    target.mkdir(parents=True)
    for i, frame in enumerate(walk.frames[: len(walk.frames) - skip]):
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "PNG")
        data = buffer.getvalue() if suffix == "png" else images.encode_jpeg(frame)
        (target / f"{i:06d}.{suffix}").write_bytes(data)


def _video(folder: Path, walk: _Walk) -> None:
    target = _place(folder, walk)
    target.parent.mkdir(parents=True, exist_ok=True)
    video.write_video(f"{target}.mp4", walk.frames, 10.0, "libx264")


def _place(folder: Path, walk: _Walk) -> Path:
    scene = walk.episode["scene_id"].rsplit("/", 1)[-1].split(".")[0]
    return folder / scene / walk.episode["episode_id"]


def _content(folder: Path, scene: str, episodes: list[dict], goals: dict[str, Any]) -> Path:
    category = {"goals": goals} if goals else {"goals_by_category": {f"{scene}.basis.glb_bed": []}}
    return _gzip(folder / "content" / f"{scene}.json.gz", {"episodes": episodes} | category)


def _gzip(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(json.dumps(value).encode(), mtime=0))
    return path
