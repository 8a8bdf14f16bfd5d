"""Habitat: the motion of a real trajectory by another reading, and what may be wrong with any."""

import copy
import dataclasses
import gzip
import io
import json
import math
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.episode import Episode, Unit
from pipelines.ops import video
from pipelines.sources import habitat
from schemas import SLOTS, DataError, Tier, UsageError
from tests.command import unisim
from tests.samples import sample
from tests.table import read_table

BASE = [[slot.name for slot in SLOTS].index(f"base_{axis}") for axis in ("dx", "dy", "dyaw")]
TRAJECTORY = "habitat/trajectory/habitat-sim_trajectory_data.json"
OBJECTNAV = "habitat/objectnav_hm3d_v2"
SCENE = "TEEsavR23oF"
IDENTITY = [0.0, 0.0, 0.0, 1.0]


def state(position, rotation) -> dict[str, Any]:
    return {"position": position, "rotation": rotation, "sensor_data": None}


def demonstration(name: str | int = "0", scene=SCENE, n=4, **changes) -> dict[str, Any]:
    """`n` steps forward from the origin and a STOP, as Habitat-Web records them."""
    walk = [state([0.0, 0.0, -0.25 * (i + 1)], IDENTITY) for i in range(n)]
    entries = [{"action": "MOVE_FORWARD", "agent_state": s} for s in walk]
    ends = [{"action": "STOP", "agent_state": copy.deepcopy(s)} for s in (walk[0], walk[-1])]
    return {
        "episode_id": name,
        "scene_id": f"hm3d_v0.2/train/00800-{scene}/{scene}.basis.glb",
        "start_position": [0.0, 0.0, 0.0],
        "start_rotation": list(IDENTITY),
        "object_category": "bed",
        "goals": [],
        "reference_replay": [ends[0], *entries, ends[1]],
    } | changes


def write_content(root: Path, episodes, scene=SCENE, split="train", **more) -> Path:
    path = root / split / "content" / f"{scene}.json.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(json.dumps({"episodes": episodes} | more).encode()))
    return path


def write_frames(folder: Path, n: int, suffix="png") -> None:
    """`n` images whose brightness is three times their number."""
    folder.mkdir(parents=True)
    for i in range(n):
        Image.new("RGB", (64, 48), (3 * i,) * 3).save(folder / f"{i:06d}.{suffix}")


def corpus(root: Path, episodes: list[dict], n=6) -> Path:
    """A content file of the episodes, and `n` frames for each."""
    write_content(root, episodes)
    for episode in episodes:
        write_frames(root / "train" / "frames" / SCENE / str(episode["episode_id"]), n)
    return root


def read(
    path: Path, target: int = 1 << 24, options: dict[str, float] | None = None
) -> dict[str, Any]:
    """Every item by id, its frames read: (episode, frames) or DataError; units as from a plan."""
    found: dict[str, Any] = {}
    for unit in habitat.units(str(path), target):
        kept = Unit(**json.loads(json.dumps(dataclasses.asdict(unit))))
        try:
            for item in habitat.episodes(dataclasses.replace(kept, options=options or {})):
                key = item.key if isinstance(item, DataError) else item.id
                key += "'" * (key in found)
                found[key] = item
                if isinstance(item, Episode):
                    try:
                        frames = list(item.frames)
                        [frame.image() for frame in frames]
                        found[key] = item, frames
                    except DataError as e:
                        found[key] = e
        except DataError as e:
            found[unit.id] = e
    return found


def motion(item) -> np.ndarray:
    """`[t, 3]`: forward, left, turn of each frame."""
    return np.stack([frame.control for frame in item[1]])


def key(name="0") -> str:
    return f"train.{SCENE}.{name}"


