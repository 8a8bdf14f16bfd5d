"""BridgeData V2: a WidowX arm on toy kitchens, up to four cameras, 5 Hz.

There are three releases, told apart by what is in the folder. This file reads the RLDS release
`bridge_dataset/1.0.0`; `_bridge_oxe` reads `bridge/0.1.0` of Open X-Embodiment, `_bridge_raw` the
recordings as they came off the robot, and `_bridge` holds what they share. An episode is the action
sequence of one trajectory; each camera that is in use gives one view of it. `has_image_*` is 0 even
where images exist, so an unused camera is known by its black frames.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipelines import files
from pipelines.episode import UNIT_BYTES, Episode, SourceInfo, Unit
from pipelines.ops.images import EncodedImage, encode_jpeg
from pipelines.sources import _bridge, _bridge_oxe, _bridge_raw, _rlds, _rlds_write
from schemas import DataError, UsageError, example

RELEASE = "1.0.0"
CONTROLS = _bridge.table(RELEASE, (f"action[{i}]" for i in range(7)))

INFO = SourceInfo(
    name="bridge",
    title="BridgeData V2",
    homepage="rail-berkeley.github.io/bridgedata",
    license="CC BY 4.0",
    version=RELEASE,
    reads="RLDS releases 1.0.0 and 0.1.0 (Open X-Embodiment), or the raw recordings",
    layout="""\
one of these as PATH:
bridge_dataset/1.0.0/            RLDS, 256×256, up to four cameras
  dataset_info.json
  features.json
  bridge_dataset-train.tfrecord-00000-of-01024 …
bridge/0.1.0/                    RLDS of Open X-Embodiment, 480×640, one camera
  dataset_info.json
  features.json
  bridge-train.tfrecord-00000-of-01024 …
any folder over the dates        raw, 480×640, one to four cameras; in the table as 2.0.0
  …/2022-01-01_00-00-00/raw/traj_group0/traj0/
                                 the date tells whether the cameras lagged, as before 2021-07-23
    obs_dict.pkl, policy_out.pkl
    images0/im_0.jpg …           and images1, images2; depth_images0 is not read
    lang.txt                     may be missing; its first line is the instruction""",
    obtain="""\
1.0.0: rail.eecs.berkeley.edu/datasets/bridge_release/data/tfds/bridge_dataset/1.0.0
0.1.0: gs://gresearch/robotics/bridge/0.1.0
raw: unpack demos_*.zip and scripted_*.zip of rail.eecs.berkeley.edu/datasets/bridge_release/data
The homepage links what has moved. One release per table: the three hold the same trajectories.""",
    native_fps=_bridge.FPS,
    target_fps=_bridge.FPS,
    controls=(*CONTROLS, *_bridge_oxe.CONTROLS, *_bridge_raw.CONTROLS),
    fit="stretch",
    examples="2k",
    weight=0.05,
)

_CAMERAS = ("image_0", "image_1", "image_2", "image_3")
_TELLING = {RELEASE: ("observation", "image_0"), _bridge_oxe.RELEASE: ("action", "open_gripper")}


def units(path: str, target_bytes: int = UNIT_BYTES) -> Iterator[Unit]:
    """Byte ranges of the TFRecord files of an RLDS release, or groups of raw trajectories.

    Raises:
        UsageError: if the path holds none of the three releases.
    """
    described = (files.join(path, name) for name in ("dataset_info.json", "features.json"))
    if not any(files.exists(uri) for uri in described):
        yield from _bridge_raw.units(path, target_bytes)
        return
    folder = _rlds.folder(INFO.name, path)
    found = [release for release, at in _TELLING.items() if _rlds.has_feature(folder, *at)]
    if not found:
        raise UsageError(
            f"{path}: features.json has neither steps/observation/image_0 nor"
            " steps/action/open_gripper, so this is neither release 1.0.0 nor 0.1.0 of Bridge;"
            " `unisim sources bridge` shows what is expected"
        )
    for unit in _rlds.units(folder, target_bytes, _bridge.FRAMES_PER_EPISODE):
        yield dataclasses.replace(unit, params=unit.params | {"release": found[0]})


def episodes(unit: Unit) -> Iterator[Episode | DataError]:
    """Every used camera's view of every trajectory of the unit."""
    if unit.params["release"] == _bridge_raw.RELEASE:
        yield from _bridge_raw.episodes(unit)
        return
    views = _views if unit.params["release"] == RELEASE else _bridge_oxe.views
    yield from _rlds.episodes(unit, views)


