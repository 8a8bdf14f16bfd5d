"""A house as a mesh that Open3D casts rays into, and the files a Matterport camera makes of it.

Everything about axes is written out here from the owners' documents, not taken from the code under
test.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.ops.geometry import open3d

RIGHT, DOWN, FORWARD = np.eye(3)  # of an OpenCV camera
# skybox faces: right, down and forward of each image in the frame of the connectivity pose, which
# looks along face 3; face 4 is to its right; the bottom of 0 and the top of 5 meet face 1
FACES = {
    0: (-RIGHT, -FORWARD, -DOWN),
    1: (-RIGHT, DOWN, -FORWARD),
    2: (FORWARD, DOWN, -RIGHT),
    3: (RIGHT, DOWN, FORWARD),
    4: (-FORWARD, DOWN, RIGHT),
    5: (-RIGHT, FORWARD, DOWN),
}
WIDTH, HEIGHT = 320, 256  # of a photograph
FOCAL, CX, CY = 269.0, 158.0, 117.0  # pixels, from the bottom left corner


class Scene:
    """Boxes with a texture that is a function of the place.

    Args:
        boxes: lowest and highest corners, `[n, 2, 3]` metres, z up; the first is the room.
        ball: the middle of a red ball, if there is one; radius 0.15 m.
    """

    def __init__(self, boxes: np.ndarray, ball: np.ndarray | None = None):
        o3d = open3d()
        self._tensor, self._float = o3d.core.Tensor, o3d.core.Dtype.Float32
        self._scene = o3d.t.geometry.RaycastingScene()
        for low, high in boxes:
            box = o3d.t.geometry.TriangleMesh.create_box(*(high - low))
            self._scene.add_triangles(box.translate(self._tensor(low.astype(np.float32))))
        self._ball = len(boxes) if ball is not None else -1
        if ball is not None:
            sphere = o3d.t.geometry.TriangleMesh.create_sphere(0.15, resolution=40)
            self._scene.add_triangles(sphere.translate(self._tensor(ball.astype(np.float32))))

    def cast(self, origin: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many of its lengths each ray goes, `[...]`, and the colours it meets, `[..., 3]`."""
        start = np.broadcast_to(origin, rays.shape)
        packed = np.concatenate([start, rays], -1).astype(np.float32)
        found = self._scene.cast_rays(self._tensor(packed))
        gone = found["t_hit"].numpy().astype(np.float64)
        at = start + rays * np.minimum(gone, 1e3)[..., None]
        waves = at @ np.array([[1.1, 0.4, -0.7], [-0.5, 1.3, 0.6], [0.3, -0.8, 1.7]]) * 2 * math.pi
        bright = 128 + 45 * np.sin(waves) + 35 * np.sin(2.7 * waves[..., [1, 2, 0]])
        bright += 20 * found["primitive_normals"].numpy() @ np.array([0.8, -0.5, 0.3])[:, None]
        bright[found["geometry_ids"].numpy() == self._ball] = 255, 0, 0
        return gone, np.clip(bright, 0, 255)

    def image(self, at: np.ndarray, rays: np.ndarray, samples: int = 1) -> np.ndarray:
        """What a camera sees, uint8: `rays` `[samples * h, samples * w, 3]` in its frame."""
        colours = self.cast(at[:3, 3], rays @ at[:3, :3].T)[1]
        h, w = rays.shape[0] // samples, rays.shape[1] // samples
        return np.round(colours.reshape(h, samples, w, samples, 3).mean((1, 3))).astype(np.uint8)

    def visible(self, points: np.ndarray, eye: np.ndarray) -> np.ndarray:
        """Whether nothing is between an eye and points `[..., 3]`."""
        gone, _ = self.cast(eye, points - eye)
        return gone > 1 - 1e-3


def pinhole(height: int, width: int, fov: float, samples: int = 1) -> np.ndarray:
    """Rays of depth 1, `[samples * height, samples * width, 3]`, of an OpenCV camera."""
    focal = width / 2 / math.tan(fov / 2)
    x = ((np.arange(width * samples) + 0.5) / samples - width / 2) / focal
    y = ((np.arange(height * samples) + 0.5) / samples - height / 2) / focal
    grid = np.meshgrid(x, y)
    return np.stack([*grid, np.ones_like(grid[0])], -1)


def looking(position: np.ndarray, yaw: float, tilt_up: float = 0.0) -> np.ndarray:
    """An upright OpenCV camera in a z-up world, `yaw` radians to the left of x."""
    forward = np.array(
        [
            math.cos(tilt_up) * math.cos(yaw),
            math.cos(tilt_up) * math.sin(yaw),
            math.sin(tilt_up),
        ]
    )
    right = np.array([math.sin(yaw), -math.cos(yaw), 0])
    at = np.eye(4)
    at[:3, :3] = np.stack([right, np.cross(forward, right), forward], 1)
    at[:3, 3] = position
    return at


