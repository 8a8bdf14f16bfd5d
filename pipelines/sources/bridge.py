"""BridgeData V2: a WidowX arm on toy kitchens, one to four cameras, 5 Hz.

Reads the RLDS release `bridge_dataset/1.0.0`. An episode is the action sequence of one trajectory;
each camera that is in use gives one view of it. `has_image_*` is 0 even where images exist, so an
unused camera is known by its black frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from pipelines.episode import UNIT_BYTES, Control, Episode, Frame, SourceInfo, Unit
from pipelines.ops import tfrecord
from pipelines.ops.images import decode_image, encode_jpeg, is_black
from pipelines.sources import _rlds
from schemas import DataError, UsageError, example
from schemas.table import dump_json

_MOVES = ("ee_dx", "ee_dy", "ee_dz")
_TURNS = ("ee_droll", "ee_dpitch", "ee_dyaw")
_CONTROLS = (
    *(Control(name=f"action[{i}]", slot=slot, unit="m") for i, slot in enumerate(_MOVES)),
    # a turn across ±π is stored as almost a full turn the other way
    *(
        Control(name=f"action[{i}]", slot=slot, unit="rad", wrap=True)
        for i, slot in enumerate(_TURNS, 3)
    ),
    Control(name="action[6]", slot="gripper", unit="1", low=0.0, high=1.0),
)

INFO = SourceInfo(
    name="bridge",
    title="BridgeData V2",
    homepage="rail-berkeley.github.io/bridgedata",
    license="CC BY 4.0",
    version="1.0.0",
    reads="RLDS release 1.0.0 (TFRecord)",
    layout="""\
bridge_dataset/1.0.0/
  dataset_info.json
  features.json
  bridge_dataset-train.tfrecord-00000-of-01024 …""",
    obtain="rail-berkeley.github.io/bridgedata links the RLDS release; PATH is its version folder",
    native_fps=5.0,
    target_fps=5.0,
    controls=_CONTROLS,
    fit="stretch",
    examples="2k",
    weight=0.05,
)

_CAMERAS = ("image_0", "image_1", "image_2", "image_3")
_STEPS_PER_EPISODE = 38  # mean of the release; only the plan's estimate rests on it


def units(path: str, target_bytes: int = UNIT_BYTES) -> Iterator[Unit]:
    """Byte ranges of the TFRecord files of `…/bridge_dataset/1.0.0`."""
    folder = _rlds.folder(INFO.name, path)
    if not _rlds.has_feature(folder, "observation", "image_0"):
        raise UsageError(
            f"{path}: features.json has no steps/observation/image_0, so this is not the 1.0.0"
            " release of Bridge; `unisim sources bridge` shows what is expected"
        )
    yield from _rlds.units(folder, target_bytes, _STEPS_PER_EPISODE)


def episodes(unit: Unit) -> Iterator[Episode | DataError]:
    """Every used camera's view of every trajectory of the unit."""
    for raw in _rlds.read(unit):
        if isinstance(raw, DataError):
            yield raw
            continue
        try:
            yield from list(_views(raw))
        except DataError as e:
            yield DataError(e.reason, stage=e.stage, key=raw.id, where=raw.source_range)


def _views(raw: _rlds.RawEpisode) -> Iterator[Episode]:
    actions = raw.example.numbers("steps/action", (-1, 7))
    states = raw.example.numbers("steps/observation/state", (-1, 7))
    if not len(actions) or len(states) != len(actions):
        raise DataError(f"{len(actions)} actions and {len(states)} states", stage="read")
    controls = _controls(actions, states)
    texts = _texts(raw.example, len(actions))
    found = False
    for camera in _CAMERAS:
        images = raw.example.bytes_list(f"steps/observation/{camera}")
        if len(images) != len(actions):
            raise DataError(f"{len(images)} images in {camera} for {len(actions)} actions")
        if not _used(images):
            continue
        found = True
        yield Episode(
            id=raw.id,
            view=camera,
            controls=_CONTROLS,
            source_range=raw.source_range,
            frames=[
                Frame(
                    time=i / 5.0,
                    image=partial(decode_image, image),
                    control=controls[i],
                    text=texts[i],
                )
                for i, image in enumerate(images)
            ],
        )
    if not found:
        raise DataError("every camera is black in every frame", stage="decode")


def _controls(actions: np.ndarray, states: np.ndarray) -> np.ndarray:
    """`[t, 7]`: the action of step t leads to frame t + 1, so the last action, whose outcome was
    not recorded, is not used. The gripper starts as the state says: 1 is open in both."""
    controls = np.zeros((len(actions), 7))
    controls[1:] = actions[:-1]
    controls[0, 6] = np.clip(states[0, 6], 0.0, 1.0)
    return controls


def _texts(fields: example.Example, n: int) -> list[str]:
    """The instruction of each frame: that of the step whose action led to it."""
    raw = fields.bytes_list("steps/language_instruction")
    if len(raw) != n:
        raise DataError(f"{len(raw)} instructions for {n} actions")
    try:
        texts = [text.decode() for text in raw]
    except UnicodeDecodeError as e:
        raise DataError(f"the instruction is not UTF-8 ({e})") from e
    return [texts[0], *texts[:-1]]


def _used(images: list[bytes]) -> bool:
    """Whether any frame shows something. A camera that was off repeats one black JPEG, so mostly
    a single decode tells."""
    return any(not is_black(decode_image(image)) for image in dict.fromkeys(images))


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
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(bytes(data))
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
    for split, shards in splits.items():
        for i, items in enumerate(shards):
            path = folder / f"{name}-{split}.tfrecord-{i:05d}-of-{len(shards):05d}"
            with path.open("wb") as stream:
                tfrecord.write(stream, items)
    leaf = {"pythonClassName": "tensorflow_datasets.core.features.tensor_feature.Tensor"}
    observation = {"featuresDict": {"features": dict.fromkeys((*_CAMERAS, "state"), leaf)}}
    step = {"featuresDict": {"features": {"action": leaf, "observation": observation}}}
    features = {"featuresDict": {"features": {"steps": {"sequence": {"feature": step}}}}}
    info = {
        "name": name,
        "version": "1.0.0",
        "fileFormat": "tfrecord",
        "splits": [
            {"name": split, "shardLengths": [str(len(items)) for items in shards]}
            for split, shards in splits.items()
        ],
    }
    (folder / "features.json").write_text(dump_json(features))
    (folder / "dataset_info.json").write_text(dump_json(info))
