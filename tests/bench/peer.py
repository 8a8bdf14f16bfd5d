"""The libraries that `make bench` measures against, in a Python of their own.

`timing.Peer` runs it; it imports nothing of the project. Requests and answers are lines of JSON:

    {"library": "py360convert", "image": "PANORAMA.npy", "views": [[yaw, pitch], ...],
     "height": 192, "width": 320, "fov": 90.0, "fresh": false, "out": null}
    {"seconds": 0.41}

Angles are degrees, to the right and upwards. What a library makes of a panorama before its first
crop is kept, and made again where `fresh` is asked for. With `out`, the crops are written to that
.npy, uint8 `[n, height, width, 3]`, their pixels in the places where `pipelines.ops.view.View` has
them.
"""

import importlib
import json
import math
import sys
import time
from typing import Any, NamedTuple

import cv2
import numpy as np


class Shape(NamedTuple):
    height: int
    width: int
    fov: float

    @property
    def focal(self) -> float:
        return self.width / 2 / math.tan(math.radians(self.fov) / 2)


class Py360convert:
    """`e2p`. Its `fov` is between the middles of the outermost pixels, not between their edges."""

    def __init__(self):
        self.library = importlib.import_module("py360convert")

    def prepared(self, image: np.ndarray) -> np.ndarray:
        return image

    def crops(self, image: np.ndarray, views: list, shape: Shape, exact: bool) -> list:
        sides = (shape.width - 1, shape.height - 1)
        fov = tuple(math.degrees(2 * math.atan(n / 2 / shape.focal)) for n in sides)
        size = (shape.height, shape.width)
        return [self.library.e2p(image, fov, yaw, pitch, size) for yaw, pitch in views]


class Py360convertSkybox(Py360convert):
    """`c2e` of six faces, four of them as wide together as the panorama; then `e2p`."""

    def prepared(self, image: np.ndarray) -> np.ndarray:
        n = image.shape[1]
        return self.library.c2e(list(image), 2 * n, 4 * n, cube_format="list")


class Pyequilib:
    """`Equi2Pers` on NumPy.

    It draws half a pixel to the right and below (0, 0 is where the middle of the first pixel should
    be, so that the image's middle is a pixel's), and looks up one panorama pixel too far. Where the
    crops are to be `exact`, it is given a panorama moved by a pixel and draws one more row and
    column, of which the first are dropped: then its pixels are where ours are.
    """

    def __init__(self):
        self.library = importlib.import_module("equilib")

    def prepared(self, image: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(image.transpose(2, 0, 1))

    def crops(self, image: np.ndarray, views: list, shape: Shape, exact: bool) -> list:
        more = 1 if exact else 0
        if exact:
            image = np.roll(np.concatenate([image[:, :1], image[:, :-1]], 1), 1, 2)
        height, width = shape.height + more, shape.width + more
        fov = math.degrees(2 * math.atan(width / 2 / shape.focal))
        draw = self.library.Equi2Pers(height=height, width=width, fov_x=fov, z_down=True)
        angles = (
            {"yaw": math.radians(yaw), "pitch": math.radians(pitch), "roll": 0.0}
            for yaw, pitch in views
        )
        return [draw(image, angle)[:, more:, more:].transpose(1, 2, 0) for angle in angles]


LIBRARIES = {
    "py360convert": Py360convert,
    "py360convert skybox": Py360convertSkybox,
    "pyequilib": Pyequilib,
}


class Server:
    def __init__(self):
        self.libraries: dict[str, Any] = {}
        self.images: dict[str, np.ndarray] = {}
        self.prepared: dict[tuple[str, str], np.ndarray] = {}

    def answer(self, request: dict) -> dict:
        name, path, views = request["library"], request["image"], request["views"]
        if name not in self.libraries:
            self.libraries[name] = LIBRARIES[name]()
        if path not in self.images:
            self.images[path] = np.load(path)
        library, image, key = self.libraries[name], self.images[path], (name, path)
        if key not in self.prepared:
            self.prepared[key] = library.prepared(image)
        shape = Shape(request["height"], request["width"], request["fov"])
        exact = request["out"] is not None
        begin = time.perf_counter()
        ready = library.prepared(image) if request["fresh"] else self.prepared[key]
        found = library.crops(ready, views, shape, exact)
        seconds = time.perf_counter() - begin
        if exact:
            np.save(request["out"], np.stack(found))
        return {"seconds": seconds}


def main() -> None:
    cv2.setNumThreads(1)
    server = Server()
    for line in sys.stdin:
        print(json.dumps(server.answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