def real_demonstration() -> tuple[dict[str, Any], np.ndarray]:
    """The real trajectory in the native format, and its motion as scipy reads it, `[59, 3]`."""
    from scipy.spatial.transform import Rotation

    data = json.loads(sample(TRAJECTORY).read_text())
    positions, rotations = np.array(data["positions"]), Rotation.from_quat(data["rotations"])
    assert len(positions) == 58
    states = [state(p, r) for p, r in zip(data["positions"], data["rotations"], strict=True)]
    replay = [
        {"action": action.upper(), "agent_state": after}
        for action, after in zip(data["actions"][:-1], states[1:], strict=True)
    ]
    ends = [{"action": "STOP", "agent_state": s} for s in (states[1], states[-1])]
    episode = demonstration(
        "A1FYMTQ3YSEOQ9:36W0OB37HYHHYJIPVEGYQHN4HPPZH4",
        start_position=data["positions"][0],
        start_rotation=data["rotations"][0],
        reference_replay=[ends[0], *replay, ends[1]],
    )
    wanted = np.zeros((59, 3))
    for i in range(1, 58):
        back = rotations[i - 1].inv()
        local = back.apply(positions[i] - positions[i - 1])
        wanted[i] = -local[2], -local[0], (back * rotations[i]).as_euler("YXZ")[0]
    return episode, wanted


def pose_after(steps: np.ndarray) -> tuple[complex, complex]:
    """Place and heading, as complex numbers, after SE(2) steps from the origin."""
    place, heading = 0j, 1 + 0j
    for dx, dy, turn in steps:
        place += heading * complex(dx, dy)
        heading *= complex(math.cos(turn), math.sin(turn))
    return place, heading


def test_the_motion_of_the_real_trajectory_is_that_which_scipy_reads(tmp_path):
    episode, wanted = real_demonstration()
    item = read(corpus(tmp_path, [episode], 59))[key(episode["episode_id"])]
    np.testing.assert_allclose(motion(item), wanted, atol=1e-6)
    np.testing.assert_allclose(motion(item)[9], [0, 0, math.radians(10)], atol=1e-6)
    assert (np.abs(motion(item)[12:28]) < 1e-6).all()  # into a wall, all of it MOVE_FORWARD


def test_at_half_the_rate_the_real_motion_is_whole_beside_the_real_episodes(tmp_path):
    """The whole way by the real commands, within the default error budget."""
    episode, wanted = real_demonstration()
    root, out = tmp_path / "raw", tmp_path / "table"
    shutil.copytree(sample(OBJECTNAV), root)
    write_content(root, [episode])
    write_frames(root / "train" / "frames" / SCENE / episode["episode_id"], 59)
    flags = ["--source", f"habitat={root}", "--out", out, "--fps", "habitat=2.5"]
    unisim("prepare", *flags, "--tier", "48x64:raw")
    assert "0 violations" in unisim("audit", out).stdout
    chunks = read_table(out, Tier(48, 64, "raw"))
    kept = np.arange(0, 59, 2)
    assert {chunk.text for chunk in chunks} == {"navigate to a bed"}
    assert {chunk.episode_id for chunk in chunks} == {key(episode["episode_id"])}
    assert {chunk.split for chunk in chunks} == {"train"}
    assert {chunk.source_range for chunk in chunks} == {"episodes[0], measured motion"}
    names = {SLOTS[i].name for i in np.flatnonzero(chunks[0].control_mask)}
    assert names == {"base_dx", "base_dy", "base_dyaw"}
    frames = np.concatenate([chunk.frames for chunk in chunks])
    np.testing.assert_array_equal(frames.max((1, 2, 3)), 3 * kept)
    times = np.concatenate([chunk.times for chunk in chunks])
    np.testing.assert_allclose(times, kept / 5, atol=1e-5)
    controls = np.concatenate([chunk.controls for chunk in chunks])[:, BASE]
    for i, end in enumerate(kept):
        there, theirs = pose_after(controls[: i + 1]), pose_after(wanted[: end + 1])
        np.testing.assert_allclose(there, theirs, atol=1e-5)
    lost = pq.read_table(out / "dead_letters.parquet").to_pylist()
    assert len(lost) == 15 and {row["episodes"] for row in lost} == {0}
    assert {row["stage"] for row in lost} == {"annotate"}
    assert all("no demonstration" in row["reason"] for row in lost)
    assert {row["source_uri"] for row in lost} == {f"val_mini/content/{SCENE}.json.gz"}


