"""EPIC-KITCHENS-100: people at work in their own kitchens, filmed from their heads and narrated.

An action is a row of the owners' CSV: a time span of one video, and what was done in it. It has two
clocks. Timestamps are the video's own. Frame numbers are those of the images that the owners
extracted, from `frame_0000000001.jpg` on: before that every video, whatever it was recorded at, was
brought to exactly 60 fps (those of 2018, as P01_01) or 50 fps (the extension, as P01_101). So
P08_05 has 105,232 images for 1,753.769 s, 60.00 a second and not its 59.94, and P18_09, recorded at
90 fps, has 16,622 for 276.811 s. Hence frame n shows (n - 1) / 60 or (n - 1) / 50 s.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipelines import files
from pipelines.episode import UNIT_BYTES, Episode, Frame, SourceInfo, Unit
from pipelines.ops import images, labels, video
from pipelines.sources import _epic_kitchens_rows as rows
from schemas import DataError, UsageError

_FPS = 5.0

INFO = SourceInfo(
    name="epic_kitchens",
    title="EPIC-KITCHENS-100",
    homepage="https://epic-kitchens.github.io",
    license="CC BY-NC 4.0",
    version="1.0.0",
    reads="EPIC_100_{train,validation}.csv with the videos or the extracted RGB frames",
    layout="""\
PATH/
  EPIC_100_train.csv, EPIC_100_validation.csv  or in epic-kitchens-100-annotations/, annotations/
  EPIC_100_video_info.csv                      beside them; may be missing
  P01/videos/P01_01.MP4                        or videos/P01_01.MP4; .mp4 too
  P01/rgb_frames/P01_01/frame_0000000001.jpg   or rgb_frames/P01_01/...; where there is no video
""",
    obtain="""\
Run epic_downloader.py of github.com/epic-kitchens/epic-kitchens-download-scripts with --videos or
--rgb-frames and clone github.com/epic-kitchens/epic-kitchens-100-annotations into its EPIC-KITCHENS
folder, which is PATH. Tars are not read: unpack each rgb_frames/P01_01.tar into a folder P01_01
beside it. Actions of videos that are not there are dead-lettered.""",
    native_fps=59.94,
    # A choice: the paper samples human video "at a lower rate" without a figure. 16 frames at 5 fps
    # span most actions (3 s on average), evenly where the recording has 50 fps and nearly at 59.94.
    target_fps=_FPS,
    examples="25k",
    weight=0.1,
)

_SPLITS = {"train": "train", "validation": "val"}
_FOLDERS = ("", "epic-kitchens-100-annotations", "annotations")
_SUFFIXES = (".MP4", ".mp4")
# all_nouns and the classes are not read: what was done is said by the narration
_COLUMNS = tuple(
    "narration_id participant_id video_id start_timestamp stop_timestamp start_frame stop_frame"
    " narration verb noun".split()
)
_MAX_IMAGE = 64 << 20
_UNIT_ROWS = 1000


class _Media(NamedTuple):
    """Where a video is: the file, or the folder of its frames; and the bytes of the file, or of its
    first frame."""

    uri: str
    frames: bool
    size: int


def units(path: str, target_bytes: int = UNIT_BYTES) -> Iterator[Unit]:
    """Runs of one video's actions, by time, that read about `target_bytes` of it; nothing is
    opened but the CSVs. EPIC_100_test_timestamps.csv has no labels and is not read.

    What is wrong with a row (no video, no usable id, listed before) stays in a unit of its own, so
    that `episodes` reports it. One split's file is enough.

    Raises:
        UsageError: if there are no annotations, or neither videos nor frames, or a CSV lacks a
            column.
    """
    folder, found = _annotations(path)
    infos = rows.video_info(files.join(folder, "EPIC_100_video_info.csv"))
    tables = [(split, uri, rows.rows(uri, _COLUMNS)) for split, uri in found]
    ids = {row.fields.get("video_id", "") for *_, table in tables for row in table}
    media = _media(path, sorted(filter(rows.VIDEO.fullmatch, ids)))
    if not media and any(table for *_, table in tables):
        raise UsageError(
            f"{path}: annotations, but none of their videos or frames; looked for"
            " P01/videos/P01_01.MP4, P01/rgb_frames/P01_01/frame_0000000001.jpg and the like;"
            " `unisim sources epic_kitchens` shows what is expected"
        )
    seen: set[str] = set()
    for split, uri, table in tables:
        actions, problems = _actions(table, media, infos, seen)
        for video_id, group in actions.items():
            duration = infos.get(video_id, rows.Info()).duration
            yield from _runs(split, video_id, media[video_id], group, duration, target_bytes)
        for first in range(0, len(problems), _UNIT_ROWS):
            params = {"problems": problems[first : first + _UNIT_ROWS]}
            yield _unit(split, f"problems-{first:06d}", uri, params)


def episodes(unit: Unit) -> Iterator[Episode | DataError]:
    """One episode per action, its narration the text of every frame; a DataError per bad row."""
    for row in unit.params.get("problems", ()):
        yield DataError(row["why"], stage=row["stage"], key=row["id"], where=row["where"])
    for action in unit.params.get("actions", ()):
        kind, read = ("frames", _images) if unit.params["frames"] else ("seconds", _clip)
        yield Episode(
            id=action["id"],
            frames=read(unit.uri, action),
            source_range=f"{kind} {action['start']}-{action['stop']}",
            fps=action["fps"],
        )


def _clip(uri: str, action: dict[str, Any]) -> Iterator[Frame]:
    """The frames of a video's seconds [start, stop), or until its end if that comes first."""
    with files.open_planned(uri) as file:
        for frame in video.frames(file, action["start"], action["stop"]):
            yield Frame(time=frame.time, image=frame.image, text=action["text"])


