"""Overlap of views against ray casting in two rooms with a thin wall and a door between them."""

import functools
import itertools
import math

import numpy as np
import pytest

from pipelines.ops import overlap
from pipelines.ops import pose as poses
from pipelines.ops.geometry import open3d
from pipelines.ops.view import View
from schemas import DataError

VIEW = View(height=96, width=160, fov=math.pi / 2)
SMALL = View(height=48, width=80, fov=math.pi / 2)
TAN_15, COS_30 = math.tan(math.radians(15)), math.cos(math.radians(30))
SIZE = 8, 6, 3  # of both rooms together, around the world's z axis
BOXES = (  # low and high corners: the wall at x = 0 has a door, then come furniture and a pillar
    ((-0.05, -3, 0), (0.05, 0.5, 3)),
    ((-0.05, 1.5, 0), (0.05, 3, 3)),
    ((-0.05, 0.5, 2.1), (0.05, 1.5, 3)),
    ((-3, -1, 0.7), (-2, 0, 0.75)),
    ((-3, -1, 0), (-2.95, -0.95, 0.7)),
    ((2, -2.9, 0), (3, -2.4, 1.8)),
    ((1.5, 1.8, 0), (2.1, 2.4, 1)),
    ((-1.4, 1.9, 0), (-1.1, 2.2, 3)),
)
SPOTS = (
    (-2.5, 1, 1.5),
    (-1.5, -1.6, 1.3),
    (-0.9, 1.1, 1.6),
    (1, 1, 1.5),
    (2.7, 0.3, 1.4),
    (1, -2, 1.5),
)


class Room:
    """A scene of boxes in one large box, and what cameras in it see, by ray casting."""

    def __init__(self, size=SIZE, boxes=BOXES):
        self._o3d = open3d()
        self._scene = self._o3d.t.geometry.RaycastingScene()
        width, depth, height = size
        outside = ((-width / 2, -depth / 2, 0), (width / 2, depth / 2, height))
        for low, high in (outside, *boxes):
            box = self._o3d.t.geometry.TriangleMesh.create_box(*(np.subtract(high, low).tolist()))
            self._scene.add_triangles(
                box.translate(self._o3d.core.Tensor(np.array(low, np.float32)))
            )

    def cast(self, position, rays):
        """How many times each ray `[..., 3]` goes into the way to the first surface."""
        rays = np.concatenate([np.broadcast_to(position, rays.shape), rays], -1)
        tensor = self._o3d.core.Tensor(rays.astype(np.float32))
        return self._scene.cast_rays(tensor)["t_hit"].numpy()

    def surface(self, pose, rays):
        """Where rays `[..., 3]` of a camera's frame end, in the world."""
        rays = rays @ pose[:3, :3].T
        return pose[:3, 3] + rays * self.cast(pose[:3, 3], rays)[..., None]

    def overlap(self, pose_a, pose_b, view):
        """The true share of view B that A sees, asked of four rays per pixel."""
        fine = View(height=2 * view.height, width=2 * view.width, fov=view.fov)
        points = self.surface(pose_b, fine.rays())
        x, y, z = np.moveaxis((points - pose_a[:3, 3]) @ pose_a[:3, :3], -1, 0)
        inside = (z > 0) & (2 * np.abs(x) * view.focal <= view.width * z)
        inside &= 2 * np.abs(y) * view.focal <= view.height * z
        return float((inside & (self.cast(pose_a[:3, 3], points - pose_a[:3, 3]) > 0.999)).mean())

    def matterport(self, spot, width=160):
        """The 18 depth images of a Matterport camera, as of every eighth pixel."""
        height, focal = width * 4 // 5, 1076 / 1280 * width
        x, y = np.meshgrid(np.arange(width), np.arange(height))
        matrix = [[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]]
        rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(matrix).T
        for pitch, yaw in itertools.product((-30, 0, 30), range(0, 360, 60)):
            pose = camera(spot, yaw, pitch)
            depth = self.cast(pose[:3, 3], rays @ pose[:3, :3].T)
            yield np.rint(depth * 4000).astype(np.uint16), np.array(matrix), pose

    def equirectangular(self, pose, height=512):
        """float32 `[height, 2 * height]` metres."""
        y, x = (np.mgrid[:height, : 2 * height] + 0.5) / height * math.pi
        rays = np.stack([-np.sin(x) * np.sin(y), -np.cos(y), -np.cos(x) * np.sin(y)], -1)
        return self.cast(pose[:3, 3], rays @ pose[:3, :3].T)


