"""LAION: web images with their captions, in the shards that img2dataset writes."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import files
from pipelines.episode import UNIT_BYTES, Episode, Frame, SourceInfo, Unit
from pipelines.ops import images, labels
from schemas import DataError, UsageError

INFO = SourceInfo(
    name="laion",
    title="LAION",
    homepage="https://laion.ai",
    license="unknown: every image keeps its owner's licence; the metadata is CC BY 4.0",
    version="1.0.0",
    reads="img2dataset shards: 00000.tar with 00000.parquet",
    layout="""\
PATH/
  00000.tar            {key}.jpg (or .png, .webp), {key}.txt, {key}.json
  00000.parquet        a row per URL: key, status, error_message, caption, LICENSE
  00000_stats.json     not read
""",
    obtain="""\
Download the images with img2dataset --output_format webdataset from LAION's metadata parquet;
PATH is its --output_folder.""",
    native_fps=None,
    target_fps=None,
    fit="crop",
    examples="400M",
    weight=0.05,
)

MAX_MEMBER = 64 << 20
_IMAGE_BYTES = 32 << 10  # a guess for the plan, of a 256-pixel JPEG with its texts
_MAX_ROWS = 1_000_000
_REQUIRED = ("key", "status")
_OPTIONAL = ("error_message", "caption", "LICENSE")
_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MEMBER = re.compile(r"(?:\./)?([A-Za-z0-9_-]{1,64})\.([a-z0-9]{1,16})")
_IMAGES = ("jpg", "jpeg", "png", "webp")


def units(path: str, target_bytes: int = UNIT_BYTES) -> Iterator[Unit]:
    """One unit per tar, whatever its size, from the listing alone; its images are a guess by size.

    Raises:
        UsageError: if there are no shards.
    """
    tars = {
        files.name_of(uri).removesuffix(".tar"): (uri, size) for uri, size in _list(path, "tar")
    }
    tables = {files.name_of(uri).removesuffix(".parquet") for uri, _ in _list(path, "parquet")}
    # a numbered table whose tar is lost stays a unit, so that the loss is reported
    stems = sorted(tars.keys() | {stem for stem in tables if stem.isdecimal()})
    if not tars or not tables:
        raise UsageError(
            f"{path}: found {len(tars)} *.tar and {len(tables)} *.parquet; give the directory that"
            f" img2dataset wrote with --output_format webdataset; `unisim sources laion` shows it"
        )
    for stem in stems:
        uri, size = tars.get(stem, (files.join(path, f"{stem}.tar"), 0))
        guess = -(-size // _IMAGE_BYTES)
        yield Unit(
            id=stem,
            uri=uri,
            split=None,
            cost=size,
            episodes=guess,
            frames=guess,
            version=INFO.version,
        )


def episodes(unit: Unit) -> Iterator[Episode | DataError]:
    """One episode of one frame per image, by key, whatever the order in the tar.

    The caption is the action, so an image without one is dead-lettered. Rows that were never
    downloaded are declared losses: recorded, not counted.

    Raises:
        DataError: if the tar or the parquet is missing, or the parquet cannot be read.
    """
    rows, problems = _rows(unit.uri.removesuffix(".tar") + ".parquet")
    yield from problems
    if not files.exists(unit.uri):
        raise DataError(f"{files.name_of(unit.uri)} is missing beside its parquet")
    # one copy of a remote tar costs less than a request for each of its members
    with files.local_copy(unit.uri) as path, open(path, "rb") as tar:
        members, problems = _members(tar, files.name_of(unit.uri))
        yield from problems
        for key in sorted(rows.keys() | members.keys()):
            try:
                yield _episode(unit.id, key, rows.get(key), members.get(key, {}), tar)
            except DataError as e:
                e.key = key
                yield e


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Member:
    """Where a file's bytes are in the tar."""

    name: str
    offset: int
    size: int

    def read(self, tar: BinaryIO) -> bytes:
        tar.seek(self.offset)
        data = tar.read(self.size)
        if len(data) < self.size:
            raise DataError(
                f"the tar ends after {len(data)} of the {self.size} bytes of {self.name}",
                where=self.name,
            )
        return data


