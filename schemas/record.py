"""`Chunk`: one interactive step, and its wire form.

A chunk is step t of an episode: the action a_{t-1} and the frames o_t that followed it (UniSim,
section 2: p(o_t | h_{t-1}, a_{t-1})). The history is not copied into it: the chunks of an episode
stand next to each other, so the history is the end of the row before.

On disk a chunk is a `tf.train.Example` whose layout `features()` states, so that stock
tensorflow-datasets reads it too.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from typing import Literal

import numpy as np

from schemas import example
from schemas.controls import NUM_SLOTS
from schemas.errors import DataError

MAX_FRAMES = 16
SCHEMA_VERSION = 3


def text_key(text: str) -> bytes:
    """The 16-byte BLAKE2b-128 digest of a text's UTF-8 bytes: the address of its embedding."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def digest(data: bytes) -> bytes:
    """The 16-byte BLAKE2b-128 digest that index and manifest hold of records and files."""
    return hashlib.blake2b(data, digest_size=16).digest()


@dataclasses.dataclass(frozen=True, order=True)
class Tier:
    """One resolution of the table: the same rows in the same order, at another frame size.

    Attributes:
        height, width: of every frame, in pixels.
        encoding: "raw" uint8 pixels, or one "jpeg" per frame.
    """

    height: int
    width: int
    encoding: Literal["raw", "jpeg"]

    def __post_init__(self):
        if not (1 <= self.height <= 4096 and 1 <= self.width <= 4096):
            raise ValueError(f"tier {self.name}: height and width must be within 1..4096")
        if self.encoding not in ("raw", "jpeg"):
            raise ValueError(f"tier {self.name}: encoding {self.encoding!r}, wanted raw or jpeg")

    @property
    def name(self) -> str:
        return f"{self.height}x{self.width}"

    def __str__(self) -> str:
        return f"{self.name}:{self.encoding}"

    @classmethod
    def parse(cls, text: str) -> Tier:
        """`"24x40:raw"` -> Tier. Raises ValueError, saying the form wanted."""
        match = re.fullmatch(r"(\d{1,5})x(\d{1,5})(?::(raw|jpeg))?", text)
        if not match:
            raise ValueError(f"tier {text!r} is not HEIGHTxWIDTH:raw or HEIGHTxWIDTH:jpeg")
        return cls(int(match[1]), int(match[2]), match[3] or "raw")  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Chunk:
    """One record: an action and the frames that followed it. t frames, S control slots.

    Attributes:
        dataset, split: text; split is "train", "val" or "test".
        episode_id: unique within the dataset; a camera's view of an episode ends in "@view".
        step: position of the chunk in its episode, from 0 without gaps.
        frames: uint8 `[t, h, w, 3]` RGB, or a tuple of t JPEG byte strings. 1 <= t <= 16.
        times: float32 `[t]`, seconds since the episode's first frame.
        fps: nominal frame rate; 0 for a still image.
        text: the action as text, never empty.
        text_key: BLAKE2b-128 of the text.
        controls: float32 `[t, S]`, SI units; row i is the motion that led to frame i.
        control_bins: int32 `[t, S]`, 0..4095.
        control_mask: bool `[S]`, the slots that the source has.
        overlap: float32 `[t]`, the share 0..1 of what a frame shows that the frame before it
            showed too; NaN where it is unknown.
        is_first, is_last: whether the episode begins, ends with this chunk.
        source_uri, source_range, source_version, license, recipe: the passport: which raw bytes,
            of which release, under which licence, through which transforms.
    """

    dataset: str
    episode_id: str
    step: int
    split: str
    frames: np.ndarray | tuple[bytes, ...]
    times: np.ndarray
    fps: float
    text: str
    text_key: bytes
    controls: np.ndarray
    control_bins: np.ndarray
    control_mask: np.ndarray
    overlap: np.ndarray
    is_first: bool
    is_last: bool
    source_uri: str
    source_range: str
    source_version: str
    license: str
    recipe: str

    @property
    def num_frames(self) -> int:
        return len(self.times)

    @property
    def key(self) -> str:
        """`dataset/episode_id/step`, the name used in errors and by `unisim show`."""
        return f"{self.dataset}/{self.episode_id}/{self.step}"

    def pixels(self) -> np.ndarray:
        """The frames as uint8 `[t, h, w, 3]`, decoded if they are JPEG.

        Raises:
            DataError: if a JPEG does not decode, or they are of several sizes.
        """
        if isinstance(self.frames, np.ndarray):
            return self.frames
        import cv2

        images = []
        for i, data in enumerate(self.frames):
            jpeg = data.startswith(b"\xff\xd8")  # no other format's decoder may see the bytes
            pixels = np.frombuffer(data, np.uint8)
            image = cv2.imdecode(pixels, cv2.IMREAD_COLOR_RGB) if jpeg else None
            if image is None:
                raise DataError(f"frame {i} is not a JPEG", stage="decode", key=self.key)
            images.append(image)
        if len({image.shape for image in images}) > 1:
            raise DataError("frames of several sizes", stage="decode", key=self.key)
        return np.stack(images) if images else np.zeros((0, 0, 0, 3), np.uint8)


