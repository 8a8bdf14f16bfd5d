"""The contract of a source: how a dataset becomes episodes. Adding a dataset is one file.

A source is a module in `pipelines/sources`, found by its file name, with four names in it:

- `INFO`: a `SourceInfo`, what it reads and where the paper uses it;
- `units(path, target_bytes)`: the pieces that workers read on their own, cheap to list;
- `episodes(unit)`: the episodes of one piece, decoded lazily;
- `fake(root, seed, traps=True)`: writes a tiny corpus in the native format, with its known traps.

Bad data raises `DataError` (schemas/errors.py has its arguments). Raised while a frame is decoded
it costs that episode; *yielded* by `episodes` it is one loss, named by its key, and the unit goes
on; raised by `episodes` it costs the rest of the unit. Anything else that is raised is a bug and
stops the job.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from schemas import SLOTS, DataError
from schemas.controls import INDEX

Fit = Literal["stretch", "crop"]

Shrink = Callable[[int, int], tuple[int, int]]
"""(height, width) of a picture -> the least that is wanted of it, no larger."""

UNIT_BYTES = 16_000_000
"""How much a worker reads in one piece, where the plan asks for nothing else."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Control:
    """One of a source's own action values, and how it becomes a control slot.

    The slot's value is `scale * value + offset`. Whether the value is a motion since the frame
    before or an absolute one is the slot's to say (`schemas.controls.Slot.compose`).

    Attributes:
        name: in the source, e.g. "world_vector[0]".
        slot: the unified slot's name.
        unit: of the source's values: "m", "rad", "deg", "1" …
        scale, offset: sign and unit. A gripper that counts how closed it is has scale -1, offset 1.
        low, high: the bounds that the source states, in its unit: a value outside is clipped to
            them and counted. None leaves the slot's own range.
        wrap: whether the value is an angle in radians that may be whole turns off.
    """

    name: str
    slot: str
    unit: str
    scale: float = 1.0
    offset: float = 0.0
    low: float | None = None
    high: float | None = None
    wrap: bool = False

    def __post_init__(self):
        if self.slot not in INDEX:
            raise ValueError(f"{self.name}: no slot is named {self.slot!r}")

    @property
    def absolute(self) -> bool:
        """Whether it is a state rather than a motion."""
        return SLOTS[INDEX[self.slot]].compose == "last"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Option:
    """A number that users may set for one source: `--option laion.min_similarity=0.3`.

    Attributes:
        name: within the source.
        default: its value where nothing is said.
        low, high: what is allowed.
        help: one line, with the unit.
    """

    name: str
    default: float
    help: str
    low: float = -math.inf
    high: float = math.inf


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceInfo:
    """What a source is.

    Attributes:
        name: the module's name, and the dataset's in every record.
        title, homepage, license: for people, and for the passport.
        version: "x.y.z" of the release, where the files themselves do not say; "1.0.0" where the
            owners count none.
        reads: one line, the formats accepted.
        layout: the expected directory, several lines; shown by `unisim sources NAME` and by errors.
        obtain: where the data comes from and what to do when it is not found; one or more lines.
        native_fps: the recording's rate; None if it varies or there is none.
        target_fps: the table's rate; None keeps every frame.
        controls: its own action values and their slots; several tables where releases differ.
        options: what users may set.
        every_frame: whether a text is the action of one single frame, so that none may be dropped.
        fit: how frames take a tier's shape: "stretch" keeps all pixels, "crop" keeps the aspect.
        examples, weight: number of examples and mixture weight in the paper, None where unstated.
    """

    name: str
    title: str
    homepage: str
    license: str
    version: str
    reads: str
    layout: str
    obtain: str
    native_fps: float | None
    target_fps: float | None
    controls: tuple[Control, ...] = ()
    options: tuple[Option, ...] = ()
    every_frame: bool = False
    fit: Fit = "stretch"
    examples: str = ""
    weight: float | None = None

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the control slots that it fills, in the slots' order."""
        return tuple(sorted({control.slot for control in self.controls}, key=INDEX.__getitem__))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unit:
    """A piece of raw data that one worker reads alone. The plan lists it, so it is small.

    Attributes:
        id: unique within the source and stable: no absolute paths, so that a moved corpus keeps it.
        uri: the file that is read, or the folder of several. `units` gets an absolute path and
            gives absolute URIs; the plan keeps them relative to the `--source` path.
        split: "train", "val" or "test"; None if it is drawn per episode from a hash of the id.
        cost: bytes that will be read; shards are packed to near-equal cost. An estimate will do
            where listing every file would take long.
        episodes, frames: what it will yield; estimates, for the plan's price.
        version: the release that the bytes are of.
        params: JSON values private to the source: a byte range, a time span, a list of labels.
        options: the source's options by name, as `episodes` finds them. Left empty by `units`; the
            plan keeps them once per dataset.
        stamp: size and time of writing of `uri` when it was planned; "" where it is a folder. Left
            empty by `units`.
    """

    id: str
    uri: str
    split: str | None
    cost: int
    episodes: int
    frames: int
    version: str
    params: dict[str, Any] = dataclasses.field(default_factory=dict)
    options: dict[str, float] = dataclasses.field(default_factory=dict)
    stamp: str = ""

    def option(self, info: SourceInfo, name: str) -> float:
        """The option's value, or its default where the unit was not planned."""
        defaults = {option.name: option.default for option in info.options}
        return self.options.get(name, defaults[name])


