"""Crops of panoramas, against directions and functions of them that are known exactly."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from pipelines.ops import pose
from pipelines.ops.panorama import (
    FACES,
    Equirectangular,
    Skybox,
    crop,
    crops,
    equirectangular_rays,
    face_rays,
)
from pipelines.ops.view import View

VIEW = View(height=96, width=160, fov=math.radians(90))
AXES = {"front": (0, 0, 1), "right": (1, 0, 0), "back": (0, 0, -1), "left": (-1, 0, 0)}
AXES |= {"up": (0, -1, 0), "down": (0, 1, 0)}


def picture(rays: np.ndarray) -> np.ndarray:
    """A smooth function of the direction, uint8 `[..., 3]`."""
    unit = rays / np.linalg.norm(rays, axis=-1, keepdims=True)
    mixed = unit @ np.array([[7.0, 3, -2], [1, 8, 4], [-3, 2, 9]])
    return np.round(127 + 120 * np.sin(mixed)).astype(np.uint8)


def skybox(size: int, draw=picture) -> Skybox:
    return Skybox(np.stack([draw(face_rays(i, size)) for i in range(len(FACES))]))


def equirectangular(rows: int, draw=picture) -> Equirectangular:
    return Equirectangular(draw(equirectangular_rays(rows)))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * math.log10(255**2 / max(np.mean((a.astype(float) - b) ** 2), 1e-9))


def turned(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """A camera turned within a panorama, both OpenCV; radians to the left, down, to the right."""
    level = pose.change_camera(np.eye(4), "body", "opencv")
    at = pose.change_camera(pose.facing(np.zeros(3), yaw, pitch, roll), "body", "opencv")
    return pose.relative(level, at)[:3, :3]


@pytest.mark.parametrize("panorama", [skybox(512), equirectangular(768)], ids=["skybox", "equi"])
@settings(max_examples=40)
@given(
    turn=st.integers(0, 2**32).map(
        lambda n: Rotation.random(rng=np.random.default_rng(n)).as_matrix()
    )
)
def test_any_direction_is_the_direct_picture(panorama, turn):
    """Whatever edges, corners, seams and poles are in the image."""
    wanted = picture(VIEW.rays() @ turn.T)
    found = crop(panorama, turn, VIEW)
    assert found.shape == (96, 160, 3) and found.dtype == np.uint8
    assert psnr(found, wanted) > 42
    assert np.abs(found.astype(int) - wanted).max() <= 12


@pytest.mark.parametrize("name", FACES)
@pytest.mark.parametrize("roll", [0.0, 0.3])
def test_poles_and_corners_are_like_any_other_place(name, roll):
    """The middle of each face and the corner beside it, at a scale at which a texel is visible."""
    view = View(height=64, width=64, fov=math.radians(12))
    forward = np.array(AXES[name], float)
    for aim in (
        forward,
        np.array([1.0, 1, 1]) - 2 * (forward < 0),
        forward + np.array([1e-3, 2e-3, 0]),
    ):
        z = aim / np.linalg.norm(aim)
        x = np.cross([0.1, 0.9, 0.4], z)
        x /= np.linalg.norm(x)
        turn = np.stack([x, np.cross(z, x), z], 1) @ Rotation.from_euler("z", roll).as_matrix()
        wanted = picture(view.rays() @ turn.T)
        for panorama in (skybox(512), equirectangular(512)):
            worst = np.abs(crop(panorama, turn, view).astype(int) - wanted).max()
            assert worst <= 4, (name, aim, type(panorama).__name__)


def ball(towards: np.ndarray):
    """A red ball in one direction on white."""

    def draw(rays: np.ndarray) -> np.ndarray:
        near = rays @ towards / np.linalg.norm(rays, axis=-1) > math.cos(math.radians(4))
        return np.where(near[..., None], (255, 0, 0), (255, 255, 255)).astype(np.uint8)

    return draw


def seen(image: np.ndarray) -> tuple[float, float]:
    """Column and row of the ball, counted from the image's middle."""
    rows, columns = np.nonzero(image[..., 1] < 128)
    return columns.mean() + 0.5 - image.shape[1] / 2, rows.mean() + 0.5 - image.shape[0] / 2