def test_the_real_episodes_are_declared_losses_one_by_one():
    with gzip.open(sample(OBJECTNAV) / "val_mini" / "content" / f"{SCENE}.json.gz") as file:
        names = [episode["episode_id"] for episode in json.load(file)["episodes"]]
    found = read(sample(OBJECTNAV))
    assert list(found) == sorted(f"val_mini.{SCENE}.{name}" for name in names)
    assert all(isinstance(e, DataError) and not e.counts for e in found.values())
    (unit,) = habitat.units(str(sample(OBJECTNAV)))
    assert (unit.split, unit.episodes, unit.frames) == ("val", 0, 0)


@pytest.mark.parametrize("turn", [10.0, 30.0])
def test_without_poses_the_nominal_action_counts(tmp_path, turn):
    episode, wanted = real_demonstration()
    for entry in episode["reference_replay"]:
        entry["agent_state"] = None
    del episode["start_position"], episode["start_rotation"]
    item = read(corpus(tmp_path, [episode], 59), options={"turn_degrees": turn})[
        key(episode["episode_id"])
    ]
    assert item[0].source_range == "episodes[0], nominal motion"
    names = [entry["action"] for entry in episode["reference_replay"]]
    forward = [0.25 * (name == "MOVE_FORWARD") for name in names]
    turned = [math.radians(turn) * (name == "TURN_LEFT") for name in names]
    np.testing.assert_allclose(motion(item), np.c_[forward, np.zeros(59), turned], atol=1e-12)
    assert abs(motion(item) - wanted).max() > 0.2  # it cannot know of the walls


def test_every_nominal_action(tmp_path):
    names = ["TURN_RIGHT", "LOOK_UP", "turn_left", "MOVE_BACKWARD", "LOOK_DOWN", "STOP"]
    replay = [{"action": name} for name in ["STOP", *names]]
    item = read(
        corpus(tmp_path, [demonstration(reference_replay=replay)], 7), options={"step_metres": 0.5}
    )
    wanted = np.zeros((7, 3))
    wanted[1, 2], wanted[3, 2], wanted[4, 0] = math.radians(-30), math.radians(30), -0.5
    np.testing.assert_allclose(motion(item[key()]), wanted, atol=1e-12)


def test_a_pose_after_unknown_ones_puts_the_whole_motion_right(tmp_path):
    episode, wanted = real_demonstration()
    for i in (4, 5, 10, 20):
        episode["reference_replay"][i]["agent_state"] = None
    item = read(corpus(tmp_path, [episode], 59))[key(episode["episode_id"])]
    assert item[0].source_range == "episodes[0], partly measured motion"
    found = motion(item)
    np.testing.assert_allclose(found[[4, 5, 10, 20]][:, 0], [0.25, 0.25, 0.25, 0.25])
    for end in (3, 6, 9, 11, 19, 21, 58):
        np.testing.assert_allclose(
            pose_after(found[: end + 1]), pose_after(wanted[: end + 1]), atol=1e-6
        )


def test_the_placeholder_is_skipped_and_frame_0_is_the_start(tmp_path):
    """The placeholder repeats the state after the first action; here it is not even a pose."""
    episode = demonstration(start_position=[0.0, 0.0, 0.1])
    episode["reference_replay"][0]["agent_state"] = {"position": "nowhere"}
    found = motion(read(corpus(tmp_path, [episode]))[key()])
    wanted = np.zeros((6, 3))
    wanted[1:5, 0] = [0.35, 0.25, 0.25, 0.25]
    np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_height_and_the_sign_and_length_of_a_quaternion_do_not_matter(tmp_path):
    episode = demonstration(start_rotation=[0.0, 0.0, 0.0, -1.0], start_position=[0, 7, 0])
    for i, entry in enumerate(episode["reference_replay"]):
        entry["agent_state"]["position"][1] = 0.2 * i
        entry["agent_state"]["rotation"] = [0.0, 0.0, 0.0, 0.999]
    plain = read(corpus(tmp_path / "a", [demonstration()]))[key()]
    stairs = read(corpus(tmp_path / "b", [episode]))[key()]
    np.testing.assert_allclose(motion(stairs), motion(plain), atol=1e-12)