def _images(uri: str, action: dict[str, Any]) -> Iterator[Frame]:
    """The extracted frames [start, stop), or up to the last that is there."""
    for number in range(action["start"], _end(uri, action["start"], action["stop"])):
        image = images.EncodedImage(functools.partial(_read, _frame_uri(uri, number)))
        yield Frame(time=(number - 1) / action["fps"], image=image, text=action["text"])


def _end(uri: str, start: int, stop: int) -> int:
    """`stop`, or the number after the last frame. Frames are numbered without gaps, so a few
    questions find it, where a listing would have a hundred thousand names."""
    if files.exists(_frame_uri(uri, stop - 1)):
        return stop
    if not files.exists(_frame_uri(uri, start)):
        raise DataError(f"there is no frame {start} in {files.name_of(uri)}")
    there, absent = start, stop - 1
    while absent - there > 1:
        middle = (there + absent) // 2
        if files.exists(_frame_uri(uri, middle)):
            there = middle
        else:
            absent = middle
    return absent


def _frame_uri(uri: str, number: int) -> str:
    return files.join(uri, f"frame_{number:010d}.jpg")


def _read(uri: str) -> bytes:
    return rows.read(uri, _MAX_IMAGE)


def _annotations(path: str) -> tuple[str, list[tuple[str, str]]]:
    """The folder of the annotations, and (split, CSV) of those that are there."""
    for name in _FOLDERS:
        folder = files.join(path, name) if name else path
        uris = [(split, files.join(folder, f"EPIC_100_{split}.csv")) for split in _SPLITS]
        found = [(split, uri) for split, uri in uris if files.exists(uri)]
        if found:
            return folder, found
    raise UsageError(
        f"{path}: found neither EPIC_100_train.csv nor EPIC_100_validation.csv (nor in"
        " epic-kitchens-100-annotations/); `unisim sources epic_kitchens` shows what is expected"
    )


def _media(path: str, video_ids: list[str]) -> dict[str, _Media]:
    """Where each video is that there is, without a listing of any frames. A video is preferred to
    its frames: it has all pixels, and the times that were annotated."""
    participants = dict.fromkeys(video_id[:3] for video_id in video_ids)
    listed: dict[str, tuple[str, int]] = {}
    for folder in [*(f"{name}/videos" for name in participants), "videos"]:
        for uri, size in files.glob(path, folder, "*"):
            listed.setdefault(files.name_of(uri), (uri, size))
    found: dict[str, _Media] = {}
    for video_id in video_ids:
        names = [video_id + suffix for suffix in _SUFFIXES if video_id + suffix in listed]
        if names:
            uri, size = listed[names[0]]
            found[video_id] = _Media(uri, frames=False, size=size)
            continue
        for folder in (f"{video_id[:3]}/rgb_frames/{video_id}", f"rgb_frames/{video_id}"):
            uri = files.join(path, folder)
            first = files.glob(uri, files.name_of(_frame_uri(uri, 1)))
            if first:
                found[video_id] = _Media(uri, frames=True, size=first[0][1])
                break
    return found


