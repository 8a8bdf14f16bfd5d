"""Ego4D's annotation files -> what there is to read of each video, and what is wrong with the rest.

Times are in seconds on the clock of the video's file: `ego4d.json` tells each stream's start, and
an annotation that begins with the video begins there (0.021 s, mostly), not at 0. The schemas are
in the owners' documentation, docs/data/annotations-schemas.md of github.com/EGO4D/docs.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any

from pipelines import files
from pipelines.episode import split_of
from pipelines.ops import labels
from schemas import DataError, UsageError

_METADATA, _NARRATIONS, _ACTIONS = "ego4d.json", "narration.json", "fho_main.json"
_STEPS = {
    "goalstep_train.json": "train",
    "goalstep_val.json": "val",
    "goalstep_valid.json": "val",  # its name in the owners' repository
    "goalstep_test.json": "test",
}
_NAMES = (_METADATA, _NARRATIONS, _ACTIONS, *_STEPS)
_PASSES = ("1", "2")
_UID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_GROUP = "grp-"
_SUMMARY = re.compile(r"#\s*s[ua]mmary", re.IGNORECASE)
_MAX_TIME = 1e6
_MAX_ACTION = 3600.0
LATE = 1.0
"""Seconds by which an annotation may pass the end: times are rounded, and the last frame lasts."""
_MARGIN = 0.05  # seconds more, on each side, of what is redacted: its ends are rounded to frames


@dataclasses.dataclass
class Video:
    """What the annotations say of one video. Lists, because it goes into a plan's JSON.

    Attributes:
        uid: the name of its file.
        split: the owner's where it has one, else drawn by the uid: passes and benchmarks overlap,
            so that episodes of one video may not be in two splits.
        end: seconds, None if it is not known.
        redacted: sorted `[start, end]` in seconds that may not be read.
        passes: "1" and "2" -> `[index in the file, seconds, text]` in order of time. A text is
            empty if it cannot be used: something else began there all the same.
        actions: `[name, start, end, text]` in order of start.
        problems: `[key, reason, stage, counts]` of what cannot be used.
    """

    uid: str
    split: str = "train"
    end: float | None = None
    redacted: list[list[float]] = dataclasses.field(default_factory=list)
    passes: dict[str, list[list[Any]]] = dataclasses.field(default_factory=dict)
    actions: list[list[Any]] = dataclasses.field(default_factory=list)
    problems: list[list[Any]] = dataclasses.field(default_factory=list)
    _seen: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    @property
    def readable(self) -> bool:
        """Whether there is anything to read."""
        return bool(self.actions) or any(p[2] for points in self.passes.values() for p in points)

    def lose(self, key: str, error: DataError) -> None:
        """Notes what cannot be used."""
        self.problems.append([key, error.reason, error.stage, error.counts])

    def forget(self, error: DataError) -> None:
        """The whole video cannot be used: one problem takes the place of all that is known."""
        self.passes, self.actions, self.problems = {}, [], []
        self.lose(self.uid, error)

    def add_narrations(self, entry: Any) -> None:
        """The narrations of one video, `{narration_pass_1: {narrations: [...]}, ...}`."""
        if not isinstance(entry, dict):
            self.lose(self.uid, _wrong("its narrations", entry, "an object"))
            return
        spoken = {n: entry.get(f"narration_pass_{n}") for n in _PASSES}
        if all(value is None for value in spoken.values()):
            status = _shown(entry.get("status"))
            reason = f"it was not narrated; its status is {status}"
            self.lose(self.uid, DataError(reason, stage="annotate", counts=False))
        for number, value in spoken.items():
            if value is not None:
                points = list(self._points(number, value))
                self.passes[number] = sorted(points, key=lambda point: (point[1], point[0]))

    def _points(self, number: str, value: Any) -> Iterator[list[Any]]:
        for index, item in enumerate(self._items(value, "narrations")):
            point: list[Any] = []
            try:
                item = _object(item, "the narration")
                text = item.get("narration_text")
                text = text if isinstance(text, str) else ""
                if _SUMMARY.search(text):
                    reason = "a summary of what was seen so far, not an action of this moment"
                    raise DataError(reason, stage="annotate", counts=False)
                point = [index, self._time(item, "timestamp_sec"), ""]
                point[2] = labels.ego4d_text(text)
            except DataError as e:
                self.lose(f"{self.uid}-pass{number}-{index:06d}", e)
            if point:
                yield point

    def add_actions(self, entry: Any) -> None:
        """The hand-object actions of one entry of fho_main.json's `videos`."""
        for interval in self._items(entry, "annotated_intervals"):
            for item in self._items(interval, "narrated_actions"):
                name = self._name("fho")
                try:
                    item = _object(item, "the action")
                    _check_kept(interval, item)
                    span = self._span(item, "start_sec", "end_sec")
                    text = item.get("narration_text")
                    text = labels.ego4d_text(text if isinstance(text, str) else "")
                    self.actions.append([name, *span, text])
                except DataError as e:
                    self.lose(f"{self.uid}-{name}", e)

    def add_steps(self, split: str, entry: Any) -> None:
        """The steps and their parts of one entry of a goal-step file's `videos`."""
        if split == "test":
            reason = "a step of the test split, whose times are not given"
            for _ in self._items(entry, "step_segments"):
                key = f"{self.uid}-{self._name('goalstep')}"
                self.lose(key, DataError(reason, stage="annotate", counts=False))
            return
        if self.uid.startswith(_GROUP):
            reason = "several videos put end to end; what belongs to which is in no annotation file"
            self.lose(self.uid, DataError(reason, stage="annotate", counts=False))
            return
        pending = self._items(entry, "segments")[::-1]
        while pending:
            item, name = pending.pop(), self._name("goalstep")
            try:
                item = _object(item, "the step")
                pending += self._items(item, "segments")[::-1]
                span = self._span(item, "start_time", "end_time")
                text = item.get("step_description")
                text = labels.clean_text(text) if isinstance(text, str) else ""
                if not text:
                    raise DataError("the step has no description", stage="annotate")
                self.actions.append([name, *span, text])
            except DataError as e:
                self.lose(f"{self.uid}-{name}", e)

    def _name(self, kind: str) -> str:
        """A name of its own for the next annotation of a kind."""
        self._seen[kind] += 1
        return f"{kind}-{self._seen[kind] - 1:06d}"

    def _items(self, value: Any, name: str) -> list[Any]:
        """A list in an object, which may be missing; empty, and a problem, if it is no list."""
        found = value.get(name) if isinstance(value, dict) else value
        if isinstance(value, dict) and (found is None or isinstance(found, list)):
            return found or []
        self.lose(self.uid, _wrong(name, found, "a list"))
        return []

    def _time(self, item: dict[str, Any], name: str) -> float:
        time = _seconds(item, name)
        if self.end is not None and time > self.end + LATE:
            reason = f"{name} is {time:.3f} s, and the video ends at {self.end:.3f} s"
            raise DataError(reason, stage="annotate")
        return time

    def _span(self, item: dict[str, Any], first: str, last: str) -> tuple[float, float]:
        start, end = self._time(item, first), self._time(item, last)
        end = end if self.end is None else min(end, self.end)
        if not 0 < end - start <= _MAX_ACTION:
            reason = f"from {start:.3f} s to {end:.3f} s, wanted above 0 s and at most an hour"
            raise DataError(reason, stage="annotate")
        return start, end


