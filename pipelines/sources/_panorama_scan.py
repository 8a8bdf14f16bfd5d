"""One folder of equirectangular images: it and its poses.json become panoramas."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Container
from typing import Any

import cv2
import numpy as np

from pipelines import files
from pipelines.ops import depth, hdr, images, overlap, pose
from pipelines.ops.labels import clean_text
from pipelines.ops.panorama import Equirectangular
from pipelines.sources._tour import Pano
from schemas import DataError

POSES = "poses.json"
IMAGE = re.compile(r"[^/@]+\.(?:jpe?g|png|webp|hdr)", re.IGNORECASE)
_MAX_PIXELS = 8192 * 4096
_MAX_FILE = 256 << 20
_MAX_POSES = 64 << 20
_MAX_PANORAMAS = 5000  # each is compared with each
_MAX_TEXT = 200
_MAX_OBJECTS = 1_000_000
_NEAREST = 6
_MAX_NEIGHBOURS = 100  # where they are listed
_ROWS, _FINE_ROWS = 512, 1024  # of a depth image, at most, that become points
_CAMERAS = ("opencv", "opengl", "body")
_WORLDS = ("z_up", "y_up")


class Scan:
    """What is there of a folder.

    Args:
        uri: the folder.
        reach: metres to neighbours, where they are not listed.

    Attributes:
        panos: its panoramas by file name.
        license: as poses.json says; "" if it does not.
        errors: what was wrong with its poses.json.

    Raises:
        DataError: if there is a poses.json that cannot be read.
    """

    def __init__(self, uri: str, reach: float):
        self.uri, self._reach = uri, reach
        self._listed = {files.name_of(u): (u, size) for u, size in files.glob(uri, "*")}
        self._per_metre, self.license = 1000.0, ""
        self.errors: list[DataError] = []
        if POSES in self._listed:
            self.panos = self._read_poses()
        else:
            at = pose.level("opencv")
            self.panos = {name: self._pano(name, at, (), "") for name in self._images(set())}

    def _read_poses(self) -> dict[str, Pano]:
        uri = self._listed[POSES][0]
        try:
            settings, entries = _load(uri)
            self._per_metre = _number(settings.get("depth_per_metre", 1000), "depth_per_metre")
            self.license = _text(settings.get("license", ""), "license")
            camera = _one_of(settings.get("camera"), _CAMERAS, "camera")
            world = _one_of(settings.get("world"), _WORLDS, "world")
        except DataError as e:
            e.uri = uri
            raise
        found: dict[str, tuple[np.ndarray, dict[str, Any]]] = {}
        for number, entry in enumerate(entries):
            name = where = f"panoramas[{number}]"
            try:
                name = _name(entry, "image", found)
                if name not in self._listed:
                    raise DataError(f"{name} is listed in {POSES}, but not there")
                at = pose.rigid(entry.get("pose"), f"the pose of {name}")
                at = pose.change_camera(pose.change_world(at, world), camera, "opencv")
                _checked(entry, name)
                found[name] = at, entry
            except DataError as e:
                e.uri, e.key, e.where = uri, e.key or name, where
                self.errors.append(e)
        self._unlisted(entries)
        near = _nearest({name: at[:3, 3] for name, (at, _) in found.items()}, self._reach)
        return {
            name: self._pano(
                name, at, _neighbours(name, entry, found, near), entry.get("depth") or ""
            )
            for name, (at, entry) in sorted(found.items())
        }

    def _unlisted(self, entries: list[Any]) -> None:
        """What poses.json does not speak of."""
        named = {
            str(entry.get(what))
            for entry in entries
            if isinstance(entry, dict)
            for what in ("image", "depth")
        }
        for name in self._images(named):
            reason = f"{name} is not listed in {POSES}"
            self.errors.append(DataError(reason, stage="annotate", key=name, counts=False))

    def _images(self, but: set[str]) -> list[str]:
        """Names of the images that are there, but for some. Records hold them as text."""
        found = []
        for name in sorted(set(self._listed) - but):
            if not IMAGE.fullmatch(name):
                continue
            if clean_text(name) == name:
                found.append(name)
            else:
                reason = "the name of an image holds what is no text; rename it"
                self.errors.append(DataError(reason, key=clean_text(name)))
        return found

    def _pano(
        self, name: str, at: np.ndarray, neighbours: tuple[str, ...], depth_name: str
    ) -> Pano:
        known = bool(depth_name)
        return Pano(
            id=name,
            at=at,
            neighbours=neighbours,
            image=functools.partial(self._image, name),
            cloud=functools.partial(self._cloud, depth_name, at, _ROWS) if known else None,
            coloured=functools.partial(self._coloured, name, depth_name, at) if known else None,
        )

    def _read(self, name: str) -> bytes:
        if name not in self._listed:
            raise DataError(f"{name} is listed in {POSES}, but not there")
        uri, size = self._listed[name]
        if size > _MAX_FILE:
            raise DataError(f"{name}: {size} bytes, more than {_MAX_FILE}", uri=uri)
        with files.open_planned(uri) as file:
            return file.read()

    def _pixels(self, name: str) -> np.ndarray:
        data = self._read(name)
        try:
            if hdr.is_hdr(data):
                image = hdr.tone_map(hdr.decode_hdr(data))
            else:
                image = images.decode_image(data, max_pixels=_MAX_PIXELS)
            h, w = image.shape[:2]
            if w != 2 * h:
                raise DataError(f"{h}x{w} pixels, wanted twice as wide as high", stage="decode")
        except DataError as e:
            e.reason, e.uri = f"{name}: {e.reason}", self._listed[name][0]
            raise
        return image

    def _image(self, name: str) -> Equirectangular:
        return Equirectangular(self._pixels(name))

    def _distance(self, name: str) -> np.ndarray:
        """Metres in every direction, float32 `[h, 2h]`."""
        data = self._read(name)
        try:
            units = depth.decode_depth(data, max_pixels=_MAX_PIXELS)
            h, w = units.shape
            if w != 2 * h:
                raise DataError(f"{h}x{w} pixels, wanted twice as wide as high", stage="decode")
        except DataError as e:
            e.reason, e.uri = f"{name}: {e.reason}", self._listed[name][0]
            raise
        return units / np.float32(self._per_metre)

    def _cloud(self, name: str, at: np.ndarray, rows: int) -> np.ndarray:
        distance = self._distance(name)
        try:
            stride = max(1, len(distance) // rows)
            return overlap.cloud_of_equirectangular(distance, at, stride=stride)
        except DataError as e:
            e.reason, e.uri = f"{name}: {e.reason}", self._listed[name][0]
            raise

    def _coloured(
        self, name: str, depth_name: str, at: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        distance = self._distance(depth_name)
        stride = max(1, len(distance) // _FINE_ROWS)
        image = self._pixels(name)
        small = cv2.resize(image, distance.shape[::-1], interpolation=cv2.INTER_AREA)
        there = overlap.readings(distance)[::stride, ::stride]
        points = overlap.cloud_of_equirectangular(distance, at, stride=stride)
        return points, small[::stride, ::stride][there]


def with_depth(folder: str, sizes: dict[str, int]) -> dict[str, int]:
    """The bytes of the panoramas in a folder with those of their depth, as its poses.json has it.

    Args:
        sizes: name -> bytes of every file that could be an image. Without a poses.json, or one that
            can be read, the result is the same.
    """
    uri = files.join(folder, POSES)
    try:
        entries = _load(uri)[1] if files.exists(uri) else []
    except DataError:
        return sizes  # the reader will come here and say what is wrong
    found = {}
    for entry in entries:
        name, depth_name = (
            entry.get(what) if isinstance(entry, dict) else None for what in ("image", "depth")
        )
        if isinstance(name, str) and name in sizes:
            more = sizes.get(depth_name, 0) if isinstance(depth_name, str) else 0
            found[name] = sizes[name] + more
    return found if entries else sizes


def _nearest(places: dict[str, np.ndarray], reach: float) -> dict[str, tuple[str, ...]]:
    """Each one's nearest others within reach metres; of two alike the first by name."""
    names = sorted(places)
    at = np.array([places[name] for name in names]).reshape(-1, 3)
    found = {}
    for i, name in enumerate(names):
        away = np.linalg.norm(at - at[i], axis=1)
        away[(away == 0) | (away > reach)] = np.inf
        most = np.partition(away, min(_NEAREST, len(away)) - 1)[:_NEAREST].max()
        near = np.flatnonzero((away <= most) & (away < np.inf))
        near = near[np.argsort(away[near], kind="stable")]
        found[name] = tuple(names[k] for k in near[:_NEAREST])
    return found