def _actions(
    table: list[rows.Row], media: dict[str, _Media], infos: dict[str, rows.Info], seen: set[str]
) -> tuple[dict[str, list[dict[str, Any]]], list[dict[str, str]]]:
    """The actions of a split by video, and what is wrong with the other rows."""
    actions: dict[str, list[dict[str, Any]]] = {}
    problems = []
    for row in table:
        try:
            video_id = rows.video_of(row, seen)
            action = _action(row.fields, media.get(video_id), infos.get(video_id, rows.Info()))
            actions.setdefault(video_id, []).append(action)
        except DataError as e:
            where = f"line {row.line}"
            key = labels.clean_text(row.fields.get("narration_id", ""))[:64] or where
            problems.append({"id": key, "where": where, "why": e.reason, "stage": e.stage})
    return actions, problems


def _action(fields: dict[str, str], media: _Media | None, info: rows.Info) -> dict[str, Any]:
    """What a unit keeps of a row: id, text, start and stop in seconds of the video or as numbers
    of its extracted frames, and the rate of either."""
    video_id = fields["video_id"]
    if media is None:
        raise DataError(
            f"no video: neither {video_id}.MP4 nor frames in rgb_frames/{video_id}/ (tars are not"
            " read)"
        )
    if media.frames:
        start = max(1, rows.frame_number(fields["start_frame"]))
        stop = rows.frame_number(fields["stop_frame"])
        fps = rows.numbering_fps(fields)
    else:
        start, stop = (rows.seconds(fields[f"{end}_timestamp"]) for end in ("start", "stop"))
        # what the extension's videos were recorded at, and most of the others'
        usual = 50.0 if rows.nominal_fps(video_id) == 50.0 else 60000 / 1001
        fps = info.fps or usual
    if stop <= start:
        raise DataError(f"it stops at {stop}, not after its start at {start}", stage="annotate")
    text = labels.epic_text(fields["narration"], fields["verb"], fields["noun"])
    return {"id": fields["narration_id"], "text": text, "start": start, "stop": stop, "fps": fps}


def _runs(
    split: str,
    video_id: str,
    media: _Media,
    actions: list[dict[str, Any]],
    duration: float,
    target_bytes: int,
) -> Iterator[Unit]:
    """Runs of one video's actions by time. Each costs its share of the file, or its images, which
    are taken to be as large as the first."""
    actions.sort(key=lambda action: (action["start"], action["id"]))
    scale = [action["fps"] if media.frames else 1.0 for action in actions]
    # without a stated length the video is as long as its annotations, which is nearly so
    whole = duration or max(a["stop"] / s for a, s in zip(actions, scale, strict=True))
    first, total, cost = 0, 0.0, 0.0
    for end, (action, per_second) in enumerate(zip(actions, scale, strict=True), 1):
        seconds = max(0.0, min(action["stop"] / per_second, whole) - action["start"] / per_second)
        total += seconds
        cost += media.size * (seconds * _FPS if media.frames else seconds / whole)
        if cost >= target_bytes or end - first >= _UNIT_ROWS or end == len(actions):
            params = {"frames": media.frames, "actions": actions[first:end]}
            name = f"{video_id}-{first:06d}"
            yield _unit(split, name, media.uri, params, round(cost), end - first, total)
            first, total, cost = end, 0.0, 0.0


def _unit(
    split: str,
    name: str,
    uri: str,
    params: dict[str, Any],
    cost: int = 0,
    episodes: int = 0,
    seconds: float = 0.0,
) -> Unit:
    return Unit(
        id=f"{split}-{name}",
        uri=uri,
        split=_SPLITS[split],
        cost=cost,
        episodes=episodes,
        # an action has its first frame, however short it is
        frames=episodes + int(seconds * _FPS),
        version=INFO.version,
        params=params,
    )