@pytest.mark.parametrize(("stop_frame", "wanted"), [(1.0, 6), (0.0, 5)])
def test_there_is_a_frame_at_the_start_and_one_per_action(tmp_path, stop_frame, wanted):
    for n in (4, 5, 6, 7):
        root = corpus(tmp_path / str(n), [demonstration()], n)
        found = read(root, options={"stop_frame": stop_frame})[key()]
        assert isinstance(found, tuple) == (n == wanted)
        if n == wanted:
            wanted_motion = [0.0, 0.25, 0.25, 0.25, 0.25, 0.0][:n]
            np.testing.assert_allclose(motion(found)[:, 0], wanted_motion, atol=1e-12)
        else:
            count = n if n < wanted else "more"
            assert f"{count} frames, wanted {wanted}" in found.reason
            assert "habitat.stop_frame=0" in found.reason
    unstopped = demonstration()
    unstopped["reference_replay"].pop()
    root = corpus(tmp_path / "unstopped", [unstopped], 5)
    assert isinstance(read(root, options={"stop_frame": stop_frame})[key()], tuple)


@pytest.mark.parametrize("place", ["train/frames", "frames", "train/content"])
@pytest.mark.parametrize("suffix", ["jpg", "png", "mp4"])
def test_the_places_and_forms_of_frames(tmp_path, place, suffix):
    write_content(tmp_path, [demonstration()])
    target = tmp_path / place / SCENE / "0"
    if suffix == "mp4":
        target.parent.mkdir(parents=True)
        shades = [np.full((48, 64, 3), 30 * i, np.uint8) for i in range(6)]
        video.write_video(f"{target}.mp4", shades, 10.0, "libx264")
    else:
        write_frames(target, 6, suffix)
        (target / "README.txt").write_text("not a frame")
    episode, frames = read(tmp_path)[key()]
    assert [frame.time for frame in frames] == [i / 5 for i in range(6)]
    means = [frame.image().mean() for frame in frames]
    step = 30 if suffix == "mp4" else 3
    np.testing.assert_allclose(means, step * np.arange(6), atol=2)
    assert {frame.text for frame in frames} == {"navigate to a bed"}
    assert episode.controls == habitat.INFO.controls and episode.fps is None


def test_instance_image_navigation_names_the_one_object(tmp_path):
    named = demonstration("1", goal_object_id="12", goal_image_id=3, object_category="tv_monitor")
    keyed = demonstration("2", goal_object_id="13", object_category=None)
    strange = demonstration("3", goal_object_id=[], object_category=None)
    corpus(tmp_path, [named, keyed, strange])
    goals = {f"{SCENE}_13": {"object_category": "chest_of_drawers"}, f"{SCENE}_14": None}
    write_content(tmp_path, [named, keyed, strange], goals=goals)
    found = read(tmp_path)
    assert found[key("1")][1][0].text == "navigate to the tv monitor"
    assert found[key("2")][1][0].text == "navigate to the chest of drawers"
    assert found[key("3")].stage == "annotate"


def test_ids_may_repeat_in_another_scene_but_not_in_one(tmp_path):
    corpus(tmp_path, [demonstration("0"), demonstration("1")])
    twice = [demonstration("0"), demonstration("1"), demonstration("0"), demonstration(1)]
    write_content(tmp_path, twice)
    other = "kL2mN4pQ6rS"
    write_content(tmp_path, [demonstration("0", other)], other)
    write_frames(tmp_path / "train" / "frames" / other / "0", 6)
    found = read(tmp_path)
    assert isinstance(found[key("0")], tuple) and isinstance(found[key("1")], tuple)
    assert isinstance(found[f"train.{other}.0"], tuple)
    for name in ("0'", "1'"):
        assert "stands before it" in found[key(name)].reason


def change(path: str, value: Any):
    """A change of the value at a dotted path of an episode."""

    def apply(episode: dict) -> dict:
        at: Any = episode
        *parents, last = [int(p) if p.isdigit() else p for p in path.split(".")]
        for parent in parents:
            at = at[parent]
        at[last] = value
        return episode

    return apply