def _neighbours(
    name: str, entry: dict[str, Any], known: Container[str], near: dict[str, tuple[str, ...]]
) -> tuple[str, ...]:
    """Those listed; else the nearest."""
    listed = entry.get("neighbours")
    if listed is None:
        return near[name]
    return tuple(dict.fromkeys(x for x in listed if x in known and x != name))


def _load(uri: str) -> tuple[dict[str, Any], list[Any]]:
    with files.open_planned(uri) as file:
        data = file.read(_MAX_POSES + 1)
    if len(data) > _MAX_POSES:
        raise DataError(f"{POSES}: more than {_MAX_POSES} bytes", stage="annotate")
    if data.count(b"{") + data.count(b"[") > _MAX_OBJECTS:
        raise DataError(f"{POSES}: more than {_MAX_OBJECTS} objects and lists", stage="annotate")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as e:
        reason = f"{POSES}: not JSON ({clean_text(str(e))[:200]})"
        raise DataError(reason, stage="annotate") from e
    entries = value.get("panoramas") if isinstance(value, dict) else None
    if not isinstance(entries, list) or len(entries) > _MAX_PANORAMAS:
        reason = f"{POSES}: no list of at most {_MAX_PANORAMAS} panoramas in it"
        raise DataError(reason, stage="annotate")
    return value, entries