def skybox(scene: Scene, at: np.ndarray, size: int, samples: int = 2) -> dict[int, np.ndarray]:
    """The six faces by number, of a panorama with this connectivity pose."""
    ahead = pinhole(size, size, math.pi / 2, samples)
    return {n: scene.image(at, ahead @ np.array(axes), samples) for n, axes in FACES.items()}


def equirectangular(scene: Scene, at: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Metres in every direction `[rows, 2 * rows]` and the image, its middle column along +z."""
    longitude = ((np.arange(2 * rows) + 0.5) / (2 * rows) * 360 - 180) * math.pi / 180
    latitude = (90 - (np.arange(rows) + 0.5) / rows * 180) * math.pi / 180
    lon, lat = np.meshgrid(longitude, latitude)
    rays = np.stack([np.cos(lat) * np.sin(lon), -np.sin(lat), np.cos(lat) * np.cos(lon)], -1)
    gone, colours = scene.cast(at[:3, 3], rays @ at[:3, :3].T)
    return gone, np.round(colours).astype(np.uint8)


def write_scan(
    path: Path,
    name: str,
    scene: Scene,
    panos: dict[str, np.ndarray],
    reachable: np.ndarray,
    *,
    face: int = 256,
    depth: bool = True,
) -> None:
    """A scan in Matterport3D's files.

    Args:
        panos: connectivity poses by id.
        reachable: bool `[n, n]`, who can be gone to from whom.
    """
    (path / "connectivity").mkdir(parents=True, exist_ok=True)
    (path / name / "matterport_skybox_images").mkdir(parents=True)
    entries = []
    for i, (pano, at) in enumerate(panos.items()):
        for n, image in skybox(scene, at, face).items():
            _save(image, path / name / "matterport_skybox_images" / f"{pano}_skybox{n}_sami.jpg")
        flags = [bool(x) for x in reachable[i]]
        entry = {"image_id": pano, "pose": at.ravel().tolist(), "included": True, "height": 1.5}
        entries.append(entry | {"visible": flags, "unobstructed": flags})
    (path / "connectivity" / f"{name}_connectivity.json").write_text(json.dumps(entries))
    if depth:
        _write_depth(path / name, name, scene, panos)


def _save(image: np.ndarray, file: Path) -> None:
    Image.fromarray(image).save(file, "JPEG", quality=98, subsampling=0)


def _write_depth(folder: Path, name: str, scene: Scene, panos: dict[str, np.ndarray]) -> None:
    kinds = "undistorted_depth_images", "undistorted_color_images", "undistorted_camera_parameters"
    for kind in kinds:
        (folder / kind).mkdir()
    lines = ["dataset matterport", f"n_images {18 * len(panos)}", f"depth_directory {kinds[0]}"]
    lines += [f"color_directory {kinds[1]}", ""]
    x = (np.arange(WIDTH) + 0.5 - CX) / FOCAL
    y = (HEIGHT - np.arange(HEIGHT) - 0.5 - CY) / FOCAL  # upwards, as the file counts
    grid = np.meshgrid(x, y)
    rays = np.stack([*grid, -np.ones_like(grid[0])], -1)  # an OpenGL camera's: y up, looking at -z
    for pano, at in panos.items():
        for camera, tilt in enumerate((42.0, 0.0, -42.0)):
            lines.append(f"intrinsics_matrix {FOCAL} 0 {CX}  0 {FOCAL} {CY}  0 0 1")
            for step in range(6):
                pose = _camera(at, math.radians(tilt), math.radians(60 * (step + 1)))
                gone, colours = scene.cast(pose[:3, 3], rays @ pose[:3, :3].T)
                file = f"{pano}_d{camera}_{step}.png"
                units = np.where(gone * 4000 < 65535, gone * 4000, 0).round().astype(np.uint16)
                Image.fromarray(units).save(folder / kinds[0] / file, "PNG")
                photo = f"{pano}_i{camera}_{step}.jpg"
                _save(np.round(colours).astype(np.uint8), folder / kinds[1] / photo)
                numbers = " ".join(f"{v:.9g}" for v in pose.ravel())
                lines.append(f"scan {file} {photo} {numbers}")
    (folder / kinds[2] / f"{name}.conf").write_text("\n".join(lines) + "\n")


def _camera(at: np.ndarray, tilt: float, to_the_right: float) -> np.ndarray:
    """An OpenGL camera of the tripod: `to_the_right` of face 1, tilted up, a centimetre beside."""
    back, side = -at[:3, 2], -at[:3, 0]  # face 1 looks back; its right is the pose's left
    up = -at[:3, 1]
    level = math.cos(to_the_right) * back + math.sin(to_the_right) * side
    forward = math.cos(tilt) * level + math.sin(tilt) * up
    right = np.cross(level, up)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(right, forward), -forward], 1)
    pose[:3, 3] = at[:3, 3] + 0.01 * forward
    return pose
