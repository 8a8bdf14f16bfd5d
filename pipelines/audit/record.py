"""`Record`: one row of a table with what every tier has of it, as the checks see it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from schemas import Chunk, DataError, DatasetInfo, Tier

_ROWS = 96  # of pixels


class Record:
    """One row.

    Args:
        dataset: what the manifest says of its dataset.
        row: of the index.
        data: tier -> the record's bytes, of those tiers that could be read.
        chunks: tier -> what they decode to, of those that did.
        before: the record before it in its episode, if that was read.
    """

    def __init__(
        self,
        dataset: DatasetInfo,
        row: Mapping[str, Any],
        data: dict[Tier, bytes],
        chunks: dict[Tier, Chunk],
        before: Record | None = None,
    ):
        self.dataset, self.row, self.data, self.chunks = dataset, row, data, chunks
        self.before = before
        self._pixels: dict[Tier, np.ndarray | None] = {}

    @functools.cached_property
    def first(self) -> tuple[Tier, Chunk] | None:
        """The tier with the fewest pixels that has the record, and the chunk."""
        if not self.chunks:
            return None
        tier = min(
            self.chunks, key=lambda tier: (tier.height * tier.width, tier.encoding == "jpeg")
        )
        return tier, self.chunks[tier]

    def pixels(self, tier: Tier) -> np.ndarray | None:
        """The frames of a tier, uint8 `[t, h, w, 3]`; None if they are not what the tier says."""
        if tier not in self._pixels:
            self._pixels[tier] = self._decoded(tier)
        return self._pixels[tier]

    def _decoded(self, tier: Tier) -> np.ndarray | None:
        chunk = self.chunks[tier]
        try:
            pixels = chunk.pixels()
        except (DataError, ValueError):
            return None
        wanted = (chunk.num_frames, tier.height, tier.width, 3)
        return pixels if len(pixels) and pixels.shape == wanted else None

    @functools.cached_property
    def small(self) -> np.ndarray | None:
        """The frames of the smallest tier, uint8 `[t, h, w, 3]`, of no more than 96 rows: what is
        looked at for content. None if there are none."""
        if self.first is None or (pixels := self.pixels(self.first[0])) is None:
            return None
        scale = -(-pixels.shape[1] // _ROWS)
        if scale == 1:
            return pixels
        size = (max(1, pixels.shape[2] // scale), max(1, pixels.shape[1] // scale))
        return np.stack([cv2.resize(f, size, interpolation=cv2.INTER_AREA) for f in pixels])

    @functools.cached_property
    def gray(self) -> np.ndarray | None:
        """`small` in gray, uint8 `[t, h, w]`."""
        if self.small is None:
            return None
        t, h, w, _ = self.small.shape
        rows = np.ascontiguousarray(self.small).reshape(t * h, w, 3)
        return cv2.cvtColor(rows, cv2.COLOR_RGB2GRAY).reshape(t, h, w)

    @functools.cached_property
    def plane(self) -> np.ndarray | None:
        """The colour channel of `small` that tells most, uint8 `[t, h, w]`: what differs in colour
        alone is nothing in gray."""
        if self.small is None:
            return None
        spread = cv2.meanStdDev(self.small.reshape(-1, self.small.shape[2], 3))[1]
        return np.ascontiguousarray(self.small[..., int(spread.argmax())])

    def end(self) -> None:
        """Forgets the large things but what the next record of the episode is compared with."""
        self.before = None
        self.data = {}
