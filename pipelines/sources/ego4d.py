"""Ego4D: daily life seen from the head, in videos of minutes to hours with dense narrations.

A narration is a point in time. It stands for the time up to the midpoints between it and its
neighbours of the same pass, at most `max_seconds` in all. Narrations without a gap between them
become one episode whose text changes with them. Hand-object actions and goal-steps state their
spans and become episodes of their own.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from pipelines import files
from pipelines.episode import UNIT_BYTES, Episode, Frame, Option, SourceInfo, Unit
from pipelines.ops import video
from pipelines.sources._ego4d_annotations import LATE, Annotations, Video
from pipelines.sources._ego4d_fake import fake
from schemas import DataError, UsageError

__all__ = ["INFO", "episodes", "fake", "units"]

INFO = SourceInfo(
    name="ego4d",
    title="Ego4D",
    homepage="https://ego4d-data.org",
    license="Ego4D License Agreement: as signed by whoever downloads it",
    version="2.0.0",
    reads="full-scale MP4 videos with narration.json, fho_main.json, goalstep_{train,val}.json",
    layout="""\
PATH/
  ego4d.json                             lengths, splits, redacted parts; or in v2/
  v2/annotations/narration.json          at least one of these; or in annotations/
  v2/annotations/fho_main.json
  v2/annotations/goalstep_train.json     and _val (or _valid), _test; also in v2_1/annotations/
  v2/full_scale/{video_uid}.mp4          or full_scale/
""",
    obtain="""\
