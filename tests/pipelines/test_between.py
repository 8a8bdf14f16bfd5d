"""Views in between against the same views cast from the scene that the points were taken from."""

import functools
import math

import numpy as np
import pytest

from pipelines.ops.between import render
from pipelines.ops.overlap import cloud_of_equirectangular
from pipelines.ops.view import View
from tests.pipelines.test_overlap import Room, camera, room

VIEW = View(height=192, width=320, fov=math.pi / 2)
ENDS = (-2.2, 1, 1.5), (1.8, 1, 1.5)  # of a way through the door
RED, BLUE = (200, 30, 20), (10, 40, 220)


def texture(points):
    """A colour for every place, uint8 `[..., 3]`: soft waves and hard edges."""
    waves = [
        130
        + 60 * np.sin(points @ [3.1, 2.3, 1.7] + channel)
        + 30 * np.sin(points @ [5.0 + channel, 9, 6])
        + 30 * np.sign(np.sin(points @ [4.0 + 2 * channel, 5, 7]))
        for channel in range(3)
    ]
    return np.rint(np.stack(waves, -1)).clip(0, 255).astype(np.uint8)


def cast(pose, scene=None):
    return texture((scene or room()).surface(pose, VIEW.rays()))


@functools.cache
def coloured(spot, height=640):
    pose = camera(spot, 25)
    distance = room().equirectangular(pose, height)
    cloud = cloud_of_equirectangular(distance, pose, stride=1)
    return cloud, texture(cloud.astype(np.float64))


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


def wall(distance, size, step, colour):
    """Points `step` apart on a square of `size` around the camera's axis, and one colour."""
    across = np.arange(-size / 2, size / 2, step) + step / 2
    y, x = np.meshgrid(across, across)
    points = np.stack([x, y, np.full_like(x, distance)], -1).reshape(-1, 3).astype(np.float32)
    return points, np.full((len(points), 3), colour, np.uint8)


def share(image, colour):
    return float((image == colour).all(-1).mean())


def test_one_point_in_each_pixel_is_the_image():
    rng = np.random.default_rng(0)
    pose = camera((1, -2, 1.5), 130, 20, 7)
    image = rng.integers(0, 256, (192, 320, 3)).astype(np.uint8)
    points = VIEW.rays() * rng.uniform(1.0, 1.01, (192, 320, 1))
    cloud = (points.reshape(-1, 3) @ pose[:3, :3].T + pose[:3, 3]).astype(np.float32)
    drawn, holes = render([(cloud, image.reshape(-1, 3))], pose, VIEW)
    np.testing.assert_array_equal(drawn, image)
    assert holes == 0
    assert drawn.dtype == np.uint8


@pytest.mark.parametrize("part", [0.15, 0.35, 0.5, 0.65, 0.85])
def test_views_on_the_way_look_like_the_scene(part):
    clouds = [coloured(spot) for spot in ENDS]
    position = np.add(ENDS[0], part * np.subtract(ENDS[1], ENDS[0]))
    found = []
    for yaw in (0, -20, 10, 180, 200):
        pose = camera(position, yaw, 5)
        image, holes = render(clouds, pose, VIEW)
        found.append((holes, psnr(image, cast(pose))))
    assert max(holes for holes, _ in found) < 0.15
    good = [ratio for holes, ratio in found if holes < 0.04]
    assert len(good) >= 2 and min(good) > 20


def test_a_view_from_where_the_points_were_taken_is_that_view():
    for spot in ENDS:
        for yaw in range(0, 360, 60):
            pose = camera(spot, yaw, -5)
            image, holes = render([coloured(spot)], pose, VIEW)
            assert holes < 0.01
            assert psnr(image, cast(pose)) > 24


def test_what_nobody_saw_is_a_hole():
    """In the far corner of the second room, seen from a point that only knows the first."""
    pose = camera((1.5, -1.5, 1.5), -45)
    _, holes = render([coloured((-3, -2, 1.5))], pose, VIEW)
    assert holes > 0.9
    _, holes = render([coloured((1, -1, 1.5))], pose, VIEW)
    assert holes < 0.1


@pytest.mark.parametrize("pixels", [1.3, 2.5, 4])
def test_the_far_wall_does_not_shine_through_sparse_points_of_a_near_one(pixels):
    near = wall(1, 1.2, pixels / VIEW.focal, RED)
    far = wall(4, 20, 2 / VIEW.focal, BLUE)
    image, _ = render([near, far], np.eye(4), VIEW)
    edge = 0.6 * VIEW.focal
    middle = image[:, round(160 - edge + 8) : round(160 + edge - 8)]
    assert share(middle, RED) == 1
    beside = np.delete(image, np.s_[round(160 - edge - 8) : round(160 + edge + 8)], 1)
    assert share(beside, BLUE) == 1


