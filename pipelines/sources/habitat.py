"""Habitat: people who search HM3D houses for an object, one rendered frame per action.

Reads episodes in Habitat's JSON (HM3D ObjectNav and InstanceImageNav) with the `reference_replay`
of PIRLNav's and Habitat-Web's demonstrations, and frames that were rendered beforehand: the
simulator is no dependency. What follows is fixed by the owners' recorder (github.com/Ram81/habitat-
web, modules/objectnav_task.js, scripts/data/parse_objectnav_dataset.py):

- the first entry is a placeholder STOP. It repeats the state after the first action, so it is not
  the start: that is `start_position` and `start_rotation`;
- an entry's `agent_state` is the state *after* its action, so entry i led to frame i, and frame 0
  is the view from the start;
- the final STOP moves nothing.

The control is the measured motion of the body on the floor: where it walked into a wall it did not
move, whatever the action says. PIRLNav's states are null, and there the nominal action counts; a
record's `source_range` says which. Two motions have no slot: the change of height on stairs, where
the path on the floor is kept, and the camera's tilt, as LOOK_UP and LOOK_DOWN do not turn the body.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import gzip
import json
import math
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipelines import files
from pipelines.episode import UNIT_BYTES, Control, Episode, Frame, Option, SourceInfo, Unit
from pipelines.kept import Kept
from pipelines.ops import images, labels, video
from pipelines.sources import _habitat_fake
from pipelines.sources._habitat_replay import read_entries, read_motion, shown
from pipelines.sources._names import Range, ranges
from schemas import DataError, UsageError

_FPS = 5.0
_Decoder = Callable[[], np.ndarray]
_CONTROLS = (
    Control(name="agent_state: forward", slot="base_dx", unit="m"),
    Control(name="agent_state: left", slot="base_dy", unit="m"),
    Control(name="agent_state: turn left", slot="base_dyaw", unit="rad"),
)

INFO = SourceInfo(
    name="habitat",
    title="Habitat HM3D object navigation",
    homepage="https://aihabitat.org",
    license="Matterport End User License Agreement for Academic Use of Model Data (HM3D)",
    version="2.0.0",
    reads="episodes as {scene}.json.gz with reference_replay, and rendered frames (JPEG, PNG, MP4)",
    layout="""\
PATH/
  {split}/content/{scene}.json.gz       split: train, val, val_mini, minival or test
  {split}/frames/{scene}/{episode_id}/  000000.jpg (or .png) at the start, then one per action
  {split}/frames/{scene}/{episode_id}.mp4   instead
  {split}/{split}.json.gz               not read: it holds no episodes
Frames are also looked for in frames/{scene}/ and {split}/content/{scene}/.
""",
    obtain="""\