def _number(value: Any, what: str) -> float:
    if type(value) not in (int, float) or not 0 < value < 1e9:
        raise DataError(f"{POSES}: {what} is not a number above 0", stage="annotate")
    return float(value)


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT or clean_text(value) != value:
        raise DataError(f"{POSES}: {what} is not a line of text", stage="annotate")
    return value


def _one_of(value: Any, wanted: tuple[Any, ...], what: str) -> Any:
    if not isinstance(value, str) or value not in wanted:
        raise DataError(f"{POSES}: {what}: wanted {' or '.join(wanted)}", stage="annotate")
    return value


def _name(entry: Any, what: str, known: Any) -> str:
    name = entry.get(what) if isinstance(entry, dict) else None
    if not isinstance(name, str) or not IMAGE.fullmatch(name) or clean_text(name) != name:
        raise DataError(f"{what} is not the name of an image in this folder", stage="annotate")
    if name in known:
        raise DataError(f"{name} is there twice", stage="annotate", key=name)
    return name


def _checked(entry: dict[str, Any], name: str) -> None:
    if entry.get("depth") is not None:
        _name(entry, "depth", ())
    neighbours = entry.get("neighbours", [])
    if not isinstance(neighbours, list) or not all(isinstance(x, str) for x in neighbours):
        raise DataError(f"neighbours of {name} are not names", stage="annotate", key=name)
    if len(neighbours) > _MAX_NEIGHBOURS:
        reason = f"{name} has {len(neighbours)} neighbours, more than {_MAX_NEIGHBOURS}"
        raise DataError(reason, stage="annotate", key=name)
