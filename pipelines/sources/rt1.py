"""RT-1: a mobile manipulator in office kitchens, 3 Hz, one camera and an instruction per episode.

Reads the RLDS release `fractal20220817_data/0.1.0`. An action is a command in the frame of the
robot's base: by how much to move and turn the end effector, to close the gripper, to drive the
base. No document gives the unit of `world_vector`. It is metres: the positions reached, in the same
frame, span an arm's reach (0.3 to 0.9 ahead), and SimplerEnv moves a simulated arm by it as it is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipelines.episode import UNIT_BYTES, Control, Episode, Frame, SourceInfo, Unit
from pipelines.ops import tfrecord
from pipelines.ops.images import EncodedImage, decode_image, encode_jpeg, is_black
from pipelines.sources import _rlds, _rlds_write
from schemas import DataError, UsageError, example

# field of steps/action -> slots, unit, bounds ± (those of the authors' tokenizer), scale
_ACTION = {
    "world_vector": (("ee_dx", "ee_dy", "ee_dz"), "m", 1.0, 1.0),
    "rotation_delta": (("ee_droll", "ee_dpitch", "ee_dyaw"), "rad", math.pi / 2, 1.0),
    # relative, and of the opposite sense to the slot: 1 closes, -1 opens, 0 holds
    "gripper_closedness_action": (("gripper_delta",), "1", 1.0, -1.0),
    "base_displacement_vector": (("base_dx", "base_dy"), "m", 1.0, 1.0),
    "base_displacement_vertical_rotation": (("base_dyaw",), "rad", math.pi, 1.0),
}
_CONTROLS = tuple(
    Control(name=f"{field}[{i}]", slot=slot, unit=unit, low=-bound, high=bound, scale=scale)
    for field, (slots, unit, bound, scale) in _ACTION.items()
    for i, slot in enumerate(slots)
)

INFO = SourceInfo(
    name="rt1",
    title="RT-1 (fractal20220817_data)",
    homepage="https://robotics-transformer1.github.io",
    license="CC BY 4.0",
    version="0.1.0",
    reads="RLDS release fractal20220817_data 0.1.0 (TFRecord)",
    layout="""\
fractal20220817_data/0.1.0/
  dataset_info.json
  features.json
  fractal20220817_data-train.tfrecord-00000-of-01024 …   any of the 1024 shards""",
    obtain="""\
