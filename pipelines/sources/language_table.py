"""Language Table: an arm with a stick that pushes blocks on a table, real and simulated, 10 Hz.

Reads every RLDS release that github.com/google-research/language-table lists, and the Open
X-Embodiment copy of the real one. The action of step t is the effector's target at step t + 1 less
that at step t, in metres, in the plane of the table; the terminal step's means nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipelines import files
from pipelines.episode import UNIT_BYTES, Control, Episode, Frame, SourceInfo, Unit
from pipelines.ops.images import EncodedImage, encode_jpeg
from pipelines.sources import _rlds, _rlds_write
from schemas import DataError, UsageError, example

_CONTROLS = tuple(
    # the bounds of the owners' action space (environments/language_table.py); recorded actions are
    # reported to pass them (issue 26 of their repository)
    Control(name=f"action[{i}]", slot=slot, unit="m", low=-0.1, high=0.1)
    for i, slot in enumerate(("ee_dx", "ee_dy"))
)

INFO = SourceInfo(
    name="language_table",
    title="Language Table",
    homepage="https://github.com/google-research/language-table",
    license="Apache-2.0: the owners' repository's; the data names no other",
    version="0.0.1",
    reads="RLDS release 0.0.1, real or simulated, or the OXE copy 0.1.0 (TFRecord)",
    layout="""\
language_table/0.0.1/      or language_table_sim/0.0.1/, language_table_…_sim/0.0.1/, …/0.1.0/
  dataset_info.json
  features.json
  language_table-train.tfrecord-00000 …      with -of-NNNNN in 0.1.0
""",
    obtain="""\
