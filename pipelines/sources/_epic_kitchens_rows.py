"""The CSVs of EPIC-KITCHENS-100: their rows, checked, and what their two clocks say."""

from __future__ import annotations

import csv
import re
from typing import NamedTuple

from pipelines import files
from pipelines.ops import labels
from schemas import DataError, UsageError

VIDEO = re.compile(r"(P[0-9]{2})_([0-9]{2,3})")
_NUMBER = re.compile(r"[0-9]{1,9}")
_TIME = re.compile(r"([0-9]{1,2}):([0-5][0-9]):([0-5][0-9](?:\.[0-9]{1,6})?)")
_MAX_TABLE = 64 << 20
_MAX_ROWS = 1_000_000
_MAX_LINE = 64 << 10


class Row(NamedTuple):
    """A line of a CSV: its number, from 1, with its fields by column, or with what is wrong."""

    line: int
    fields: dict[str, str]
    problem: str = ""


class Info(NamedTuple):
    """What EPIC_100_video_info.csv says of a video, in seconds and frames a second; 0: nothing."""

    duration: float = 0.0
    fps: float = 0.0


def read(uri: str, limit: int) -> bytes:
    """The whole file. Raises DataError if it is not there, or has more than `limit` bytes."""
    name = files.name_of(uri)
    try:
        with files.open_read(uri) as file:
            data = file.read(limit + 1)
    except FileNotFoundError as e:
        raise DataError(f"there is no file {name}", uri=uri) from e
    if len(data) > limit:
        raise DataError(f"{name} has more than {limit} bytes", uri=uri)
    return data


def rows(uri: str, columns: tuple[str, ...]) -> list[Row]:
    """The lines below a CSV's header, by the columns asked for. No field of the owners' holds a
    line break, so a stray quote costs its own line, not those after it.

    Raises:
        UsageError: if a column is missing, or the file is no CSV at all.
    """
    try:
        data = read(uri, _MAX_TABLE)
        if data.count(b"\n") + data.count(b"\r") > 2 * _MAX_ROWS:
            raise DataError(f"more than {_MAX_ROWS} lines")
        lines = data.splitlines()
        header = _fields(lines[0]) if lines else []
    except DataError as e:
        raise UsageError(f"{uri}: not a CSV ({e.reason}); download it again") from e
    lacking = [column for column in columns if column not in header]
    if lacking:
        raise UsageError(
            f"{uri}: has no column {lacking[0]!r}; wanted EPIC-KITCHENS-100's own file, with"
            f" {', '.join(columns)}; download it again"
        )
    found = []
    for number, line in enumerate(lines[1:], 2):
        try:
            if line.strip():
                fields = _fields(line)
                if len(fields) != len(header):
                    raise DataError(f"{len(fields)} fields, wanted {len(header)}")
                named = dict(zip(header, fields, strict=True))
                found.append(Row(number, {column: named[column].strip() for column in columns}))
        except DataError as e:
            found.append(Row(number, {}, e.reason))
    return found


def _fields(line: bytes) -> list[str]:
    if len(line) > _MAX_LINE:
        raise DataError(f"a line of {len(line)} bytes, more than {_MAX_LINE}")
    if b"\0" in line:
        raise DataError("NUL bytes in the line")
    try:
        return next(csv.reader([line.decode("utf-8-sig")], strict=True), [])
    except UnicodeDecodeError as e:
        raise DataError(f"the line is not UTF-8 ({e.reason} at byte {e.start})") from e
    except csv.Error as e:
        raise DataError(f"the line is no CSV ({e})") from e


def video_info(uri: str) -> dict[str, Info]:
    """Lengths and rates of the videos; empty if the file is missing, and without its bad rows."""
    if not files.exists(uri):
        return {}
    return {
        row.fields["video_id"]: Info(
            _positive(row.fields["duration"], 1e6), _positive(row.fields["fps"], 1000.0)
        )
        for row in rows(uri, ("video_id", "duration", "fps"))
        if not row.problem
    }


def _positive(text: str, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if 0.0 < value <= high else 0.0


def video_of(row: Row, seen: set[str]) -> str:
    """The video of a row whose ids are as they should be and agree: they become file names.

    Raises:
        DataError: otherwise, or if its narration's id was `seen` before.
    """
    if row.problem:
        raise DataError(row.problem)
    narration_id, video_id = row.fields["narration_id"], row.fields["video_id"]
    match = VIDEO.fullmatch(video_id)
    if not match:
        raise DataError(f"{_shown(video_id)} is no id of a video", stage="annotate")
    if row.fields["participant_id"] != match[1]:
        given = _shown(row.fields["participant_id"])
        raise DataError(f"the participant {given} of the video {video_id}", stage="annotate")
    head, _, number = narration_id.rpartition("_")
    if head != video_id or not _NUMBER.fullmatch(number):
        raise DataError(f"the narration's id is not {video_id}_NUMBER", stage="annotate")
    if narration_id in seen:
        raise DataError(f"the narration {narration_id} was listed before", stage="annotate")
    seen.add(narration_id)
    return video_id


def frame_number(text: str) -> int:
    """The number of an extracted frame. Raises DataError."""
    if not _NUMBER.fullmatch(text):
        raise DataError(f"{_shown(text)} is no frame number", stage="annotate")
    return int(text)


def seconds(text: str) -> float:
    """The seconds of HH:MM:SS.ss. Raises DataError."""
    match = _TIME.fullmatch(text)
    if not match:
        raise DataError(f"{_shown(text)} is no time HH:MM:SS.ss", stage="annotate")
    return round(int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3]), 6)


def nominal_fps(video_id: str) -> float:
    """What a video's extracted frames are numbered at: 50 in the extension, whose numbers have
    three digits, and 60 in the videos of 2018, whatever these were recorded at."""
    return 50.0 if len(video_id) == len("P01_101") else 60.0


def numbering_fps(fields: dict[str, str]) -> float:
    """What a row's frames are numbered at, by its two clocks; by its video's name where these are
    too near to 0 to tell, or wrong."""
    try:
        measured = frame_number(fields["stop_frame"]) / seconds(fields["stop_timestamp"])
    except (DataError, ZeroDivisionError):
        measured = 0.0
    near = (rate for rate in (50.0, 60.0) if abs(measured / rate - 1) < 0.02)
    return next(near, nominal_fps(fields["video_id"]))


def _shown(text: str) -> str:
    return repr(labels.clean_text(text)[:64])
