"""The family "content": what is seen and done makes sense. Most are warnings: look at them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import cv2
import numpy as np

from pipelines.audit.check import Where, check
from pipelines.audit.limits import Limits
from pipelines.audit.motion import BASE, CAMERA, EFFECTOR, movers
from pipelines.audit.record import Record
from schemas import Chunk

_DIFFERENCE = 0.25  # in grey level, below which two frames are not worth a look for motion
# mover, which of its columns, which limit, and by how much less is large
_PARTS = (
    (CAMERA, slice(0, 3), "translation", 1.0),
    (CAMERA, slice(3, 6), "rotation", 1.0),
    (BASE, slice(0, 3), "translation", 1.0),
    (BASE, slice(3, 6), "rotation", 1.0),
    (EFFECTOR, slice(0, 3), "translation", 0.2),
)


@check("frames-black", "content", "warning")
def black(record: Record, limits: Limits) -> Iterator[tuple[Where, str]]:
    """No frame is black."""
    if (gray := record.gray) is None:
        return
    dark = gray.mean((1, 2)) <= limits.frames["black"]
    if dark.any():
        yield record.row, f"{int(dark.sum())} of {len(dark)} frames are black"


@check("frames-one-colour", "content", "warning")
def one_colour(record: Record, limits: Limits) -> Iterator[tuple[Where, str]]:
    """No frame has one colour all over."""
    if (plane := record.plane) is None or (gray := record.gray) is None:
        return
    flat = plane.std((1, 2)) <= limits.frames["one_colour"]
    flat &= gray.mean((1, 2)) > limits.frames["black"]
    if flat.any():
        yield record.row, f"{int(flat.sum())} of {len(flat)} frames have one colour"


@check("frames-frozen", "content", "warning")
def frozen(record: Record, limits: Limits) -> Iterator[tuple[Where, str]]:
    """The frames of a record are not all the same to the bit."""
    if (plane := record.plane) is not None and len(plane) > 2 and (plane[1:] == plane[0]).all():
        yield record.row, f"its {len(plane)} frames are the same"


@check("frames-repeated", "content", "warning")
def repeated(record: Record, limits: Limits) -> Iterator[tuple[Where, str]]:
    """A record does not show the frames of the record before it again."""
    before = record.before
    if before is None or record.plane is None or before.plane is None or len(record.plane) < 2:
        return
    if np.array_equal(record.plane, before.plane) and (record.plane[1:] != record.plane[0]).any():
        yield record.row, f"its {len(record.plane)} frames are those of the record before it"


@check("tiers-look-alike", "content", "error")
def tiers_look_alike(record: Record, limits: Limits) -> Iterator[tuple[Where, str]]:
    """All tiers show the same."""
    if record.first is None or (small := record.gray) is None:
        return
    size = (small.shape[2], small.shape[1])
    for tier in record.chunks:
        if tier == record.first[0] or (pixels := record.pixels(tier)) is None:
            continue
        if len(pixels) != len(small):
            continue  # rules has told
        for i in {0, len(pixels) - 1}:
            gray = cv2.cvtColor(pixels[i], cv2.COLOR_RGB2GRAY)
            gray = cv2.resize(gray, size, interpolation=cv2.INTER_AREA)
            level = float(np.abs(gray.astype(np.float32) - small[i]).mean())
            if level > limits.frames["tiers"]:
                message = f"frame {i} at {tier.name} is {level:.0f} grey levels from the smallest's"
                yield record.row, message
                break


@check("motion-missing", "content", "warning")
def motion_missing(record: Record, limits: Limits) -> Iterator[tuple[Where, str]]:
    """Where the action is large, something moves."""
    if record.first is None or (plane := record.plane) is None or len(plane) < 2:
        return
    action = _large(record.first[1], limits)
    if action and (_differences(plane) < _DIFFERENCE).all():
        yield record.row, f"nothing moves, under {action}"
    elif action and _differences(plane).max() < 16 * _DIFFERENCE:
        flow = max(float(step.mean()) for step in _flow(plane))
        if flow <= limits.motion["still"]:
            yield record.row, f"nothing moves (flow {flow:.3f} pixels), under {action}"


@check("motion-unexplained", "content", "warning")
def motion_unexplained(record: Record, limits: Limits) -> Iterator[tuple[Where, str]]:
    """Where a camera whose motion is known stands still, the picture as a whole does not move."""
    if record.first is None or (plane := record.plane) is None or len(plane) < 2:
        return
    chunk = record.first[1]
    told = chunk.control_mask[CAMERA.columns].all()
    if not told or chunk.controls[:, CAMERA.columns].any():
        return
    if _differences(plane).max() < 16 * _DIFFERENCE:
        return
    steps = [float(np.median(step)) for step in _flow(plane)]
    if np.median(steps) >= limits.motion["moving"]:
        message = (
            f"all moves ({np.median(steps):.1f} pixels a frame), and the camera is told to rest"
        )
        yield record.row, message


def _large(chunk: Chunk, limits: Limits) -> str:
    """Which part of the action is large, for people; empty if none is."""
    if len(chunk.controls) < 2 or not np.isfinite(chunk.controls).all():
        return ""
    there = movers(chunk)
    for mover, part, limit, scale in _PARTS:
        if mover not in there:
            continue
        # of the frames after the first, as that one's motion is from before the record
        amount = float(np.linalg.norm(mover.motion(chunk.controls)[1:, part], axis=1).sum())
        if amount >= scale * limits.motion[limit]:
            unit = "m" if limit == "translation" else "rad"
            return f"a {limit} of the {mover.name} of {amount:.2f} {unit}"
    return ""


def _differences(plane: np.ndarray) -> np.ndarray:
    """Mean absolute difference of each frame to the one before it, float32 `[t - 1]`."""
    return cv2.absdiff(plane[1:], plane[:-1]).mean((1, 2), dtype=np.float32)


def _flow(plane: np.ndarray) -> Iterator[np.ndarray]:
    """Length of the optical flow (Farnebäck 2003) from frame to frame, float32 `[h, w]` each."""
    for a, b in itertools.pairwise(plane):
        start = np.zeros((*a.shape, 2), np.float32)
        flow = cv2.calcOpticalFlowFarneback(a, b, start, 0.5, 2, 9, 2, 5, 1.1, 0)
        yield np.linalg.norm(flow, axis=2)


RECORD = (
    black,
    one_colour,
    frozen,
    repeated,
    tiers_look_alike,
    motion_missing,
    motion_unexplained,
)
