"""LeRobotDataset v2.0, v2.1 and v3.0: the format of the robot datasets on the Hugging Face Hub.

An episode is the action sequence; each camera gives one view of it. The action of row i is taken
at frame i and leads to frame i + 1.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import files
from pipelines.episode import UNIT_BYTES, Control, Episode, SourceInfo, Unit
from pipelines.ops import labels, video
from pipelines.ops.images import encode_jpeg
from pipelines.sources import _lerobot_controls as controls
from pipelines.sources import _lerobot_meta as meta
from pipelines.sources._lerobot_reader import Reader
from schemas import DataError, UsageError

INFO = SourceInfo(
    name="lerobot",
    title="LeRobotDataset",
    homepage="https://github.com/huggingface/lerobot",
    license="unknown: see the dataset's card",
    version="3.0.0",
    reads="LeRobotDataset v2.0, v2.1 or v3.0, with videos or with images in its parquet files",
    layout="""\
PATH/                       a dataset, or a folder of datasets of one format
  README.md                 the card; its licence goes into every record
  meta/info.json
  v3.0: meta/tasks.parquet, meta/episodes/chunk-000/file-000.parquet,
        data/chunk-000/file-000.parquet, videos/{camera}/chunk-000/file-000.mp4
  v2.1: meta/tasks.jsonl, meta/episodes.jsonl,
        data/chunk-000/episode_000000.parquet, videos/chunk-000/{camera}/episode_000000.mp4
  meta/unisim_controls.json (optional, yours) what action values are, by their names in info.json:
        {"shoulder_pan.pos": {"slot": "joint_1", "unit": "deg", "scale": 0.0174533}}; also
        offset, low, high and wrap; slots are those of schemas/controls.py""",
    obtain="""\
`hf download OWNER/NAME --repo-type dataset --local-dir PATH`, or record one with lerobot.
Older formats: convert them with lerobot's own convert_dataset scripts.""",
    native_fps=None,
    # a choice: most are recorded at 30 fps, and 16 frames should span some seconds, as in Bridge
    target_fps=5.0,
    controls=controls.all_controls(),
)

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")
_log = logging.getLogger("unisim")


def units(path: str, target_bytes: int = UNIT_BYTES) -> Iterator[Unit]:
    """Runs of consecutive episodes of one split with about `target_bytes` of files each.

    Only metadata are read. What is wrong with an episode's stays in the unit, so that `episodes`
    reports it.

    Raises:
        UsageError: if there is no dataset, or its metadata are not what they should be.
    """
    for root, name in _datasets(path):
        try:
            dataset = meta.load(root)
            meta.tasks(dataset)
            entries = list(meta.listed(dataset))
            table = controls.table(dataset)
        except DataError as e:
            where, reason = e.uri or files.join(root, "meta"), labels.clean_text(e.reason)
            raise UsageError(
                f"{where}: {reason}; `unisim sources lerobot` shows what is expected"
            ) from e
        _warn(dataset, table, entries)
        speed = min(1.0, (INFO.target_fps or dataset.fps) / dataset.fps)
        first = 0
        for split, group, cost in _groups(dataset, entries, target_bytes):
            good = [entry for entry in group if "problem" not in entry]
            rows = sum(entry["rows"] for entry in good)
            yield Unit(
                id=f"{name}-{first:06d}" if name else f"{first:06d}",
                uri=root,
                split=split,
                cost=cost,
                episodes=len(good),
                frames=round(rows * len(dataset.cameras) * speed),
                version=dataset.version,
                params={"name": name, "episodes": group},
            )
            first += len(group)


def episodes(unit: Unit) -> Iterator[Episode | DataError]:
    """Every camera's view of every episode of the unit; a DataError per unusable episode.

    Raises:
        DataError: if the dataset's own metadata have changed and cannot be read.
    """
    name = unit.params["name"]
    dataset = meta.load(unit.uri)
    reader = Reader(dataset, controls.table(dataset), meta.tasks(dataset))
    for entry in unit.params["episodes"]:
        key = entry["key"] if "problem" in entry else f"{entry['index']:06d}"
        key = f"{name}-{key}" if name else key
        if "problem" in entry:
            yield DataError(entry["problem"], stage="annotate", key=key)
            continue
        try:
            rows = reader.rows(entry)
        except DataError as e:
            yield DataError(e.reason, stage=e.stage, key=key, uri=e.uri, where=e.where)
            continue
        for camera in dataset.cameras:
            yield reader.view(key, camera, entry, rows)


