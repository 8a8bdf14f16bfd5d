"""Reading a panorama source's episodes back, for its tests."""

import dataclasses
import math
import re
from pathlib import Path

import numpy as np

from pipelines import sources
from pipelines.episode import Episode
from pipelines.ops import pose
from tests.pipelines import raycast

# an OpenCV camera's right, down and forward, of one whose axes are forward, left and up
OPENCV = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


def read(path: Path, name: str = "matterport3d", **options: float) -> dict[str, tuple[str, list]]:
    """The passport and the frames of every episode, by id; a loss is an error."""
    source = sources.get(name)
    found = {}
    for unit in source.units(str(path)):
        for item in source.episodes(dataclasses.replace(unit, options=options)):
            assert isinstance(item, Episode), item
            found[item.id] = item.source_range, list(item.frames)
    return found


def poses(passport: str, position: np.ndarray, controls: list[np.ndarray]) -> list[np.ndarray]:
    """Where the camera is at each frame: from the start that the passport names, by the controls as
    records keep them. Its axes are forward, left and up."""
    heading, tilt = (math.radians(float(x)) for x in re.findall(r"(-?[\d.]+)°", passport))
    at = raycast.looking(position, heading, -tilt) @ OPENCV.T
    found = []
    for control in controls:
        at = at @ pose.matrix(control.astype(np.float32))
        found.append(at)
    return found


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * math.log10(255**2 / max(float(np.mean((a.astype(float) - b) ** 2)), 1e-9))
