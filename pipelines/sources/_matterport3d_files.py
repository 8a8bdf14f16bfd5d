"""Matterport3D's own files as bytes: a .conf of cameras, a connectivity graph, R2R's routes. Pure.

Formats: data_organization.md of github.com/niessner/Matterport (.conf), connectivity/README.md and
tasks/R2R of github.com/peteanderson80/Matterport3DSimulator. A bad line, panorama or route costs
itself alone; what is raised costs the file.
"""

from __future__ import annotations

import io
import json
import math
import re
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from pipelines.ops import labels, pose
from schemas import DataError

MAX_FILE = 64 << 20  # bytes of each of them
_MAX_OBJECTS = 4_000_000  # and lists, of a JSON: an empty one takes 3 bytes there, 72 here
_MAX_LINES = 100_000  # the largest house's .conf has some 5,000
_MAX_LINE = 4096
_MAX_NODES = 20_000
_MAX_NEIGHBOURS = 100  # in the owners' graphs a panorama has some ten
_MAX_ROUTES = 1_000_000
_MAX_ROUTE = 1000  # panoramas
_MAX_TEXTS = 100
_MAX_HEADING = 1e6
_MAX_ERRORS = 100

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PHOTO = re.compile(r"([A-Za-z0-9_-]{1,64})_i([0-2])_([0-5])\.jpg")
_NUMBER = re.compile(rb"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?")
_HEADERS = (b"dataset", b"n_images", b"depth_directory", b"color_directory")
_LINES = (*_HEADERS, b"intrinsics_matrix", b"scan")


class Image(NamedTuple):
    """An undistorted photograph's camera.

    Attributes:
        name: of the photograph's file.
        depth: of its depth image's file.
        pano: the panorama that it belongs to.
        camera: 0 looks up, 1 is level, 2 looks down.
        yaw: 0 to 5, each 60° further to the right.
        intrinsics: float64 `[3, 3]` in pixels from the image's bottom left corner, y upwards.
        pose: float64 `[4, 4]`, OpenCV camera-to-world, z up, metres.
    """

    name: str
    depth: str
    pano: str
    camera: int
    yaw: int
    intrinsics: np.ndarray
    pose: np.ndarray


class Node(NamedTuple):
    """A panorama of the connectivity graph.

    Attributes:
        pano: its id.
        pose: float64 `[4, 4]`, OpenCV camera-to-world, z up, metres; it looks along face 3.
        included: whether it is part of the graph.
        neighbours: included panoramas that can be gone to, in the file's order.
    """

    pano: str
    pose: np.ndarray
    included: bool
    neighbours: tuple[str, ...]


class Route(NamedTuple):
    """A route of Room-to-Room.

    Attributes:
        key: its path_id.
        scan: the scan's id.
        panos: ids of the panoramas along it, two at least.
        heading: where it looks at first, radians clockwise from the world's y axis.
        instructions: descriptions on one line each; there may be none.
    """

    key: str
    scan: str
    panos: tuple[str, ...]
    heading: float
    instructions: tuple[str, ...]


class _Losses:
    """Errors: the first ones as they are, the others as a number, so that a file of garbage is
    told in few lines."""

    def __init__(self):
        self._kept: list[DataError] = []
        self._others = 0

    def add(self, error: DataError) -> None:
        if len(self._kept) < _MAX_ERRORS:
            self._kept.append(error.with_traceback(None))
        else:
            self._others += 1

    def listed(self) -> list[DataError]:
        if not self._others:
            return self._kept
        reason = f"{self._others} errors more, after the first {_MAX_ERRORS} of this file"
        return [*self._kept, DataError(reason, stage="annotate")]


def read_conf(data: bytes) -> tuple[list[Image], list[DataError]]:
    """The cameras of a .conf, in the order of the file, and what is wrong with other lines.

    Raises:
        DataError: if no line is one of a .conf, or it is too large.
    """
    _check_size(data)
    if data.count(b"\n") >= _MAX_LINES:
        raise _bad(f"more than {_MAX_LINES} lines")
    known = 0
    found: dict[str, Image] = {}
    losses = _Losses()
    intrinsics: np.ndarray | None = None
    for number, line in enumerate(io.BytesIO(data), 1):
        words = line.split() if len(line) <= _MAX_LINE else [b""]
        try:
            known += bool(words) and words[0] in _LINES
            if not words or words[0] in _HEADERS:
                continue
            if words[0] == b"scan":
                image = _image(words[1:], intrinsics)
                if image.name in found:
                    raise _bad(f"{image.name} was listed before", image.pano)
                found[image.name] = image
            elif words[0] == b"intrinsics_matrix":
                intrinsics = None  # those before do not hold for the images after a bad line
                intrinsics = _intrinsics(words[1:])
            else:
                raise _bad(f"{_shown(line[:80])} is no line of a .conf")
        except DataError as e:
            where = f"line {number}"
            e.reason, e.where = f"{where}: {e.reason}", where
            losses.add(e)
    if not known:
        raise _bad("not a .conf: no line begins as one of it does")
    return list(found.values()), losses.listed()