@dataclasses.dataclass(frozen=True, kw_only=True)
class Annotations:
    """The annotation files that are there, by video.

    Attributes:
        metadata, actions: uid -> the video's entries in ego4d.json and fho_main.json.
        narrations: uid -> its entry in narration.json.
        steps: uid -> (split, its entry in that split's goal-step file).
    """

    metadata: dict[str, list[Any]]
    narrations: dict[str, Any]
    actions: dict[str, list[Any]]
    steps: dict[str, list[tuple[str, Any]]]

    @classmethod
    def load(cls, path: str) -> Annotations:
        """Reads the files below `path`: narration.json alone is 700 MB.

        Raises:
            UsageError: if there is no ego4d.json or nothing beside it, or one is not as it should.
        """
        found = _find(path)
        if not found.keys() - {_METADATA}:
            raise UsageError(
                f"{path}: none of {', '.join(_NAMES[1:])} there, in annotations/ or in"
                " v*/annotations/; `unisim sources ego4d` shows what is expected"
            )
        if _METADATA not in found:
            raise UsageError(
                f"{path}: no ego4d.json there or in v*/, so it is not known what is redacted; every"
                " download of the ego4d command has it: copy it there"
            )
        steps: dict[str, list[tuple[str, Any]]] = {}
        for split in dict.fromkeys(_STEPS.values()):
            for name in [n for n, s in _STEPS.items() if s == split and n in found][:1]:
                for uid, entries in _by_video(found[name]).items():
                    steps.setdefault(uid, []).extend((split, entry) for entry in entries)
        return cls(
            metadata=_by_video(found[_METADATA]),
            narrations=_narrations(found[_NARRATIONS]) if _NARRATIONS in found else {},
            actions=_by_video(found[_ACTIONS]) if _ACTIONS in found else {},
            steps=steps,
        )

    def uids(self) -> list[str]:
        """All videos that are annotated, sorted."""
        return sorted(self.narrations.keys() | self.actions.keys() | self.steps.keys())

    def video(self, uid: str) -> Video:
        """What there is to read of a video, checked."""
        if not _UID.fullmatch(uid):
            video = Video(labels.clean_text(uid)[:64])
            video.forget(DataError("the video_uid is not a plain name", stage="annotate"))
            return video
        video, unknown = Video(uid), None
        try:
            self._describe(video)
        except DataError as e:
            unknown = e
        if uid in self.narrations:
            video.add_narrations(self.narrations[uid])
        for entry in self.actions.get(uid, ()):
            video.add_actions(entry)
        for split, entry in self.steps.get(uid, ()):
            video.add_steps(split, entry)
        video.actions.sort(key=lambda action: (action[1], action[0]))
        if unknown is not None and video.readable:
            video.forget(unknown)
        return video

    def _describe(self, video: Video) -> None:
        """Fills in what ego4d.json says of a video."""
        entries = self.metadata.get(video.uid, [])
        stated = [e.get(f"split_{x}") for e in entries for x in ("em", "av", "fho")]
        stated += [split for split, _ in self.steps.get(video.uid, ())]
        # what one of the owner's benchmarks holds out is held out
        owners = [split for split in ("test", "val", "train") if split in stated]
        video.split = owners[0] if owners else split_of("ego4d", video.uid)
        if not entries:
            reason = "it is not in ego4d.json, so it is not known what of it is redacted"
            raise DataError(reason, stage="annotate")
        video.end = _end(entries[0])
        video.redacted = sorted(span for entry in entries for span in _redacted(entry))