def test_a_window_and_a_gap_in_a_near_wall_stay_open():
    points, colours = wall(1, 4, 0.5 / VIEW.focal, RED)
    x, y, _ = np.abs(points * VIEW.focal).T
    window, slit = (x < 12) & (y < 12), (np.abs(points[:, 0] * VIEW.focal - 60) < 7) & (y < 60)
    keep = ~(window | slit)
    far = wall(4, 10, 2 / VIEW.focal, BLUE)
    image, holes = render([(points[keep], colours[keep]), far], np.eye(4), VIEW)
    assert holes < 0.005  # rounded corners
    assert share(image[88:104, 152:168], BLUE) == 1
    assert share(image[50:142, 215:224], BLUE) == 1
    assert share(image, BLUE) * image[..., 0].size == pytest.approx(24 * 24 + 14 * 120, rel=0.05)


def test_a_slope_hides_nothing_of_itself():
    """A floor that is seen at a grazing angle has nearer points on one side of each pixel."""
    hall = Room(size=(16, 8, 2.5), boxes=())
    middle = camera((-7.5, 0, 1.5), 0)
    cloud = cloud_of_equirectangular(hall.equirectangular(middle, 1024), middle, stride=1)
    colours = texture(cloud.astype(np.float64))
    image, holes = render([(cloud, colours)], middle, VIEW)
    assert holes < 0.001  # in the far corners, from where all is nearer
    assert psnr(image, cast(middle, hall)) > 22


@pytest.mark.parametrize(("gap", "wanted"), [(1, 0), (2, 0), (3, 3 * 192), (5, 5 * 192)])
def test_gaps_of_one_or_two_pixels_are_no_holes(gap, wanted):
    cloud = (VIEW.rays() * 2).astype(np.float32)
    seen = np.delete(cloud, np.s_[100 : 100 + gap], 1).reshape(-1, 3)
    image, holes = render([(seen, np.full_like(seen, 99, np.uint8))], np.eye(4), VIEW)
    assert holes == wanted / (192 * 320)
    assert share(image, (99, 99, 99)) == 1


def test_filling_changes_nothing_that_was_seen():
    pose = camera((-0.5, 0.6, 1.4), 160, 10)
    empty, holes = render([coloured(ENDS[1])], pose, VIEW, fill=False)
    filled, again = render([coloured(ENDS[1])], pose, VIEW)
    black = (empty == 0).all(-1)
    assert holes == again
    assert 0.02 < holes <= black.mean()
    np.testing.assert_array_equal(filled[~black], empty[~black])
    assert (filled[black].max(-1) > 0).all()


def test_equal_points_give_equal_views_in_any_order_and_in_any_number_of_clouds():
    rng = np.random.default_rng(1)
    pose = camera((0.2, 1, 1.5), 30)
    first, holes = render([coloured(spot) for spot in ENDS], pose, VIEW)
    points = np.concatenate([coloured(spot)[0] for spot in ENDS])
    colours = np.concatenate([coloured(spot)[1] for spot in ENDS])
    for _ in range(3):
        order = rng.permutation(len(points))
        image, share_of_holes = render([(points[order], colours[order])], pose, VIEW)
        np.testing.assert_array_equal(image, first)
        assert share_of_holes == holes


@pytest.mark.parametrize(
    "points", [[], [[0, 0, -1]], [[0, 0, 0]], [[np.nan, 0, 1]], [[0, 0, 1e38]]]
)
def test_nothing_in_the_image_is_all_hole(points):
    cloud = np.array(points, np.float32).reshape(-1, 3)
    image, holes = render([(cloud, np.zeros(cloud.shape, np.uint8))], np.eye(4), VIEW)
    assert image.shape == (192, 320, 3)
    assert holes > 0.99 and not image.any()
    image, holes = render([], np.eye(4), VIEW)
    assert holes == 1 and not image.any()


def test_views_of_a_few_pixels_work():
    cloud = wall(2, 8, 0.02, RED)
    for height, width in ((1, 1), (1, 7), (5, 1), (3, 2)):
        image, holes = render([cloud], np.eye(4), View(height=height, width=width, fov=1.0))
        assert image.shape == (height, width, 3) and holes == 0
        assert share(image, RED) == 1