@runtime_checkable
class Shrinkable(Protocol):
    """A frame's `image` that can be decoded at less than its size, for less time."""

    def __call__(self) -> np.ndarray:
        """The pixels, uint8 `[H, W, 3]` RGB. Raises DataError."""
        ...

    def shrunk(self, shrink: Shrink) -> np.ndarray:
        """The whole picture, averaged down to no less than `shrink(H, W)`. Raises DataError."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frame:
    """One observation of an episode.

    Attributes:
        time: seconds on any clock that increases within the episode.
        image: decodes the pixels, uint8 `[H, W, 3]` RGB; only called for frames that are kept.
            Raises DataError. Those of `ops.images.EncodedImage` and `ops.video` are Shrinkable, and
            then decoded at about the size that the table wants.
        control: float `[n]`, the source's own values in the order of the episode's `controls`: the
            motion from the frame before to this one (zeros at the first); absolute values are
            those commanded on the way here. None where the episode has no controls.
        text: the action that led here, which is put on one line for you; empty makes the controls
            speak, so a source without controls dead-letters what has no text.
        overlap: the share of what this frame shows that the frame before it showed too, 0..1; None
            at the first frame, and where the source does not measure it.
    """

    time: float
    image: Callable[[], np.ndarray]
    control: np.ndarray | None = None
    text: str = ""
    overlap: float | None = None

    def __post_init__(self):
        if self.overlap is not None and not 0 <= self.overlap <= 1:
            raise ValueError(f"an overlap of {self.overlap}, wanted 0..1 or None")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Episode:
    """One episode as seen by one camera.

    Attributes:
        id: unique within the dataset, without "@". A second one in a shard is dead-lettered; across
            shards only the source can see it, while it plans.
        frames: in order of time; read once, never all at a time.
        controls: what the values in its frames' `control` are, one slot at most once.
        view: the camera's name where an episode has several, else "". Views share the split.
        source_range: where in the unit's file its bytes are.
        source_uri: the file, if it is not the unit's.
        license: if it is not the source's.
        fps: the recording's own rate, if known; else the source's native rate is used.
    """

    id: str
    frames: Iterable[Frame]
    controls: tuple[Control, ...] = ()
    view: str = ""
    source_range: str = ""
    source_uri: str = ""
    license: str = ""
    fps: float | None = None


def split_of(dataset: str, episode: str) -> str:
    """ "val" for 1% of episodes, by a hash of the id that never changes; else "train"."""
    key = hashlib.blake2b(f"{dataset}/{episode}".encode(), digest_size=8).digest()
    return "val" if int.from_bytes(key, "big") % 100 == 0 else "train"


@runtime_checkable
class Source(Protocol):
    """What a module in pipelines/sources must offer."""

    INFO: SourceInfo

    def units(self, path: str, target_bytes: int = UNIT_BYTES) -> Iterable[Unit]:
        """The units below `path`, in a stable order.

        None costs more than `target_bytes` and the largest item that cannot be cut, an episode
        mostly. The episodes of all units, one unit's after the other's, are the same for every
        target.

        Raises:
            UsageError: if the path is not what the source reads; the message names the path, what
                was looked for and what to do.
        """
        ...

    def episodes(self, unit: Unit) -> Iterator[Episode | DataError]:
        """The unit's episodes, in a stable order. See the module's text for errors."""
        ...

    def fake(self, root: Path, seed: int, *, traps: bool = True) -> Path:
        """Writes a tiny corpus in the native format below `root`; returns the `--source` path.

        With `traps` it holds what the format is known to go wrong in; without, only good data.
        """
        ...
