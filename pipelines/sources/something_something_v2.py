"""Something-Something V2: short clips of hands acting on things, each with a written label."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipelines import files
from pipelines.episode import UNIT_BYTES, Episode, Frame, SourceInfo, Unit
from pipelines.ops import labels, video
from schemas import DataError, UsageError

INFO = SourceInfo(
    name="something_something_v2",
    title="Something-Something V2",
    homepage="https://www.qualcomm.com/developer/software/something-something-v-2-dataset",
    license="Something-Something V2 Data License Agreement (Qualcomm): research use only",
    version="2.0.0",
    reads="{train,validation}.json and one WebM per clip, as the owners ship them",
    layout="""\
PATH/
  train.json, validation.json     or labels/..., or something-something-v2-{train,validation}.json
  {id}.webm                       or in videos/, or in 20bn-something-something-v2/; .mp4 too
""",
    obtain="""\
Request access at the homepage, download the labels and all parts of the videos' archive, join and
unpack them; PATH is the folder that holds the labels.""",
    native_fps=12.0,
    # A choice: the paper samples human video "at a lower rate" without a figure. Every second frame
    # is evenly spaced, and 16 of them span most of a clip (4 s on average).
    target_fps=6.0,
    examples="160k",
    weight=0.1,
)

_SPLITS = {"train": "train", "validation": "val"}
_FOLDERS = ("", "videos", "20bn-something-something-v2")
_SUFFIXES = (".webm", ".mp4")
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_UNIT_CLIPS = 1000
_CLIP_FRAMES = 24  # at the table's rate: clips last 4 s on average


def units(path: str, target_bytes: int = UNIT_BYTES) -> Iterator[Unit]:
    """Runs of consecutive labels with about `target_bytes` of video each; no video is opened.

    What is wrong with a label (no video, no usable id, listed before) stays in the unit, so that
    `episodes` reports it. One split's file is enough.

    Raises:
        UsageError: if there are no labels, or no videos, or a file of labels is not what it should.
    """
    annotations = _annotations(path)
    videos = _videos(path)
    seen: set[str] = set()
    for split, uri in annotations:
        clips = (_clip(entry, videos, seen) for entry in _load(uri))
        first = 0
        for group, cost in _groups(clips, target_bytes):
            readable = sum("file" in clip for clip in group)
            yield Unit(
                id=f"{split}-{first:06d}",
                uri=path,
                split=_SPLITS[split],
                cost=cost,
                episodes=readable,
                frames=readable * _CLIP_FRAMES,
                version=INFO.version,
                params={"clips": group},
            )
            first += len(group)


def episodes(unit: Unit) -> Iterator[Episode | DataError]:
    """One episode per clip, its label the action of every frame; a DataError per unusable label."""
    for clip in unit.params["clips"]:
        if "file" in clip:
            path = files.join(unit.uri, clip["file"])
            yield Episode(id=clip["id"], frames=_frames(path, clip["text"]), source_uri=path)
        else:
            yield DataError(clip["problem"], stage=clip["stage"], key=clip["id"])


def _frames(path: str, text: str) -> Iterator[Frame]:
    with files.open_planned(path) as file:
        for frame in video.frames(file):
            yield Frame(time=frame.time, image=frame.image, text=text)


def _annotations(path: str) -> list[tuple[str, str]]:
    """(split, file) of the labels that are there."""
    found = []
    for split in _SPLITS:
        names = (f"{split}.json", f"something-something-v2-{split}.json")
        places = [files.join(path, *x) for name in names for x in ((name,), ("labels", name))]
        found += [(split, place) for place in places if files.exists(place)][:1]
    if not found:
        raise UsageError(
            f"{path}: found neither train.json nor validation.json (nor their official names, nor"
            f" in labels/); `unisim sources something_something_v2` shows what is expected"
        )
    return found


def _videos(path: str) -> dict[str, tuple[str, int]]:
    """File name -> (path below `path`, bytes), from the folders' listings alone."""
    found: dict[str, tuple[str, int]] = {}
    for folder in _FOLDERS:
        for uri, size in files.glob(path, *filter(None, [folder]), "*"):
            name = files.name_of(uri)
            if name.endswith(_SUFFIXES):
                found.setdefault(name, (f"{folder}/{name}" if folder else name, size))
    if not found:
        raise UsageError(
            f"{path}: labels but no videos; looked for *.webm and *.mp4 there, in videos/ and in"
            f" 20bn-something-something-v2/; unpack the videos' archive into one of these"
        )
    return found


