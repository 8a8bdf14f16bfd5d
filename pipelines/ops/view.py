"""`View`: the pinhole camera that frames are rendered with."""

from __future__ import annotations

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """A pinhole camera with square pixels, looking through the middle of its image.

    Attributes:
        height, width: of the image in pixels.
        fov: horizontal field of view in radians, within (0, π).
    """

    height: int
    width: int
    fov: float

    def __post_init__(self):
        if not (1 <= self.height <= 8192 and 1 <= self.width <= 8192):
            raise ValueError(f"a view of {self.height}x{self.width}: wanted 1 to 8192 pixels")
        if not 0 < self.fov < math.pi:
            raise ValueError(f"a field of view of {self.fov} radians: wanted more than 0, below π")

    @property
    def focal(self) -> float:
        """Focal length in pixels: also the pixels per radian at the image's middle."""
        return self.width / 2 / math.tan(self.fov / 2)

    @property
    def intrinsics(self) -> np.ndarray:
        """float64 `[3, 3]` for pixel coordinates in which the first pixel's middle is (0, 0), as
        OpenCV and Open3D count."""
        f = self.focal
        return np.array(
            [[f, 0, (self.width - 1) / 2], [0, f, (self.height - 1) / 2], [0, 0, 1]], np.float64
        )

    def rays(self) -> np.ndarray:
        """float64 `[height, width, 3]`: each pixel's direction in the OpenCV camera frame (x right,
        y down, z forward), of depth 1."""
        x = (np.arange(self.width) + 0.5 - self.width / 2) / self.focal
        y = (np.arange(self.height) + 0.5 - self.height / 2) / self.focal
        grid = np.meshgrid(x, y)
        return np.stack([*grid, np.ones_like(grid[0])], -1)