def camera(position, yaw, pitch=0.0, roll=0.0):
    """An OpenCV camera of the world, degrees to the left of x, downwards, and to the right."""
    angles = map(math.radians, (yaw, pitch, roll))
    return poses.change_camera(poses.facing(np.array(position), *angles), "body", "opencv")


@functools.cache
def room():
    return Room()


@functools.cache
def clouds(kind):
    """Of every spot."""
    if kind == "images":
        return [overlap.cloud_of_images(room().matterport(spot), stride=1) for spot in SPOTS]
    middles = [camera(spot, 40 * i, 5, 3) for i, spot in enumerate(SPOTS)]
    ranges = [room().equirectangular(middle) for middle in middles]
    return [
        overlap.cloud_of_equirectangular(far, middle, stride=1)
        for far, middle in zip(ranges, middles, strict=True)
    ]


def pairs(count, view):
    """Poses at the spots, half of them turned to much the same, with their true overlap."""
    rng = np.random.default_rng(4)
    for i in range(count):
        a, b = rng.integers(len(SPOTS), size=2)
        yaw = rng.uniform(-180, 180)
        other = yaw + rng.uniform(-60, 60) if i % 2 else rng.uniform(-180, 180)
        pose_a = camera(SPOTS[a], yaw, *rng.uniform(-20, 20, 2))
        pose_b = camera(SPOTS[b], other, *rng.uniform(-20, 20, 2))
        yield a, pose_a, b, pose_b, room().overlap(pose_a, pose_b, view)


def measured(kind, a, pose_a, b, pose_b, view):
    return overlap.visible_overlap(clouds(kind)[a], pose_a, clouds(kind)[b], pose_b, view)


# points


@pytest.mark.parametrize("stride", [1, 3, 8])
def test_depth_images_give_the_points_that_open3d_finds_in_them(stride):
    rng = np.random.default_rng(0)
    depth = rng.integers(1, 60_000, (48, 96)).astype(np.uint16)
    depth[rng.random(depth.shape) < 0.3] = 0
    matrix = np.array([[70.5, 0, 40.2], [0, 71.5, 31.8], [0, 0, 1]])
    pose = camera((3, -2, 1), 30, 20, 10)
    o3d = open3d()
    theirs = o3d.t.geometry.PointCloud.create_from_depth_image(
        o3d.t.geometry.Image(o3d.core.Tensor(depth)),
        o3d.core.Tensor(matrix),
        o3d.core.Tensor(poses.inverse(pose)),
        depth_scale=4000.0,
        depth_max=1e3,
        stride=stride,
    )
    ours = overlap.cloud_of_images([(depth, matrix, pose)], stride=stride)
    assert ours.dtype == np.float32
    theirs = theirs.point.positions.numpy()
    x, y, z = ((theirs - pose[:3, 3]) @ pose[:3, :3]).T
    row, column = np.rint(y / z * 71.5 + 31.8), np.rint(x / z * 70.5 + 40.2)
    np.testing.assert_allclose(ours, theirs[np.lexsort([column, row])], atol=1e-4)


def test_points_stand_image_by_image_and_row_by_row():
    rng = np.random.default_rng(1)
    depths = rng.integers(0, 3, (2, 20, 30)).astype(np.uint16) * 4000
    matrix = np.array([[25.0, 0, 14.5], [0, 25, 9.5], [0, 0, 1]])
    shifts = [camera((i, 0, 0), 0) for i in range(2)]
    cloud = overlap.cloud_of_images(zip(depths, [matrix] * 2, shifts, strict=True), stride=2)
    expected = [np.argwhere(depth[::2, ::2]) * 2 for depth in depths]
    for shift, rows, part in zip(
        shifts, expected, np.split(cloud, [len(expected[0])]), strict=True
    ):
        x, y, z = ((part - shift[:3, 3]) @ shift[:3, :3]).T
        np.testing.assert_allclose(np.stack([y / z, x / z]).T * 25 + [9.5, 14.5], rows, atol=1e-4)


