"""LAION: web images with their captions, in the shards that img2dataset writes."""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import files
from pipelines.episode import UNIT_BYTES, Episode, Frame, Option, Shrink, SourceInfo, Unit
from pipelines.kept import Kept
from pipelines.ops import images
from pipelines.sources._laion_rows import SIDES, Row, Rows, plain_text
from pipelines.sources._laion_tar import LEAST, Index, Member, bounds
from schemas import DataError, UsageError

_OPTIONS = (
    # LAION's own cut is 0.3 in 400M and 0.28 in 2B-en, by one CLIP model, and 0.26 in 2B-multi and
    # 1B-nolang, by another: this default drops nothing that LAION kept in the first two
    Option(
        name="min_similarity",
        default=0.28,
        help="least CLIP similarity of image and caption; give 0.26 for 2B-multi and 1B-nolang",
    ),
    # as LAION cut its own subsets for image generation, laion-aesthetic and laion-art
    Option(name="max_pwatermark", default=0.8, help="greatest probability of a watermark"),
    Option(name="max_punsafe", default=0.5, help="greatest probability of unsafe content"),
    # only what is tagged goes: the joined variants have no tags, but punsafe instead
    Option(
        name="max_nsfw", default=1, help="0: UNLIKELY only; 1: also UNSURE and untagged; 2: all"
    ),
    # LAION left files below 5 kB out; how few pixels are too few depends on the tiers
    Option(name="min_size", default=0, help="least side in pixels, as downloaded and as stored"),
)

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
  00000.parquet        a row per URL: key, status, error_message, caption, sizes; LICENSE, NSFW,
                       similarity, pwatermark, punsafe where they were saved
  00000_stats.json     not read
""",
    obtain="""\