_HEADER = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,"
    "start_frame,stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes"
)
# video: recorded fps, frames, file or folder
_FAKE_VIDEOS = {
    "P01_01": (60000 / 1001, 48, "P01/videos/P01_01.MP4"),
    "P01_101": (50.0, 40, "P01/videos/P01_101.mp4"),
    "P09_07": (30000 / 1001, 36, "videos/P09_07.MP4"),
    "P02_101": (50.0, 50, "P02/rgb_frames/P02_101"),
}
# split, video, number, start and stop in seconds; out of time order and overlapping
_FAKE_ACTIONS = (
    ("train", "P01_01", 1, 0.24, 0.7),
    ("train", "P01_01", 0, 0.0, 0.41),
    ("train", "P01_01", 10, 0.5, 0.78),
    ("train", "P09_07", 0, 0.1, 1.1),
    ("train", "P02_101", 0, 0.1, 0.52),
    ("train", "P02_101", 1, 0.3, 0.96),
    ("validation", "P01_101", 0, 0.05, 0.43),
    ("validation", "P01_101", 1, 0.2, 0.79),
)
# past the end in part and wholly, without a video, of no length, with a narration not in UTF-8
_FAKE_TRAPS = (
    ("train", "P01_01", 11, 0.3, 90.0),
    ("train", "P02_101", 2, 0.6, 33.4),
    ("train", "P01_01", 12, 61.5, 63.0),
    ("train", "P02_101", 3, 61.5, 63.0),
    ("train", "P02_102", 0, 0.1, 0.5),
    ("train", "P09_07", 1, 0.5, 0.5),
    ("train", "P01_01", 13, 0.1, 0.5),
)
_FAKE_COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 70, 220)}


def fake(root: Path, seed: int, *, traps: bool = True) -> Path:
    """Three tiny videos and one folder of frames, a square in each that is pushed about.

    With traps, actions end past their video's end, or begin there, have no video, or no length; a
    narration is not UTF-8, one has no timestamp of its own, and a list of nouns is not closed.
    """
    path = root / INFO.name
    rng = np.random.default_rng(seed)
    colours = dict(zip(_FAKE_VIDEOS, rng.choice(sorted(_FAKE_COLOURS), 4), strict=True))
    for video_id, (fps, count, place) in _FAKE_VIDEOS.items():
        target, frames = path / place, _fake_images(rng, count, _FAKE_COLOURS[colours[video_id]])
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix:
            video.write_video(str(target), frames, fps, "libx264")
            continue
        target.mkdir()
        for number, image in enumerate(frames, 1):
            (target / f"frame_{number:010d}.jpg").write_bytes(images.encode_jpeg(image))
    tables = {split: [_HEADER.encode()] for split in _SPLITS}
    for split, video_id, number, start, stop in _FAKE_ACTIONS + (_FAKE_TRAPS if traps else ()):
        colour = colours.get(video_id, "red")
        tables[split].append(_fake_row(video_id, number, start, stop, colour, traps))
    for split, lines in tables.items():
        (path / f"EPIC_100_{split}.csv").write_bytes(b"\n".join(lines) + b"\n")
    test = ",".join(_HEADER.split(",")[:8])
    (path / "EPIC_100_test_timestamps.csv").write_text(f"{test}\n")
    infos = [f"{v},{count / fps:.6f},{fps},64x48" for v, (fps, count, _) in _FAKE_VIDEOS.items()]
    (path / "EPIC_100_video_info.csv").write_text(
        "\n".join(["video_id,duration,fps,resolution", *infos, ""])
    )
    return path


def _fake_row(
    video_id: str, number: int, start: float, stop: float, colour: str, traps: bool
) -> bytes:
    """A row as the owners write it: frame numbers are times at the nominal rate, rounded down."""
    begin, end = (max(1, int(t * rows.nominal_fps(video_id))) for t in (start, stop))
    at = [f"00:{int(t) // 60:02d}:{t % 60:05.2f}" for t in (start, stop)]
    narrated = "" if traps and number == 1 else f"{at[0]}0"
    nouns = f"\"['square:{colour}', 'side']\",\"[9, 42]\""
    if traps and number == 10:
        nouns = nouns.replace("]", "")
    row = (
        f"{video_id}_{number},{video_id[:3]},{video_id},{narrated},{at[0]},{at[1]},{begin},{end},"
        f"push {colour} square to side,push-to,21,square:{colour},9,{nouns}"
    ).encode()
    return row.replace(b"push ", b"push \xe9 ") if traps and number == 13 else row


def _fake_images(
    rng: np.random.Generator, count: int, colour: tuple[int, ...]
) -> Iterator[np.ndarray]:
    """uint8 `[48, 64, 3]` each: a square that crosses a plain ground."""
    ground, top = rng.integers(60, 120, 3), int(rng.integers(2, 30))
    for i in range(count):
        image = np.full((48, 64, 3), ground, np.uint8)
        left = 48 * i // count
        image[top : top + 16, left : left + 16] = colour
        yield image
