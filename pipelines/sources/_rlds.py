"""What the RLDS sources share: the files of a TFDS folder, read by byte range."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from pipelines import files
from pipelines.episode import Episode, Unit
from pipelines.ops import tfrecord
from schemas import DataError, UsageError
from schemas.example import Example

_NAME = re.compile(
    r"(?P<name>.+)-(?P<split>[^-]+)\.tfrecord-(?P<shard>\d{5})(?:-of-(?P<of>\d{5}))?"
)
_VERSION = re.compile(r"\d{1,4}\.\d{1,4}\.\d{1,4}")
_AGAIN = "download it again"
_SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
_log = logging.getLogger("unisim")


class Folder(NamedTuple):
    """A TFDS dataset folder: its path, version, split -> episodes per shard, and feature JSON."""

    path: str
    version: str
    lengths: dict[str, list[int]]
    features: dict[str, Any]


def folder(source: str, path: str) -> Folder:
    """Reads `dataset_info.json` and `features.json` of the TFDS folder `path`.

    Raises:
        UsageError: if it is not one.
    """
    info = _json_object(source, path, "dataset_info.json")
    features = _json_object(source, path, "features.json")
    version = info.get("version")
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        raise UsageError(f"{path}/dataset_info.json: version {version!r}, wanted x.y.z; {_AGAIN}")
    splits = info.get("splits")
    lengths = {}
    for split in splits if isinstance(splits, list) else []:
        try:
            numbers = [int(n) for n in split.get("shardLengths", [])]
            if not all(0 <= n < 1 << 31 for n in numbers):
                raise ValueError("a shard's length is out of range")
            lengths[str(split["name"])] = numbers
        except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as e:
            raise UsageError(
                f"{path}/dataset_info.json: a split is not {{name, shardLengths}}; {_AGAIN}"
            ) from e
    return Folder(path, version, lengths, features)


def _json_object(source: str, path: str, name: str) -> dict[str, Any]:
    uri = files.join(path, name)
    try:
        value = json.loads(files.read(uri))
    except FileNotFoundError as e:
        raise UsageError(
            f"{path}: no {name} here; wanted the version folder of an RLDS dataset;"
            f" `unisim sources {source}` shows it"
        ) from e
    except (ValueError, RecursionError) as e:
        raise UsageError(f"{uri}: not JSON ({' '.join(str(e).split())}); {_AGAIN}") from e
    if not isinstance(value, dict):
        raise UsageError(f"{uri}: holds a {type(value).__name__}, wanted an object; {_AGAIN}")
    return value


def has_feature(folder: Folder, *path: str) -> bool:
    """Whether the dataset's steps have the feature, e.g. `"observation", "image_0"`."""

    def child(node: Any, *names: str) -> Any:
        for name in names:
            node = node.get(name) if isinstance(node, dict) else None
        return node

    node = child(_inner(folder.features), "featuresDict", "features", "steps")
    for name in path:
        node = child(_inner(node), "featuresDict", "features", name)
    return node is not None


def _inner(node: Any) -> Any:
    """The feature that a sequence is of, or the feature itself."""
    while isinstance(node, dict) and isinstance(node.get("sequence"), dict):
        node = node["sequence"].get("feature")
    return node


def units(folder: Folder, target_bytes: int, steps_per_episode: int) -> Iterator[Unit]:
    """Units of about `target_bytes`, in the order of split and shard.

    A file up to that size is one unit and is not opened; larger ones are cut at record starts.
    """
    listed = files.glob(folder.path, "*.tfrecord*")
    found = [
        (m, path, size) for path, size in listed if (m := _NAME.fullmatch(files.name_of(path)))
    ]
    if not found:
        raise UsageError(f"{folder.path}: no *.tfrecord-NNNNN files; download the dataset's shards")
    _warn_of_absent_files(folder, [m for m, _, _ in found])
    for match, path, size in found:
        split = _SPLITS.get(match["split"])
        if split is None:
            raise UsageError(f"{path}: split {match['split']!r}, wanted train, val or test")
        shard = int(match["shard"])
        lengths = folder.lengths.get(match["split"], [])
        episodes = lengths[shard] if shard < len(lengths) else max(1, size >> 20)
        for first, start, end in _ranges(path, size, target_bytes):
            share = (end - start) / max(size, 1)
            count = max(1, round(episodes * share))
            params = {"first": first, "start": start, "end": end}
            if end == size and shard < len(lengths):
                params["records"] = lengths[shard]
            yield Unit(
                id=f"{match['split']}-{shard:05d}-{first:06d}",
                uri=path,
                split=split,
                cost=end - start,
                episodes=count,
                frames=count * steps_per_episode,
                version=folder.version,
                params=params,
            )


def _warn_of_absent_files(folder: Folder, matches: list[re.Match[str]]) -> None:
    have = {(m["split"], int(m["shard"])) for m in matches}
    for split, lengths in folder.lengths.items():
        absent = sum((split, shard) not in have for shard in range(len(lengths)))
        if absent:
            _log.warning(
                f"{folder.path}: {absent} of {len(lengths)} files of split {split!r} that"
                " dataset_info.json lists are not here; going on with the others"
            )


def _ranges(path: str, size: int, target_bytes: int) -> Iterator[tuple[int, int, int]]:
    """(number of the first record, first byte, end) of each unit of a file."""
    if size <= target_bytes:
        yield 0, 0, size
        return
    first = start = 0
    with files.open_read(path) as stream:
        for number, offset in enumerate(tfrecord.offsets(stream)):
            if offset - start >= target_bytes:
                yield first, start, offset
                first, start = number, offset
    yield first, start, size


class RawEpisode(NamedTuple):
    """One episode's id, the byte range of its record, and its parsed Example."""

    id: str
    source_range: str
    example: Example


def episodes(
    unit: Unit, views: Callable[[RawEpisode], Iterable[Episode]]
) -> Iterator[Episode | DataError]:
    """What `views` makes of each record of the unit, all of it or none.

    Args:
        views: raises DataError for a record that cannot be used.
    """
    for raw in read(unit):
        if isinstance(raw, DataError):
            yield raw
            continue
        try:
            yield from list(views(raw))
        except DataError as e:
            yield DataError(
                e.reason, stage=e.stage, key=raw.id, where=raw.source_range, counts=e.counts
            )


def read(unit: Unit) -> Iterator[RawEpisode | DataError]:
    """The unit's records. Damaged ones are yielded as DataError with the episode's id as key.

    Raises:
        DataError: where the file is cut off, or ends before it has the records that
            dataset_info.json lists for it.
    """
    prefix = unit.id.rsplit("-", 1)[0]
    number = unit.params["first"]
    with files.open_planned(unit.uri) as stream:
        for item in tfrecord.records(stream, unit.params["start"], unit.params["end"]):
            key = f"{prefix}-{number:06d}"
            number += 1
            if isinstance(item, DataError):
                item.key = key
                yield item
                continue
            where = f"bytes {item.start}-{item.end}"
            try:
                example = Example(item.data)
            except DataError as e:
                yield DataError(e.reason, stage="read", key=key, where=where)
                continue
            yield RawEpisode(key, where, example)
    listed = unit.params.get("records", 0)
    if number < listed:
        raise DataError(f"the file holds {number} of the {listed} episodes that it should")
