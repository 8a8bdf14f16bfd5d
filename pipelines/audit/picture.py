"""Records as pictures: frames side by side, each with the action that led to it drawn on it.

The action is a compass in the corner, seen from above: the arrow is the way (up is forward, left is
left), the arc how far it turned, the bar at its side up or down. Lengths are those of the record's
largest step. Orange is the effector, green the base, blue the camera.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from pipelines.audit.motion import Mover, movers
from schemas import Chunk, DataError

_HEIGHT = 96  # of a frame at least
_GAP = 4
COLOURS = {"effector": (255, 140, 0), "base": (0, 170, 60), "camera": (30, 120, 255)}
_PAPER = (128, 128, 128)


def strip(chunk: Chunk, columns: int = 8, height: int = _HEIGHT) -> np.ndarray:
    """Frames of a chunk, evenly chosen, uint8 `[h, w, 3]`.

    Args:
        columns: how many frames at most.
        height: of a frame, at least.

    Raises:
        DataError: if there are none.
    """
    pixels = chunk.pixels()
    if not len(pixels):
        raise DataError("no frames", key=chunk.key)
    chosen = np.unique(np.linspace(0, len(pixels) - 1, columns).round().astype(int))
    frames = [drawn(chunk, pixels[i], i, height) for i in chosen]
    gap = np.full((frames[0].shape[0], _GAP, 3), _PAPER, np.uint8)
    row = [piece for frame in frames for piece in (frame, gap)]
    return np.concatenate(row[:-1], 1)


def drawn(chunk: Chunk, frame: np.ndarray, index: int, height: int = _HEIGHT) -> np.ndarray:
    """One frame, larger, with its action."""
    large = enlarged(frame, height)
    if not np.isfinite(chunk.controls).all() or index >= len(chunk.controls):
        return large
    for place, mover in enumerate(movers(chunk)):
        _compass(large, mover, chunk.controls, index, place)
    return large


def enlarged(frame: np.ndarray, height: int = _HEIGHT) -> np.ndarray:
    """The frame with each pixel a square, so large that a person sees it."""
    scale = max(1, -(-height // frame.shape[0]))
    return np.ascontiguousarray(frame.repeat(scale, 0).repeat(scale, 1))


def png(picture: np.ndarray) -> bytes:
    """As PNG."""
    return cv2.imencode(".png", picture[..., ::-1])[1].tobytes()


def _compass(picture: np.ndarray, mover: Mover, controls: np.ndarray, i: int, place: int) -> None:
    motion = mover.motion(controls)
    radius = max(12, picture.shape[0] // 6)
    centre = (radius + 4 + place * (2 * radius + 12), picture.shape[0] - radius - 4)
    colour = COLOURS[mover.name]
    cv2.circle(picture, centre, radius, (0, 0, 0), 3, cv2.LINE_AA)
    cv2.circle(picture, centre, radius, (255, 255, 255), 1, cv2.LINE_AA)
    largest = float(np.abs(motion[:, :3]).max()) or 1.0
    x, y, z = motion[i, :3] / largest * radius
    if math.hypot(x, y) >= 1:
        end = (round(centre[0] - y), round(centre[1] - x))
        cv2.arrowedLine(picture, centre, end, (0, 0, 0), 4, cv2.LINE_AA, tipLength=0.4)
        cv2.arrowedLine(picture, centre, end, colour, 2, cv2.LINE_AA, tipLength=0.4)
    if abs(z) >= 1:
        side = centre[0] + radius + 3
        cv2.line(picture, (side, centre[1]), (side, round(centre[1] - z)), colour, 3)
    if turn := math.degrees(motion[i, 5]):
        # OpenCV's angles turn right from the x axis; left is positive here, and forward is up
        cv2.ellipse(picture, centre, (radius, radius), -90, 0, -turn, colour, 3, cv2.LINE_AA)
