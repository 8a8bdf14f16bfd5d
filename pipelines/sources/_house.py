"""A made-up house of boxes, seen from anywhere by casting rays, to draw fake panoramas from."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from pipelines.ops.panorama import FACES, equirectangular_rays, face_rays


class House(NamedTuple):
    """A room and the boxes that stand in it, in a z-up world, metres.

    Attributes:
        room: `[2, 3]`, its lowest and highest corner.
        boxes: `[n, 2, 3]`, those of the boxes.
        tint: `[3, 3]`, waves per metre of each colour along x, y and z.
    """

    room: np.ndarray
    boxes: np.ndarray
    tint: np.ndarray

    @classmethod
    def made(cls, rng: np.random.Generator) -> House:
        """A room of 8 by 6 metres with low boxes along two walls, so that none is in the way."""
        size = np.array([8.0, 6.0, 2.8])
        boxes = []
        for y in (0.0, size[1] - 0.8):
            for x in (0.5, 3.0, 5.5):
                low = np.array([x + rng.uniform(0, 0.8), y, 0.0])
                boxes.append([low, low + rng.uniform(0.4, 0.8, 3)])
        return cls(np.stack([np.zeros(3), size]), np.array(boxes), rng.uniform(-3, 3, (3, 3)))

    def cast(self, origin: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What rays meet.

        Args:
            origin: `[3]`, inside the room, outside its boxes.
            rays: `[..., 3]` of any length.

        Returns:
            How many of its lengths each ray goes, float64 `[...]`, and the colours, uint8.
        """
        rays = np.where(rays == 0, 1e-12, rays)
        gone = ((self.room[:, None] - origin) / rays.reshape(-1, 3)).max(0).min(-1)
        for box in self.boxes:
            ends = np.sort((box[:, None] - origin) / rays.reshape(-1, 3), 0)
            enters, leaves = ends[0].max(-1), ends[1].min(-1)
            gone = np.where((enters < leaves) & (enters > 0), np.minimum(gone, enters), gone)
        at = origin + rays.reshape(-1, 3) * gone[:, None]
        bright = 0.5 + 0.3 * np.sin(2 * np.pi * at @ self.tint.T / 3)
        bright += 0.15 * ((np.floor(at * 2 + 1e-6).sum(-1) % 2) - 0.5)[:, None]
        colours = (np.clip(bright, 0, 1) * 255).astype(np.uint8)
        return gone.reshape(rays.shape[:-1]), colours.reshape(*rays.shape[:-1], 3)

    def skybox(self, at: np.ndarray, size: int) -> np.ndarray:
        """The faces of a skybox, uint8 `[6, size, size, 3]` in the order of `ops.panorama.FACES`.

        Args:
            at: pose of the panorama, OpenCV camera-to-world.
        """
        faces = [face_rays(face, size) @ at[:3, :3].T for face in range(len(FACES))]
        return np.stack([self.cast(at[:3, 3], rays)[1] for rays in faces])

    def equirectangular(self, at: np.ndarray, height: int) -> tuple[np.ndarray, np.ndarray]:
        """Distances float64 `[height, 2 * height]` and colours of an equirectangular image."""
        return self.cast(at[:3, 3], equirectangular_rays(height) @ at[:3, :3].T)


def depth_png(metres: np.ndarray, units_per_metre: float) -> bytes:
    """A 16-bit PNG of depths; what is too far for it becomes 0, no reading."""
    units = np.round(metres * units_per_metre)
    buffer = io.BytesIO()
    Image.fromarray(np.where(units < 65536, units, 0).astype(np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()
