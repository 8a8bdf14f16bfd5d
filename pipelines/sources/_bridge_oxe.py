"""Bridge as Open X-Embodiment has it: the RLDS release `bridge/0.1.0`.

One camera at 480×640; the action is a dict and the instruction part of the observation.
`terminate_episode` is not read: the last action, where it is set, has no outcome on record anyway.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipelines.episode import Episode
from pipelines.ops.images import EncodedImage, encode_jpeg
from pipelines.sources import _bridge, _rlds, _rlds_write
from schemas import DataError, example

RELEASE = "0.1.0"
CONTROLS = _bridge.table(
    RELEASE,
    (
        *(f"world_vector[{i}]" for i in range(3)),
        *(f"rotation_delta[{i}]" for i in range(3)),
        "open_gripper",
    ),
)


def views(raw: _rlds.RawEpisode) -> Iterator[Episode]:
    """The trajectory as its only camera saw it. Raises DataError."""
    fields = raw.example
    moves = fields.numbers("steps/action/world_vector", (-1, 3))
    turns = fields.numbers("steps/action/rotation_delta", (-1, 3))
    gripper = fields.numbers("steps/action/open_gripper", (-1, 1))
    states = fields.numbers("steps/observation/state", (-1, 7))
    images = fields.bytes_list("steps/observation/image")
    n = len(moves)
    counts = [len(x) for x in (moves, turns, gripper, states, images)]
    if not n or counts != [n] * 5:
        raise DataError(
            f"{counts} moves, turns, grippers, states and images, wanted as many of each"
        )
    texts = _bridge.instructions(fields, "steps/observation/natural_language_instruction", n)
    if not _bridge.used(EncodedImage(image) for image in dict.fromkeys(images)):
        raise DataError("the camera is black in every frame", stage="decode")
    actions = np.concatenate([moves, turns, gripper], axis=1)
    yield Episode(
        id=raw.id,
        controls=CONTROLS,
        source_range=raw.source_range,
        frames=_bridge.frames(
            [EncodedImage(image) for image in images],
            _bridge.motions(actions[:-1], states[0, 6]),
            texts,
        ),
    )


def fake(root: Path, seed: int, *, traps: bool = True, episodes: int = 4) -> Path:
    """A tiny `bridge/0.1.0` with a moving square, train and test split, an empty instruction.

    With `traps` also a record with a damaged image, one without its gripper, and one whose bytes
    do not match its checksum.
    """
    rng = np.random.default_rng(seed)
    folder = root / "bridge" / RELEASE
    folder.mkdir(parents=True)
    texts = ["push the square left", "", "move the square", "lift the square"]
    items = [_fake_record(rng, int(rng.integers(5, 20)), texts[i % 4]) for i in range(episodes)]
    train, test = items[:-1], items[-1:]
    if traps:
        train.append(_fake_record(rng, 6, "push the square", image_bytes=300))
        train.append(items[0].replace(b"open_gripper", b"opengripper_"))
    step = {
        "action": _rlds_write.features(
            dict.fromkeys(
                ("world_vector", "rotation_delta", "open_gripper", "terminate_episode"),
                _rlds_write.LEAF,
            )
        ),
        "observation": _rlds_write.features(
            dict.fromkeys(
                ("image", "natural_language_embedding", "natural_language_instruction", "state"),
                _rlds_write.LEAF,
            )
        ),
        **dict.fromkeys(("is_first", "is_last", "is_terminal", "reward"), _rlds_write.LEAF),
    }
    described = _rlds_write.steps(step)
    _rlds_write.write(folder, "bridge", described, {"train": [train], "test": [test]})
    if traps:
        path = folder / "bridge-train.tfrecord-00000-of-00001"
        _rlds_write.spoil(path, path.stat().st_size // 2)
    return folder


def _fake_record(
    rng: np.random.Generator, n: int, text: str, image_bytes: int | None = None
) -> bytes:
    actions, states, frames = _bridge.fake_push(rng, n)
    last = np.arange(n) == n - 1
    return example.encode(
        {
            "steps/action/world_vector": actions[:, :3].astype(np.float32),
            "steps/action/rotation_delta": actions[:, 3:6].astype(np.float32),
            "steps/action/open_gripper": actions[:, 6].astype(bool),
            "steps/action/terminate_episode": last.astype(np.float32),
            "steps/observation/image": [encode_jpeg(frame)[:image_bytes] for frame in frames],
            "steps/observation/state": states.astype(np.float32),
            "steps/observation/natural_language_instruction": [text.encode()] * n,
            "steps/observation/natural_language_embedding": np.zeros((n, 512), np.float32),
            "steps/is_first": np.arange(n) == 0,
            "steps/is_last": last,
            "steps/is_terminal": last,
            "steps/reward": last.astype(np.float32),
        }
    )