@pytest.mark.parametrize("kind", ["images", "equirectangular"])
def test_points_lie_on_the_surfaces_that_were_cast(kind):
    for spot, cloud in zip(SPOTS, clouds(kind), strict=True):
        rays = cloud[:: len(cloud) // 1000] - np.array(spot)
        np.testing.assert_allclose(room().cast(np.array(spot), rays), 1, atol=2e-3)


def test_an_equirectangular_image_looks_forward_in_its_middle_and_right_of_it_to_the_right():
    distance = np.zeros((64, 128), np.float32)
    distance[32, 64], distance[32, 96], distance[4, 64], distance[32, 2] = 1, 2, 3, 4
    cloud = overlap.cloud_of_equirectangular(distance, np.eye(4), stride=1)
    up, behind, forward, right = cloud  # row by row
    np.testing.assert_allclose(forward, [0, 0, 1], atol=0.04)
    np.testing.assert_allclose(right, [2, 0, 0], atol=0.08)
    assert up[1] < -2.8 and abs(up[0]) < 0.1 and up[2] > 0
    assert behind[2] < -3.9 and behind[0] < 0


def test_a_stride_takes_the_same_points_less_often():
    distance = np.random.default_rng(2).uniform(1, 5, (32, 64)).astype(np.float32)
    pose = camera((1, 2, 3), 50)
    every = overlap.cloud_of_equirectangular(distance, pose, stride=1).reshape(32, 64, 3)
    third = overlap.cloud_of_equirectangular(distance, pose, stride=3).reshape(11, 22, 3)
    np.testing.assert_array_equal(third, every[::3, ::3])


@pytest.mark.parametrize("nothing", [0, -1, np.nan, np.inf, -np.inf, 1e30])
def test_what_is_no_distance_is_no_point(nothing):
    distance = np.full((8, 16), nothing, np.float32)
    with pytest.raises(DataError, match="all zeros") as error:
        overlap.cloud_of_equirectangular(distance, np.eye(4), stride=1)
    assert error.value.stage == "overlap"
    distance[3, 5] = 2
    assert overlap.cloud_of_equirectangular(distance, np.eye(4), stride=1).shape == (1, 3)
    np.testing.assert_array_equal(np.argwhere(overlap.readings(distance)), [[3, 5]])


def test_images_without_a_reading_are_refused_and_so_are_lenses_without_a_focal_length():
    zeros = np.zeros((8, 8), np.uint16)
    with pytest.raises(DataError, match="all zeros") as error:
        overlap.cloud_of_images([(zeros, np.eye(3), np.eye(4))] * 3)
    assert error.value.stage == "overlap"
    with pytest.raises(DataError, match="all zeros"):
        overlap.cloud_of_images([])
    bad = (0, 50), (50, -1), (50, np.nan), (np.inf, 50), (1e-300, 50), (1e300, 50)
    for matrix in (np.diag([*focals, 1.0]) for focals in bad):
        with pytest.raises(DataError, match="focal") as error:
            overlap.cloud_of_images([(zeros + 1, matrix, np.eye(4))])
        assert error.value.stage == "overlap"


# depth


def test_the_depth_of_a_pixel_is_its_nearest_point_in_whatever_order_they_come():
    rng = np.random.default_rng(3)
    pose = camera((1, -1, 2), 70, 10, 5)
    points = rng.normal(size=(300_000, 3)).astype(np.float32) * 3  # many in a pixel, and behind
    x, y, z = (points @ pose[:3, :3] - pose[:3, 3] @ pose[:3, :3]).T
    column, row = (x / z * SMALL.focal + 39.5).round(), (y / z * SMALL.focal + 23.5).round()
    seen = (z > 0) & (column >= 0) & (column < 80) & (row >= 0) & (row < 48)
    wanted = np.full((48, 80), np.inf)
    np.minimum.at(wanted, (row[seen].astype(int), column[seen].astype(int)), z[seen])
    wanted[np.isinf(wanted)] = 0
    first = overlap.depth_of(points, pose, SMALL)
    assert (np.abs(first - wanted) > 1e-4).mean() < 1e-3  # but for points on two pixels' border
    for _ in range(10):
        again = overlap.depth_of(rng.permutation(points), pose, SMALL)
        np.testing.assert_array_equal(first, again)


# overlap


@pytest.mark.parametrize("kind", ["images", "equirectangular"])
def test_overlap_is_what_ray_casting_says(kind):
    found = np.array(
        [(measured(kind, *pair[:4], VIEW), pair[4]) for pair in pairs(80, VIEW)], np.float64
    )
    error = np.abs(found[:, 0] - found[:, 1])
    assert error.max() < 0.05
    assert error.mean() < 0.005
    assert (found[:, 1] > 0.5).sum() > 10 and (found[:, 1] == 0).sum() > 10


def test_overlap_of_smaller_views_is_a_little_coarser():
    error = [abs(measured("images", *pair[:4], SMALL) - pair[4]) for pair in pairs(80, SMALL)]
    assert max(error) < 0.1
    assert np.mean(error) < 0.01


def test_noise_of_one_percent_in_the_depth_hardly_matters():
    rng = np.random.default_rng(5)
    noisy = [
        overlap.cloud_of_images(
            [
                ((depth * rng.normal(1, 0.01, depth.shape)).astype(np.uint16), matrix, pose)
                for depth, matrix, pose in room().matterport(spot)
            ],
            stride=1,
        )
        for spot in SPOTS
    ]
    error = [
        abs(overlap.visible_overlap(noisy[a], pose_a, noisy[b], pose_b, VIEW) - truth)
        for a, pose_a, b, pose_b, truth in pairs(60, VIEW)
    ]
    assert max(error) < 0.05
    assert np.mean(error) < 0.01


@pytest.mark.parametrize("view", [VIEW, SMALL])
def test_two_sides_of_a_thin_wall_share_nothing(view):
    """The wall is thinner than the tolerance: the far room is behind it, its back is at it."""
    spots = (-3, -2, 1.5), (3, -1.8, 1.5)
    a, b = (overlap.cloud_of_images(room().matterport(spot), stride=1) for spot in spots)
    for turn in (-30, -20, -10):
        facing = camera(spots[0], turn), camera(spots[1], 180 - turn)
        away = camera(spots[1], turn)
        assert room().overlap(*facing, view) == room().overlap(facing[0], away, view) == 0
        assert overlap.visible_overlap(a, facing[0], b, facing[1], view) < 0.01
        assert overlap.visible_overlap(b, facing[1], a, facing[0], view) < 0.01
        assert overlap.visible_overlap(a, facing[0], b, away, view) == 0


def test_a_floor_at_a_grazing_angle_is_seen():
    """On a floor far off, the nearest depth in a pixel is metres short of the farthest."""
    hall = Room(size=(16, 8, 2.5), boxes=())
    for forward in (0.5, 2, 4):
        spots = (-7.5, 0, 1.5), (-7.5 + forward, 0.3, 1.5)
        a, b = (overlap.cloud_of_images(hall.matterport(spot), stride=1) for spot in spots)
        pose_a, pose_b = camera(spots[0], 0, 5), camera(spots[1], 10, 5)
        for view in (VIEW, SMALL):
            found = overlap.visible_overlap(a, pose_a, b, pose_b, view)
            assert abs(found - hall.overlap(pose_a, pose_b, view)) < 0.02


def test_a_view_shares_all_with_itself_and_nothing_with_what_is_behind_it():
    for spot, cloud in zip(SPOTS, clouds("images"), strict=True):
        pose = camera(spot, 100, 10)
        assert overlap.visible_overlap(cloud, pose, cloud, pose, VIEW) == 1
        assert overlap.visible_overlap(cloud, pose, cloud, camera(spot, -80, 10), VIEW) == 0


def test_overlap_is_the_same_for_points_in_any_order():
    a, pose_a, b, pose_b = next(p[:4] for p in pairs(20, SMALL) if 0.2 < p[4] < 0.8)
    first = measured("images", a, pose_a, b, pose_b, VIEW)
    rng = np.random.default_rng(6)
    for _ in range(5):
        mixed = rng.permutation(clouds("images")[a])
        assert first == overlap.visible_overlap(mixed, pose_a, clouds("images")[b], pose_b, VIEW)


def test_what_the_first_view_does_not_know_counts_on_neither_side():
    cloud, pose = clouds("images")[0], camera(SPOTS[0], 0)
    depth = overlap.depth_of(cloud, pose, VIEW)
    blind = depth.copy()
    blind[:, :80] = 0
    assert overlap.shared(blind, pose, depth, pose, VIEW) == 1
    assert overlap.shared(depth, pose, blind, pose, VIEW) == 1
    turned = camera(SPOTS[0], 30)
    right = overlap.depth_of(cloud, turned, VIEW)
    inside = (1 + TAN_15 * (2 * COS_30 - 1)) / 2
    seen = (1 - math.tan(math.radians(30))) / 2  # what A's right half shows
    found = overlap.shared(blind, pose, right, turned, VIEW)
    assert found == pytest.approx(seen / (1 - inside + seen), abs=0.01)


def test_too_little_depth_to_compare_is_refused():
    cloud, pose = clouds("images")[0], camera(SPOTS[0], 0)
    depth = overlap.depth_of(cloud, pose, VIEW)
    few = depth.copy()
    few[:, 38:] = 0  # less than a quarter is left
    for a, b in ((few, depth), (depth, few), (depth * 0, depth), (depth, depth * 0)):
        with pytest.raises(DataError, match="can be compared") as error:
            overlap.shared(a, pose, b, pose, VIEW)
        assert error.value.stage == "overlap"


# without depth


def test_a_turn_of_thirty_degrees_shares_what_the_closed_form_says():
    """Of B's x from -tan 15° to 1 A sees the height min(1, cos 30° + x sin 30°)."""
    wanted = (1 + TAN_15 * (2 * COS_30 - 1)) / 2
    a, b = camera(SPOTS[3], 0), camera(SPOTS[3], 30)
    cloud = clouds("equirectangular")[3]
    for pair in ((a, b), (b, a)):
        assert abs(overlap.frustum_overlap(*pair, VIEW, 3.0) - wanted) < 0.005
        found = overlap.visible_overlap(cloud, pair[0], cloud, pair[1], VIEW)
        assert abs(found - wanted) < 0.005


def test_the_distance_matters_only_if_the_camera_moves():
    rng = np.random.default_rng(7)
    for _ in range(20):
        a, b = (camera((1, 2, 3), *rng.uniform(-40, 40, 3)) for _ in range(2))
        near, far = (overlap.frustum_overlap(a, b, VIEW, d) for d in (0.3, 300))
        assert near == pytest.approx(far, abs=1e-3)  # but for rays on the border of the image
    start, aside = camera((0, 0, 0), 0), camera((0, 1, 0), 0)
    shares = [overlap.frustum_overlap(start, aside, VIEW, d) for d in (0.5, 1, 2, 5, 100)]
    assert shares == sorted(shares)
    assert shares[0] < 0.3 and shares[-1] > 0.98


def test_the_frustum_of_a_flat_wall_is_what_ray_casting_says():
    """Nothing is hidden from anybody in a large empty sphere."""
    a, b = camera((0, 0, 0), 10, 5), camera((0.4, 0.1, 0.2), -15, -10, 8)
    rays = VIEW.rays() / np.linalg.norm(VIEW.rays(), axis=-1, keepdims=True)
    points = (b[:3, 3] + 2 * rays @ b[:3, :3].T - a[:3, 3]) @ a[:3, :3]
    bearing = np.degrees(np.arctan2(np.abs(points[..., 0]), points[..., 2])) <= 45
    level = np.abs(points[..., 1]) <= 0.6 * points[..., 2]
    assert overlap.frustum_overlap(a, b, VIEW, 2.0) == pytest.approx(
        (bearing & level).mean(), abs=2e-3
    )
