"""The metadata of a LeRobotDataset, v2.0, v2.1 and v3.0: info, tasks, episodes, card.

Format: `lerobot/datasets/utils.py` and `lerobot_dataset.py` of github.com/huggingface/lerobot.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterator
from typing import Any, TypeGuard

import pyarrow as pa

from pipelines import files
from pipelines.ops import labels
from pipelines.sources import _lerobot_parquet as parquet
from schemas import DataError

VERSIONS = {"v2.0": "2.0.0", "v2.1": "2.1.0", "v3.0": "3.0.0"}
MAX_JSON = 256 << 20
MAX_LENGTH = 1_000_000
_MAX_WIDTH = 1024
_SPLITS = {"test": "test", "val": "val", "validation": "val", "valid": "val", "train": "train"}
_RANGE = re.compile(r"(\d{1,9}):(\d{1,9})")
_FIELD = re.compile(r"\{(\w+)(?::0?(\d{1,2})d)?\}")
# a part of a path: never empty, never hidden, never "..", and without "@", which marks a view
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9 ._+=-]{0,200}")
_LICENSE = re.compile(
    r"^license:\s*(?:-\s*)?[\"']?([A-Za-z0-9][A-Za-z0-9.+_-]{0,63})", re.MULTILINE
)
# pandas keeps the tasks as an index, which has this name in the file unless it was given one
_TASK_COLUMNS = ("task", "__index_level_0__")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """What `meta/info.json` and the card say.

    Attributes:
        root: the dataset's folder.
        version: "x.y.z" of the format.
        robot: `robot_type` in lower case, or "".
        fps: frames and rows per second.
        cameras: feature key -> "video" or "image", sorted; depth maps are left out.
        action, state: names of the values of `action` and `observation.state`; where a feature
            names none they are "action[0]" and so on, where it is absent there are none.
        splits: (split, first episode, end) of those that are train, val or test.
        chunk: episodes per chunk folder, of v2.
        data_path, video_path: templates of paths below the root.
        total: how many episodes there should be, or None.
        license: of the card, or "".
    """

    root: str
    version: str
    robot: str
    fps: float
    cameras: dict[str, str]
    action: tuple[str, ...]
    state: tuple[str, ...]
    splits: tuple[tuple[str, int, int], ...]
    chunk: int
    data_path: str
    video_path: str
    total: int | None
    license: str

    @property
    def shared(self) -> bool:
        """Whether many episodes share a file, as in v3."""
        return self.version.startswith("3")

    def data(self, chunk: int, number: int) -> str:
        """Path below the root of a parquet file."""
        return self._fill(self.data_path, chunk, number, {})

    def video(self, camera: str, chunk: int, number: int) -> str:
        """Path below the root of a camera's file."""
        return self._fill(self.video_path, chunk, number, {"video_key": camera})

    def split(self, episode: int) -> str | None:
        """The owner's split of an episode; None where there is none. A test episode stays one even
        where ranges overlap."""
        return next((split for split, a, b in self.splits if a <= episode < b), None)

    def _fill(self, template: str, chunk: int, number: int, fields: dict[str, Any]) -> str:
        names = ("chunk_index", "file_index") if self.shared else ("episode_chunk", "episode_index")
        fields = fields | dict(zip(names, (chunk, number), strict=True))

        def value(match: re.Match[str]) -> str:
            field, width = fields.get(match[1], match[0]), match[2]
            return f"{field:0{width}d}" if width and isinstance(field, int) else str(field)

        path = _FIELD.sub(value, template)
        if not all(_PART.fullmatch(part) for part in path.split("/")):
            raise DataError(f"the path {path[:80]!r} of info.json has unknown fields or leaves it")
        return path


def load(root: str) -> Dataset:
    """Reads `meta/info.json` and the card of the dataset in `root`.

    Raises:
        DataError: if a file or field is missing or wrong, or the version is another.
    """
    info = _object(_json(_read(files.join(root, "meta", "info.json")), "info.json"), "info.json")
    version, fps, chunk = (info.get(x) for x in ("codebase_version", "fps", "chunks_size"))
    if not isinstance(version, str) or version not in VERSIONS:
        raise DataError(
            f"codebase_version is {shown(version)}, wanted {', '.join(VERSIONS)};"
            " convert it with lerobot's own convert_dataset scripts"
        )
    if not is_number(fps) or not 0 < fps <= 1000:
        raise DataError(f"fps is {shown(fps)}, wanted a rate above 0, at most 1000")
    features = _object(info.get("features"), "features of info.json")
    data_path, video_path, robot = (info.get(x) for x in ("data_path", "video_path", "robot_type"))
    dataset = Dataset(
        root=root,
        version=VERSIONS[version],
        robot=robot.lower() if isinstance(robot, str) else "",
        fps=float(fps),
        cameras=_cameras(features),
        action=_names(features, "action"),
        state=_names(features, "observation.state"),
        splits=_splits(info.get("splits")),
        chunk=chunk if is_index(chunk) and chunk else 1000,
        data_path=data_path if isinstance(data_path, str) else "",
        video_path=video_path if isinstance(video_path, str) else "",
        total=info["total_episodes"] if is_index(info.get("total_episodes")) else None,
        license=_license(root),
    )
    dataset.data(0, 0)
    for camera, kind in dataset.cameras.items():
        if kind == "video":
            dataset.video(camera, 0, 0)
    return dataset