def _datasets(path: str) -> list[tuple[str, str]]:
    """(folder, name) of the dataset `path`, whose name is "", or of those in it."""
    if files.exists(files.join(path, "meta", "info.json")):
        return [(path, "")]
    found = files.glob(path, "*", "meta", "info.json")
    roots = [uri.removesuffix("/meta/info.json") for uri, _ in found]
    if not roots:
        raise UsageError(
            f"{path}: no meta/info.json here or one folder below; give the folder of a"
            " LeRobotDataset; `unisim sources lerobot` shows what is expected"
        )
    for root in roots:
        if not _NAME.fullmatch(files.name_of(root)):
            raise UsageError(f"{root}: rename it with letters, digits and ._- to use it as a name")
    return [(root, files.name_of(root)) for root in roots]


def _warn(dataset: meta.Dataset, table: tuple[Control, ...], entries: list[dict[str, Any]]) -> None:
    used = {control.name for control in table}
    unused = [labels.clean_text(name) for name in dataset.action if name not in used]
    if not dataset.action:
        _log.warning(f"{dataset.root}: no action in info.json; the task alone is the action")
    elif unused:
        alone = "" if table else "; the task alone is the action"
        _log.warning(
            f"{dataset.root}: what the action values {', '.join(unused)[:300]} of robot"
            f" {dataset.robot[:80]!r} are is not certain, so they are not used{alone}; state them"
            f" in meta/{controls.FILE} if you know (`unisim sources lerobot`)"
        )
    if dataset.total is not None and len(entries) < dataset.total:
        _log.warning(
            f"{dataset.root}: info.json counts {dataset.total} episodes, the metadata list"
            f" {len(entries)}; going on with these"
        )


def _groups(
    dataset: meta.Dataset, entries: list[dict[str, Any]], target_bytes: int
) -> Iterator[tuple[str | None, list[dict[str, Any]], int]]:
    """(split, episodes, bytes); what is wrong stands with what came before it."""
    group: list[dict[str, Any]] = []
    split, total = None, 0.0
    for entry, cost in zip(entries, _costs(dataset, entries), strict=True):
        new = dataset.split(entry["index"]) if "problem" not in entry else split
        if group and (new != split or total >= target_bytes):
            yield split, group, round(total)
            group, total = [], 0.0
        split = new
        group.append(entry)
        total += cost
    if group:
        yield split, group, round(total)


def _costs(dataset: meta.Dataset, entries: list[dict[str, Any]]) -> list[float]:
    """Each episode's part of the bytes of the files that it shares, by its rows."""
    sizes = {}
    for folder in ("data", "videos"):
        for uri, size in files.glob(files.join(dataset.root, folder), "**"):
            sizes[uri.removeprefix(dataset.root).lstrip("/")] = size
    used = [_paths(dataset, entry) if "problem" not in entry else [] for entry in entries]
    rows: dict[str, int] = {}
    for entry, paths in zip(entries, used, strict=True):
        for path in paths:
            rows[path] = rows.get(path, 0) + entry["rows"]
    return [
        sum(sizes.get(path, 0) * entry["rows"] / rows[path] for path in paths)
        for entry, paths in zip(entries, used, strict=True)
    ]


def _paths(dataset: meta.Dataset, entry: dict[str, Any]) -> list[str]:
    videos = (dataset.video(key, *place[:2]) for key, place in entry["videos"].items())
    return [dataset.data(*entry["data"]), *videos]


_CAMERAS = ("observation.images.front", "observation.images.wrist")
_FPS = 10
_TASKS = ("push the square left", "lift the square", "")
_ROW = ("timestamp", "frame_index", "episode_index", "index", "task_index")


class _Take(NamedTuple):
    """One made-up episode: its task's index by row, float32 `[n, 6]`, uint8 `[n, h, w, 3]`."""

    tasks: list[int]
    actions: np.ndarray
    states: np.ndarray
    images: dict[str, np.ndarray]