gsutil -m cp -r gs://gresearch/robotics/language_table/0.0.1 language_table/ (or a release named in
the homepage's list); PATH is the version folder. Real and simulated are one --source and one table
each; their episodes' ids begin with the release's name.""",
    native_fps=10.0,
    # A choice, as the paper gives no rate: all frames. A real episode has 16 steps on average, so
    # that it fills the base model's 16 frames; at half the rate half of them would be padding.
    target_fps=10.0,
    controls=_CONTROLS,
    fit="stretch",
    examples="440k real + 160k sim",
    weight=0.05,
)

# Releases and their mean numbers of steps; only the plan's estimate rests on the numbers.
_RELEASES = {
    "language_table": 16,
    "language_table_sim": 26,
    "language_table_blocktoblock_sim": 44,
    "language_table_blocktoblock_4block_sim": 39,
    "language_table_blocktoblock_oracle_sim": 65,
    "language_table_blocktoblockrelative_oracle_sim": 65,
    "language_table_blocktoabsolute_oracle_sim": 79,
    "language_table_blocktorelative_oracle_sim": 43,
    "language_table_separate_oracle_sim": 16,
}
_VERSIONS = ("0.0.1", "0.1.0")
_FEATURES = ("action", "observation/rgb", "observation/instruction")
_INSTRUCTION = 512  # bytes


def units(path: str, target_bytes: int = UNIT_BYTES) -> Iterator[Unit]:
    """Byte ranges of the TFRecord files of a version folder, real or simulated.

    Raises:
        UsageError: if the path is no such folder; one that holds such folders is told which.
    """
    if not files.exists(files.join(path, "dataset_info.json")):
        raise UsageError(f"{path}: no dataset_info.json here; {_remedy(path)}")
    folder = _rlds.folder(INFO.name, path)
    lacking = [name for name in _FEATURES if not _rlds.has_feature(folder, *name.split("/"))]
    if lacking:
        raise UsageError(
            f"{path}: features.json has no steps/{lacking[0]}, so this is not Language Table;"
            " `unisim sources language_table` shows what is expected"
        )
    for unit in _rlds.units(folder, target_bytes, 1):
        release = files.name_of(unit.uri).partition("-")[0]
        steps = _RELEASES.get(release, _RELEASES["language_table"])
        # without the release, a real episode and a simulated one would have one id
        yield dataclasses.replace(unit, id=f"{release}-{unit.id}", frames=unit.episodes * steps)


def _remedy(path: str) -> str:
    """What to give instead of a path that is no version folder."""
    places = [(v,) for v in _VERSIONS] + [(r, v) for r in _RELEASES for v in _VERSIONS]
    found = [
        place for place in places if files.exists(files.join(path, *place, "dataset_info.json"))
    ]
    if not found:
        return (
            "give the version folder of a release, such as …/language_table_sim/0.0.1;"
            " `unisim sources language_table` shows it"
        )
    names = ", ".join("/".join(place) for place in found)
    return (
        f"it holds {names}: give one of these, as --source"
        f" language_table={files.join(path, *found[0])}"
    )


def episodes(unit: Unit) -> Iterator[Episode | DataError]:
    """One episode per record of the unit."""
    yield from _rlds.episodes(unit, lambda raw: [_episode(raw)])


def _episode(raw: _rlds.RawEpisode) -> Episode:
    actions = raw.example.numbers("steps/action", (-1, 2))
    images = raw.example.bytes_list("steps/observation/rgb")
    instructions = raw.example.numbers("steps/observation/instruction", (-1, _INSTRUCTION))
    n = len(actions)
    if not n or not n == len(images) == len(instructions):
        raise DataError(f"{n} actions, {len(images)} images, {len(instructions)} instructions")
    controls = np.zeros((n, 2))
    controls[1:] = actions[:-1]
    texts = _texts(instructions)
    return Episode(
        id=raw.id,
        controls=_CONTROLS,
        source_range=raw.source_range,
        frames=[
            Frame(
                time=i / 10.0,
                image=EncodedImage(image),
                control=controls[i],
                # the instruction that was followed on the way here is that of the step before
                text=texts[max(i - 1, 0)],
            )
            for i, image in enumerate(images)
        ],
    )


def _texts(instructions: np.ndarray) -> list[str]:
    """The text of each row of int `[t, 512]`; nearly always all rows are the same."""
    if instructions.dtype.kind != "i":
        raise DataError(f"the instruction holds {instructions.dtype}, wanted int", stage="annotate")
    known: dict[bytes, str] = {}
    texts = []
    for row in instructions:
        key = row.tobytes()
        if key not in known:
            known[key] = _text(row)
        texts.append(known[key])
    return texts


def _text(codes: np.ndarray) -> str:
    """The text of UTF-8 bytes, one per number `[512]`, padded with zeros; none is "".

    They are as the owners' simulator encodes and decodes them. Their trainer takes the numbers for
    code points instead, which is the same for ASCII.

    Raises:
        DataError: if they are anything else.
    """
    used = codes[: np.max(np.flatnonzero(codes), initial=-1) + 1]
    if used.size and not (used.min() > 0 and used.max() < 256):
        raise DataError(
            "the instruction is not bytes that are padded with zeros at their end", stage="annotate"
        )
    try:
        return bytes(used.astype(np.uint8)).decode()
    except UnicodeDecodeError as e:
        raise DataError(f"the instruction is not UTF-8 ({e})", stage="annotate") from e


_WORKSPACE = np.array([[0.15, -0.3048], [0.6, 0.3048]])  # the simulator's, metres
_SAYINGS = ("push the blue block around", "déplace le bloc bleu", "slide the blue block", "move it")


def fake(root: Path, seed: int, *, traps: bool = True) -> Path:
    """A tiny `language_table_sim/0.0.1` in two files: a block that moves as the actions say.

    One episode has 7 steps, as some real ones do. With `traps` some actions of another are outside
    the stated bounds and its terminal one is not finite, one instruction is empty, one is not
    UTF-8, images are damaged, and one record does not match its checksum.
    """
    rng = np.random.default_rng(seed)
    folder = root / "language_table_sim" / "0.0.1"
    folder.mkdir(parents=True)
    items = []
    for i in range(4):
        steps = 7 if i == 1 else int(rng.integers(17, 24))
        limit = 0.2 if traps and i == 2 else 0.04
        text = "" if traps and i == 3 else _SAYINGS[i]
        items.append(_fake_episode(rng, i, steps, limit, text, traps and i == 2))
    if traps:
        items.append(items[1].replace(b"\xff\xd8\xff", b"\x00\x00\x00"))
        items.append(items[0])
        # é is two bytes, and so two numbers of two bytes each in the record
        items.append(items[1].replace(b"\xc3\x01\xa9\x01", b"\xc3\x01\xc3\x01"))
    write_rlds(folder, "language_table_sim", {"train": [items[:2], items[2:]]})
    if traps:
        path = folder / "language_table_sim-train.tfrecord-00001"
        _rlds_write.spoil(path, path.read_bytes().rindex(items[0]) + len(items[0]) // 2)
    return folder


def _fake_episode(
    rng: np.random.Generator, number: int, steps: int, limit: float, text: str, odd_end: bool
) -> bytes:
    moves = rng.uniform(-limit, limit, (steps, 2))
    low, high = _WORKSPACE
    targets = np.clip((low + high) / 2 + np.cumsum(moves, 0), low, high).astype(np.float32)
    actions = np.zeros_like(targets)
    actions[:-1] = np.diff(targets, axis=0)
    if odd_end:
        actions[-1] = np.nan
    frames = np.full((steps, 48, 64, 3), 50, np.uint8)
    places = (targets - low) / (high - low) * (40, 56)
    for frame, (y, x) in zip(frames, places.astype(int), strict=True):
        frame[y : y + 8, x : x + 8] = (60, 80, 220)
    return record(actions, targets, frames, text, str(number))


def record(
    actions: np.ndarray, targets: np.ndarray, frames: np.ndarray, text: str, name: str
) -> bytes:
    """One episode as a serialized Example.

    Args:
        actions, targets: float `[t, 2]`, metres.
        frames: uint8 `[t, h, w, 3]`.
        text: the instruction of all steps, up to 512 bytes.
    """
    n = len(actions)
    codes = np.zeros(_INSTRUCTION, np.int32)
    codes[: len(text.encode())] = list(text.encode())
    last = np.arange(n) == n - 1
    return example.encode(
        {
            "episode_id": name,
            "steps/action": actions.astype(np.float32),
            "steps/is_first": np.arange(n) == 0,
            "steps/is_last": last,
            "steps/is_terminal": last,
            "steps/observation/effector_target_translation": targets.astype(np.float32),
            "steps/observation/effector_translation": targets.astype(np.float32),
            "steps/observation/instruction": np.tile(codes, n),
            "steps/observation/rgb": [encode_jpeg(frame) for frame in frames],
            "steps/reward": np.zeros(n, np.float32),
        }
    )


def write_rlds(folder: Path, name: str, splits: dict[str, list[list[bytes]]]) -> None:
    """Writes split -> shards -> records as a TFDS folder, named as release 0.0.1 names its files:
    without `-of-NNNNN`."""
    _rlds_write.write(folder, name, _features(), splits, counted=False)


def _features() -> dict[str, Any]:
    """`features.json` of all releases."""
    observation = {
        "effector_target_translation": _tensor("float32", 2),
        "effector_translation": _tensor("float32", 2),
        "instruction": _tensor("int32", _INSTRUCTION),
        "rgb": {
            "pythonClassName": "tensorflow_datasets.core.features.image_feature.Image",
            "image": {"dtype": "uint8", "encodingFormat": "jpeg", "shape": _shape(48, 64, 3)},
        },
    }
    flags = {name: _tensor("bool") for name in ("is_first", "is_last", "is_terminal")}
    step = {
        "action": _tensor("float32", 2),
        "observation": _dict(observation),
        "reward": _tensor("float32"),
    }
    steps = {
        "pythonClassName": "tensorflow_datasets.core.features.dataset_feature.Dataset",
        "sequence": {"feature": _dict(step | flags), "length": "-1"},
    }
    return _dict({"episode_id": _tensor("string"), "steps": steps})


def _dict(features: dict[str, Any]) -> dict[str, Any]:
    kind = "tensorflow_datasets.core.features.features_dict.FeaturesDict"
    return {"pythonClassName": kind, "featuresDict": {"features": features}}


def _tensor(dtype: str, *shape: int) -> dict[str, Any]:
    kind = "tensorflow_datasets.core.features.tensor_feature.Tensor"
    tensor = {"dtype": dtype, "encoding": "none", "shape": _shape(*shape)}
    return {"pythonClassName": kind, "tensor": tensor}


def _shape(*sizes: int) -> dict[str, Any]:
    return {"dimensions": [str(size) for size in sizes]} if sizes else {}
