"""A tiny Matterport3D: rooms of boxes, seen by skyboxes and by the camera's 18 photographs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipelines.ops import pose
from pipelines.ops.controls import rotation
from pipelines.ops.images import encode_jpeg
from pipelines.sources._house import House, depth_png
from pipelines.sources._matterport3d_scan import FRONT_OF_POSE, NUMBERS, UNITS_PER_METRE

_FACE = 64
_ROWS, _COLUMNS = 64, 80
_FOCAL, _MIDDLE_X, _MIDDLE_Y = 67.0, 39.5, 31.25  # pixels, the origin at the bottom left
_TILTS = (-42.0, 0.0, 42.0)  # degrees down, of cameras 0 to 2
_PLACES = ((1.6, 3.0), (3.6, 3.2), (5.6, 2.8))  # metres


class _Pano(NamedTuple):
    """A panorama's id, and its connectivity pose: OpenCV, looking along face 3."""

    id: str
    at: np.ndarray


def write(path: Path, seed: int, *, traps: bool) -> Path:
    """Writes the corpus; see `matterport3d.fake`."""
    rng = np.random.default_rng(seed)
    (path / "connectivity").mkdir(parents=True)
    panos = _scan(path, "aB3dE5fG7hJ", rng, len(_PLACES), depth=True)
    _scan(path, "kL2mN4pQ6rS", rng, 2, depth=False)
    route = {
        "distance": 4.0,
        "scan": "aB3dE5fG7hJ",
        "path_id": 12,
        "path": [pano.id for pano in panos],
        "heading": round(float(rng.uniform(0, 2 * math.pi)), 3),
        "instructions": ["Walk past the boxes and stop.", "Go along the wall to the end.\n"],
    }
    (path / "R2R_train.json").write_text(json.dumps([route]))
    if traps:
        _spoilt(path, rng)
    return path


def _scan(
    path: Path, name: str, rng: np.random.Generator, count: int, *, depth: bool, wall: bool = False
) -> list[_Pano]:
    house = House.made(rng)
    if wall:  # between the first place and the second
        boxes = np.array([[[2.5, 0.0, 0.0], [2.6, 6.0, 2.8]]])
        house = house._replace(boxes=np.concatenate([house.boxes, boxes]))
    panos = []
    for place in _PLACES[:count]:
        turned = pose.facing(np.array([*place, 1.5]), rng.uniform(-3, 3), 0.01, -0.008)
        name_ = rng.bytes(16).hex()
        panos.append(_Pano(name_, np.round(pose.change_camera(turned, "body", "opencv"), 6)))
    folder = path / name
    (folder / "matterport_skybox_images").mkdir(parents=True)
    for pano in panos:
        for number, face in zip(NUMBERS, house.skybox(pano.at @ FRONT_OF_POSE, _FACE), strict=True):
            _face(folder, pano.id, number).write_bytes(encode_jpeg(face))
    if depth:
        _cameras(folder, name, house, panos, rng)
    entries = [_entry(pano, i, count) for i, pano in enumerate(panos)]
    _connectivity(path, name).write_text(json.dumps(entries))
    return panos


def _face(folder: Path, pano: str, number: int) -> Path:
    return folder / "matterport_skybox_images" / f"{pano}_skybox{number}_sami.jpg"


def _connectivity(path: Path, name: str) -> Path:
    return path / "connectivity" / f"{name}_connectivity.json"


def _entry(pano: _Pano, index: int, count: int) -> dict[str, Any]:
    """One reaches those beside it."""
    return {
        "image_id": pano.id,
        "pose": pano.at.ravel().tolist(),
        "included": True,
        "visible": [i != index for i in range(count)],
        "unobstructed": [abs(i - index) == 1 for i in range(count)],
        "height": 1.5,
    }


