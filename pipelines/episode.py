"""The contract of a source: how a dataset becomes episodes. Adding a dataset is one file.

A source is a module in `pipelines/sources`, found by its file name, with four names in it:

- `INFO`: a `SourceInfo`, what it reads and where the paper uses it;
- `units(path, target_bytes)`: the pieces that workers read on their own, cheap to list;
- `episodes(unit)`: the episodes of one piece, decoded lazily;
- `fake(root, seed)`: writes a tiny corpus in the native format, with its known traps.

Bad data raises `DataError`. Raised while a frame is decoded it costs that episode; *yielded* by
`episodes` it costs what it names and the unit goes on; raised by `episodes` it costs the rest of
the unit. Anything else that is raised is a bug and stops the job.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from schemas import NUM_SLOTS, DataError

Fit = Literal["stretch", "crop"]

UNIT_BYTES = 16_000_000
"""How much a worker reads in one piece, where the plan asks for nothing else."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceInfo:
    """What a source is.

    Attributes:
        name: the module's name, and the dataset's in every record.
        title, homepage, license: for people, and for the passport.
        version: "x.y.z" of the release, where the files themselves do not say.
        reads: one line, the formats accepted.
        layout: the expected directory, several lines; shown by `unisim sources NAME` and by errors.
        native_fps, target_fps: the recording's rate and the table's; None keeps every frame.
        slots: names of the control slots that it fills.
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
    native_fps: float | None
    target_fps: float | None
    slots: tuple[str, ...] = ()
    fit: Fit = "stretch"
    examples: str = ""
    weight: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unit:
    """A piece of raw data that one worker reads alone. It goes into plan.json, so it is small.

    Attributes:
        id: unique within the source and stable: no absolute paths, so that a moved corpus keeps it.
        uri: the file that is read. The plan keeps it relative to the `--source` path.
        split: "train", "val" or "test"; None if it is drawn per episode from a hash of the id.
        cost: bytes that will be read; shards are packed to near-equal cost.
        episodes, frames: what it will yield; estimates, for the plan's price.
        version: the release that the bytes are of.
        params: JSON values private to the source: a byte range, a time span, a list of labels.
    """

    id: str
    uri: str
    split: str | None
    cost: int
    episodes: int
    frames: int
    version: str
    params: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frame:
    """One observation of an episode.

    Attributes:
        time: seconds on any clock that increases within the episode.
        image: decodes the pixels, uint8 `[H, W, 3]` RGB; only called for frames that are kept.
            Raises DataError.
        control: float `[S]`, the motion from the frame before to this one (zeros at the first);
            absolute slots hold the value commanded on the way here. None means no controls.
        text: the action that led here; empty makes the controls speak.
    """

    time: float
    image: Callable[[], np.ndarray]
    control: np.ndarray | None = None
    text: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Episode:
    """One episode as seen by one camera.

    Attributes:
        id: unique within the dataset.
        frames: in order of time; read once, never all at a time.
        mask: bool `[S]`, the slots that its controls fill.
        view: the camera's name where an episode has several, else "". Views share the split.
        source_range: where in the unit's file its bytes are.
        source_uri: the file, if it is not the unit's.
        license: if it is not the source's.
        fps: the recording's own rate, if known; else the source's native rate is used.
    """

    id: str
    frames: Iterable[Frame]
    mask: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(NUM_SLOTS, bool))
    view: str = ""
    source_range: str = ""
    source_uri: str = ""
    license: str = ""
    fps: float | None = None


@runtime_checkable
class Source(Protocol):
    """What a module in pipelines/sources must offer."""

    INFO: SourceInfo

    def units(self, path: str, target_bytes: int = UNIT_BYTES) -> Iterable[Unit]:
        """The units below `path`, in a stable order, of about `target_bytes` where it can be cut.

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
