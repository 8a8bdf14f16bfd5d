"""Perspective crops out of panoramas: skyboxes and equirectangular images. Pure numpy and OpenCV.

A panorama looks along z of its own OpenCV frame (x right, y down, z forward). Whatever its form, it
is turned into a cube whose texels are a little smaller than the crop's pixels, each the average of
the pixels that it covers: one bilinear look-up per output pixel is then anti-aliased, and needs no
trigonometry. A margin around every face holds what its neighbours show there, so that face edges,
the seam and the poles are seen by nobody.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from pipelines.ops.view import View

FACES = ("front", "right", "back", "left", "up", "down")
_TEXELS = 2.0  # cube texels per crop pixel, where both are widest: as sharp as averaging a pixel
_MARGIN = 2
_COLUMNS = 3  # of faces in the atlas
_X, _Y, _Z = np.eye(3)
# each face's right, down and forward in the panorama's frame
_AXES = np.array(
    [
        (_X, _Y, _Z),
        (-_Z, _Y, _X),
        (-_X, _Y, -_Z),
        (_Z, _Y, -_X),
        (_X, _Z, -_Y),  # its bottom edge is the front's top edge
        (_X, -_Z, _Y),
    ]
)


class Cube(NamedTuple):
    """Six faces of `size` texels with their margins, side by side in one image.

    Attributes:
        atlas: uint8 `[2 * (size + 4), 3 * (size + 4), 3]`.
        size: texels along a face's edge.
    """

    atlas: np.ndarray
    size: int

    def cube(self, size: int) -> Cube:
        """Itself: what a trajectory keeps of a panorama."""
        return self


class Panorama(Protocol):
    """What can be cropped."""

    def cube(self, size: int) -> Cube:
        """It as a cube with faces of at most `size` texels, which is the finest that is needed."""
        ...


class Skybox:
    """A panorama as six images of 90°.

    Args:
        faces: uint8 `[6, n, n, 3]` RGB in the order of `FACES`, each upright as seen from inside;
            the up face's bottom edge and the down face's top edge meet the front.
    """

    def __init__(self, faces: np.ndarray):
        if faces.ndim != 4 or faces.shape[0] != 6 or faces.shape[1] != faces.shape[2]:
            raise ValueError(f"faces {faces.shape}, wanted [6, n, n, 3]")
        self._faces = faces
        self._cubes: dict[int, Cube] = {}

    def cube(self, size: int) -> Cube:
        """See `Panorama`. Kept, since the crops of a trajectory ask for the same."""
        size = min(size, self._faces.shape[1])
        if size not in self._cubes:
            self._cubes[size] = _with_margins([_shrunk(face, size) for face in self._faces])
        return self._cubes[size]


class Equirectangular:
    """A panorama as one image of 360° by 180°: its middle column looks forward, longitude grows to
    the right, the top row is the zenith.

    Args:
        image: uint8 `[h, 2h, 3]` RGB.
    """

    def __init__(self, image: np.ndarray):
        h, w = image.shape[:2]
        if w != 2 * h:
            raise ValueError(f"an image of {h}x{w}, wanted twice as wide as high")
        self._image = image
        self._cubes: dict[int, Cube] = {}

    def cube(self, size: int) -> Cube:
        """See `Panorama`. Kept, since the crops of a trajectory ask for the same."""
        size = min(size, self._image.shape[0])
        if size not in self._cubes:
            self._cubes[size] = _cube_of(self._image, size)
        return self._cubes[size]


def crop(panorama: Panorama, turn: np.ndarray, view: View) -> np.ndarray:
    """What a camera in the panorama's middle sees, uint8 `[height, width, 3]`.

    Args:
        turn: rotation `[3, 3]` from the camera's frame to the panorama's, both OpenCV.
        view: the camera.
    """
    cube = panorama.cube(cube_size(view))
    u, v = _locate(_directions(turn, view), cube.size)
    return cv2.remap(cube.atlas, u, v, cv2.INTER_LINEAR)


def face_rays(face: int, size: int, margin: int = 0) -> np.ndarray:
    """The directions `[n, n, 3]` in the panorama's frame that the pixels of a skybox's face show,
    where n is `size + 2 * margin`: its own, and as many beyond its edges. Of depth 1."""
    at = (np.arange(-margin, size + margin) + 0.5) * 2 / size - 1
    right, down, forward = _AXES[face]
    return at[None, :, None] * right + at[:, None, None] * down + forward


def equirectangular_rays(height: int) -> np.ndarray:
    """Unit directions `[height, 2 * height, 3]` of an equirectangular image's pixels."""
    longitude = ((np.arange(2 * height) + 0.5) / (2 * height) - 0.5) * 2 * math.pi
    latitude = (0.5 - (np.arange(height) + 0.5) / height) * math.pi
    level = np.cos(latitude)[:, None]
    x, z = level * np.sin(longitude), level * np.cos(longitude)
    return np.stack([x, np.broadcast_to(-np.sin(latitude)[:, None], x.shape), z], -1)


def cube_size(view: View) -> int:
    """How large the faces of a cube are to be for crops of this view."""
    return math.ceil(2 * _TEXELS * view.focal)


def crops(panorama: Panorama, turns: Iterable[np.ndarray], view: View) -> Iterator[np.ndarray]:
    """A whole trajectory, one crop after the other."""
    return (crop(panorama, turn, view) for turn in turns)


