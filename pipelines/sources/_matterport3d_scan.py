"""One scan of Matterport3D: its files become panoramas and routes."""

from __future__ import annotations

import collections
import functools
import math
import re
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from pipelines import files
from pipelines.ops import depth, images, overlap, pose
from pipelines.ops.panorama import Skybox
from pipelines.sources._matterport3d_files import (
    MAX_FILE,
    Image,
    Node,
    read_conf,
    read_connectivity,
    read_routes,
)
from pipelines.sources._tour import Pano, Route
from schemas import DataError

UNITS_PER_METRE = 4000
# skybox numbers in the order of `ops.panorama.FACES`, face 1 in front …
NUMBERS = (1, 2, 3, 4, 0, 5)
# … while a connectivity pose looks along face 3: half a turn about the vertical
FRONT_OF_POSE = np.diag([-1.0, 1, -1, 1])
_FACE = re.compile(r"([A-Za-z0-9_-]{1,64})_skybox([0-5])_sami\.jpg")
_COLUMNS, _FINE_COLUMNS = 160, 430  # of a depth image that become points: of 1280 each 8th, 3rd
_PIXELS = 1280 * 1024  # of a photograph
_MAX_FILE, _MAX_PIXELS = 16 << 20, 2048 * 2048

T = TypeVar("T")
_Listing = dict[str, tuple[str, int]]
_Read = tuple[np.ndarray, np.ndarray, np.ndarray]