gsutil -m cp -r gs://gresearch/robotics/fractal20220817_data/0.1.0 . (119 GB; the two JSON files and
some shards are enough); PATH is that folder. robotics-transformer-x.github.io lists it too.""",
    native_fps=3.0,
    target_fps=3.0,
    controls=_CONTROLS,
    fit="stretch",
    examples="70k",
    weight=0.1,
)

STEPS_PER_EPISODE = 43  # mean of the release; only the plan's estimate rests on it


def units(path: str, target_bytes: int = UNIT_BYTES) -> Iterator[Unit]:
    """Byte ranges of the TFRecord files of `…/fractal20220817_data/0.1.0`.

    Raises:
        UsageError: if it is not RT-1's release.
    """
    folder = _rlds.folder(INFO.name, path)
    wanted = [("action", field) for field in _ACTION]
    wanted += [("observation", field) for field in ("image", "natural_language_instruction")]
    lacking = ["/".join(names) for names in wanted if not _rlds.has_feature(folder, *names)]
    if lacking:
        raise UsageError(
            f"{path}: features.json has no steps/{lacking[0]}, so this is not the release of RT-1;"
            f" `unisim sources {INFO.name}` shows what is expected"
        )
    yield from _rlds.units(folder, target_bytes, STEPS_PER_EPISODE)


def episodes(unit: Unit) -> Iterator[Episode | DataError]:
    """Every trajectory of the unit, without its padding."""
    yield from _rlds.episodes(unit, lambda raw: [_episode(Steps(raw))])


def _episode(steps: Steps) -> Episode:
    return steps.episode(_CONTROLS, led_here(steps.actions()), _instructions(steps))


def _instructions(steps: Steps) -> list[str]:
    """The instruction of each frame: that of the step whose action led to it."""
    texts = steps.strings("observation/natural_language_instruction")
    return [texts[0], *texts[:-1]]


def led_here(actions: np.ndarray) -> np.ndarray:
    """`[t, n]`: the action of step t leads to frame t + 1. Nothing is known to lead to the first
    frame (a padding's action is no motion), and the terminal step's action means nothing."""
    return np.concatenate([np.zeros_like(actions[:1]), actions[:-1]])


class Steps:
    """The steps of one record without its padding: the all-black frames before the first real one.

    Attributes:
        raw: the record.
        padding: how many steps were left out.
        images: the JPEGs of the others, at least one.

    Raises:
        DataError: from the constructor, if no frame is left; from the methods, if a feature is
            absent, of another type, or not one per step.
    """

    def __init__(self, raw: _rlds.RawEpisode):
        self.raw = raw
        images = raw.example.bytes_list("steps/observation/image")
        self.padding = sum(1 for _ in itertools.takewhile(_black, images))
        self.images = images[self.padding :]
        if not self.images:
            raise DataError(f"no frame, or only black ones ({self.padding})", stage="decode")

    def numbers(self, name: str, width: int) -> np.ndarray:
        """A feature's numbers, `[t, width]`."""
        values = self.raw.example.numbers(f"steps/{name}", (-1, width))
        self._check(name, len(values))
        return values[self.padding :]

    def strings(self, name: str) -> list[str]:
        """A feature's strings, one per step."""
        values = self.raw.example.bytes_list(f"steps/{name}")
        self._check(name, len(values))
        try:
            return [value.decode() for value in values[self.padding :]]
        except UnicodeDecodeError as e:
            raise DataError(f"{name} is not UTF-8 ({e})") from e

    def _check(self, name: str, found: int) -> None:
        steps = self.padding + len(self.images)
        if found != steps:
            raise DataError(f"{name} has {found} steps, but there are {steps} images")

    def actions(self) -> np.ndarray:
        """The action of each step, float `[t, 10]` in the order of `INFO.controls`."""
        widths = {field: len(slots) for field, (slots, *_) in _ACTION.items()}
        return np.hstack([self.numbers(f"action/{field}", n) for field, n in widths.items()])

    def episode(
        self, table: tuple[Control, ...], controls: np.ndarray, texts: list[str]
    ) -> Episode:
        """The steps as an episode; `controls` `[t, n]` and `texts` are what led to each frame."""
        return Episode(
            id=self.raw.id,
            controls=table,
            source_range=self.raw.source_range,
            frames=[
                Frame(
                    time=i / 3.0,
                    image=EncodedImage(image),
                    control=controls[i],
                    text=texts[i],
                )
                for i, image in enumerate(self.images)
            ],
        )


def _black(image: bytes) -> bool:
    return is_black(decode_image(image))


def fake(root: Path, seed: int, *, traps: bool = True) -> Path:
    """A tiny RT-1 release with one moving square, in two shards.

    With `traps` one trajectory is padded with black frames on its left, one commands 22.09 m, one
    drives the base, one has no instruction; terminal actions are wild, one image is damaged, and
    the bytes of one record do not match their checksum.
    """
    rng = np.random.default_rng(seed)
    folder = root / "fractal20220817_data" / "0.1.0"
    folder.mkdir(parents=True)
    items = [
        _fake_episode(rng, int(rng.integers(5, 24)), trap if traps else -1) for trap in range(6)
    ]
    if traps:
        items.append(items[5].replace(b"\xff\xd9", b"\x00\x00"))
    write_rlds(folder, [items[:3], items[3:]], FEATURES)
    if traps:
        path = folder / "fractal20220817_data-train.tfrecord-00000-of-00002"
        _rlds_write.spoil(path, tfrecord.OVERHEAD + len(items[0]) // 2)  # in the first record
    return folder


def _fake_episode(rng: np.random.Generator, n: int, trap: int) -> bytes:
    actions = rng.normal(0, 0.05, (n, 10)).astype(np.float32)
    actions[:, 6] = rng.choice([-1, 0, 0, 0, 1], n)
    actions[:, 7:] = 0
    modes = np.ones(n, int)
    modes[-1] = 0
    frames = np.full((n, 48, 64, 3), 90, np.uint8)
    where = 24 + np.cumsum(rng.integers(-3, 4, (n, 2)), 0)
    for frame, (y, x) in zip(frames, np.clip(where, 0, 40), strict=True):
        frame[y : y + 8, x : x + 8] = (200, 40, 40)
    text = "pick the red square"
    if trap >= 0:
        actions[-1] = 1e6
    if trap == 1:
        frames[:3] = 0
    elif trap == 2:
        actions[1, 1] = 22.09
    elif trap == 3:
        actions[2, :6], actions[2, 7:], modes[2] = 0, (0.2, -0.1, 0.5), 2
    elif trap == 4:
        text = ""
    return record(actions, modes, frames, text)


def record(actions: np.ndarray, modes: np.ndarray, frames: np.ndarray, text: str) -> bytes:
    """One trajectory as a serialized Example.

    Args:
        actions: float `[t, 10]` in the order of `INFO.controls`.
        modes: int `[t]`, the class of `terminate_episode`: 0 ends, 1 moves the arm, 2 the base.
        frames: uint8 `[t, h, w, 3]`.
    """
    n = len(actions)
    ends = np.cumsum([len(slots) for slots, *_ in _ACTION.values()])[:-1]
    parts = dict(zip(_ACTION, np.split(actions.astype(np.float32), ends, 1), strict=True))
    position = np.arange(n)
    return example.encode(
        {f"steps/action/{field}": part for field, part in parts.items()}
        | {
            "steps/action/terminate_episode": np.eye(3, dtype=int)[modes],
            "steps/observation/image": [encode_jpeg(frame) for frame in frames],
            "steps/observation/natural_language_instruction": [text.encode()] * n,
            "steps/observation/natural_language_embedding": np.zeros((n, 512), np.float32),
            "steps/observation/base_pose_tool_reached": np.zeros((n, 7), np.float32),
            "steps/observation/gripper_closed": np.zeros((n, 1), np.float32),
            "steps/is_first": position == 0,
            "steps/is_last": position == n - 1,
            "steps/is_terminal": position == n - 1,
            "steps/reward": (position == n - 1).astype(np.float32),
            "aspects/success": True,
            "attributes/task_family_name": "pick",
        }
    )


FEATURES = {
    "action": (*_ACTION, "terminate_episode"),
    "observation": ("image", "natural_language_instruction"),
}


def write_rlds(
    folder: Path, shards: list[list[bytes]], features: dict[str, tuple[str, ...]]
) -> None:
    """Writes records as the TFDS folder of this release.

    Args:
        features: those of a step, name -> names within it; none for a plain one.
    """
    leaf = _rlds_write.LEAF
    step = {
        name: _rlds_write.features(dict.fromkeys(names, leaf)) if names else leaf
        for name, names in features.items()
    }
    splits = {"train": shards}
    _rlds_write.write(folder, "fractal20220817_data", _rlds_write.steps(step), splits)
