"""Matterport3D, against a house that is cast directly: pictures, motions, axes, what is hidden."""

import itertools
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines import sources
from pipelines.episode import Unit
from pipelines.ops import pose
from pipelines.ops.controls import compose, wrap
from pipelines.ops.unify import unify
from pipelines.sources import _panorama_scan as panorama_scan
from pipelines.sources._matterport3d_scan import Scan
from pipelines.sources._names import Range
from pipelines.sources._tour import Pano, Tour
from schemas import DataError
from schemas.controls import INDEX
from tests.pipelines import raycast
from tests.pipelines.tour import OPENCV, poses, psnr, read

CAMERA = [INDEX[f"camera_d{axis}"] for axis in ("x", "y", "z", "roll", "pitch", "yaw")]
FOV = math.radians(90)
ROOM = np.array(
    [[[0.0, 0, 0], [8, 6, 2.8]], [[1, 4.6, 0], [2.2, 5.6, 1]], [[5, 0.3, 0], [6, 1, 1.6]]]
)


@pytest.fixture(scope="module")
def scan(tmp_path_factory) -> tuple[Path, raycast.Scene, dict[str, np.ndarray]]:
    """Three panoramas in a room with two boxes, poses tilted and turned as a tripod's are."""
    scene = raycast.Scene(ROOM)
    panos = {
        name: raycast.looking(np.array(place), yaw, 0.012)
        for name, place, yaw in (
            ("pano_a", (2.0, 2.6, 1.5), 0.7),
            ("pano_b", (4.1, 3.3, 1.55), -2.1),
            ("pano_c", (6.3, 2.4, 1.45), 2.9),
        )
    }
    path = tmp_path_factory.mktemp("matterport3d")
    beside = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]])
    raycast.write_scan(path, "scan0", scene, panos, beside, face=1024)
    return path, scene, panos


def test_frames_are_what_a_camera_there_sees(scan):
    """192×320, every fifth frame of looks and all of the rest, at the poses that records say."""
    path, scene, panos = scan
    rays = raycast.pinhole(192, 320, FOV, 3)
    worst: dict[str, float] = {}
    for name, (passport, frames) in read(path, looks=1).items():
        kind, start = name.split(".")[1:3]
        at = poses(passport, panos[start][:3, 3], [frame.control for frame in frames])
        for i in range(0, len(frames), 5 if kind == "look" else 1):
            wanted = scene.image(at[i] @ OPENCV, rays, 3)
            worst[kind] = min(worst.get(kind, 99), psnr(frames[i].image(), wanted))
    assert worst.keys() == {"look", "steps", "go", "walk"}
    assert min(worst.values()) >= 32, worst


def test_moves_are_those_of_the_scene(scan):
    path, _, panos = scan
    for name, (passport, frames) in read(path, looks=0, steps=0).items():
        ids = re.findall(r"pano_\w", passport)
        places = [panos[pano][:3, 3] for pano in ids]
        controls = [frame.control for frame in frames]
        assert not controls[0].any()
        moves = [control for control in controls[1:] if control[:3].any()]
        for (a, b), control in zip(itertools.pairwise(places), moves, strict=True):
            way = b - a
            level = np.array([np.hypot(way[0], way[1]), 0, way[2], 0, 0, 0])
            np.testing.assert_allclose(control, level, atol=1e-5)
        end = poses(passport, places[0], controls)[-1]
        np.testing.assert_allclose(end[:3, 3], places[-1], atol=1e-4)
        if ".go." in name:
            assert frames[0].text == frames[1].text == pose.describe(moves[0])


@pytest.fixture(scope="module")
def ball(tmp_path_factory) -> tuple[Path, np.ndarray, np.ndarray]:
    """A panorama in a room with a red ball, somewhere that no axis points at."""
    place, at = np.array([3.1, 4.9, 2.1]), raycast.looking(np.array([2.0, 2.6, 1.5]), 0.7, 0.012)
    path = tmp_path_factory.mktemp("ball")
    scene = raycast.Scene(ROOM, place)
    raycast.write_scan(path / "skybox", "scan0", scene, {"pano_a": at}, np.zeros((1, 1)))
    for camera, change in (("opencv", (1, 1, 1, 1)), ("opengl", (1, -1, -1, 1))):
        folder = path / camera
        folder.mkdir()
        distance, image = raycast.equirectangular(scene, at, 512)
        Image.fromarray(image).save(folder / "a.png")
        units = np.round(distance * 1000).astype(np.uint16)
        Image.fromarray(units).save(folder / "a_depth.png")
        entry = {"image": "a.png", "depth": "a_depth.png"}
        entry |= {"pose": (at @ np.diag(change)).tolist()}
        text = json.dumps({"world": "z_up", "camera": camera, "panoramas": [entry]})
        (folder / "poses.json").write_text(text)
    return path, place, at


def red(image: np.ndarray) -> np.ndarray | None:
    """Column and row of the ball, from the image's middle."""
    rows, columns = np.nonzero((image[..., 0] > 235) & (image[..., 1] < 25) & (image[..., 2] < 25))
    middle = np.array([image.shape[1] / 2, image.shape[0] / 2])
    return np.array([columns.mean(), rows.mean()]) + 0.5 - middle if len(rows) > 20 else None