STATE = "reference_replay.2.agent_state"
BAD = [
    (lambda episode: "not an object", "annotate", "wanted an object"),
    (lambda episode: None, "annotate", "wanted an object"),
    (change("episode_id", "../0"), "annotate", "no episode_id"),
    (change("episode_id", "/etc/passwd"), "annotate", "no episode_id"),
    (change("episode_id", None), "annotate", "no episode_id"),
    (change("episode_id", 1.5), "annotate", "no episode_id"),
    (change("episode_id", "0\n"), "annotate", "no episode_id"),
    (change("episode_id", "\ud800"), "annotate", "no episode_id"),
    (change("scene_id", "hm3d/../x.glb"), "annotate", "scene_id"),
    (change("scene_id", ["x"]), "annotate", "scene_id"),
    (change("scene_id", "hm3d/other/other.basis.glb"), "annotate", f"not of {SCENE}"),
    (change("object_category", ""), "annotate", "goal category"),
    (change("object_category", None), "annotate", "goal category"),
    (change("object_category", {}), "annotate", "goal category"),
    (change("object_category", "x" * 10_000), "annotate", "10000 characters"),
    (change("reference_replay", []), "act", "no action"),
    (change("reference_replay", {"0": 1}), "act", "no action"),
    (change("reference_replay", [{"action": "STOP"}]), "act", "no action"),
    (change("reference_replay.2", None), "act", "entry 2"),
    (change("reference_replay.2.action", 1), "act", "entry 2"),
    (change("reference_replay.0.action", "MOVE_FORWARD"), "act", "wanted the placeholder STOP"),
    (change("reference_replay.2", {"action": "FLY"}), "act", "neither a pose nor a known action"),
    (change(STATE, []), "act", "position"),
    (change(f"{STATE}.position", [0, 0]), "act", "position"),
    (change(f"{STATE}.position", [0, 0, math.nan]), "act", "position"),
    (change(f"{STATE}.position", [0, 0, math.inf]), "act", "position"),
    (change(f"{STATE}.position", [0, 0, 1e308]), "act", "position"),
    (change(f"{STATE}.position", [0, 0, 10**400]), "act", "position"),
    (change(f"{STATE}.position", [0, 0, "1"]), "act", "position"),
    (change(f"{STATE}.position", [0, 0, True]), "act", "position"),
    (change(f"{STATE}.rotation", None), "act", "rotation"),
    (change(f"{STATE}.rotation", [0, 0, 0, 0]), "act", "length is 0"),
    (change(f"{STATE}.rotation", [math.sqrt(0.5), 0, 0, math.sqrt(0.5)]), "act", "straight up"),
    (change("start_position", None), "act", "start: position"),
    (change("start_rotation", [0, 0, 0, math.nan]), "act", "start: rotation"),
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_a_bad_episode_costs_itself_alone(tmp_path, number):
    spoil, stage, reason = BAD[number]
    good = [demonstration("1"), demonstration("2")]
    corpus(tmp_path, [good[0], demonstration("0"), good[1]])
    write_content(tmp_path, [good[0], spoil(demonstration("0")), good[1]])
    found = read(tmp_path)
    assert len(found) == 3
    (lost,) = (item for item in found.values() if isinstance(item, DataError))
    assert lost.stage == stage and reason in lost.reason and lost.counts
    assert lost.key in (key("0"), "episodes[1]") and lost.where == "episodes[1]"
    assert "\n" not in lost.reason and len(lost.reason) < 300
    lost.reason.encode()
    plain = read(corpus(tmp_path / "plain", [demonstration("1")]))[key("1")]
    for name in ("1", "2"):
        np.testing.assert_array_equal(motion(found[key(name)]), motion(plain))


def test_an_action_that_is_unknown_is_no_matter_where_the_pose_is_known(tmp_path):
    episode = change("reference_replay.2.action", "FLY")(demonstration())
    np.testing.assert_allclose(
        motion(read(corpus(tmp_path, [episode]))[key()])[2], [0.25, 0, 0], atol=1e-12
    )


def test_frames_without_a_demonstration_are_a_loss_that_counts(tmp_path):
    corpus(tmp_path, [demonstration("0"), demonstration("1")])
    silent = demonstration("0", reference_replay=None)
    unseen = demonstration("2", reference_replay=None)
    write_content(tmp_path, [silent, demonstration("1"), unseen])
    found = read(tmp_path)
    assert found[key("0")].counts and not found[key("2")].counts
    assert isinstance(found[key("1")], tuple)


def test_an_episode_whose_frames_are_missing_says_where_they_were_sought(tmp_path):
    corpus(tmp_path, [demonstration("0")])
    write_content(tmp_path, [demonstration("0"), demonstration("1")])
    found = read(tmp_path)
    assert isinstance(found[key("0")], tuple)
    assert found[key("1")].counts and f"no frames {SCENE}/1/" in found[key("1")].reason
    assert "train/frames" in found[key("1")].reason


def png_bomb() -> bytes:
    """A PNG of a few bytes that announces 60,000 x 60,000 pixels."""

    def part(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    size = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    parts = part(b"IHDR", size) + part(b"IDAT", zlib.compress(bytes(1000))) + part(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def double(folder: Path) -> None:
    shutil.copy(folder / "000002.png", folder / "000002.jpg")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: (folder / "000002.png").unlink(), "frame 000002 is missing"),
        (lambda folder: (folder / "000000.png").unlink(), "frame 000000 is missing"),
        (lambda folder: (folder / "000005.png").write_bytes(b""), "not a JPEG"),
        (lambda folder: (folder / "000005.png").write_bytes(png_bomb()), "pixels"),
        (lambda folder: (folder / "000005.png").rename(folder / "5.png"), "5 frames, wanted 6"),
        (double, "two images for frame 000002"),
        (lambda folder: [p.rename(p.with_suffix(".gif")) for p in folder.iterdir()], "0 frames"),
    ],
)
def test_bad_images_cost_their_episode(tmp_path, spoil, reason):
    corpus(tmp_path, [demonstration("0"), demonstration("1")])
    spoil(tmp_path / "train" / "frames" / SCENE / "0")
    found = read(tmp_path)
    assert isinstance(found[key("1")], tuple)
    assert isinstance(found[key("0")], DataError) and reason in found[key("0")].reason


