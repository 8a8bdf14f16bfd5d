"""Tiny equirectangular panoramas of made-up rooms, with and without poses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipelines.ops import pose
from pipelines.ops.images import encode_jpeg
from pipelines.sources._house import House, depth_png

_ROWS = 96
_DEPTH_ROWS = 384  # enough points for the overlap of views
_PER_METRE = 1000
_PLACES = ((1.6, 3.0), (3.6, 3.2), (5.6, 2.8))  # metres


def write(path: Path, seed: int, *, traps: bool) -> Path:
    """Writes the corpus; see `panorama.fake`."""
    rng = np.random.default_rng(seed)
    entries = _house(path / "house", rng)
    _poses(path / "house", entries)
    places = [_pose(rng, (1.0, 2.0)) for _ in range(2)]
    drawn = [House.made(rng).equirectangular(at, _ROWS)[1] for at in places]
    (path / "loose").mkdir()
    (path / "loose" / "garden.jpg").write_bytes(encode_jpeg(drawn[0]))
    (path / "loose" / "hall.hdr").write_bytes(_hdr(drawn[1]))
    if traps:
        _spoilt(path, rng)
    return path


def _pose(rng: np.random.Generator, place: tuple[float, float]) -> np.ndarray:
    at = pose.facing(np.array([*place, 1.5]), rng.uniform(-3, 3))
    return pose.change_camera(at, "body", "opencv")


def _house(folder: Path, rng: np.random.Generator) -> list[dict[str, Any]]:
    folder.mkdir(parents=True)
    house = House.made(rng)
    entries = []
    for number, place in enumerate(_PLACES):
        at = _pose(rng, place)
        colours = house.equirectangular(at, _ROWS)[1]
        distance = house.equirectangular(at, _DEPTH_ROWS)[0]
        image, depth = f"{number}.jpg", f"{number}_depth.png"
        (folder / image).write_bytes(encode_jpeg(colours))
        (folder / depth).write_bytes(depth_png(distance, _PER_METRE))
        written = pose.change_camera(at, "opencv", "opengl")
        written = pose.inverse(pose.change_world(np.eye(4), "y_up")) @ written
        numbers = np.round(written, 6).ravel().tolist()
        entries.append({"image": image, "pose": numbers, "depth": depth})
    return entries


def _poses(folder: Path, entries: list[dict[str, Any]]) -> None:
    value = {"world": "y_up", "camera": "opengl", "depth_per_metre": _PER_METRE}
    (folder / "poses.json").write_text(json.dumps(value | {"panoramas": entries}))


def _hdr(colours: np.ndarray) -> bytes:
    linear = (colours.astype(np.float32) / 255) ** 2.2 * 40
    done, data = cv2.imencode(".hdr", linear[..., ::-1])
    assert done
    return data.tobytes()


def _spoilt(path: Path, rng: np.random.Generator) -> None:
    entries = _house(path / "spoilt", rng)
    mirrored = np.array(entries[0]["pose"]).reshape(4, 4) @ np.diag([-1, 1, 1, 1])
    entries[0]["pose"] = mirrored.ravel().tolist()
    nothing = depth_png(np.zeros((_ROWS, 2 * _ROWS)), _PER_METRE)
    (path / "spoilt" / entries[1]["depth"]).write_bytes(nothing)
    absent = {"image": "absent.jpg", "pose": entries[2]["pose"], "neighbours": []}
    _poses(path / "spoilt", [*entries, absent])
    loose = path / "loose"
    (path / "spoilt" / "unlisted.jpg").write_bytes((loose / "garden.jpg").read_bytes())
    (loose / "narrow.jpg").write_bytes(encode_jpeg(np.full((64, 96, 3), 120, np.uint8)))
    whole = (loose / "hall.hdr").read_bytes()
    (loose / "cut.hdr").write_bytes(whole[: len(whole) // 2])