Sign the licence at the homepage, then run the owners' command: ego4d -o PATH --version v2
--datasets full_scale annotations. Some of the videos are enough: each annotated one that is not
there is one dead letter, so raise --error-budget where most are missing.""",
    native_fps=30.0,
    # A choice: the paper samples human video "at a lower rate" without a figure. Every sixth frame
    # is evenly spaced, and 16 of them span 3 s, about as long as one narration stands for.
    target_fps=5.0,
    options=(
        Option(
            name="max_seconds",
            default=4.0,
            low=0.1,
            high=3600,
            help="at most so many seconds of video for one narration, half of them before it",
        ),
    ),
    examples="3.5M",
    weight=0.1,
)

_CELL = 60.0  # seconds: narrations of two cells are two episodes, so that units may part there
_SPOKEN, _ACTED = 0, 1
_Atom = tuple[int, int, int]
"""What no unit parts: a minute, `_SPOKEN` and the pass or `_ACTED` and the action's place in the
list. Episodes are in the order of these, however many of them a unit has."""
_Load = tuple[float, int, int]
"""Seconds that are read, episodes, annotations."""
_LONGEST = 64.0  # seconds of an episode
_SHORTEST = 0.2  # seconds: what redaction leaves has to hold a frame of the table
_TOUCH = 1e-6
_UNIT_ITEMS = 1000


def units(path: str, target_bytes: int = UNIT_BYTES) -> Iterator[Unit]:
    """Runs of one video's narrated minutes and actions by time, about `target_bytes` of its file
    each; no video is opened.

    What is of no use (no video, no text, rejected by its annotators) stays as a problem in a unit,
    so that `episodes` reports it.

    Raises:
        UsageError: if annotations, ego4d.json or all videos are missing, or a file is not JSON of
            the owners' form.
    """
    annotations = Annotations.load(path)
    videos = _videos(path)
    lost: list[list[Any]] = []
    for uid in annotations.uids():
        found = annotations.video(uid)
        _part_actions(found)
        if found.readable and uid not in videos:
            found.forget(DataError(f"no video: full_scale/{uid}.mp4 is not there"))
        if found.readable:
            yield from _units(found, *videos[uid], target_bytes)
        else:
            lost += found.problems
    for first in range(0, len(lost), _UNIT_ITEMS):
        yield Unit(
            id=f"unread-{first:06d}",
            uri=path,
            split="train",  # it has no rows, and None would promise those of two splits
            cost=0,
            episodes=0,
            frames=0,
            version=INFO.version,
            params={"problems": lost[first : first + _UNIT_ITEMS]},
        )


def episodes(unit: Unit) -> Iterator[Episode | DataError]:
    """The unit's runs of narrations and its actions, minute by minute; a DataError for what is of
    no use.

    What is redacted is never read: spans are cut around it. A span of more than 64 s becomes
    several episodes.
    """
    most = unit.option(INFO, "max_seconds")
    for key, reason, stage, counts in unit.params["problems"]:
        yield DataError(reason, stage=stage, key=key, counts=counts)
    if "uid" not in unit.params:
        return
    runs = [*_narrated(unit.params, most), *_acted(unit.params)]
    for _, run in sorted(runs, key=lambda pair: pair[0]):  # stable
        if isinstance(run, DataError):
            yield run
        else:
            yield Episode(
                id=run[0].name,
                frames=_frames(unit.uri, run),
                source_range=f"{run[0].start:.3f}-{run[-1].end:.3f} s",
            )


class _Piece(NamedTuple):
    """A span of a video with one text.

    Attributes:
        name: the episode's id if it begins here.
        start, end: seconds, the end left out.
        reach: seconds that the video must last for the annotation to be right.
        text: what is done.
        cell: the minute of the annotation.
    """

    name: str
    start: float
    end: float
    reach: float
    text: str
    cell: int


def _narrated(
    params: dict[str, Any], most: float
) -> Iterator[tuple[int, list[_Piece] | DataError]]:
    """Minutes and runs of narrations that touch, in order of pass and time."""
    end = math.inf if params["end"] is None else params["end"]
    for number, spoken in sorted(params["passes"].items()):
        before, after = spoken["before"], spoken["after"]
        times = [-math.inf if before is None else before]
        times += [time for _, time, _ in spoken["points"]]
        times += [math.inf if after is None else after]
        run: list[_Piece] = []
        for i, (index, time, text) in enumerate(spoken["points"]):
            if not text:
                continue
            name = f"{params['uid']}-pass{number}-{index:06d}"
            low = max(0.0, time - most / 2, (times[i] + time) / 2)
            high = min(end, time + most / 2, (time + times[i + 2]) / 2)
            try:
                parts = _cut(low, high, params["redacted"])
            except DataError as e:
                e.key = name
                yield int(time // _CELL), e
                continue
            for k, (a, b) in enumerate(parts):
                reach = min(max(time, a), b)
                piece = _Piece(_numbered(name, k), a, b, reach, text, int(time // _CELL))
                if run and not _joins(run, piece):
                    yield run[0].cell, run
                    run = []
                run.append(piece)
        if run:
            yield run[0].cell, run


def _joins(run: list[_Piece], piece: _Piece) -> bool:
    """Whether a piece belongs to the episode of those before it. Only narrations of the same minute
    do, so that an episode is the same whatever the units are."""
    short = piece.end - run[0].start <= _LONGEST
    return piece.start - run[-1].end < _TOUCH and piece.cell == run[0].cell and short


def _acted(params: dict[str, Any]) -> Iterator[tuple[int, list[_Piece]]]:
    for action, start, end, text in params["actions"]:
        cell = int(start // _CELL)
        yield cell, [_Piece(f"{params['uid']}-{action}", start, end, end, text, cell)]


def _part_actions(found: Video) -> None:
    """Cuts the actions now: a step may last an hour, which several workers share."""
    parts = []
    for name, start, end, text in found.actions:
        try:
            for k, (a, b) in enumerate(_cut(start, end, found.redacted)):
                parts.append([_numbered(name, k), a, b, text])
        except DataError as e:
            found.lose(f"{found.uid}-{name}", e)
    found.actions = parts


def _numbered(name: str, part: int) -> str:
    return f"{name}-{part}" if part else name


def _cut(start: float, end: float, redacted: list[list[float]]) -> list[tuple[float, float]]:
    """The parts of a span that may be read, in equal parts of at most 64 s.

    Raises:
        DataError: if the span is empty; not counted, if all of it is redacted.
    """
    if end <= start:
        reason = f"no time of its own: from {start:.3f} s to {end:.3f} s"
        raise DataError(reason, stage="annotate")
    spans = [(start, end)]
    for a, b in redacted:
        halves = [half for x, y in spans for half in ((x, min(y, a)), (max(x, b), y))]
        spans = [(x, y) for x, y in halves if (x, y) == (start, end) or y - x >= _SHORTEST]
    if not spans:
        reason = f"from {start:.3f} s to {end:.3f} s, which is redacted"
        raise DataError(reason, stage="annotate", counts=False)
    parts = []
    for x, y in spans:
        n = math.ceil((y - x) / _LONGEST)
        edges = [x + (y - x) * i / n for i in range(n)] + [y]
        parts += itertools.pairwise(edges)
    return parts


def _frames(path: str, run: list[_Piece]) -> Iterator[Frame]:
    """The frames of pieces that touch. Annotations and frames share a clock, which a stream may
    join late: nothing is added to either."""
    at, last = 0, -math.inf
    with files.open_planned(path) as file:
        for frame in video.frames(file, run[0].start, run[-1].end):
            while frame.time >= run[at].end and at + 1 < len(run):
                at += 1
            last = frame.time
            yield Frame(time=last, image=frame.image, text=run[at].text)
    if last < run[-1].reach - LATE:
        reason = f"{run[-1].reach:.3f} s is past the end of the video: its last frame is {last:.3f}"
        raise DataError(f"{files.name_of(path)}: {reason} s", stage="annotate", uri=path)


def _videos(path: str) -> dict[str, tuple[str, int]]:
    """uid -> (file, bytes), from the newest release that has it."""
    found: dict[str, tuple[str, int]] = {}
    for place in ("full_scale",), ("v*", "full_scale"):
        for uri, size in reversed(files.glob(path, *place, "*.mp4")):
            found.setdefault(files.name_of(uri).removesuffix(".mp4"), (uri, size))
    if not found:
        raise UsageError(
            f"{path}: annotations but no videos; looked for *.mp4 in full_scale/ and"
            " v*/full_scale/; `unisim sources ego4d` shows what is expected"
        )
    return found


def _units(found: Video, uri: str, size: int, target_bytes: int) -> Iterator[Unit]:
    """One video's atoms in order, with the file's bytes shared out by what is read of each."""
    load = sorted(_load(found).items())
    ends = [action[2] for action in found.actions] + [p[1] for p in _points(found)]
    rate = size / max(found.end or 0.0, *ends, _SHORTEST)
    problems = found.problems
    for first, end in _groups([x for _, x in load], target_bytes / max(rate, 1e-9)):
        seconds, runs, _ = (sum(x) for x in zip(*(x for _, x in load[first:end]), strict=True))
        yield Unit(
            id=f"{found.uid}-{first:06d}",
            uri=uri,
            split=found.split,
            cost=int(seconds * rate),
            episodes=runs,
            frames=math.ceil(seconds * (INFO.target_fps or 1.0)),
            version=INFO.version,
            params=_params(found, [atom for atom, _ in load[first:end]]) | {"problems": problems},
        )
        problems = []


def _groups(load: list[_Load], seconds: float) -> Iterator[tuple[int, int]]:
    """From where to where there are at most so many seconds, and not too many annotations for a
    plan; or a single atom that has more."""
    first, total, items = 0, 0.0, 0
    for place, (more, _, more_items) in enumerate(load):
        if place > first and (total + more > seconds or items + more_items > _UNIT_ITEMS):
            yield first, place
            first, total, items = place, 0.0, 0
        total, items = total + more, items + more_items
    yield first, len(load)


def _points(found: Video) -> list[list[Any]]:
    return [point for points in found.passes.values() for point in points]


def _load(found: Video) -> dict[_Atom, _Load]:
    """What there is to read of each atom, about."""
    load: dict[_Atom, _Load] = {}
    most = INFO.options[0].default
    for number, points in found.passes.items():
        previous = -math.inf
        for _, time, text in points:
            gap, cell = time - previous, int(time // _CELL)
            alone = gap > most or previous // _CELL != cell
            seconds, runs, items = load.get((cell, _SPOKEN, int(number)), (0.0, 0, 0))
            load[cell, _SPOKEN, int(number)] = (
                seconds + (min(gap, most) if text else 0.0),
                runs + int(alone and bool(text)),
                items + 1,
            )
            previous = time
    for place, (_, start, end, _) in enumerate(found.actions):
        load[int(start // _CELL), _ACTED, place] = end - start, 1, 1
    return load


def _params(found: Video, atoms: list[_Atom]) -> dict[str, Any]:
    """What a worker needs of atoms in a row, and the times of their narrations' neighbours."""
    passes = {}
    for number, points in found.passes.items():
        cells = [cell for cell, kind, n in atoms if kind == _SPOKEN and n == int(number)]
        if cells:
            edges = (cells[0] * _CELL, (cells[-1] + 1) * _CELL)
            a, b = (bisect.bisect_left(points, x, key=lambda point: point[1]) for x in edges)
            passes[number] = {
                "before": points[a - 1][1] if a else None,
                "points": points[a:b],
                "after": points[b][1] if b < len(points) else None,
            }
    return {
        "uid": found.uid,
        "end": found.end,
        "redacted": found.redacted,
        "passes": passes,
        "actions": [found.actions[place] for _, kind, place in atoms if kind == _ACTED],
    }