def _episode(
    stem: str, key: str, row: dict[str, Any] | None, members: dict[str, _Member], tar: BinaryIO
) -> Episode:
    if row is None:
        raise DataError("in the tar but not in the parquet", stage="annotate")
    if row["status"] != "success":
        reason = f"{row['status']}: {row.get('error_message')}"
        raise DataError(labels.clean_text(reason), stage="download", counts=False)
    if "image" not in members:
        raise DataError("a success in the parquet, but no image in the tar")
    image = members["image"]
    text = _text(row.get("caption"))
    if not text and "txt" in members:
        text = labels.clean_text(members["txt"].read(tar).decode(errors="replace"))
    if not text:
        raise DataError("no caption, so no action", stage="annotate", where=image.name)
    license = _text(row.get("LICENSE"))
    decode = functools.partial(images.decode_image, image.read(tar))
    return Episode(
        # img2dataset begins its keys with the shard's number; others could meet in two shards
        id=key if key.startswith(stem) else f"{stem}-{key}",
        frames=[Frame(time=0.0, image=decode, text=text)],
        source_range=image.name,
        license="" if license == "?" else license,
        fps=0.0,
    )


def _text(value: Any) -> str:
    return labels.clean_text(value) if isinstance(value, str) else ""


def _list(path: str, suffix: str) -> list[tuple[str, int]]:
    return files.glob(files.join(path, f"*.{suffix}"))


def _rows(uri: str) -> tuple[dict[str, dict[str, Any]], list[DataError]]:
    """The parquet's rows by key, and what is wrong with single ones."""
    rows: dict[str, dict[str, Any]] = {}
    problems = []
    for number, row in enumerate(_table(uri).to_pylist()):
        key, where = row["key"], f"row {number}"
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            name = labels.clean_text(str(key))[:64]
            problems.append(
                DataError(f"{name!r} is no key", stage="annotate", key=name, uri=uri, where=where)
            )
        elif key in rows:
            problems.append(
                DataError("a second row", stage="annotate", key=key, uri=uri, where=where)
            )
        else:
            rows[key] = row
    return rows, problems


def _table(uri: str) -> pa.Table:
    name = files.name_of(uri)
    try:
        data = files.read(uri)  # on its own: the disk's errors are not the file's
    except FileNotFoundError as e:
        raise DataError(f"{name} is missing: the shard is not complete", uri=uri) from e
    try:
        parquet = pq.ParquetFile(pa.BufferReader(data))
        names = parquet.schema_arrow.names
        lacking = [column for column in _REQUIRED if column not in names]
        if lacking:
            raise DataError(f"{name} lacks the columns {', '.join(lacking)}", uri=uri)
        if parquet.metadata.num_rows > _MAX_ROWS:
            raise DataError(f"{name} has more than {_MAX_ROWS} rows", uri=uri)
        columns = [column for column in _REQUIRED + _OPTIONAL if column in names]
        return parquet.read(columns, use_threads=False)
    except (pa.ArrowException, ValueError, OSError) as e:
        raise DataError(f"{name} is not a whole parquet file ({e})", uri=uri) from e


