"""The rules that a record must obey, checked by the writer and again by the audit."""

from __future__ import annotations

import numpy as np

from schemas import controls
from schemas.errors import DataError
from schemas.record import MAX_FRAMES, Chunk, Tier, text_key
from schemas.table import SPLITS


def violations(chunk: Chunk, tier: Tier) -> list[str]:
    """Everything that is wrong with a chunk at a tier, a line each; empty if it is right."""
    found: list[str] = []
    t = chunk.num_frames
    if not 1 <= t <= MAX_FRAMES:
        found.append(f"{t} frames, wanted 1..{MAX_FRAMES}")
    found += _frames(chunk, tier)
    found += _times(chunk)
    found += _texts(chunk)
    found += _controls(chunk)
    found += _overlap(chunk)
    if chunk.step < 0:
        found.append(f"step {chunk.step} is negative")
    if chunk.is_first != (chunk.step == 0):
        found.append(f"is_first is {chunk.is_first} at step {chunk.step}")
    return found


def check(chunk: Chunk, tier: Tier) -> None:
    """Raises DataError with every violation, if there is one."""
    found = violations(chunk, tier)
    if found:
        raise DataError("; ".join(found), stage="validate", key=chunk.key)


def _frames(chunk: Chunk, tier: Tier) -> list[str]:
    frames = chunk.frames
    if len(frames) != chunk.num_frames:
        return [f"{len(frames)} frames but {chunk.num_frames} times"]
    if tier.encoding == "jpeg":
        if isinstance(frames, np.ndarray):
            return [f"raw frames in the JPEG tier {tier}"]
        # the full decode is the content audit's work; a JPEG's two ends are cheap to look at
        bad = [i for i, f in enumerate(frames) if f[:2] != b"\xff\xd8" or f[-2:] != b"\xff\xd9"]
        return [f"frame {i} is not a whole JPEG" for i in bad]
    wanted = (chunk.num_frames, tier.height, tier.width, 3)
    if not isinstance(frames, np.ndarray):
        return [f"JPEG frames in the raw tier {tier}"]
    if frames.shape != wanted or frames.dtype != np.uint8:
        return [f"frames are {frames.dtype} {frames.shape}, wanted uint8 {wanted}"]
    return []


def _times(chunk: Chunk) -> list[str]:
    times = chunk.times
    found = []
    if not np.isfinite(times).all() or (times < 0).any():
        found.append("times are not finite and non-negative")
    elif (np.diff(times) <= 0).any():
        found.append("times do not increase strictly")
    if not (np.isfinite(chunk.fps) and 0 <= chunk.fps <= 1000):
        found.append(f"fps is {chunk.fps}, wanted 0..1000")
    if chunk.fps == 0 and chunk.num_frames > 1:
        found.append("fps is 0, which is for still images, but there is more than one frame")
    return found


def _texts(chunk: Chunk) -> list[str]:
    found = []
    if not chunk.text.strip():
        found.append("the action text is empty")
    if chunk.text_key != text_key(chunk.text):
        found.append("text_key is not the digest of text")
    if chunk.split not in SPLITS:
        found.append(f"split {chunk.split!r}, wanted one of {', '.join(SPLITS)}")
    for name in ("dataset", "episode_id", "source_uri", "source_version", "license", "recipe"):
        if not getattr(chunk, name):
            found.append(f"{name} is empty")
    return found


def _controls(chunk: Chunk) -> list[str]:
    wanted = (chunk.num_frames, controls.NUM_SLOTS)
    values, bins, mask = chunk.controls, chunk.control_bins, chunk.control_mask
    if values.shape != wanted or bins.shape != wanted or mask.shape != wanted[1:]:
        return [f"controls {values.shape}, bins {bins.shape}, mask {mask.shape}; wanted {wanted}"]
    if not np.isfinite(values).all():
        return ["controls are not finite"]
    found = []
    if (values[:, ~mask] != 0).any():
        found.append("a control outside the mask is not zero")
    if controls.clip(values)[1].any():
        found.append("a control is outside its slot's range")
    if (controls.discretise(values, mask) != bins).any():
        found.append("control_bins are not the bins of controls")
    return found


def _overlap(chunk: Chunk) -> list[str]:
    overlap = chunk.overlap
    if overlap.shape != (chunk.num_frames,):
        return [f"overlap {overlap.shape}, wanted {(chunk.num_frames,)}"]
    known = overlap[~np.isnan(overlap)]
    if ((known < 0) | (known > 1)).any():
        return ["an overlap is outside 0..1"]
    return []