def fake(root: Path, seed: int, *, traps: bool = True) -> Path:
    """A v3.0 of five episodes, two cameras and two files of each kind, cut at other episodes.

    A task changes half way and one is empty. With traps there is a NaN in an action, a time span
    past the end of the video and an episode of fewer rows than the metadata say.
    """
    path = root / INFO.name
    rng = np.random.default_rng(seed)
    takes = [_fake_take(rng, i) for i in range(8 if traps else 5)]
    if traps:
        takes[5].actions[3, 2] = np.nan
    lengths = [len(take.tasks) for take in takes]
    rows = _fake_rows(takes)
    if traps:
        rows[7]["length"] += 1
    _fake_files(path, takes, rows)
    if traps:
        rows[6][f"videos/{_CAMERAS[0]}/from_timestamp"] += 1000.0
        rows[6][f"videos/{_CAMERAS[0]}/to_timestamp"] += 1000.0
    listing = path / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    listing.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), listing)
    pq.write_table(_fake_tasks(), path / "meta" / "tasks.parquet")
    name = "chunk-{chunk_index:03d}/file-{file_index:03d}"
    paths = (f"data/{name}.parquet", f"videos/{{video_key}}/{name}.mp4")
    _fake_info(path, "v3.0", paths, lengths, ("video", "video"))
    return path


def _fake_files(path: Path, takes: list[_Take], rows: list[dict[str, Any]]) -> None:
    """Data and videos of v3.0, and in `rows` where each episode is in them."""
    cuts = {"data": 3, f"videos/{_CAMERAS[0]}": 2, f"videos/{_CAMERAS[1]}": 4}
    tables = _fake_tables(takes, {})
    for folder, cut in cuts.items():
        for number, part in enumerate((range(cut), range(cut, len(takes)))):
            target = path / folder / "chunk-000" / f"file-{number:03d}"
            target.parent.mkdir(parents=True, exist_ok=True)
            done = 0
            for i in part:
                rows[i] |= {f"{folder}/chunk_index": 0, f"{folder}/file_index": number}
                if folder != "data":
                    n = len(takes[i].tasks)
                    rows[i][f"{folder}/from_timestamp"] = done / _FPS
                    rows[i][f"{folder}/to_timestamp"] = (done + n) / _FPS
                    done += n
            if folder == "data":
                with pq.ParquetWriter(f"{target}.parquet", tables[0].schema) as writer:
                    for i in part:
                        writer.write_table(tables[i])
            else:
                images = (image for i in part for image in takes[i].images[folder[7:]])
                video.write_video(f"{target}.mp4", images, _FPS, "libx264")


def fake_v21(root: Path, seed: int, *, traps: bool = True) -> Path:
    """A v2.1 of four episodes: one camera is a video, the other images in the parquet file.

    With traps a line of the metadata is cut, a video is missing, and an image is cut.
    """
    path = root / INFO.name
    rng = np.random.default_rng(seed)
    takes = [_fake_take(rng, i) for i in range(6 if traps else 4)]
    lengths = [len(take.tasks) for take in takes]
    name = "chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}"
    paths = (f"data/{name.replace('/{video_key}', '')}.parquet", f"videos/{name}.mp4")
    _fake_info(path, "v2.1", paths, lengths, ("video", "image"))
    stored = {_CAMERAS[1]: [[encode_jpeg(x) for x in t.images[_CAMERAS[1]]] for t in takes]}
    if traps:
        stored[_CAMERAS[1]][5][2] = stored[_CAMERAS[1]][5][2][:200]
    folders = [path / "data" / "chunk-000", path / "videos" / "chunk-000" / _CAMERAS[0]]
    for folder in folders:
        folder.mkdir(parents=True)
    for i, table in enumerate(_fake_tables(takes, stored)):
        pq.write_table(table, folders[0] / f"episode_{i:06d}.parquet")
        if not (traps and i == 4):
            target = folders[1] / f"episode_{i:06d}.mp4"
            video.write_video(str(target), takes[i].images[_CAMERAS[0]], _FPS, "libx264")
    keys = ("episode_index", "tasks", "length")
    lines = [json.dumps({key: row[key] for key in keys}) for row in _fake_rows(takes)]
    if traps:
        lines.insert(2, '{"episode_index": 6, "len')
    (path / "meta" / "episodes.jsonl").write_text("\n".join(lines) + "\n")
    tasks = [json.dumps({"task_index": i, "task": task}) for i, task in enumerate(_TASKS)]
    (path / "meta" / "tasks.jsonl").write_text("\n".join(tasks) + "\n")
    return path


