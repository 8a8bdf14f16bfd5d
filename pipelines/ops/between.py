"""Views from where no camera stood, drawn from coloured points.

Each pixel takes the mean colour of the points at the nearest depth in it. Points lie far apart on
what is near, and what is far shines through between them: a pixel with nearer points close by on
all sides is taken for that, and its points are not drawn. What is empty is filled from around it,
and the share of holes is told, so that a caller can drop the view.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import cv2
import numpy as np

from pipelines.ops import pose as poses
from pipelines.ops.view import View

_NEAR = 1e-2  # metres, nearer than which nothing is drawn
_SAME = 0.05  # of the depth, within which points are on one surface
_REACH = 0.028  # of the image's width: how far off nearer points hide a pixel
_SECTORS = 8  # directions in which they are looked for,
_HIDING = 7  # and how many must have some: beside a straight edge it is 5 at most
_HOLE = 3  # pixels: a gap less wide is no hole


def render(
    clouds: Iterable[tuple[np.ndarray, np.ndarray]],
    pose: np.ndarray,
    view: View,
    *,
    fill: bool = True,
) -> tuple[np.ndarray, float]:
    """A view of coloured points, and how much of it nobody saw.

    Args:
        clouds: points float32 `[n, 3]`, metres in the world, with colours uint8 `[n, 3]`. They
            should lie as dense as the view's pixels, seen from where they were taken.
        pose: `[4, 4]`, camera-to-world, OpenCV.
        view: the camera.
        fill: whether pixels without points take the colours around them; else they are black.

    Returns:
        uint8 `[height, width, 3]`, and the share of pixels, 0 to 1, in holes: without points, gaps
        of one or two pixels' width not counted.
    """
    shape = view.height, view.width
    pixel, depth, colour = _projected(clouds, pose, view)
    nearest = np.full(shape, np.inf, np.float32)
    np.minimum.at(nearest.reshape(-1), pixel, depth)
    nearest[_shone_through(nearest)] = 0
    drawn = depth <= nearest.reshape(-1)[pixel] * np.float32(1 + _SAME)
    image, empty = _means(pixel[drawn], colour[drawn], shape)
    holes = cv2.morphologyEx(empty.astype(np.uint8), cv2.MORPH_OPEN, np.ones((_HOLE, _HOLE)))
    if fill:
        image = _filled(image, (~empty).astype(np.float32))
    return np.rint(image).astype(np.uint8), float(holes.mean())


def _projected(
    clouds: Iterable[tuple[np.ndarray, np.ndarray]], pose: np.ndarray, view: View
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the points in the image: the pixel's number, the depth and the colour."""
    to_image = (view.intrinsics @ poses.inverse(pose)[:3]).astype(np.float32)
    parts = []
    for points, colours in clouds:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            x, y, z = to_image[:, :3] @ points.T + to_image[:, 3:]
            column, row = np.rint(x / z), np.rint(y / z)
        inside = (column >= 0) & (column < view.width) & (row >= 0) & (row < view.height)
        kept = np.flatnonzero(inside & (z > _NEAR))
        pixel = row[kept].astype(np.intp) * view.width + column[kept].astype(np.intp)
        parts.append((pixel, z[kept], colours[kept]))
    empty = np.zeros(0, np.intp), np.zeros(0, np.float32), np.zeros((0, 3), np.uint8)
    pixel, depth, colour = zip(empty, *parts, strict=True)
    return np.concatenate(pixel), np.concatenate(depth), np.concatenate(colour)


def _shone_through(nearest: np.ndarray) -> np.ndarray:
    """Which pixels show what lies behind a surface whose points are far apart: bool `[h, w]`.

    The idea is that of Pintus, Gobbetti and Agus, "Real-time Rendering of Massive Unstructured Raw
    Point Clouds using Screen-space Operators" (VAST 2011): is a point open to enough directions?

    Args:
        nearest: float32 `[h, w]` metres, infinite where nothing is.
    """
    around = np.zeros(nearest.shape, np.uint8)
    behind = nearest * np.float32(1 - _SAME)
    for kernel in _sectors(max(2, round(_REACH * nearest.shape[1]))):
        around += cv2.erode(nearest, kernel, borderType=cv2.BORDER_REFLECT) < behind
    return (around >= _HIDING) & np.isfinite(nearest)


@functools.lru_cache(8)
def _sectors(reach: int) -> list[np.ndarray]:
    """Masks, uint8 `[2 * reach + 1] * 2`, that cut the disc around a pixel into slices."""
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = (x * x + y * y > 0) & (x * x + y * y <= reach * reach)
    number = np.floor(np.arctan2(y, x) / (2 * np.pi) * _SECTORS + 0.5) % _SECTORS
    return [(disc & (number == i)).astype(np.uint8) for i in range(_SECTORS)]


def _means(
    pixel: np.ndarray, colour: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Each pixel's mean colour, float32 `[h, w, 3]`, and which have none."""
    size = shape[0] * shape[1]
    count = np.bincount(pixel, minlength=size)
    sums = np.stack([np.bincount(pixel, channel, size) for channel in colour.T], -1)
    means = (sums / np.maximum(count, 1)[:, None]).astype(np.float32)
    return means.reshape(*shape, 3), (count == 0).reshape(shape)


def _filled(image: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """An image whose pixels without weight take what is around them, from near by where there is
    something: each halving of the image averages, and fills the one that is twice as fine.

    Args:
        image: float32 `[h, w, 3]`, 0 where there is no weight.
        weight: float32 `[h, w]`, 0 to 1.
    """
    height, width = weight.shape
    if weight.all() or height * width == 1:
        return image
    half = (width + 1) // 2, (height + 1) // 2
    share = cv2.resize(weight, half, interpolation=cv2.INTER_AREA)
    sums = cv2.resize(image * weight[..., None], half, interpolation=cv2.INTER_AREA)
    coarse = _filled(sums / np.maximum(share, 1e-9)[..., None], share)
    finer = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.where(weight[..., None] > 0, image, finer)