def _image(words: list[bytes], intrinsics: np.ndarray | None) -> Image:
    """The fields of a `scan` line: depth, photograph, and 16 numbers."""
    depth, name = (word.decode("ascii", "replace") for word in (*words, b"", b"")[:2])
    match = _PHOTO.fullmatch(name)
    if not match:
        raise _bad(f"{_shown(name)} is not named {{panorama}}_i{{0-2}}_{{0-5}}.jpg")
    pano, camera, yaw = match[1], int(match[2]), int(match[3])
    wanted = f"{pano}_d{camera}_{yaw}.png"
    if depth != wanted:
        raise _bad(f"the depth of {name} is {_shown(depth)}, wanted {wanted}", pano)
    if intrinsics is None:
        raise _bad(f"{name} has no intrinsics: no good intrinsics_matrix stands before it", pano)
    try:
        opengl = pose.rigid(_numbers(words[2:], 16, "the pose"), "the pose")
    except DataError as e:
        e.key = pano
        raise
    opencv = pose.change_camera(opengl, "opengl", "opencv")
    return Image(name, depth, pano, camera, yaw, intrinsics, opencv)


def _intrinsics(words: list[bytes]) -> np.ndarray:
    matrix = np.array(_numbers(words, 9, "intrinsics_matrix")).reshape(3, 3)
    rest = matrix - np.diag(matrix.diagonal())
    rest[:2, 2] = 0
    if rest.any() or matrix[2, 2] != 1 or not (matrix.diagonal() > 0).all():
        raise _bad("intrinsics_matrix is not fx 0 cx 0 fy cy 0 0 1 with fx and fy above 0")
    return matrix


def _numbers(words: list[bytes], count: int, what: str) -> list[float]:
    values = [float(word) for word in words if _NUMBER.fullmatch(word)]
    if len(words) != count or len(values) != count or not all(map(math.isfinite, values)):
        raise _bad(f"{what} is not {count} finite numbers")
    return values


def read_connectivity(data: bytes) -> tuple[list[Node], list[DataError]]:
    """The included panoramas of a connectivity graph, in the order of the file, and what is wrong
    with others. Edges to those are left out. What is not included is not looked at.

    Raises:
        DataError: if it is no JSON list, or too large.
    """
    listed = _json_list(data, _MAX_NODES)
    good: dict[int, tuple[str, np.ndarray]] = {}
    errors: list[DataError] = []
    seen: set[str] = set()
    for i, raw in enumerate(listed):
        try:
            if _included(raw):
                good[i] = _node(raw, len(listed), seen)
                seen.add(good[i][0])
        except DataError as e:
            e.where = f"[{i}]"
            errors.append(e.with_traceback(None))
    nodes = []
    for i, (pano, at) in good.items():
        flags = listed[i]["unobstructed"]
        neighbours = tuple(name for j, (name, _) in good.items() if flags[j] and j != i)
        nodes.append(Node(pano, at, True, neighbours))
    return nodes, errors


def _included(raw: Any) -> bool:
    if not isinstance(raw, dict):
        raise _bad(f"a {type(raw).__name__}, wanted an object")
    included = raw.get("included")
    if not isinstance(included, bool):
        raise _bad(f"included is {_shown(included)}, wanted true or false", _id_of(raw))
    return included


def _node(raw: dict[str, Any], count: int, seen: set[str]) -> tuple[str, np.ndarray]:
    """The id and the pose of an entry of a list of `count`."""
    pano, flags = _id_of(raw), raw.get("unobstructed")
    if not pano:
        raise _bad(f"image_id is {_shown(raw.get('image_id'))}, wanted a panorama's id")
    if pano in seen:
        raise _bad(f"panorama {pano} was listed before", pano)
    if not isinstance(flags, list) or len(flags) != count:
        length = len(flags) if isinstance(flags, list) else "no"
        raise _bad(f"unobstructed has {length} flags for {count} panoramas: out of range", pano)
    if not all(isinstance(flag, bool) for flag in flags):
        raise _bad("unobstructed holds something else than true and false", pano)
    if sum(flags) > _MAX_NEIGHBOURS:
        raise _bad(f"{sum(flags)} neighbours, more than {_MAX_NEIGHBOURS}", pano)
    try:
        return pano, pose.rigid(_pose_numbers(raw.get("pose")), "the pose")
    except DataError as e:
        e.key = pano
        raise