@pytest.mark.parametrize("form", ["skybox", "opencv", "opengl"])
def test_the_ball_is_where_it_is_and_turning_left_moves_it_right(ball, form):
    """The connectivity's OpenCV pose, and a poses.json in either frame; all of them row-major."""
    path, place, at = ball
    name = "matterport3d" if form == "skybox" else "panorama"
    met = 0
    for passport, frames in read(path / form, name, looks=8, steps=8).values():
        before = None
        for where, frame in zip(
            poses(passport, at[:3, 3], [f.control for f in frames]), frames, strict=True
        ):
            found = red(frame.image())
            forward, left, up = where[:3, :3].T @ (place - where[:3, 3])
            if found is not None and max(abs(left), abs(up)) < 0.5 * forward:
                wanted = np.array([-left, -up]) / forward * 160
                np.testing.assert_allclose(found, wanted, atol=2.5)
                met += 1
                turned = frame.control[5]
                if before is not None and abs(frame.control[4]) < 1e-9 and abs(turned) > 0.02:
                    assert (found[0] - before[0]) * turned > 0
            before = found
    assert met > 20


def test_depth_counts_from_the_bottom_left_and_poses_are_opengl(ball):
    """The photographs' principal point is off the middle, so another origin moves every point."""
    path, place, at = ball
    scan = Scan(str(path / "skybox"), "scan0", "connectivity/scan0_connectivity.json", [])
    cloud = scan.panos["pano_a"].cloud
    assert cloud is not None
    points = cloud()
    near = points[np.linalg.norm(points - place, axis=1) < 0.3]
    assert len(near) > 30
    np.testing.assert_allclose(np.linalg.norm(near - place, axis=1), 0.15, atol=0.01)
    low, high = points.min(0), points.max(0)
    np.testing.assert_allclose([low, high], ROOM[0], atol=0.02)
    eye = at[:3, 3]
    towards = (place - eye) / np.linalg.norm(place - eye)
    assert (towards @ (near - eye).T).max() < np.linalg.norm(place - eye)  # its near side


@pytest.mark.parametrize("form", ["opencv", "opengl"])
def test_distances_of_a_panorama_are_points(ball, form):
    path, place, _ = ball
    cloud = panorama_scan.Scan(str(path / form), 5.0).panos["a.png"].cloud
    assert cloud is not None
    points = cloud()
    np.testing.assert_allclose([points.min(0), points.max(0)], ROOM[0], atol=0.02)
    near = points[np.linalg.norm(points - place, axis=1) < 0.3]
    np.testing.assert_allclose(np.linalg.norm(near - place, axis=1), 0.15, atol=0.01)


def turned(text: str) -> float:
    """Degrees to the left that the words say."""
    found = re.findall(r"turn (left|right) ([\d.]+)°", text)
    return sum(float(x) if side == "left" else -float(x) for side, x in found)


@given(seed=st.integers(0, 2**31), places=st.lists(st.tuples(*[st.floats(-3, 3)] * 3), min_size=2))
@settings(max_examples=60)
def test_composed_deltas_are_the_way_to_the_end(seed, places):
    """Any episode's, through float32 and the resampler's composition; and the words agree."""
    names = [f"p{i:03d}" for i in range(len(places))]
    panos = {
        name: Pano(
            id=name,
            at=raycast.looking(np.array(place), 1.0),
            neighbours=tuple(x for x in names if x != name),
            image=lambda: pytest.fail("nothing is decoded"),
        )
        for name, place in zip(names, places, strict=True)
    }
    unit = Unit(
        id="",
        uri="",
        split=None,
        cost=0,
        episodes=0,
        frames=0,
        version="",
        options={"seed": seed, "looks": 1, "min_overlap": 0},
    )
    tour = Tour("scan", panos, unit, sources.get("matterport3d").INFO)
    for episode in tour.episodes(Range("", "p003"), [], []):
        if isinstance(episode, DataError):
            assert not episode.counts
            continue
        steps = list(unify(episode.frames, episode.controls))
        controls = np.stack([step.control for step in steps]).astype(np.float32)
        start = episode.id.split(".")[2]
        stops = re.findall(r"p\d+", episode.source_range)
        each = poses(episode.source_range, panos[start].position, [row[CAMERA] for row in controls])
        whole = each[0] @ pose.matrix(compose(controls)[CAMERA])
        np.testing.assert_allclose(whole, each[-1], atol=1e-4)
        np.testing.assert_allclose(each[-1][:3, 3], panos[stops[-1]].position, atol=1e-4)
        headings = [math.atan2(at[1, 0], at[0, 0]) for at in each]
        turns = np.degrees(wrap(np.diff(headings, prepend=headings[0])))
        said = zip((step.text for step in steps), turns, strict=True)
        for text, run in itertools.groupby(said, lambda pair: pair[0]):
            assert abs(sum(turn for _, turn in run) - turned(text)) < 0.06, text