_TEXTS = [
    "dataset",
    "episode_id",
    "split",
    "text",
    "source_uri",
    "source_range",
    "source_version",
    "license",
    "recipe",
]


def encode(chunk: Chunk) -> bytes:
    """The chunk's wire form, the layout of `features()`."""
    frames = chunk.frames
    values: dict[str, example.Value] = {name: getattr(chunk, name) for name in _TEXTS}
    values |= {
        "step": chunk.step,
        "frames": frames.tobytes() if isinstance(frames, np.ndarray) else list(frames),
        "times": chunk.times.astype("<f4").tobytes(),
        "fps": float(chunk.fps),
        "text_key": chunk.text_key,
        "controls": chunk.controls.astype("<f4").tobytes(),
        "control_bins": chunk.control_bins.astype("<i4").tobytes(),
        "control_mask": chunk.control_mask,
        "overlap": chunk.overlap.astype("<f4").tobytes(),
        "is_first": chunk.is_first,
        "is_last": chunk.is_last,
    }
    return example.encode(values)


def decode(serialized: bytes, tier: Tier) -> Chunk:
    """The chunk in `serialized`, written at `tier`.

    Raises:
        DataError: if the bytes are not a chunk of that tier.
    """
    fields = example.Example(serialized)

    def one(name: str) -> bytes:
        value = fields.bytes_list(name)
        if len(value) != 1:
            raise DataError(f"feature {name!r} has {len(value)} values, wanted 1", stage="schema")
        return value[0]

    def number(name: str) -> float:
        value = fields.numbers(name)
        if value.size != 1:
            raise DataError(f"feature {name!r} has {value.size} values, wanted 1", stage="schema")
        return value[0].item()

    def array(name: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        try:
            return np.frombuffer(one(name), dtype).reshape(shape)
        except ValueError as e:
            raise DataError(f"{name!r} does not fit {shape} {dtype}", stage="schema") from e

    frames: np.ndarray | tuple[bytes, ...]
    if tier.encoding == "raw":
        frames = array("frames", "u1", (-1, tier.height, tier.width, 3))
    else:
        frames = tuple(fields.bytes_list("frames"))
    try:
        texts = {name: one(name).decode() for name in _TEXTS}
    except UnicodeDecodeError as e:
        raise DataError(f"a text is not UTF-8 ({e})", stage="schema") from e
    return Chunk(
        **texts,
        step=int(number("step")),
        frames=frames,
        times=array("times", "<f4", (-1,)),
        fps=float(number("fps")),
        text_key=one("text_key"),
        controls=array("controls", "<f4", (-1, NUM_SLOTS)),
        control_bins=array("control_bins", "<i4", (-1, NUM_SLOTS)),
        control_mask=fields.numbers("control_mask", (NUM_SLOTS,)).astype(bool),
        overlap=array("overlap", "<f4", (-1,)),
        is_first=bool(number("is_first")),
        is_last=bool(number("is_last")),
    )


def _feature(kind: str, **content) -> dict:
    return {
        "pythonClassName": f"tensorflow_datasets.core.features.{kind}",
        **content,
    }


def _tensor(dtype: str, *dimensions: int) -> dict:
    """A tensor stored as bytes: a leading dimension of -1 keeps it one byte string, not varints."""
    shape = {"dimensions": [str(d) for d in dimensions]}
    return _feature(
        "tensor_feature.Tensor", tensor={"shape": shape, "dtype": dtype, "encoding": "bytes"}
    )


def features(tier: Tier) -> dict:
    """The record's layout as the JSON of tensorflow-datasets' `features.json`."""
    text = _feature("text_feature.Text", text={})

    def scalar(dtype: str) -> dict:
        return _feature("scalar.Scalar", tensor={"shape": {}, "dtype": dtype, "encoding": "none"})

    if tier.encoding == "raw":
        frames = _tensor("uint8", -1, tier.height, tier.width, 3)
    else:
        size = {"dimensions": [str(tier.height), str(tier.width), "3"]}
        image = {"shape": size, "dtype": "uint8", "encodingFormat": "jpeg"}
        frames = _feature(
            "sequence_feature.Sequence",
            sequence={"feature": _feature("image_feature.Image", image=image), "length": "-1"},
        )
    mask_shape = {"dimensions": [str(NUM_SLOTS)]}
    fields = dict.fromkeys(_TEXTS, text) | {
        "step": scalar("int64"),
        "frames": frames,
        "times": _tensor("float32", -1),
        "fps": scalar("float32"),
        "text_key": text,
        "controls": _tensor("float32", -1, NUM_SLOTS),
        "control_bins": _tensor("int32", -1, NUM_SLOTS),
        "control_mask": _feature(
            "tensor_feature.Tensor",
            tensor={"shape": mask_shape, "dtype": "bool", "encoding": "none"},
        ),
        "overlap": _tensor("float32", -1),
        "is_first": scalar("bool"),
        "is_last": scalar("bool"),
    }
    return _feature("features_dict.FeaturesDict", featuresDict={"features": fields})