@pytest.mark.parametrize("make", [skybox, equirectangular])
def test_turning_left_moves_things_right_and_tilting_up_moves_them_down(make):
    panorama = make(512, ball(np.array([0.0, 0, 1])))
    x, y = seen(crop(panorama, turned(0, 0, 0), VIEW))
    assert abs(x) < 0.5 and abs(y) < 0.5
    ten = math.radians(10)
    moved = VIEW.focal * math.tan(ten)
    for turn, wanted in (
        ((ten, 0, 0), (moved, 0)),
        ((-ten, 0, 0), (-moved, 0)),
        ((0, -ten, 0), (0, moved)),
        ((0, ten, 0), (0, -moved)),
    ):
        np.testing.assert_allclose(seen(crop(panorama, turned(*turn), VIEW)), wanted, atol=0.6)
    right = make(512, ball(np.array([math.sin(ten), 0, math.cos(ten)])))
    assert seen(crop(right, turned(0, 0, 0), VIEW))[0] > 10
    x, y = seen(crop(right, turned(0, 0, math.radians(90)), VIEW))
    assert abs(x) < 0.6 and y < -10  # the head leans right, so what was right is up


def stripes(rays: np.ndarray) -> np.ndarray:
    """Black and white at 600 periods per turn, as fine as 4096 columns show them well."""
    angle = np.arctan2(rays[..., 0], rays[..., 2])
    bright = np.where(np.sin(600 * angle) > 0, 255, 0)
    return np.repeat(bright[..., None], 3, -1).astype(np.uint8)


@pytest.mark.parametrize("fine", [equirectangular(2048, stripes), skybox(1024, stripes)])
def test_a_small_frame_does_not_shimmer(fine):
    """40 columns cannot show the stripes: they are grey, and stay it as the camera turns."""
    view = View(height=24, width=40, fov=math.radians(90))
    turns = [turned(math.radians(0.1 * i), 0, 0) for i in range(40)]
    frames = np.stack(list(crops(fine, turns, view))).astype(float)[:, 6:-6]
    assert np.abs(frames.mean() - 127.5) < 6
    assert frames.std() < 20
    assert np.abs(np.diff(frames, axis=0)).max() < 25


def test_it_is_sharper_than_a_bilinear_look_up():
    """Against eight by eight samples per pixel of the same function: fine texture at 192×320."""
    view = View(height=192, width=320, fov=math.radians(90))

    def texture(rays: np.ndarray) -> np.ndarray:
        unit = rays / np.linalg.norm(rays, axis=-1, keepdims=True)
        waves = np.sin(520 * unit).sum(-1) + np.sin(unit @ [90.0, -450, 120]) + (unit[..., 0] > 0.3)
        return np.repeat(np.clip(127 + 40 * waves, 0, 255)[..., None], 3, -1).astype(np.uint8)

    fine = View(height=8 * 192, width=8 * 320, fov=view.fov)
    turn = turned(0.4, 0.3, 0.1)
    wanted = texture(fine.rays() @ turn.T).astype(np.float32)
    wanted = wanted.reshape(192, 8, 320, 8, 3).mean((1, 3))
    points = texture(view.rays() @ turn.T)  # what a look-up without a filter comes to
    for panorama in (equirectangular(2048, texture), skybox(1024, texture)):
        assert psnr(crop(panorama, turn, view), wanted) > psnr(points, wanted) + 4


def test_a_trajectory_is_its_crops():
    panorama, turns = skybox(128), [turned(0.1 * i, 0.05 * i, 0) for i in range(4)]
    for one, many in zip(turns, crops(panorama, turns, VIEW), strict=True):
        np.testing.assert_array_equal(crop(panorama, one, VIEW), many)


@pytest.mark.parametrize("shape", [(6, 4, 5, 3), (5, 4, 4, 3), (4, 4, 3)])
def test_faces_that_are_no_skybox(shape):
    with pytest.raises(ValueError, match="wanted"):
        Skybox(np.zeros(shape, np.uint8))


def test_an_image_that_is_not_equirectangular():
    with pytest.raises(ValueError, match="twice as wide"):
        Equirectangular(np.zeros((100, 150, 3), np.uint8))