def _load(uri: str) -> list[Any]:
    try:
        # bytes that are not UTF-8 cost the label that they stand in, not all of them
        entries = json.loads(files.read(uri).decode("utf-8-sig", "surrogateescape"))
    except (ValueError, RecursionError) as e:
        raise UsageError(f"{uri}: not JSON ({e}); download it again") from e
    if not isinstance(entries, list):
        raise UsageError(
            f"{uri}: holds a {type(entries).__name__}, wanted a list of"
            " {id, label, template, placeholders}; give the split's own file"
        )
    return entries


def _clip(
    entry: Any, videos: dict[str, tuple[str, int]], seen: set[str]
) -> tuple[dict[str, str], int]:
    """What the unit keeps of a label, either id, text and file or what is wrong; and its bytes."""
    entry = entry if isinstance(entry, dict) else {}
    name = entry.get("id")
    name = str(name) if isinstance(name, str | int) else f"<{type(name).__name__}>"
    key = labels.clean_text(name)[:64]
    try:
        # an id becomes a file name: no separators, no dots
        if not _ID.fullmatch(name):
            raise DataError(f"{key!r} is no id of a video", stage="annotate")
        if key in seen:
            raise DataError(f"the id {key} was listed before", stage="annotate")
        seen.add(key)
        names = [key + suffix for suffix in _SUFFIXES]
        file, size = next((videos[name] for name in names if name in videos), ("", 0))
        if not file:
            raise DataError(f"no video: there is neither {' nor '.join(names)}", stage="read")
        text = labels.ssv2_text(*(entry.get(x) for x in ("label", "template", "placeholders")))
        if "\ufffd" in text:
            raise DataError("the label holds what is not UTF-8", stage="annotate")
    except DataError as e:
        return {"id": key, "problem": e.reason, "stage": e.stage}, 0
    return {"id": key, "text": text, "file": file}, size


def _groups(
    clips: Iterable[tuple[dict[str, str], int]], target_bytes: int
) -> Iterator[tuple[list[dict[str, str]], int]]:
    group: list[dict[str, str]] = []
    cost = 0
    for clip, size in clips:
        group.append(clip)
        cost += size
        if cost >= target_bytes or len(group) >= _UNIT_CLIPS:
            yield group, cost
            group, cost = [], 0
    if group:
        yield group, cost


_MOTIONS = {
    "from left to right": (1, 0),
    "from right to left": (-1, 0),
    "down": (0, 1),
    "up": (0, -1),
}


def fake(root: Path, seed: int, *, traps: bool = True) -> Path:
    """A corpus of squares that move as their labels say, six train and two validation clips.

    With traps, one clip is WebM under the name .mp4, one is cut short, one is missing, and some
    labels keep their brackets.
    """
    path = root / INFO.name
    folder = path / _FOLDERS[2]
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    splits: dict[str, list[dict[str, Any]]] = {"train": [], "validation": []}
    for i, motion in zip(range(8), itertools.cycle(_MOTIONS), strict=False):
        entry = _fake_label(str(1001 + i), motion, i if traps else -1)
        splits["train" if i < 6 else "validation"].append(entry)
        target = folder / f"{entry['id']}{'.mp4' if traps and i == 1 else '.webm'}"
        video.write_video(str(target), _fake_images(rng, _MOTIONS[motion]), 12.0)
        if traps and i == 3:
            target.write_bytes(target.read_bytes()[: target.stat().st_size * 2 // 3])
        if traps and i == 4:
            target.unlink()
    for split, entries in splits.items():
        (path / f"{split}.json").write_text(json.dumps(entries, indent=1))
    return path


def _fake_label(key: str, motion: str, trap: int) -> dict[str, Any]:
    template, label, placeholders = f"Moving [something] {motion}", "", ["a square"]
    if trap == 2:
        template = f"Moving [one of many similar things on the table] {motion}"
        label = template
    elif trap == 5:
        template = f"Moving [number of] [Something] {motion}"
        label, placeholders = template, ["one", "[something]"]
    elif trap == 7:
        template, label, placeholders = f"Moving [part] of [something] {motion}", "", []
    else:
        label = f"moving a square {motion}"
    return {"id": key, "label": label, "template": template, "placeholders": placeholders}


def _fake_images(rng: np.random.Generator, motion: tuple[int, int]) -> Iterator[np.ndarray]:
    """24 frames of 48x64, a square that crosses a plain ground along `motion` (x, y)."""
    ground, colour = rng.integers(60, 120, 3), rng.integers(150, 256, 3)
    for i in range(24):
        image = np.full((48, 64, 3), ground, np.uint8)
        x, y = (24 + 20 * step * (i - 12) // 12 for step in motion)
        y -= 8
        image[max(y, 0) : y + 16, max(x, 0) : x + 16] = colour
        yield image