def _cameras(
    folder: Path, name: str, house: House, panos: list[_Pano], rng: np.random.Generator
) -> None:
    """The photographs, their depth and the .conf."""
    kinds = ("undistorted_color_images", "undistorted_depth_images")
    for kind in (*kinds, "undistorted_camera_parameters"):
        (folder / kind).mkdir()
    lines = ["dataset matterport", f"n_images {18 * len(panos)}"]
    lines += [f"depth_directory {kinds[1]}", f"color_directory {kinds[0]}", ""]
    for pano in panos:
        for camera, tilt in enumerate(_TILTS):
            lines.append(f"intrinsics_matrix {_FOCAL} 0 {_MIDDLE_X}  0 {_FOCAL} {_MIDDLE_Y}  0 0 1")
            for yaw in range(6):
                at = _camera_pose(pano, tilt, yaw, rng)
                distance, colours = house.cast(at[:3, 3], _rays() @ at[:3, :3].T)
                photo, metres = (f"{pano.id}_{x}{camera}_{yaw}" for x in "id")
                (folder / kinds[0] / f"{photo}.jpg").write_bytes(encode_jpeg(colours))
                data = depth_png(distance, UNITS_PER_METRE)
                (folder / kinds[1] / f"{metres}.png").write_bytes(data)
                numbers = " ".join(
                    f"{x:.9g}" for x in pose.change_camera(at, "opencv", "opengl").flat
                )
                lines.append(f"scan {metres}.png {photo}.jpg {numbers}")
    conf = folder / "undistorted_camera_parameters" / f"{name}.conf"
    conf.write_text("\n".join(lines) + "\n")


def _camera_pose(pano: _Pano, tilt: float, yaw: int, rng: np.random.Generator) -> np.ndarray:
    """OpenCV; image i1_5 looks as face 1 does, each next one 60° further to the right."""
    head = pose.change_camera(pano.at @ FRONT_OF_POSE, "opencv", "body")
    turn = rotation(np.radians([0.0, tilt, -60.0 * (yaw + 1)]))
    return pose.change_camera(head @ pose.make(turn, rng.uniform(-0.01, 0.01, 3)), "body", "opencv")


def _rays() -> np.ndarray:
    """Of a photograph's pixels, of depth 1, in the OpenCV camera."""
    x = (np.arange(_COLUMNS) + 0.5 - _MIDDLE_X) / _FOCAL
    y = (np.arange(_ROWS) + 0.5 - (_ROWS - _MIDDLE_Y)) / _FOCAL
    grid = np.meshgrid(x, y)
    return np.stack([*grid, np.ones_like(grid[0])], -1)


def _spoilt(path: Path, rng: np.random.Generator) -> None:
    """Three more scans, and one that is only listed."""
    panos = _scan(path, "tU8vW1xY3zA", rng, 3, depth=False)
    _face(path / "tU8vW1xY3zA", panos[0].id, 3).unlink()
    small = encode_jpeg(np.full((_FACE // 2, _FACE // 2, 3), 90, np.uint8))
    _face(path / "tU8vW1xY3zA", panos[1].id, 0).write_bytes(small)
    graph = _connectivity(path, "tU8vW1xY3zA")
    entries = json.loads(graph.read_text())
    entries[2]["unobstructed"].append(True)  # a fourth panorama
    excluded = entries[0] | {"image_id": rng.bytes(16).hex(), "included": False}
    mirrored = entries[0] | {
        "image_id": rng.bytes(16).hex(),
        "pose": np.diag([1, 1, -1, 1]).tolist(),
    }
    for entry in entries:
        entry["unobstructed"] += [False, False]
    graph.write_text(json.dumps([*entries, excluded, mirrored]))
    panos = _scan(path, "wX5yZ7aB9cD", rng, 3, depth=True, wall=True)
    folder = path / "wX5yZ7aB9cD"
    nothing = depth_png(np.zeros((_ROWS, _COLUMNS)), UNITS_PER_METRE)
    for file in (folder / "undistorted_depth_images").glob(f"{panos[2].id}_*"):
        file.write_bytes(nothing)
    conf = folder / "undistorted_camera_parameters" / "wX5yZ7aB9cD.conf"
    lines = conf.read_text().splitlines()
    lines[7] = lines[7].replace(" 0 0 0 1", " 0 0 0 2")
    conf.write_text("\n".join([*lines, "exposure 12", ""]))
    _connectivity(path, "zZ9yX8wV7uT").write_text(json.dumps([_entry(panos[0], 0, 1)]))
