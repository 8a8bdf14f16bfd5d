"""A record's frames as a browser shows them: a video after its history, and a strip."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipelines.audit import picture
from pipelines.audit.lookup import Lookup
from pipelines.ops.video import write_video
from schemas import Chunk, DataError, Tier

_HEIGHT = 240
_EDGE = 6
_HISTORY, _NOW = (128, 128, 128), (255, 140, 0)
HISTORY = 4  # frames of the record before it


def video(lookup: Lookup, row: Mapping[str, Any], before: Mapping[str, Any] | None) -> bytes:
    """WebM: the last frames of the record before it with a gray edge, then its own with an orange
    one.

    Raises:
        DataError: if the frames cannot be read.
    """
    tier = lookup.best_tier(_HEIGHT)
    chunk = lookup.chunk(dict(row), tier)
    images = [_edged(f, _NOW) for f in _large(chunk)]
    if before is not None:
        earlier = lookup.chunk(dict(before), tier)
        images = [_edged(f, _HISTORY) for f in _large(earlier)[-HISTORY:]] + images
    if not images:
        raise DataError("no frames", key=chunk.key)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "record.webm")
        write_video(path, images, max(chunk.fps, 1.0))
        with open(path, "rb") as f:
            return f.read()


def strip(lookup: Lookup, row: Mapping[str, Any], tier: Tier) -> bytes:
    """PNG of all frames at a tier, with the actions. Raises DataError."""
    return picture.png(picture.strip(lookup.chunk(dict(row), tier), columns=16))


def _large(chunk: Chunk) -> list[np.ndarray]:
    """The frames with their actions drawn."""
    return [picture.drawn(chunk, f, i, _HEIGHT) for i, f in enumerate(chunk.pixels())]


def _edged(frame: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    edged = np.full((frame.shape[0] + 2 * _EDGE, frame.shape[1] + 2 * _EDGE, 3), colour, np.uint8)
    edged[_EDGE:-_EDGE, _EDGE:-_EDGE] = frame
    return edged
