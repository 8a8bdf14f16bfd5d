"""Folders of equirectangular images, against a house that is cast directly."""

import json
import math
import re

import numpy as np
import pytest
from PIL import Image

from pipelines.ops import hdr
from tests.pipelines import raycast
from tests.pipelines.tour import OPENCV, poses, psnr, read
from tests.samples import sample

BOXES = np.array(
    [[[0.0, 0, 0], [8, 6, 2.8]], [[1, 4.6, 0], [2.2, 5.6, 1]], [[5, 0.3, 0], [6, 1, 1.6]]]
)
PLACES = {"a.jpg": (2.0, 2.6, 1.5), "b.jpg": (4.1, 3.3, 1.55)}


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """Two panoramas with depth, in the frames that Habitat and glTF have: OpenGL, y up."""
    scene = raycast.Scene(BOXES)
    path = tmp_path_factory.mktemp("panorama")
    y_up = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    entries, panos = [], {}
    for number, (name, place) in enumerate(PLACES.items()):
        at = raycast.looking(np.array(place), 0.7 - 2 * number, 0.012)
        image = raycast.equirectangular(scene, at, 1024)[1]
        Image.fromarray(image).save(path / name, "JPEG", quality=98, subsampling=0)
        units = np.round(raycast.equirectangular(scene, at, 512)[0] * 500).astype(np.uint16)
        Image.fromarray(units).save(path / f"{number}.png")
        opengl = at @ np.diag([1, -1, -1, 1])
        entry = {"image": name, "pose": (y_up @ opengl).ravel().tolist(), "depth": f"{number}.png"}
        entries.append(entry)
        panos[name] = at
    value = {"world": "y_up", "camera": "opengl", "depth_per_metre": 500, "panoramas": entries}
    (path / "poses.json").write_text(json.dumps(value))
    return path, scene, panos, y_up[:3, :3]


def test_frames_are_what_a_camera_there_sees(house):
    """As for Matterport's skyboxes; the world that they are said in is z up, like ours."""
    path, scene, panos, _ = house
    rays = raycast.pinhole(192, 320, math.radians(90), 3)
    worst: dict[str, float] = {}
    for name, (passport, frames) in read(path, "panorama", looks=1).items():
        kind = name.split(".")[1]
        start = re.search(r"\w\.jpg", passport)
        assert start
        controls = [frame.control for frame in frames]
        at = poses(passport, panos[start[0]][:3, 3], controls)
        for i in range(0, len(frames), 5 if kind == "look" else 1):
            wanted = scene.image(at[i] @ OPENCV, rays, 3)
            worst[kind] = min(worst.get(kind, 99), psnr(frames[i].image(), wanted))
        if kind == "go":
            assert "by depth" in passport
            places = [panos[x][:3, 3] for x in re.findall(r"\w\.jpg", passport)]
            np.testing.assert_allclose(at[-1][:3, 3], places[-1], atol=1e-4)
    assert worst.keys() == {"look", "steps", "go"}
    assert min(worst.values()) >= 32, worst


def test_views_in_between_are_on_the_way(house):
    """Rendered from the points of both: near to what a camera there would see, evenly spaced."""
    path, scene, panos, _ = house
    rays = raycast.pinhole(192, 320, math.radians(90))
    options = {"looks": 0, "steps": 0, "walks": 0, "between": 3, "max_hole": 0.2}
    found = read(path, "panorama", **options)
    assert len(found) == 2
    for passport, frames in found.values():
        places = [panos[x][:3, 3] for x in re.findall(r"\w\.jpg", passport)]
        at = poses(passport, places[0], [frame.control for frame in frames])
        assert len(frames) == 5
        np.testing.assert_allclose(at[-1][:3, 3], places[-1], atol=1e-5)
        np.testing.assert_allclose(at[2][:3, 3], (places[0] + places[1]) / 2, atol=1e-5)
        for i in (1, 2, 3):
            assert psnr(frames[i].image(), scene.image(at[i] @ OPENCV, rays)) > 20
            assert frames[i].overlap is None
        assert len({frame.text for frame in frames}) == 1


def test_views_with_holes_are_dropped_and_their_motion_is_kept(house, tmp_path):
    """Nobody measured what is 10° to 30° above the horizon: a third of the picture."""
    path, _, panos, _ = house
    for file in path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    for number in range(2):
        depth = np.array(Image.open(path / f"{number}.png"))
        depth[170:228] = 0
        Image.fromarray(depth).save(tmp_path / f"{number}.png")
    options = {"looks": 0, "steps": 0, "walks": 0, "between": 3}
    for most, count in ((0.9, 5), (0.05, 2)):
        for passport, frames in read(tmp_path, "panorama", **options, max_hole=most).values():
            places = [panos[x][:3, 3] for x in re.findall(r"\w\.jpg", passport)]
            at = poses(passport, places[0], [frame.control for frame in frames])
            np.testing.assert_allclose(at[-1][:3, 3], places[-1], atol=1e-5)
            assert len(frames) == count


def test_images_without_poses_are_level(tmp_path):
    """Blue above the horizon, green below it: in every frame that looks ahead, half and half."""
    image = np.zeros((128, 256, 3), np.uint8)
    image[:64, :, 2] = image[64:, :, 1] = 255
    Image.fromarray(image).save(tmp_path / "field.png")
    found = read(tmp_path, "panorama")
    assert {name.split(".")[1] for name in found} == {"look", "steps"}
    passport, frames = found["scan.steps.field.png.0"]
    ahead = 0
    for at, frame in zip(
        poses(passport, np.zeros(3), [f.control for f in frames]), frames, strict=True
    ):
        if abs(at[2, 0]) < 1e-6:
            pixels = frame.image()
            assert (pixels[:90, :, 2] > 250).all() and (pixels[-90:, :, 1] > 250).all()
            ahead += 1
    assert ahead > 2


def test_the_real_panorama_turns_the_right_way():
    """Its HDR is shown well exposed, and a turn to the left moves what is seen to the right."""
    path = sample("panorama/lythwood_room_1k.hdr")
    whole = hdr.tone_map(hdr.decode_hdr(path.read_bytes()))
    assert 60 < whole.mean() < 190 and (whole == 255).mean() < 0.1
    met = 0
    for passport, frames in read(path.parent, "panorama", looks=4, steps=0).values():
        at = poses(passport, np.zeros(3), [frame.control for frame in frames])
        for i in range(1, len(frames)):
            roll, pitch, yaw = frames[i].control[3:]
            if abs(yaw) > 0.03 and max(abs(roll), abs(pitch), abs(at[i][2, 0])) < 0.15:
                before, after = (frames[k].image().mean(2) for k in (i - 1, i))
                alike = [
                    np.corrcoef(_middle(before), _middle(np.roll(after, -shift, 1)))[0, 1]
                    for shift in range(-30, 31)
                ]
                assert (np.argmax(alike) - 30) * yaw > 0 and max(alike) > 0.4
                met += 1
    assert met > 5


def _middle(image: np.ndarray) -> np.ndarray:
    return image[60:130, 40:280].ravel()