Episodes: the datasets page of github.com/facebookresearch/habitat-lab (ObjectNav HM3D v2,
InstanceImageNav HM3D v3); demonstrations: huggingface.co/datasets/axel81/pirlnav. Render the frames
with habitat-sim and HM3D: one after the reset, then one after each action, STOP included. Episodes
without a demonstration are listed as declared losses.""",
    # A choice, as actions have no clock: the owners' replay tool shows five a second.
    native_fps=_FPS,
    target_fps=None,
    controls=_CONTROLS,
    options=(
        Option(
            name="turn_degrees",
            default=30.0,
            low=0.1,
            high=180.0,
            help="degrees of a turn whose pose is unknown",
        ),
        Option(
            name="step_metres",
            default=0.25,
            low=0.001,
            high=1.0,
            help="metres of a step whose pose is unknown",
        ),
        Option(
            name="stop_frame",
            default=1.0,
            low=0.0,
            high=1.0,
            help="0 if no frame was rendered after final STOPs",
        ),
    ),
    fit="stretch",
    examples="710",
    weight=0.1,
)

MAX_JSON = 512 << 20
_MAX_IMAGE = 64 << 20
_MAX_CATEGORY = 200
_SPLITS = {"train": "train", "val": "val", "val_mini": "val", "minival": "val", "test": "test"}
_PLACES = ("{split}/frames", "frames", "{split}/content")
_SCENE = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ID = re.compile(r"[A-Za-z0-9:_-]{1,128}")  # of a demonstration: WORKER:ASSIGNMENT
_IMAGE = re.compile(r"([0-9]{6})\.(?:jpg|png)")
_VIDEO_FRAMES = 200  # of a demonstration, for the plan alone


def units(path: str, target_bytes: int = UNIT_BYTES) -> Iterator[Unit]:
    """Every scene's episodes by name, in parts of about `target_bytes`; nothing is opened.

    Raises:
        UsageError: if there are no episodes.
    """
    found = False
    for folder in _SPLITS:
        for uri, size in files.glob(path, folder, "content", "*.json.gz"):
            found = True
            scene = files.name_of(uri).removesuffix(".json.gz")
            if not _SCENE.fullmatch(scene):
                raise UsageError(f"{uri}: not named for a scene; move it out of content/")
            yield from _units(path, folder, scene, uri, size, target_bytes)
    if not found:
        raise UsageError(
            f"{path}: found no {{split}}/content/*.json.gz of {', '.join(_SPLITS)}; give the folder"
            " that holds the splits; `unisim sources habitat` shows it"
        )


def _units(
    path: str, folder: str, scene: str, uri: str, size: int, target_bytes: int
) -> Iterator[Unit]:
    place, found = _listed(path, folder, scene)
    # each episode with its share of the JSON, which units that follow one another read once
    share = size // max(len(found), 1)
    sizes = {name: cost + share for name, (_, cost) in found.items()}
    rest = size - share * len(found)
    for part, (names, mine) in enumerate(ranges(sizes, target_bytes)):
        yield Unit(
            id=f"{folder}.{scene}.{part:04d}",
            uri=uri,
            split=_SPLITS[folder],
            cost=sum(sizes[name] for name in mine) + (rest if names.leads else 0),
            episodes=len(mine),
            frames=sum(found[name][0] for name in mine),
            version=INFO.version,
            params={"folder": folder, "place": place, "names": names},
        )


def _listed(path: str, folder: str, scene: str) -> tuple[str, dict[str, tuple[int, int]]]:
    """Where the scene's frames are, "" if nowhere; an episode's name -> frames, their bytes."""
    found: dict[str, tuple[int, int]] = {}
    for pattern in _PLACES:
        place = pattern.format(split=folder)
        base = files.join(path, *place.split("/"), scene)
        for uri, size in files.glob(base, "**"):
            name = uri.removeprefix(base).lstrip("/").split("/")[0].removesuffix(".mp4")
            frames, cost = found.get(name, (0, 0))
            more = _VIDEO_FRAMES if uri.endswith(".mp4") else 1
            found[name] = frames + more, cost + size
        if found:
            return place, found
    return "", found


class _Scene(NamedTuple):
    """A scene's JSON.

    Attributes:
        listed: its episodes, in the order of the file.
        order: names and places in `listed` of those that have a name, sorted.
        categories: as of `_categories`.
    """

    listed: list[Any]
    order: list[tuple[str, int]]
    categories: dict[str, Any]


_KEPT: Kept[_Scene] = Kept(lambda scene: None)


def episodes(unit: Unit) -> Iterator[Episode | DataError]:
    """The unit's demonstrations by name; before all of them, what has no name that could be one.

    An episode without `reference_replay` is a start and a goal: a declared loss, unless frames
    claim that it was played.

    Raises:
        DataError: if the file is damaged, or too large, or no file of episodes.
    """
    names = Range(*unit.params["names"])
    scene = files.name_of(unit.uri).removesuffix(".json.gz")
    state = () if names.leads and names.ends else Kept.state(unit.uri)
    read = _KEPT.take(state)
    if read is None:
        read = _scene(unit.uri, scene)
    if names.leads:
        yield from _nameless(read.listed, scene)
    first = bisect.bisect_left(read.order, (names.first,))
    end = len(read.order) if names.until is None else bisect.bisect_left(read.order, (names.until,))
    for place in range(first, end):
        name, number = read.order[place]
        where = f"episodes[{number}]"
        try:
            if place and read.order[place - 1][0] == name:
                raise DataError("an episode of this id stands before it", stage="annotate")
            yield _episode(unit, read.listed[number], scene, name, read.categories, where)
        except DataError as e:
            e.key, e.where = f"{unit.params['folder']}.{scene}.{name}", e.where or where
            yield e
    if not names.ends:
        _KEPT.put(state, read)


def _scene(uri: str, scene: str) -> _Scene:
    content = _load(uri)
    listed = content.get("episodes")
    if not isinstance(listed, list):
        raise DataError("no list of episodes in it", stage="annotate")
    order = []
    for number, raw in enumerate(listed):
        with contextlib.suppress(DataError):
            order.append((_name(raw, scene), number))
    # the goals' view points are most of the JSON, and are let go
    return _Scene(listed, sorted(order), _categories(content.get("goals")))


def _nameless(listed: list[Any], scene: str) -> Iterator[DataError]:
    """What is wrong with the episodes that have no name."""
    for number, raw in enumerate(listed):
        try:
            _name(raw, scene)
        except DataError as e:
            e.key = e.where = f"episodes[{number}]"
            yield e


def _load(uri: str) -> dict[str, Any]:
    """The JSON of a gzip file, of bounded size."""
    blocks, size = [], 0
    try:
        with files.open_planned(uri) as file, gzip.GzipFile(fileobj=file) as stream:
            while block := stream.read(1 << 20):
                size += len(block)
                if size > MAX_JSON:
                    raise DataError(f"more than {MAX_JSON} bytes when unpacked")
                blocks.append(block)
    except (gzip.BadGzipFile, EOFError, zlib.error) as e:
        raise DataError(f"not a whole gzip file ({e})") from e
    try:
        content = json.loads(b"".join(blocks))
    except (ValueError, RecursionError) as e:
        raise DataError(f"not JSON ({labels.clean_text(str(e))[:200]})", stage="annotate") from e
    if not isinstance(content, dict):
        raise DataError(f"holds a {type(content).__name__}, wanted an object", stage="annotate")
    return content


def _categories(goals: Any) -> dict[str, Any]:
    """InstanceImageNav's goal key, `{scene}_{object id}`, -> the object's category."""
    if not isinstance(goals, dict):
        return {}
    return {k: goal.get("object_category") for k, goal in goals.items() if isinstance(goal, dict)}


def _name(raw: Any, scene: str) -> str:
    """The id of an episode of the scene. Ids repeat in other scenes, so a file of one scene may not
    hold another's."""
    if not isinstance(raw, dict):
        raise DataError(f"a {type(raw).__name__}, wanted an object", stage="annotate")
    path, name = raw.get("scene_id"), raw.get("episode_id")
    if not isinstance(path, str) or files.name_of(path).split(".")[0] != scene:
        raise DataError(f"scene_id {shown(path)} is not of {scene}", stage="annotate")
    if not isinstance(name, str | int) or not _ID.fullmatch(str(name)):
        raise DataError(f"{shown(name)} is no episode_id", stage="annotate")
    return str(name)