def _fake_take(rng: np.random.Generator, index: int) -> _Take:
    n = int(rng.integers(8, 16))
    images = {}
    for camera in _CAMERAS:
        colour, (x, y) = rng.integers(60, 255, 3), rng.integers(0, 32, 2)
        images[camera] = np.full((n, 48, 64, 3), rng.integers(0, 60, 3), np.uint8)
        for i, image in enumerate(images[camera]):
            image[y : y + 16, x + i : x + i + 16] = colour
    values = [np.column_stack([rng.uniform(-99, 99, (n, 5)), rng.uniform(0, 100, n)]) for _ in "as"]
    tasks = (
        [1] * n if index == 0 else [2] * n if index == 2 else [0] * (n // 2) + [1] * (n - n // 2)
    )
    actions, states = (value.astype(np.float32) for value in values)
    return _Take(tasks, actions, states, images)


def _fake_rows(takes: list[_Take]) -> list[dict[str, Any]]:
    """What the metadata say of each episode wherever its files are."""
    ends = np.cumsum([len(take.tasks) for take in takes]).tolist()
    return [
        {
            "episode_index": i,
            "tasks": [_TASKS[task] for task in sorted(set(take.tasks))],
            "length": len(take.tasks),
            "dataset_from_index": end - len(take.tasks),
            "dataset_to_index": end,
        }
        for i, (take, end) in enumerate(zip(takes, ends, strict=True))
    ]


def _fake_tasks() -> pa.Table:
    """v3.0's tasks, as pandas writes a table whose index they are."""
    names, kinds = ("task_index", "__index_level_0__"), ("int64", "object")
    columns = [
        {
            "name": name,
            "field_name": name,
            "pandas_type": kind,
            "numpy_type": kind,
            "metadata": None,
        }
        for name, kind in zip(names, kinds, strict=True)
    ]
    pandas = {"index_columns": [names[1]], "column_indexes": [], "columns": columns}
    table = pa.table({names[0]: range(len(_TASKS)), names[1]: list(_TASKS)})
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def _fake_tables(takes: list[_Take], stored: dict[str, list[list[bytes]]]) -> list[pa.Table]:
    tables, done = [], 0
    for number, take in enumerate(takes):
        n = len(take.tasks)
        names = ("action", "observation.state")
        columns: dict[str, Any] = {
            name: pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 6)
            for name, values in zip(names, (take.actions, take.states), strict=True)
        }
        times = pa.array(np.arange(n) / _FPS, pa.float32())
        index = range(done, done + n)
        columns |= dict(zip(_ROW, (times, range(n), [number] * n, index, take.tasks), strict=True))
        for camera, images in stored.items():
            columns[camera] = [{"bytes": data, "path": "frame.jpg"} for data in images[number]]
        tables.append(pa.table(columns))
        done += n
    return tables


def _fake_info(
    path: Path, version: str, paths: tuple[str, str], lengths: list[int], kinds: tuple[str, str]
) -> None:
    (path / "meta").mkdir(parents=True, exist_ok=True)
    vector = {"dtype": "float32", "shape": [6], "names": list(controls.ROBOTS[0].names)}
    features: dict[str, Any] = {"action": vector, "observation.state": vector}
    for camera, kind in zip(_CAMERAS, kinds, strict=True):
        shape = {"shape": [48, 64, 3], "names": ["height", "width", "channels"]}
        features[camera] = {"dtype": kind} | shape
    for name in _ROW:
        kind = "float32" if name == "timestamp" else "int64"
        features[name] = {"dtype": kind, "shape": [1], "names": None}
    info = {
        "codebase_version": version,
        "robot_type": "so100",
        "total_episodes": len(lengths),
        "total_frames": sum(lengths),
        "total_tasks": len(_TASKS),
        "chunks_size": 1000,
        "fps": _FPS,
        "splits": {"train": "0:3", "val": "3:4"},
        "data_path": paths[0],
        "video_path": paths[1],
        "features": features,
    }
    (path / "meta" / "info.json").write_text(json.dumps(info, indent=4))
    (path / "README.md").write_text("---\nlicense: apache-2.0\ntags:\n- LeRobot\n---\n")