def test_an_image_too_large_to_be_one_is_not_read(tmp_path, monkeypatch):
    corpus(tmp_path, [demonstration("0"), demonstration("1")])
    image = tmp_path / "train" / "frames" / SCENE / "0" / "000003.png"
    image.write_bytes(image.read_bytes() + bytes(5000))
    monkeypatch.setattr(habitat, "_MAX_IMAGE", 4000)
    found = read(tmp_path)
    assert "more than 4000" in found[key("0")].reason and found[key("0")].uri == str(image)
    assert isinstance(found[key("1")], tuple)


@pytest.mark.parametrize("n", [4, 7])
def test_a_video_of_another_length_costs_its_episode(tmp_path, n):
    corpus(tmp_path, [demonstration("1")])
    write_content(tmp_path, [demonstration("0"), demonstration("1"), demonstration("2")])
    folder = tmp_path / "train" / "frames" / SCENE
    shades = [np.full((48, 64, 3), 30 * i, np.uint8) for i in range(n)]
    video.write_video(str(folder / "0.mp4"), shades, 10.0, "libx264")
    data = (folder / "0.mp4").read_bytes()
    (folder / "2.mp4").write_bytes(data[: len(data) // 2])
    found = read(tmp_path)
    assert f"{n if n < 6 else 'more'} frames, wanted 6" in found[key("0")].reason
    assert found[key("0")].uri == str(folder / "0.mp4")
    assert isinstance(found[key("2")], DataError) and isinstance(found[key("1")], tuple)


def test_what_goes_after_the_plan_costs_itself(tmp_path):
    corpus(tmp_path, [demonstration("0"), demonstration("1")])
    (unit,) = habitat.units(str(tmp_path))
    items = habitat.episodes(unit)
    frames = iter(next(items).frames)  # type: ignore[union-attr]
    images = [frame.image for frame in frames]
    shutil.rmtree(tmp_path / "train" / "frames" / SCENE / "0")
    with pytest.raises(DataError, match="has gone"):
        images[2]()
    assert isinstance(next(items), Episode)
    Path(unit.uri).unlink()
    with pytest.raises(DataError, match="gone since the plan"):
        next(habitat.episodes(unit))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "not a whole gzip file"),
        (gzip.compress(b'{"episodes": []}', mtime=0)[:-9], "not a whole gzip file"),
        (gzip.compress(b'{"episodes": []}', mtime=0)[:12] + b"\xff" * 20, "not a whole gzip file"),
        (gzip.compress(b'{"episodes": [', mtime=0), "not JSON"),
        (gzip.compress(b'{"episodes": "\xff\xfe"}', mtime=0), "not JSON"),
        (gzip.compress(b"[" * 200_000, mtime=0), "not JSON"),
        (gzip.compress(b'{"episodes": [' + b"1" * 10_000 + b"]}", mtime=0), "not JSON"),
        (gzip.compress(b"[]", mtime=0), "wanted an object"),
        (gzip.compress(b'{"episodes": {}}', mtime=0), "no list of episodes"),
        (gzip.compress(b"{}", mtime=0), "no list of episodes"),
    ],
)
def test_a_bad_file_costs_its_scene(tmp_path, content, reason):
    corpus(tmp_path, [demonstration()])
    bad = tmp_path / "train" / "content" / "kL2mN4pQ6rS.json.gz"
    bad.write_bytes(content)
    found = read(tmp_path)
    assert isinstance(found[key()], tuple)
    assert reason in found["train.kL2mN4pQ6rS.0000"].reason