def _episode(
    unit: Unit, raw: dict[str, Any], scene: str, name: str, categories: dict[str, Any], where: str
) -> Episode:
    replay = raw.get("reference_replay")
    pictures = _pictures(unit, scene, name)
    if replay is None:
        reason = "no demonstration: a start and a goal, without reference_replay"
        raise DataError(reason, stage="annotate", counts=bool(pictures))
    instance = "goal_object_id" in raw
    category = raw.get("object_category")
    if category is None and isinstance(raw.get("goal_object_id"), str | int):
        category = categories.get(f"{scene}_{raw['goal_object_id']}")
    if isinstance(category, str) and len(category) > _MAX_CATEGORY:
        raise DataError(f"the goal category has {len(category)} characters", stage="annotate")
    text = labels.goal_text(category, instance=instance)
    entries = read_entries(replay)
    motion, kind = read_motion(raw, entries, *_nominal(unit))
    if not pictures:
        sought = ", ".join(p.format(split=unit.params["folder"]) for p in _PLACES)
        raise DataError(f"no frames {scene}/{name}/ or {scene}/{name}.mp4 in {sought}")
    unseen = entries[-1].action == "STOP" and not unit.option(INFO, "stop_frame")
    wanted = len(motion) - unseen
    stream = _video(pictures, wanted) if isinstance(pictures, str) else _images(pictures, wanted)
    return Episode(
        id=f"{unit.params['folder']}.{scene}.{name}",
        frames=(
            Frame(time=i / _FPS, image=image, control=motion[i], text=text)
            for i, image in enumerate(stream)
        ),
        controls=_CONTROLS,
        source_range=f"{where}, {kind} motion",
    )


