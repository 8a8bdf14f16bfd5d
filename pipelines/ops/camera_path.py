"""Paths of a camera through static scenes: pans, tilts, steps of 30°, turns to a heading. Pure.

The camera stays upright: turning is about the world's vertical, tilting about its own level axis,
as a head does it and as people say it. Poses are body poses in a z-up world (`ops.pose`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from pipelines.ops import pose
from pipelines.ops.controls import euler, rotation, wrap

STEP = math.radians(30)  # of R2R's simulator (Anderson et al. 2018, section 3.2)
FRAMES = 15  # of a smooth movement: with the frame before it, one chunk
_PANS = 3
_STEPS = 12
_WIDEST, _HIGHEST = math.radians(150), math.radians(40)
_NARROWEST = math.radians(45)


class Segment(NamedTuple):
    """A movement that one text describes.

    Attributes:
        text: of the whole of it.
        poses: where the camera is at its frames, after the frame that it starts from.
    """

    text: str
    poses: tuple[np.ndarray, ...]


class Path(NamedTuple):
    """Where a camera starts, and its movements."""

    start: np.ndarray
    segments: tuple[Segment, ...]


def words(start: np.ndarray, end: np.ndarray) -> str:
    """The movement between two upright poses, said from a level head: see `pose.say`."""
    _, pitch_0, yaw_0 = euler(start[:3, :3])
    _, pitch_1, yaw_1 = euler(end[:3, :3])
    way = rotation(np.array([0, 0, -yaw_1])) @ (end[:3, 3] - start[:3, 3])
    return pose.say(way, 0.0, pitch_1 - pitch_0, float(wrap(yaw_1 - yaw_0)))


def segment(start: np.ndarray, poses: Iterable[np.ndarray]) -> Segment:
    """A movement along poses, named after its whole."""
    listed = tuple(poses)
    return Segment(words(start, listed[-1]), listed)


def path(start: np.ndarray, segments: Iterable[Segment]) -> Path:
    """Movements one after the other. Two alike in a row become one of twice the size, since frames
    of one text are one action; they must not come to more than half a turn."""
    joined: list[Segment] = []
    begins = [start]
    for each in segments:
        while joined and joined[-1].text == each.text:
            each = segment(begins[-2], (*joined.pop().poses, *each.poses))
            begins.pop()
        joined.append(each)
        begins.append(each.poses[-1])
    return Path(start, tuple(joined))


def swing(start: np.ndarray, yaw: float, pitch: float, frames: int = FRAMES) -> Segment:
    """A smooth turn by `yaw` and tilt by `pitch` radians, slow at both ends."""
    _, pitch_0, yaw_0 = euler(start[:3, :3])
    done = np.arange(1, frames + 1) / frames
    eased = done * done * (3 - 2 * done)
    return segment(
        start, [pose.facing(start[:3, 3], yaw_0 + t * yaw, pitch_0 + t * pitch) for t in eased]
    )


def turn_to(start: np.ndarray, yaw: float) -> Segment | None:
    """A turn on the spot to a heading, in equal parts of at most 30°; None if it is there."""
    _, pitch, begin = euler(start[:3, :3])
    turn = float(wrap(yaw - begin))
    if abs(turn) < math.radians(0.05):
        return None
    parts = math.ceil(abs(turn) / STEP - 1e-9)
    yaws = [begin + turn * i / parts for i in range(1, parts + 1)]
    # not named by its ends: half a turn is one to either side
    text = pose.say(np.zeros(3), 0.0, 0.0, turn)
    return Segment(text, tuple(pose.facing(start[:3, 3], yaw, pitch) for yaw in yaws))


def smooth_look(position: np.ndarray, rng: np.random.Generator) -> Path:
    """Three swings from one place: a pan of 45° to 150°, a tilt within 40°, and both at once to the
    other side."""
    pitch, side = 0.0, float(rng.choice([-1, 1]))
    start = at = pose.facing(position, rng.uniform(-math.pi, math.pi))
    segments = []
    for kind in rng.permutation(_PANS):
        pan = float(rng.uniform(_NARROWEST, _WIDEST)) * side
        # to the other half, so that every tilt is one
        tilt = float(rng.uniform(0.25, 1) * _HIGHEST * (-np.sign(pitch) or rng.choice([-1, 1])))
        yaw = 0.0 if kind == 1 else pan
        change = 0.0 if kind == 0 else tilt - pitch
        segments.append(swing(at, yaw, change))
        at, pitch = segments[-1].poses[-1], pitch + change
        side = -side if yaw else side
    return path(start, segments)


def stepped_look(position: np.ndarray, rng: np.random.Generator) -> Path:
    """Twelve steps of 30° among R2R's 12 headings and 3 elevations, none taken back at once."""
    column, row = int(rng.integers(12)), 0
    start = at = _step_pose(position, column, row)
    steps: list[tuple[int, int]] = []
    for _ in range(_STEPS):
        back = (-steps[-1][0], -steps[-1][1]) if steps else (0, 0)
        moves = [(1, 0), (1, 0), (-1, 0), (-1, 0), (0, 1), (0, -1)]
        # further than half a turn, words would take it for a turn the other way
        possible = [
            move
            for move in moves
            if move != back and abs(row + move[1]) <= 1 and steps[-5:] != [move] * 5
        ]
        steps.append(possible[rng.integers(len(possible))])
        row += steps[-1][1]
    row = 0
    segments = []
    for _, run in itertools.groupby(steps):
        poses = []
        for move in run:
            column, row = column + move[0], row + move[1]
            poses.append(_step_pose(position, column, row))
        segments.append(segment(at, poses))
        at = poses[-1]
    return path(start, segments)


def _step_pose(position: np.ndarray, column: int, row: int) -> np.ndarray:
    return pose.facing(position, column * STEP, row * STEP)


def towards(start: np.ndarray, end: np.ndarray) -> float:
    """The heading from one position to another."""
    way = end - start
    return math.atan2(way[1], way[0])


def straight(start: np.ndarray, position: np.ndarray, frames: int = 1) -> Segment:
    """A move without a turn, in equal parts."""
    begin = start[:3, 3]
    parts = [begin + (position - begin) * i / frames for i in range(1, frames + 1)]
    return segment(start, [pose.make(start[:3, :3], at) for at in parts])