def test_a_gzip_bomb_is_given_up_early(tmp_path, monkeypatch):
    corpus(tmp_path, [demonstration()])
    bad = tmp_path / "train" / "content" / "kL2mN4pQ6rS.json.gz"
    bad.write_bytes(gzip.compress(b" " * (64 << 20)))
    given: list[int] = []

    class Counted(gzip.GzipFile):
        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            given.append(len(data))
            return data

    monkeypatch.setattr(habitat, "MAX_JSON", 3 << 20)
    monkeypatch.setattr(habitat.gzip, "GzipFile", Counted)
    found = read(tmp_path)
    assert "more than 3145728 bytes" in found["train.kL2mN4pQ6rS.0000"].reason
    assert isinstance(found[key()], tuple)
    assert sum(given) < 6 << 20


def test_units_are_parts_of_scenes_and_nothing_is_opened(tmp_path, monkeypatch):
    names = [str(i) for i in range(10)]
    corpus(tmp_path, [demonstration(name) for name in names])
    whole = list(read(tmp_path))
    assert whole == [key(name) for name in names]

    def opened(*_):
        raise AssertionError("units opened a file")

    with monkeypatch.context() as patched:
        for name in ("open_read", "read", "local_copy"):
            patched.setattr(habitat.files, name, opened)
        (unit,) = habitat.units(str(tmp_path))
        single = list(habitat.units(str(tmp_path), 1))
    content = tmp_path / "train" / "content" / f"{SCENE}.json.gz"
    frames = sum(p.stat().st_size for p in (tmp_path / "train" / "frames").rglob("*.png"))
    assert unit.cost == frames + content.stat().st_size
    assert (unit.id, unit.split, unit.episodes, unit.frames) == (
        f"train.{SCENE}.0000",
        "train",
        10,
        60,
    )
    assert [u.episodes for u in single] == [1] * 10
    parts = list(habitat.units(str(tmp_path), unit.cost // 3))
    assert len(parts) == len({u.id for u in parts}) == 4
    for cut in (single, parts):
        assert sum(u.cost for u in cut) == unit.cost
    for target in (1, unit.cost // 3):
        assert list(read(tmp_path, target)) == whole


def test_a_file_is_read_once_by_units_in_a_row_and_again_when_it_has_changed(tmp_path, monkeypatch):
    names = [str(i) for i in range(4)]
    corpus(tmp_path, [demonstration(name) for name in names])
    read_by: list[str] = []
    load = habitat._load
    monkeypatch.setattr(habitat, "_load", lambda uri: read_by.append(uri) or load(uri))
    units = list(habitat.units(str(tmp_path), 1))
    found = [item for unit in units for item in habitat.episodes(unit)]
    assert [item.id for item in found] == [key(name) for name in names]  # type: ignore[union-attr]
    assert len(read_by) == 1
    list(habitat.episodes(units[0]))
    path = write_content(tmp_path, [demonstration(name, object_category="sofa") for name in names])
    (item,) = habitat.episodes(units[1])
    assert "sofa" in next(iter(item.frames)).text  # type: ignore[union-attr]
    path.unlink()
    with pytest.raises(DataError, match="gone since the plan"):
        next(habitat.episodes(units[2]))


def test_units_do_not_depend_on_the_place(tmp_path):
    here = habitat.fake(tmp_path / "a", 0)
    there = shutil.copytree(here, tmp_path / "b" / "elsewhere")
    for a, b in zip(habitat.units(str(here)), habitat.units(str(there)), strict=True):
        assert dataclasses.replace(b, uri="") == dataclasses.replace(a, uri="")


@pytest.mark.parametrize(
    ("folder", "split"),
    [("train", "train"), ("val", "val"), ("val_mini", "val"), ("minival", "val"), ("test", "test")],
)
def test_the_splits_are_the_owners(tmp_path, folder, split):
    write_content(tmp_path, [], split=folder)
    assert [unit.split for unit in habitat.units(str(tmp_path))] == [split]


def test_what_the_user_gets_wrong_is_said(tmp_path):
    with pytest.raises(UsageError, match="`unisim sources habitat` shows it") as e:
        list(habitat.units(str(tmp_path)))
    assert str(tmp_path) in str(e.value) and "content" in str(e.value)
    path = write_content(tmp_path, [], scene="a scene")
    with pytest.raises(UsageError, match="not named for a scene") as e:
        list(habitat.units(str(tmp_path)))
    assert str(path) in str(e.value)


def test_the_fake_holds_its_traps(tmp_path):
    found = read(habitat.fake(tmp_path, 0))
    good = {name for name, item in found.items() if isinstance(item, tuple)}
    a, b, c = "train.aB3dE5fG7hJ", "train.kL2mN4pQ6rS", "val.mN4pQ6rS8tU"
    assert good == {f"{a}.A1FAKE:30WORK", f"{a}.0", f"{b}.0", f"{c}.7"}
    reasons = {name: found[name].reason for name in found.keys() - good}
    assert [name for name in reasons if not found[name].counts] == [f"{a}.start_only"]
    for name, reason in {
        f"{a}.unrendered": "no frames",
        f"{a}.cut": "damaged JPEG",
        f"{a}.short": "7 frames, wanted 8",
        f"{a}.nan": "not 3 finite numbers",
        "episodes[7]": "no episode_id",
        "train.tU8vW1xY3zA.0000": "not a whole gzip file",
    }.items():
        assert reason in reasons.pop(name)
    assert list(reasons) == [f"{a}.start_only"]
    kinds = {name: found[name][0].source_range.split(", ")[1] for name in good}
    assert [name for name, kind in kinds.items() if kind == "nominal motion"] == [f"{a}.0"]


@pytest.mark.parametrize("seed", range(5))
def test_the_fake_shows_the_motion_it_states(tmp_path, seed):
    """Where nothing moved and nothing tilted the image stays; a step or a turn changes it."""
    root = habitat.fake(tmp_path, seed, traps=False)
    with gzip.open(root / "train" / "content" / "aB3dE5fG7hJ.json.gz") as file:
        episode = json.load(file)["episodes"][0]
    item = read(root)["train.aB3dE5fG7hJ.A1FAKE:30WORK"]
    shots = [frame.image().astype(int) for frame in item[1]]
    for i, row in enumerate(motion(item)[1:], 1):
        action = episode["reference_replay"][i]["action"]
        same = np.abs(shots[i] - shots[i - 1]).max() == 0
        if "LOOK" in action:
            assert np.abs(row).max() < 1e-12
        elif np.abs(row).max() < 1e-12:
            assert same
        else:
            assert action.startswith("TURN") == (abs(row[2]) > 0.1)
            assert action.startswith("MOVE") == (abs(row[0] - 0.25) < 1e-9)
    buffer = io.BytesIO((root / "train" / "train.json.gz").read_bytes())
    assert json.load(gzip.GzipFile(fileobj=buffer))["episodes"] == []