def _directions(turn: np.ndarray, view: View) -> list[np.ndarray]:
    """The x, y and z in the panorama's frame, float32 `[h, w]` each, of the pixels' rays."""
    x = (np.arange(view.width) + 0.5 - view.width / 2) / view.focal
    y = (np.arange(view.height) + 0.5 - view.height / 2) / view.focal
    columns = (turn[:, :1] * x + turn[:, 2:]).astype(np.float32)
    rows = (turn[:, 1:2] * y).astype(np.float32)
    return [rows[i][:, None] + columns[i] for i in range(3)]


def _locate(directions: list[np.ndarray], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Where in the atlas of a cube the directions are seen: columns and rows, float32."""
    far = functools.reduce(np.maximum, [np.abs(d) for d in directions])
    scale = np.float32(size / 2) / far
    u, v = np.empty_like(far), np.empty_like(far)
    for face, axes in enumerate(_AXES):
        right, down, forward = (_signed(axis) for axis in axes)
        mask = directions[forward[0]] * forward[1] == far
        if not mask.any():
            continue
        left, top = _corner(face, size)
        middle = np.float32(_MARGIN + size / 2 - 0.5)
        for out, (axis, sign), offset in ((u, right, left), (v, down, top)):
            place = directions[axis] * scale
            if sign < 0:
                np.negative(place, out=place)
            place += middle + np.float32(offset)
            np.copyto(out, place, where=mask)
    return u, v


def _signed(axis: np.ndarray) -> tuple[int, np.float32]:
    """Which coordinate a face's axis is, and its sign."""
    i = int(np.abs(axis).argmax())
    return i, np.float32(axis[i])


def _corner(face: int, size: int) -> tuple[int, int]:
    """The column and row in the atlas at which a face's margin begins."""
    row, column = divmod(face, _COLUMNS)
    return column * (size + 2 * _MARGIN), row * (size + 2 * _MARGIN)


def _tile(atlas: np.ndarray, face: int, size: int) -> np.ndarray:
    left, top = _corner(face, size)
    whole = size + 2 * _MARGIN
    return atlas[top : top + whole, left : left + whole]


def _empty(size: int) -> np.ndarray:
    whole = size + 2 * _MARGIN
    return np.empty((2 * whole, _COLUMNS * whole, 3), np.uint8)


def _shrunk(image: np.ndarray, size: int) -> np.ndarray:
    """A face at another size: halved by averages as often as it can be, the rest interpolated."""
    while len(image) >= 2 * size:
        half = len(image) // 2
        image = cv2.resize(image, (half, half), interpolation=cv2.INTER_AREA)
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR_EXACT)


def _with_margins(faces: list[np.ndarray]) -> Cube:
    size = len(faces[0])
    atlas = _empty(size)
    for i, face in enumerate(faces):
        _tile(atlas, i, size)[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN] = face
    for i in range(len(faces)):
        ring, u, v = _margin_maps(i, size)
        _tile(atlas, i, size)[ring] = cv2.remap(atlas, u, v, cv2.INTER_LINEAR)[0]
    return Cube(atlas, size)


@functools.lru_cache(24)
def _margin_maps(face: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A face's margin as bool `[n, n]`, and where in the atlas its neighbours show it: float32
    columns and rows `[1, m]`, within their faces, as their own margins may not be there yet."""
    ring = np.ones((size + 2 * _MARGIN, size + 2 * _MARGIN), bool)
    ring[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN] = False
    rays = face_rays(face, size, _MARGIN)[ring].astype(np.float32)
    u, v = _locate(list(rays.T[:, None]), size)
    whole = np.float32(size + 2 * _MARGIN)
    for place in (u, v):
        within = np.clip(place % whole, _MARGIN, _MARGIN + size - 1)
        place += within - place % whole
    return ring, u, v


def _cube_of(image: np.ndarray, size: int) -> Cube:
    """A cube of an equirectangular image, which is shrunk first to about the cube's resolution."""
    rows = image.shape[0] // max(1, int(image.shape[1] / (math.pi * size)))
    if rows < image.shape[0]:
        image = cv2.resize(image, (2 * rows, rows), interpolation=cv2.INTER_AREA)
    image = _wrapped(image)
    atlas = _empty(size)
    for i in range(len(FACES)):
        maps = _face_maps(i, size, rows)
        cv2.remap(image, *maps, cv2.INTER_LINEAR, dst=_tile(atlas, i, size))
    return Cube(atlas, size)


def _wrapped(image: np.ndarray) -> np.ndarray:
    """With a pixel more on each side: left and right meet, and over a pole is the other side."""
    image = np.concatenate([image[:, -1:], image, image[:, :1]], 1)
    half = (image.shape[1] - 2) // 2
    over = [np.roll(image[row, 1:-1], half, 0)[[-1, *range(2 * half), 0]] for row in (0, -1)]
    return np.concatenate([over[:1], image, over[1:]], 0)


@functools.lru_cache(24)
def _face_maps(face: int, size: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the texels of a face and its margin lie in a wrapped equirectangular image: fixed-point
    maps for `cv2.remap`."""
    rays = face_rays(face, size, _MARGIN)
    longitude = np.arctan2(rays[..., 0], rays[..., 2])
    latitude = np.arctan2(-rays[..., 1], np.hypot(rays[..., 0], rays[..., 2]))
    # half a pixel less for its middle, one more for the wrapped one
    u = (longitude / (2 * math.pi) + 0.5) * 2 * height + 0.5
    v = (0.5 - latitude / math.pi) * height + 0.5
    return cv2.convertMaps(u.astype(np.float32), v.astype(np.float32), cv2.CV_16SC2)