def _pose_numbers(value: Any) -> list[float]:
    """16 JSON numbers, or 4 rows of 4: numpy itself would take texts for numbers too."""
    rows = value if isinstance(value, list) and len(value) <= 16 else []
    numbers = [x for row in rows for x in (row[:5] if isinstance(row, list) else [row])]
    if len(numbers) != 16 or not all(map(_is_number, numbers)):
        raise _bad("the pose is not 16 numbers")
    return numbers


def read_routes(data: bytes, scan: str) -> tuple[list[Route], list[DataError]]:
    """One scan's routes in a JSON of Room-to-Room, in the order of the file, and what is wrong with
    others. One of fewer than two panoramas, as in the test split, is a declared loss.

    Raises:
        DataError: if it is no JSON list, or too large.
    """
    found: dict[str, Route] = {}
    losses = _Losses()
    for i, raw in enumerate(_json_list(data, _MAX_ROUTES)):
        key = ""
        try:
            if not isinstance(raw, dict) or not isinstance(raw.get("scan"), str):
                raise _bad("an entry that names no scan")
            if raw["scan"] != scan:
                continue
            key = _path_id(raw.get("path_id"))
            if key in found:
                raise _bad("a route with this path_id was listed before")
            found[key] = _route(raw, key, scan)
        except DataError as e:
            e.key, e.where = f"path {key or f'[{i}]'}", f"[{i}]"
            losses.add(e)
    return list(found.values()), losses.listed()


def _path_id(value: Any) -> str:
    key = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if not _ID.fullmatch(key):
        raise _bad(f"path_id is {_shown(value)}, wanted a number")
    return key


def _route(raw: dict[str, Any], key: str, scan: str) -> Route:
    panos, heading, texts = raw.get("path"), raw.get("heading"), raw.get("instructions", [])
    if not isinstance(panos, list) or not all(_is_id(pano) for pano in panos):
        raise _bad("path is not a list of panoramas' ids")
    if len(panos) < 2:
        reason = f"a path of {len(panos)} panoramas: R2R keeps the rest of its test split"
        raise DataError(reason, stage="annotate", counts=False)
    if len(panos) > _MAX_ROUTE:
        raise _bad(f"a path of {len(panos)} panoramas, more than {_MAX_ROUTE}")
    if not _is_number(heading) or not abs(heading) <= _MAX_HEADING:
        raise _bad(f"heading is {_shown(heading)}, wanted radians")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise _bad("instructions is not a list of texts")
    if len(texts) > _MAX_TEXTS:
        raise _bad(f"{len(texts)} instructions, more than {_MAX_TEXTS}")
    cleaned = filter(None, map(labels.clean_text, texts))
    return Route(key, scan, tuple(panos), float(heading), tuple(cleaned))


def _json_list(data: bytes, max_entries: int) -> list[Any]:
    _check_size(data)
    if data.count(b"{") + data.count(b"[") > _MAX_OBJECTS:
        raise _bad(f"more than {_MAX_OBJECTS} objects and lists")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise _bad(f"not JSON ({labels.clean_text(str(e))[:200]})") from e
    if not isinstance(value, list):
        raise _bad(f"holds a {type(value).__name__}, wanted a list")
    if len(value) > max_entries:
        raise _bad(f"a list of {len(value)} entries, more than {max_entries}")
    return value


def _check_size(data: bytes) -> None:
    if len(data) > MAX_FILE:
        raise DataError(f"{len(data)} bytes, more than {MAX_FILE}")


def _id_of(raw: dict[str, Any]) -> str:
    """The entry's image_id if it is one, else nothing."""
    return raw["image_id"] if _is_id(raw.get("image_id")) else ""


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and bool(_ID.fullmatch(value))


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _bad(reason: str, key: str = "") -> DataError:
    return DataError(reason, stage="annotate", key=key)


def _shown(value: Any) -> str:
    """A value from the file, short enough for an error line."""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        return repr(labels.clean_text(value[:80]))
    return "missing" if value is None else f"a {type(value).__name__}"
