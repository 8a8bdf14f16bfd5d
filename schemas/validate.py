"""The rules that a record must obey, checked by the writer and again by the audit."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from schemas import controls
from schemas.errors import DataError
from schemas.record import MAX_FRAMES, Chunk, Tier, text_key
from schemas.table import SPLITS


class Rule(NamedTuple):
    """One rule.

    Attributes:
        name: in the audit's findings.
        says: what it wants, in one line.
        broken: everything in a chunk at a tier that breaks it, a line each.
    """

    name: str
    says: str
    broken: Callable[[Chunk, Tier], list[str]]


def violations(chunk: Chunk, tier: Tier) -> list[str]:
    """Everything that is wrong with a chunk at a tier, a line each; empty if it is right."""
    return [message for rule in RULES for message in rule.broken(chunk, tier)]


def check(chunk: Chunk, tier: Tier) -> None:
    """Raises DataError with every violation, if there is one."""
    found = violations(chunk, tier)
    if found:
        raise DataError("; ".join(found), stage="validate", key=chunk.key)


def _frames(chunk: Chunk, tier: Tier) -> list[str]:
    frames, t = chunk.frames, chunk.num_frames
    if not 1 <= t <= MAX_FRAMES:
        return [f"{t} frames, wanted 1..{MAX_FRAMES}"]
    if len(frames) != t:
        return [f"{len(frames)} frames but {t} times"]
    if tier.encoding == "jpeg":
        if isinstance(frames, np.ndarray):
            return [f"raw frames in the JPEG tier {tier}"]
        # the full decode is the content audit's work; a JPEG's two ends are cheap to look at
        bad = [i for i, f in enumerate(frames) if f[:2] != b"\xff\xd8" or f[-2:] != b"\xff\xd9"]
        return [f"frame {i} is not a whole JPEG" for i in bad]
    wanted = (t, tier.height, tier.width, 3)
    if not isinstance(frames, np.ndarray):
        return [f"JPEG frames in the raw tier {tier}"]
    if frames.shape != wanted or frames.dtype != np.uint8:
        return [f"frames are {frames.dtype} {frames.shape}, wanted uint8 {wanted}"]
    return []


def _times(chunk: Chunk, tier: Tier) -> list[str]:
    times = chunk.times
    if not np.isfinite(times).all() or (times < 0).any():
        return ["times are not finite and non-negative"]
    if (np.diff(times) <= 0).any():
        return ["times do not increase strictly"]
    return []


def _fps(chunk: Chunk, tier: Tier) -> list[str]:
    if not (np.isfinite(chunk.fps) and 0 <= chunk.fps <= 1000):
        return [f"fps is {chunk.fps}, wanted 0..1000"]
    if chunk.fps == 0 and chunk.num_frames > 1:
        return ["fps is 0, which is for still images, but there is more than one frame"]
    return []


def _text(chunk: Chunk, tier: Tier) -> list[str]:
    found = [] if chunk.text.strip() else ["the action text is empty"]
    if chunk.text_key != text_key(chunk.text):
        found.append("text_key is not the digest of text")
    return found


def _split(chunk: Chunk, tier: Tier) -> list[str]:
    if chunk.split in SPLITS:
        return []
    return [f"split {chunk.split!r}, wanted one of {', '.join(SPLITS)}"]


def _passport(chunk: Chunk, tier: Tier) -> list[str]:
    wanted = ("dataset", "episode_id", "source_uri", "source_version", "license", "recipe")
    return [f"{name} is empty" for name in wanted if not getattr(chunk, name)]


def _controls(chunk: Chunk, tier: Tier) -> list[str]:
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
    return found


def _bins(chunk: Chunk, tier: Tier) -> list[str]:
    values, bins, mask = chunk.controls, chunk.control_bins, chunk.control_mask
    if values.shape != bins.shape or not np.isfinite(values).all():
        return []  # there is nothing to be the bins of
    if (controls.discretise(values, mask) != bins).any():
        return ["control_bins are not the bins of controls"]
    return []


def _overlap(chunk: Chunk, tier: Tier) -> list[str]:
    overlap = chunk.overlap
    if overlap.shape != (chunk.num_frames,):
        return [f"overlap {overlap.shape}, wanted {(chunk.num_frames,)}"]
    known = overlap[~np.isnan(overlap)]
    if ((known < 0) | (known > 1)).any():
        return ["an overlap is outside 0..1"]
    return []


def _step(chunk: Chunk, tier: Tier) -> list[str]:
    found = [f"step {chunk.step} is negative"] if chunk.step < 0 else []
    if chunk.is_first != (chunk.step == 0):
        found.append(f"is_first is {chunk.is_first} at step {chunk.step}")
    return found


RULES = (
    Rule("frames", f"1 to {MAX_FRAMES} frames of the tier's size and kind, one per time", _frames),
    Rule("times", "times are finite, not negative, and increase strictly", _times),
    Rule("fps", "the frame rate is within 0..1000, and 0 for a still image alone", _fps),
    Rule("text", "the action text is not empty, and text_key is its digest", _text),
    Rule("split", f"the split is one of {', '.join(SPLITS)}", _split),
    Rule(
        "passport",
        "dataset, episode, raw reference, version, licence and recipe are told",
        _passport,
    ),
    Rule(
        "controls",
        "controls are finite, within their slots' ranges, and zero outside the mask",
        _controls,
    ),
    Rule("control-bins", "control_bins are the bins of controls", _bins),
    Rule("overlap", "overlaps are within 0..1, one per frame", _overlap),
    Rule("step", "step is not negative, and is_first says whether it is 0", _step),
)