def _find(path: str) -> dict[str, str]:
    """Name -> file, from the newest release that has it; v2_1 only adds goal-steps to v2."""
    places = [("annotations",), (), ("v*", "annotations"), ("v*",)]
    found: dict[str, str] = {}
    for place in places:
        for uri, _ in reversed(files.glob(path, *place, "*.json")):
            if files.name_of(uri) in _NAMES:
                found.setdefault(files.name_of(uri), uri)
    return found


def _load(uri: str) -> dict[str, Any]:
    try:
        value = json.loads(files.read(uri))
    except (ValueError, RecursionError) as e:
        raise UsageError(f"{uri}: not JSON ({e}); download it again") from e
    if not isinstance(value, dict):
        raise UsageError(f"{uri}: holds {_shown(value)}, wanted an object; give the owner's file")
    return value


def _by_video(uri: str) -> dict[str, list[Any]]:
    """uid -> entries of a file `{videos: [{video_uid, ...}]}`; those without a uid by position."""
    entries = _load(uri).get("videos")
    if not isinstance(entries, list):
        raise UsageError(f"{uri}: has no list of videos; give the owner's file")
    found: dict[str, list[Any]] = {}
    for i, entry in enumerate(entries):
        uid = entry.get("video_uid") if isinstance(entry, dict) else None
        key = uid if isinstance(uid, str) else f"{files.name_of(uri)}[{i}]"
        found.setdefault(key, []).append(entry)
    return found


def _narrations(uri: str) -> dict[str, Any]:
    """uid -> its entry: the file itself, or its `videos` as in the owner's later files."""
    value = _load(uri)
    inner = value.get("videos")
    return inner if isinstance(inner, dict) else value


def _end(entry: dict[str, Any]) -> float | None:
    try:
        length = _seconds(entry, "duration_sec")
    except DataError:
        return None  # then the file itself tells
    try:
        return length + _seconds(_object(entry.get("video_metadata"), ""), "video_start_sec")
    except DataError:
        return length


def _redacted(entry: dict[str, Any]) -> Iterator[list[float]]:
    """The spans that may not be read: those listed, and the parts that were taken out whole.

    Raises:
        DataError: if any of them is not as it should, for then none can be relied on.
    """
    for name, prefix in (("redacted_intervals", ""), ("video_components", "canonical_video_")):
        items = entry.get(name)
        if not isinstance(items, list | None):
            raise _wrong(name, items, "a list")
        for item in items or ():
            item = _object(item, f"one of {name}")
            if prefix and not item.get("redacted"):
                continue
            start, end = (_seconds(item, f"{prefix}{x}_sec") for x in ("start", "end"))
            if start > end:
                reason = f"one of {name} goes from {start:.3f} s to {end:.3f} s"
                raise DataError(reason, stage="annotate")
            yield [start - _MARGIN, end + _MARGIN]


def _check_kept(interval: dict[str, Any], action: dict[str, Any]) -> None:
    """Raises DataError, not counted, for an action that the owners threw out themselves."""
    reasons = {
        "in a redacted part": interval.get("redacted") is True,
        "not a valid action": action.get("is_valid_action") is False,
        "an invalid annotation": action.get("is_invalid_annotation") is True,
        f"rejected: {_shown(action.get('reject_reason'))}": action.get("is_rejected") is True,
    }
    for reason, holds in reasons.items():
        if holds:
            raise DataError(f"by its annotators: {reason}", stage="annotate", counts=False)


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(what, value, "an object")
    return value


def _seconds(item: dict[str, Any], name: str) -> float:
    value = item.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MAX_TIME:
        raise _wrong(name, value, "seconds")
    return float(value)


def _wrong(what: str, value: Any, wanted: str) -> DataError:
    return DataError(f"{what} is {_shown(value)}, wanted {wanted}", stage="annotate")


def _shown(value: Any) -> str:
    """A value for an error line: junk may be long, or too deep to be written."""
    if isinstance(value, str):
        return repr(labels.clean_text(value)[:80])
    if value is None or isinstance(value, int | float):
        return "null" if value is None else str(value)[:40]
    return f"a {type(value).__name__}"