def _views(raw: _rlds.RawEpisode) -> Iterator[Episode]:
    actions = raw.example.numbers("steps/action", (-1, 7))
    states = raw.example.numbers("steps/observation/state", (-1, 7))
    if not len(actions) or len(states) != len(actions):
        raise DataError(f"{len(actions)} actions and {len(states)} states", stage="read")
    controls = _bridge.motions(actions[:-1], states[0, 6])
    texts = _bridge.instructions(raw.example, "steps/language_instruction", len(actions))
    found = False
    for camera in _CAMERAS:
        images = raw.example.bytes_list(f"steps/observation/{camera}")
        if len(images) != len(actions):
            raise DataError(f"{len(images)} images in {camera} for {len(actions)} actions")
        # a camera that was off repeats one black JPEG
        if not _bridge.used(EncodedImage(image) for image in dict.fromkeys(images)):
            continue
        found = True
        yield Episode(
            id=raw.id,
            view=camera,
            controls=CONTROLS,
            source_range=raw.source_range,
            frames=_bridge.frames([EncodedImage(image) for image in images], controls, texts),
        )
    if not found:
        raise DataError("every camera is black in every frame", stage="decode")


fake_oxe = _bridge_oxe.fake
fake_raw = _bridge_raw.fake


def fake(root: Path, seed: int, *, traps: bool = True, episodes: int = 4) -> Path:
    """A tiny Bridge 1.0.0 with one moving square, an empty instruction and an unused camera.

    With `traps` also a record with a damaged image and one whose bytes do not match its checksum.
    """
    rng = np.random.default_rng(seed)
    folder = root / "bridge_dataset" / "1.0.0"
    folder.mkdir(parents=True)
    texts = ["push the square left", "", "move the square", "lift the square"]
    items = [_fake_episode(rng, int(rng.integers(5, 40)), texts[i % 4], i) for i in range(episodes)]
    if traps:
        items.append(items[0].replace(b"\xff\xd9", b"\x00\x00"))
    write_rlds(folder, "bridge_dataset", {"train": [items[:-1], items[-1:]]})
    if traps:
        path = folder / "bridge_dataset-train.tfrecord-00000-of-00002"
        _rlds_write.spoil(path, path.stat().st_size // 2)
    return folder


def _fake_episode(rng: np.random.Generator, n: int, text: str, number: int) -> bytes:
    actions = rng.uniform(-0.03, 0.03, (n, 7)).astype(np.float32)
    actions[:, 6] = rng.integers(0, 2, n)
    actions[0, :6] = 0
    actions[-1, 5] = 6.27
    where = 24 + np.cumsum(rng.integers(-2, 3, (n, 2)), 0)
    frames = np.full((n, 64, 64, 3), 90, np.uint8)
    for frame, (y, x) in zip(frames, np.clip(where, 0, 56), strict=True):
        frame[y : y + 8, x : x + 8] = (200, 40, 40)
    return record(actions, np.cumsum(actions, 0), frames, text, number)


def record(
    actions: np.ndarray, states: np.ndarray, frames: np.ndarray, text: str, number: int
) -> bytes:
    """One Bridge 1.0.0 episode as a serialized Example, seen by camera 0; the others are black.

    Args:
        actions, states: float `[t, 7]`.
        frames: uint8 `[t, h, w, 3]`.
    """
    n = len(actions)
    black = encode_jpeg(np.zeros_like(frames[0]))
    images = {f"steps/observation/{camera}": [black] * n for camera in _CAMERAS}
    images["steps/observation/image_0"] = [encode_jpeg(frame) for frame in frames]
    flags = {f"episode_metadata/has_{camera}": 0 for camera in _CAMERAS}
    first = np.arange(n) == 0
    return example.encode(
        images
        | flags
        | {
            "steps/action": actions.astype(np.float32),
            "steps/observation/state": states.astype(np.float32),
            "steps/language_instruction": [text.encode()] * n,
            "steps/language_embedding": np.zeros((n, 512), np.float32),
            "steps/is_first": first,
            "steps/is_last": np.zeros(n, bool),
            "steps/is_terminal": np.zeros(n, bool),
            "steps/reward": np.zeros(n, np.float32),
            "steps/discount": np.ones(n, np.float32),
            "episode_metadata/file_path": f"fake/{number:03d}/out.npy",
            "episode_metadata/episode_id": number,
            "episode_metadata/has_language": int(bool(text)),
        }
    )


def write_rlds(folder: Path, name: str, splits: dict[str, list[list[bytes]]]) -> None:
    """Writes split -> shards -> records as a TFDS folder of this release."""
    leaf = _rlds_write.LEAF
    observation = _rlds_write.features(dict.fromkeys((*_CAMERAS, "state"), leaf))
    described = _rlds_write.steps({"action": leaf, "observation": observation})
    _rlds_write.write(folder, name, described, splits)