Download the images with img2dataset --output_format webdataset from LAION's metadata parquet, with
--save_additional_columns '["NSFW","similarity","LICENSE"]' (in joined releases also "pwatermark"
and "punsafe") for the options to go by; PATH is its --output_folder.""",
    native_fps=None,
    target_fps=None,
    options=_OPTIONS,
    fit="crop",
    examples="400M",
    weight=0.05,
)

_IMAGE_BYTES = 32 << 10  # a guess for the plan, of a 256-pixel JPEG with its texts
_LIMITS = {
    "similarity": "min_similarity",
    "pwatermark": "max_pwatermark",
    "punsafe": "max_punsafe",
}
_NSFW = {"UNLIKELY": 0, "UNSURE": 1, "UNTAGGED": 1, "NSFW": 2}


def units(path: str, target_bytes: int = UNIT_BYTES) -> Iterator[Unit]:
    """Each tar in parts of about `target_bytes`, from the listing alone; its images are a guess by
    size. A part is a range of keys; which, the tar's own headers say when it is read.

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
        # without a parquet there is one loss, to be said once
        parts = max(1, -(-size // max(target_bytes, LEAST))) if stem in tables else 1
        for part in range(parts):
            cost = size * (part + 1) // parts - size * part // parts
            guess = -(-cost // _IMAGE_BYTES)
            yield Unit(
                id=f"{stem}.{part:04d}" if parts > 1 else stem,
                uri=uri,
                split=None,
                cost=cost,
                episodes=guess,
                frames=guess,
                version=INFO.version,
                params={"part": part, "parts": parts},
            )


def episodes(unit: Unit) -> Iterator[Episode | DataError]:
    """One episode of one frame per image, by key, whatever the order in the tar.

    The caption is the action, so an image without one is dead-lettered. Rows that were never
    downloaded, and those that an option rejects, are declared losses: recorded, not counted. What
    is wrong with the tar or the parquet as a whole is said by the first part; where nothing can be
    read, each part says what it loses.

    Raises:
        DataError: if the tar or the parquet is missing, or the parquet cannot be read.
    """
    part, parts = unit.params["part"], unit.params["parts"]
    table = unit.uri.removesuffix(".tar") + ".parquet"
    state = Kept.state(table, unit.uri) if parts > 1 else ()
    shard = _KEPT.take(state if part else ())
    ended = False
    try:
        if shard is None:
            shard = _Shard(table)
            for error in shard.opened(unit.uri, parts):
                if part == 0:
                    yield error
        yield from shard.episodes(unit)
        ended = part + 1 < parts
    finally:
        if shard and ended:
            _KEPT.put(state, shard)
        elif shard:
            shard.close()


class _Shard:
    """A tar and its parquet. Where its parts follow one another in a worker they share it: one
    copy of a remote tar, and one pass over the headers.

    Raises:
        DataError: if the parquet cannot be read.
    """

    def __init__(self, table: str):
        self._rows = Rows(table)
        self._index = Index()
        self._stack = contextlib.ExitStack()

    def opened(self, uri: str, parts: int) -> Iterator[DataError]:
        """Makes it ready to be read in so many parts; what is wrong with it as a whole.

        Raises:
            DataError: if there is no tar.
        """
        yield from self._rows.index()
        if not files.exists(uri):
            raise DataError(f"{files.name_of(uri)} is missing beside its parquet")
        # one copy of a remote tar costs less than a request for each of its members; it has no name
        # once it is open, so nothing is left of it when this process ends
        with files.local_copy(uri) as path:
            self._tar = self._stack.enter_context(open(path, "rb"))  # noqa: SIM115
        yield from self._index.errors(self._tar, files.name_of(uri))
        self._keys = sorted(self._rows.numbers.keys() | self._index.members.keys())
        self._bounds = bounds(self._keys, self._index.starts(parts))

    def close(self) -> None:
        """Closes the tar, and so deletes the copy of a remote one."""
        self._stack.close()

    def episodes(self, unit: Unit) -> Iterator[Episode | DataError]:
        """Those of a part."""
        for key in self._keys[slice(*self._bounds[unit.params["part"]])]:
            try:
                if key not in self._rows.numbers:
                    raise DataError("in the tar but not in the parquet", stage="annotate")
                members = self._index.members.get(key, {})
                yield _episode(unit, key, self._rows[key], members, self._tar)
            except DataError as e:
                e.key = key
                yield e


_KEPT: Kept[_Shard] = Kept(_Shard.close)


def _episode(unit: Unit, key: str, row: Row, members: dict[str, Member], tar: BinaryIO) -> Episode:
    status = row.text("status")
    if not status:
        raise DataError("the row has no status", stage="annotate")
    if status != "success":
        reason = f"{status}: {row.text('error_message')}"[:500]
        raise DataError(reason, stage="download", counts=False)
    _filter(unit, row)
    if "image" not in members:
        raise DataError("a success in the parquet, but no image in the tar")
    image = members["image"]
    text = row.text("caption")
    if not text and "txt" in members:
        text = plain_text(members["txt"].read(tar), members["txt"].name)
    if not text:
        raise DataError("no caption, so no action", stage="annotate", where=image.name)
    license = row.text("license")
    decode = _Image(image.read(tar), unit.option(INFO, "min_size"))
    stem = files.name_of(unit.uri).removesuffix(".tar")
    return Episode(
        # img2dataset begins its keys with the shard's number; others could meet in two shards
        id=key if key.startswith(stem) else f"{stem}-{key}",
        frames=[Frame(time=0.0, image=decode, text=text)],
        source_range=image.name,
        license="" if license == "?" else license,
        fps=0.0,
    )


class _Image(NamedTuple):
    """An image, refused if it is too small: its row may say nothing of that, or another size."""

    data: bytes
    min_size: float

    def __call__(self) -> np.ndarray:
        return self.shrunk(lambda height, width: (height, width))

    def shrunk(self, shrink: Shrink) -> np.ndarray:
        def checked(height: int, width: int) -> tuple[int, int]:
            _reject("smallest side", [min(height, width)], "min_size", self.min_size)
            return shrink(height, width)

        return images.decode_image(self.data, shrink=checked)


def _filter(unit: Unit, row: Row) -> None:
    """Raises DataError, a declared loss, if an option rejects the row.

    What the row does not say, or not as a number, rejects nothing; an NSFW tag that LAION does not
    have counts as none.
    """
    for column, option in _LIMITS.items():
        _reject(column, row.numbers(column), option, unit.option(INFO, option))
    tag = row.text("nsfw").upper()
    tag = tag if tag in _NSFW else "UNTAGGED"
    _reject(f"NSFW is {tag}; its level", [_NSFW[tag]], "max_nsfw", unit.option(INFO, "max_nsfw"))
    sides = [side for side in row.numbers(*SIDES) if side > 0]
    _reject("smallest side", sides, "min_size", unit.option(INFO, "min_size"))


def _reject(what: str, values: list[float], option: str, limit: float) -> None:
    """Raises DataError if a value is beyond the option's limit, and not just by rounding."""
    side, sign = ("below", -1) if option.startswith("min_") else ("above", 1)
    for value in values:
        if sign * (value - limit) > 1e-6:
            reason = f"{what} is {value:g}, {side} {option} = {limit:g}"
            raise DataError(reason, stage="filter", counts=False)


def _list(path: str, suffix: str) -> list[tuple[str, int]]:
    return files.glob(path, f"*.{suffix}")


def fake(root: Path, seed: int, *, traps: bool = True) -> Path:
    """One shard of eight captioned squares, its tar out of key order.

    With traps, one row was never downloaded, one .jpg is a WebP and one a PNG, one JPEG is cut
    short, one turned by EXIF, NSFW and similarity are odd or missing, and a ninth row is tagged.
    """
    path = root / INFO.name
    path.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rows, data = [], {}
    for i in range(9 if traps else 8):
        key = f"00000{i}"
        name, pixels = _fake_image(rng)
        trap = i if traps else -1
        row = {
            "NSFW": {4: None, 5: "WHATEVER", 8: "NSFW"}.get(trap, "UNLIKELY"),
            "similarity": None if trap == 4 else 0.3,
            "pwatermark": 0.1,
            "punsafe": 0.01,
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