class Scan:
    """What is there of a scan.

    Args:
        root: the folder of all scans.
        name: the scan's.
        graph: its connectivity file, relative to the root; "" if there is none.
        routes: R2R files, relative to the root.

    Attributes:
        panos: its panoramas of six faces by id: those of the connectivity, else all, level and on
            their own.
        routes: those in it.
        errors: what was wrong with its files.

    Raises:
        DataError: if the connectivity cannot be read.
    """

    def __init__(self, root: str, name: str, graph: str, routes: list[str]):
        self.name, self.uri = name, files.join(root, name)
        self.errors: list[DataError] = []
        self._faces = self._skyboxes()
        self._depths = self._listed("undistorted_depth_images")
        self._colours = self._listed("undistorted_color_images")
        self._cameras = self._read_cameras()
        nodes = [Node(pano, pose.level("opencv"), True, ()) for pano in sorted(self._faces)]
        if graph:
            nodes = self._parsed(files.join(root, *graph.split("/")), read_connectivity)
            self._excluded({node.pano for node in nodes})
        self.panos = {node.pano: self._pano(node) for node in nodes if self._is_whole(node.pano)}
        self.routes: list[Route] = []
        for file in routes:
            self.routes += self._read_routes(files.join(root, file))

    def _parsed(
        self, uri: str, read: Callable[[bytes], tuple[list[T], list[DataError]]]
    ) -> list[T]:
        """What a file lists; its errors are kept with their place."""
        try:
            with files.open_planned(uri) as file:
                data = file.read(MAX_FILE + 1)
            found, errors = read(data)
        except DataError as e:
            e.uri, e.key = uri, e.key or self.name
            raise
        for error in errors:
            error.uri, error.key = uri, ".".join(filter(None, [self.name, error.key]))
        self.errors += errors
        return found

    def _skyboxes(self) -> dict[str, dict[int, tuple[str, int]]]:
        found: dict[str, dict[int, tuple[str, int]]] = collections.defaultdict(dict)
        for uri, size in files.glob(self.uri, "matterport_skybox_images", "*.jpg"):
            if match := _FACE.fullmatch(files.name_of(uri)):
                found[match[1]][int(match[2])] = uri, size
        return found

    def _listed(self, kind: str) -> _Listing:
        return {files.name_of(uri): (uri, size) for uri, size in files.glob(self.uri, kind, "*")}

    def _read_cameras(self) -> dict[str, list[Image]]:
        """Those of panoramas with depth, by panorama: if one has some, all of it is wanted."""
        uri = files.join(self.uri, "undistorted_camera_parameters", f"{self.name}.conf")
        found: dict[str, list[Image]] = collections.defaultdict(list)
        try:
            listed = self._parsed(uri, read_conf) if files.exists(uri) else []
        except DataError as e:
            self.errors.append(e)
            return found
        known = {camera.pano for camera in listed if camera.depth in self._depths}
        for camera in listed:
            if camera.pano in known:
                found[camera.pano].append(camera)
        return found

    def _read_routes(self, uri: str) -> list[Route]:
        """None of a file that cannot be read: the scan has more than its routes."""
        try:
            listed = self._parsed(uri, functools.partial(read_routes, scan=self.name))
        except DataError as e:
            self.errors.append(e)
            return []
        return [Route(r.key, r.panos, math.pi / 2 - r.heading, r.instructions) for r in listed]

    def _excluded(self, known: set[str]) -> None:
        said = {error.key.removeprefix(f"{self.name}.") for error in self.errors}
        for pano in sorted(set(self._faces) - known - said):
            reason = f"panorama {pano} is not included in the connectivity of {self.name}"
            key = f"{self.name}.{pano}"
            self.errors.append(DataError(reason, stage="annotate", key=key, counts=False))

    def _is_whole(self, pano: str) -> bool:
        """Whether all faces are there; what is missing is one loss, not one of every episode."""
        missing = [str(i) for i in range(6) if i not in self._faces.get(pano, {})]
        if missing:
            reason = f"panorama {pano} of {self.name}: no skybox face {', '.join(missing)}"
            self.errors.append(DataError(reason, key=f"{self.name}.{pano}"))
        return not missing

    def _pano(self, node: Node) -> Pano:
        cameras = self._cameras.get(node.pano, [])
        coloured = [camera for camera in cameras if camera.name in self._colours]
        return Pano(
            id=node.pano,
            at=node.pose @ FRONT_OF_POSE,
            neighbours=node.neighbours,
            image=functools.partial(self._image, node.pano),
            cloud=functools.partial(self._cloud, node.pano, cameras) if cameras else None,
            coloured=functools.partial(self._coloured, coloured) if coloured else None,
        )

    def _image(self, pano: str) -> Skybox:
        """Raises DataError for a face of another size, or damaged."""
        faces = [_decoded(*self._faces[pano][i], images.decode_image) for i in NUMBERS]
        shapes = sorted({face.shape[:2] for face in faces})
        if len(shapes) > 1 or shapes[0][0] != shapes[0][1]:
            sizes = ", ".join(f"{h}x{w}" for h, w in shapes)
            reason = f"panorama {pano} of {self.name}: faces of {sizes}, wanted one square size"
            raise DataError(reason, stage="decode")
        return Skybox(np.stack(faces))

    def _cloud(self, pano: str, cameras: list[Image]) -> np.ndarray:
        try:
            read = [self._depth(camera) for camera in cameras]
            shapes = sorted({units.shape for units, _, _ in read})
            if len(shapes) > 1:
                sizes = ", ".join(f"{h}x{w}" for h, w in shapes)
                raise DataError(f"depth images of {sizes}, wanted one size", stage="decode")
            return _points(read, _COLUMNS)
        except DataError as e:
            e.reason = f"panorama {pano} of {self.name}: {e.reason}"
            raise

    def _depth(self, camera: Image) -> _Read:
        """Depth, intrinsics as OpenCV counts, and pose."""
        if camera.depth not in self._depths:
            raise DataError(f"{camera.depth} is in the .conf, but not there")
        units = _decoded(*self._depths[camera.depth], depth.decode_depth)
        return units, depth.flip_origin(camera.intrinsics, len(units)), camera.pose

    def _coloured(self, cameras: list[Image]) -> tuple[np.ndarray, np.ndarray]:
        """World points and colours of the photographs' pixels that have depth."""
        points, colours = [], []
        for camera in cameras:
            read = self._depth(camera)
            photo = _decoded(*self._colours[camera.name], images.decode_image)
            if photo.shape[:2] != read[0].shape:
                sizes = f"{photo.shape[:2]} and {read[0].shape}"
                raise DataError(f"{camera.name} and its depth are of {sizes}", stage="decode")
            stride = _stride(read[0], _FINE_COLUMNS)
            there = read[0][::stride, ::stride] > 0
            if there.any():
                points.append(_points([read], _FINE_COLUMNS))
                colours.append(photo[::stride, ::stride][there])
        if not points:
            raise DataError(f"panorama {cameras[0].pano}: the depth is all zeros", stage="overlap")
        return np.concatenate(points), np.concatenate(colours)


def _stride(units: np.ndarray, columns: int) -> int:
    """For so many columns of 1280, and as many points of an image of another shape."""
    return max(1, round(math.sqrt(units.size / _PIXELS) * 1280 / columns))


def _points(read: list[_Read], columns: int) -> np.ndarray:
    """The points of depth images of one size, of about so many of their columns."""
    stride = _stride(read[0][0], columns)
    return overlap.cloud_of_images(read, units_per_metre=UNITS_PER_METRE, stride=stride)


def _decoded(uri: str, size: int, decode: Callable[..., Any]) -> np.ndarray:
    """An image file of bounded size. Raises DataError with its place."""
    try:
        if size > _MAX_FILE:
            raise DataError(f"{size} bytes, more than {_MAX_FILE}")
        with files.open_planned(uri) as file:
            return decode(file.read(), max_pixels=_MAX_PIXELS)
    except DataError as e:
        e.uri, e.reason = uri, f"{files.name_of(uri)}: {e.reason}"
        raise