def is_index(value: object) -> TypeGuard[int]:
    """Whether it is an integer that can count files, rows or episodes."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1_000_000_000


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a finite number."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) < 1e15 and math.isfinite(value)


def shown(value: object) -> str:
    """A JSON value in an error's line."""
    if isinstance(value, list | dict):
        return f"a {type(value).__name__}"
    return repr(value[:60]) if isinstance(value, str) else str(value)[:60]


def _read(uri: str) -> bytes:
    try:
        with files.open_read(uri) as stream:
            data = stream.read(MAX_JSON + 1)
    except FileNotFoundError as e:
        raise DataError(f"no {files.name_of(uri)} here", uri=uri) from e
    if len(data) > MAX_JSON:
        raise DataError(f"{files.name_of(uri)} has more than {MAX_JSON} bytes", uri=uri)
    return data


def _json(data: bytes, name: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as e:
        raise DataError(f"{name} is not JSON ({labels.clean_text(str(e))[:200]})") from e


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{name} holds a {type(value).__name__}, wanted an object")
    return value


def read_json(uri: str) -> dict[str, Any]:
    """The object in a JSON file. Raises DataError."""
    return _object(_json(_read(uri), files.name_of(uri)), files.name_of(uri))


def _cameras(features: dict[str, Any]) -> dict[str, str]:
    cameras = {}
    for key, feature in sorted(features.items()):
        kind = feature.get("dtype") if isinstance(feature, dict) else None
        if kind not in ("video", "image") or _is_depth(feature):
            continue
        if not _PART.fullmatch(key):
            raise DataError(f"the camera's name {key[:80]!r} cannot be a folder's")
        cameras[key] = kind
    if not cameras:
        raise DataError("no feature of info.json is a video or an image")
    return cameras


def _is_depth(feature: dict[str, Any]) -> bool:
    infos = [feature.get("info"), feature.get("video_info"), feature]
    names = ("video.is_depth_map", "is_depth_map")
    return any(info.get(n) is True for info in infos if isinstance(info, dict) for n in names)


def _names(features: dict[str, Any], key: str) -> tuple[str, ...]:
    feature = features.get(key)
    if not isinstance(feature, dict):
        return ()
    shape = feature.get("shape")
    if not isinstance(shape, list) or len(shape) != 1 or not is_index(shape[0]):
        return ()
    if not 0 < shape[0] <= _MAX_WIDTH:
        return ()
    names = feature.get("names")
    if isinstance(names, dict) and len(names) == 1:
        (names,) = names.values()
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        names = []
    if len(set(names)) == len(names) == shape[0]:
        return tuple(names)
    return tuple(f"{key}[{i}]" for i in range(shape[0]))


def _splits(value: Any) -> tuple[tuple[str, int, int], ...]:
    if value is None:
        return ()
    found = []
    for name, text in _object(value, "splits of info.json").items():
        match = _RANGE.fullmatch(text) if isinstance(text, str) else None
        if not match:
            raise DataError(f"split {name[:40]!r} is {shown(text)}, wanted episodes as 0:50")
        if name in _SPLITS:
            found.append((_SPLITS[name], int(match[1]), int(match[2])))
    return tuple(sorted(found))


def _license(root: str) -> str:
    try:
        with files.open_read(files.join(root, "README.md")) as stream:
            head = stream.read(1 << 16).decode(errors="replace")
    except FileNotFoundError:
        return ""
    parts = head.replace("\r\n", "\n").split("---\n", 2)
    match = _LICENSE.search(parts[1]) if len(parts) == 3 and not parts[0].strip("\ufeff") else None
    return match[1] if match else ""


def tasks(dataset: Dataset) -> dict[int, str]:
    """Task index -> instruction. A line of jsonl that is none is left out: who needs it will miss
    it. Raises DataError if there is no such file, or it is not what it should be."""
    if not dataset.shared:
        lines = _lines(files.join(dataset.root, "meta", "tasks.jsonl"))
        pairs = [(x.get("task_index"), x.get("task")) for _, x in lines if isinstance(x, dict)]
    else:
        uri = files.join(dataset.root, "meta", "tasks.parquet")
        column = next(
            (name for name in _TASK_COLUMNS if name in parquet.columns(uri)), _TASK_COLUMNS[0]
        )
        pairs = []
        for batch in parquet.batches(uri, ["task_index", column]):
            texts = batch.column(column)
            if not pa.types.is_string(texts.type) and not pa.types.is_large_string(texts.type):
                raise DataError(f"the tasks are {texts.type}, wanted text", uri=uri)
            numbers = parquet.plain(batch, "task_index")
            pairs += zip(numbers, texts.to_pylist(), strict=True)
    return {number: text for number, text in pairs if is_index(number) and isinstance(text, str)}


def _lines(uri: str) -> Iterator[tuple[int, Any]]:
    """(number, value) of each line of a jsonl file that is not blank; a DataError for a value."""
    for number, line in enumerate(_read(uri).split(b"\n"), 1):
        if line.strip():
            where = f"line {number}"
            try:
                yield number, _json(line, f"{where} of {files.name_of(uri)}")
            except DataError as e:
                yield number, e


def listed(dataset: Dataset) -> Iterator[dict[str, Any]]:
    """The episodes that the metadata list, as JSON values: `index`, `rows`, `data` (chunk, file)
    and `videos`, camera -> (chunk, file, from, to in seconds; to is None for the file's end). Where
    one cannot be used: `key` and `problem`.

    Raises:
        DataError: if nothing lists them.
    """
    seen: set[int] = set()
    for key, row in _rows_v3(dataset) if dataset.shared else _rows_v2(dataset):
        try:
            if isinstance(row, DataError):
                raise row
            entry = _entry(dataset, row)
            if entry["index"] in seen:
                raise DataError("the episode was listed before")
            seen.add(entry["index"])
            yield entry
        except DataError as e:
            yield {"key": key, "problem": e.reason}


def _rows_v2(dataset: Dataset) -> Iterator[tuple[str, Any]]:
    for number, row in _lines(files.join(dataset.root, "meta", "episodes.jsonl")):
        index = row.get("episode_index") if isinstance(row, dict) else None
        yield f"{index:06d}" if is_index(index) else f"episodes.jsonl-{number}", row


def _rows_v3(dataset: Dataset) -> Iterator[tuple[str, Any]]:
    found = files.glob(dataset.root, "meta", "episodes", "*", "*.parquet")
    if not found:
        raise DataError("no meta/episodes/chunk-*/file-*.parquet here")
    names = ["episode_index", "length", "data/chunk_index", "data/file_index"]
    for camera, kind in dataset.cameras.items():
        parts = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
        names += [f"videos/{camera}/{part}" for part in parts if kind == "video"]
    for uri, _ in found:
        name = uri.removeprefix(dataset.root).strip("/")
        try:
            for batch in parquet.batches(uri, names):
                values = [parquet.plain(batch, column) for column in names]
                for row in zip(*values, strict=True):
                    index = row[0] if is_index(row[0]) else -1
                    yield f"{index:06d}", dict(zip(names, row, strict=True))
        except DataError as e:
            yield name, e


def _entry(dataset: Dataset, row: Any) -> dict[str, Any]:
    index, rows = (
        row.get(x) if isinstance(row, dict) else None for x in ("episode_index", "length")
    )
    if not is_index(index):
        raise DataError("the episode has no episode_index")
    if not is_index(rows) or not 0 < rows <= MAX_LENGTH:
        raise DataError(f"the episode's length is {shown(rows)}, wanted 1 to {MAX_LENGTH}")
    cameras = [camera for camera, kind in dataset.cameras.items() if kind == "video"]
    if dataset.shared:
        data = _place(row, "data")
        videos = {
            camera: [*_place(row, f"videos/{camera}"), *_span(row, camera)] for camera in cameras
        }
    else:
        data = [index // dataset.chunk, index]
        videos = {camera: [*data, 0.0, None] for camera in cameras}
    return {"index": index, "rows": rows, "data": data, "videos": videos}


def _place(row: dict[str, Any], head: str) -> list[int]:
    place = [row[f"{head}/{part}"] for part in ("chunk_index", "file_index")]
    if not all(is_index(number) for number in place):
        raise DataError(f"{head} is in chunk {place[0]}, file {place[1]}, wanted numbers")
    return place


def _span(row: dict[str, Any], camera: str) -> list[float]:
    span = [row[f"videos/{camera}/{part}"] for part in ("from_timestamp", "to_timestamp")]
    if not all(is_number(time) and time >= 0 for time in span):
        raise DataError(f"the episode is at {span[0]} to {span[1]} s in the video of {camera}")
    return span