def _nominal(unit: Unit) -> tuple[float, float]:
    """Metres of a step and radians of a turn, as the options say."""
    return unit.option(INFO, "step_metres"), math.radians(unit.option(INFO, "turn_degrees"))


def _pictures(unit: Unit, scene: str, name: str) -> list[tuple[str, int]] | str:
    """The episode's files in its folder with their sizes, or its video; empty if neither is."""
    if not unit.params["place"]:
        return ""
    root = unit.uri.rsplit("/", 3)[0]
    base = files.join(root, *unit.params["place"].split("/"), scene, name)
    listed = files.glob(base, "*")
    return listed or (f"{base}.mp4" if files.exists(f"{base}.mp4") else "")


def _images(listed: list[tuple[str, int]], wanted: int) -> Iterator[_Decoder]:
    numbered: dict[int, tuple[str, int]] = {}
    for uri, size in listed:
        match = _IMAGE.fullmatch(files.name_of(uri))
        if match and int(match[1]) in numbered:
            raise DataError(f"two images for frame {match[1]}", uri=uri)
        if match:
            numbered[int(match[1])] = uri, size
    for i in range(len(numbered)):
        if i not in numbered:
            raise DataError(f"frame {i:06d} is missing, and {max(numbered):06d} is there")
    _check_count(len(numbered), wanted)
    for i in range(len(numbered)):
        uri, size = numbered[i]
        yield images.EncodedImage(functools.partial(_read, uri, size), uri)


def _read(uri: str, size: int) -> bytes:
    if size > _MAX_IMAGE:
        raise DataError(f"{size} bytes, more than {_MAX_IMAGE}")
    try:
        return files.read(uri)
    except FileNotFoundError as e:
        raise DataError("the image has gone since it was listed", uri=uri) from e


def _video(uri: str, wanted: int) -> Iterator[_Decoder]:
    count = 0
    try:
        with files.open_read(uri) as file:
            for frame in video.frames(file):
                count += 1
                if count > wanted:
                    break
                yield frame.image
    except FileNotFoundError as e:
        raise DataError("the video has gone since it was listed", uri=uri) from e
    _check_count(count, wanted, uri)


def _check_count(count: int, wanted: int, uri: str = "") -> None:
    """Nothing is guessed: a frame too few may be that of the start as well as that of STOP."""
    if count != wanted:
        raise DataError(
            f"{count if count <= wanted else 'more'} frames, wanted {wanted}: one at the"
            " start and one after each action; without one for the final STOP set"
            " --option habitat.stop_frame=0",
            uri=uri,
        )


def fake(root: Path, seed: int, *, traps: bool = True) -> Path:
    """Two train scenes and one of validation, in which each frame is rendered from its pose.

    It holds measured and nominal demonstrations, walls, ids that repeat in the other scene, images
    and videos, and InstanceImageNav. With `traps` also an episode without a demonstration, frames
    that are missing, cut short or one too few, a pose that is no number, a path for an id, and a
    file that ends early.
    """
    return _habitat_fake.write(root / INFO.name, seed, traps=traps)