class _Bounded:
    """A file whose single reads are bounded: tarfile reads some headers whole, at any size."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_MEMBER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)


def _members(tar: BinaryIO, name: str) -> tuple[dict[str, dict[str, _Member]], list[DataError]]:
    """Key -> "image" or suffix -> where, from the headers alone; and what is wrong with others."""
    members: dict[str, dict[str, _Member]] = {}
    problems = []
    try:
        with tarfile.open(fileobj=_Bounded(tar), mode="r:") as archive:  # type: ignore[arg-type]
            for info in archive:
                try:
                    _add(members, info)
                except DataError as e:
                    e.key = e.where = labels.clean_text(info.name)[:200]
                    problems.append(e)
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as e:
        # what stood before the damage is used; the rows whose members are lost are reported each
        reason = labels.clean_text(str(e))
        problems.append(DataError(f"the tar is damaged: {reason}", key=name))
    return members, problems


def _add(members: dict[str, dict[str, _Member]], info: tarfile.TarInfo) -> None:
    match = _MEMBER.fullmatch(info.name)
    if not match:
        raise DataError("the member's name is not KEY.SUFFIX")
    if not info.isreg() or info.issparse():
        raise DataError("the member is not a plain file")
    if info.size > MAX_MEMBER:
        raise DataError(f"the member has {info.size} bytes, more than {MAX_MEMBER}")
    key, suffix = match.groups()
    parts = members.setdefault(key, {})
    kind = "image" if suffix in _IMAGES else suffix
    if kind in parts:
        raise DataError(f"{key} has a second {kind}")
    parts[kind] = _Member(name=info.name, offset=info.offset_data, size=info.size)


def fake(root: Path, seed: int, traps: bool = True) -> Path:
    """One shard of eight captioned squares, its tar out of key order.

    With traps, one row was never downloaded, one .jpg is a WebP and one a PNG, one JPEG is cut
    short, one turned by EXIF, and NSFW and similarity are odd or missing.
    """
    path = root / INFO.name
    path.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rows, data = [], {}
    for i in range(8):
        key = f"00000{i}"
        name, pixels = _fake_image(rng)
        trap = i if traps else -1
        row = {
            "NSFW": {4: None, 5: "WHATEVER"}.get(trap, "UNLIKELY"),
            "similarity": None if trap == 4 else 0.3,
            "LICENSE": "CC BY 2.0" if i == 6 else "?",
            "caption": f"a {name} square",
            "url": f"https://example.org/{key}.jpg",
            "key": key,
            "status": "failed_to_download" if trap == 2 else "success",
            "error_message": "HTTP Error 404: Not Found" if trap == 2 else None,
            "width": pixels.shape[1],
            "height": pixels.shape[0],
            "exif": json.dumps({"Image Orientation": "Horizontal (normal)"}),
        }
        rows.append(row)
        if trap != 2:
            data[key] = (_fake_bytes(pixels, trap), row)
    _fake_tar(path / "00000.tar", data, rng)
    pq.write_table(pa.Table.from_pylist(rows), path / "00000.parquet")
    stats = {"count": len(rows), "successes": len(data)}
    (path / "00000_stats.json").write_text(json.dumps(stats))
    return path


_COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 70, 220)}


def _fake_image(rng: np.random.Generator) -> tuple[str, np.ndarray]:
    name = str(rng.choice(sorted(_COLOURS)))
    pixels = np.full((48, 64, 3), rng.integers(180, 256), np.uint8)
    y, x = rng.integers(0, 24), rng.integers(0, 40)
    pixels[y : y + 24, x : x + 24] = _COLOURS[name]
    return name, pixels


def _fake_bytes(pixels: np.ndarray, trap: int) -> bytes:
    from PIL import Image

    image, buffer = Image.fromarray(pixels), io.BytesIO()
    exif = Image.Exif()
    exif[274] = 6  # turn clockwise to show
    if trap == 1:
        image.save(buffer, "WEBP", lossless=True)
    elif trap == 3:
        image.save(buffer, "PNG")
    elif trap == 5:
        image.save(buffer, "JPEG", exif=exif)
    else:
        image.save(buffer, "JPEG", quality=95)
    data = buffer.getvalue()
    return data[: len(data) * 2 // 3] if trap == 7 else data


def _fake_tar(path: Path, data: dict[str, tuple[bytes, dict]], rng: np.random.Generator) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key in rng.permutation(sorted(data)):
            image, row = data[key]
            parts = {"jpg": image, "json": json.dumps(row).encode(), "txt": row["caption"].encode()}
            for suffix, content in parts.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
