"""A clean table in memory, to plant defects in before or after it is written.

Three datasets: `arm`, a textured block that moves as the effector does, before a still background;
`drone`, a camera that pans over a texture; `photos`, single pictures, each captioned. Two tiers.
Written without validation, so that a planted defect is the only thing wrong with the table.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from pipelines import files
from schemas import NUM_SLOTS, Chunk, Tier, mask_of
from schemas.columns import INDEX_SCHEMA
from schemas.table import MANIFEST, WRITER_OPTIONS
from trainer.data.fake import fake_chunk, write_chunks

SMALL, LARGE = Tier(24, 40, "raw"), Tier(48, 80, "jpeg")
ARMS, FLIGHTS, PHOTOS = 18, 6, 60
LENGTHS = (16, 16, 7)
MOVES = ("push the block left", "push it right", "lift the block", "put the block down")
CAMERA = ("camera_dx", "camera_dy", "camera_dz", "camera_droll", "camera_dpitch", "camera_dyaw")


def texture(seed: int, height: int = 48, width: int = 80) -> np.ndarray:
    """A smooth random picture, uint8 `[height, width, 3]`."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 6, width // 6, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


class Draft:
    """The table's chunks, by dataset, tier, episode and step."""

    def __init__(self) -> None:
        self.datasets: dict[str, dict[Tier, list[list[Chunk]]]] = {
            name: {tier: [] for tier in (SMALL, LARGE)} for name in ("arm", "drone", "photos")
        }
        for i in range(ARMS):
            self.add("arm", _arm(i))
        for i in range(FLIGHTS):
            self.add("drone", _drone(i))
        for i in range(PHOTOS):
            self.add("photos", _photo(i))

    def add(self, dataset: str, episode: list[Chunk]) -> None:
        """One more episode, whose frames are pictures of 48 x 80."""
        for tier, episodes in self.datasets[dataset].items():
            episodes.append([at_tier(chunk, tier) for chunk in episode])

    def edit(
        self,
        dataset: str,
        episode: int,
        step: int,
        change: Callable[[Chunk, Tier], dict[str, Any]] | None = None,
        *,
        tiers: tuple[Tier, ...] = (SMALL, LARGE),
        **fields: Any,
    ) -> Draft:
        """Changes fields of one record, in these tiers."""
        for tier in tiers:
            chunks = self.datasets[dataset][tier][episode]
            more = change(chunks[step], tier) if change else {}
            chunks[step] = dataclasses.replace(chunks[step], **fields | more)
        return self

    def show(self, dataset: str, episode: int, step: int, pictures: np.ndarray, **more) -> Draft:
        """Gives a record other frames, of pictures of 48 x 80."""
        return self.edit(
            dataset, episode, step, lambda _, tier: {"frames": frames_at(pictures, tier)}, **more
        )

    def pictures(self, dataset: str, episode: int, step: int) -> np.ndarray:
        """A record's frames at 48 x 80."""
        return self.datasets[dataset][LARGE][episode][step].pixels()

    def write(self, out: Path) -> Path:
        """The table. Rules are not checked."""
        with np.errstate(all="ignore"):
            return write_chunks(out, self.datasets, shards=2, width=8, checked=False)


def at_tier(chunk: Chunk, tier: Tier) -> Chunk:
    assert isinstance(chunk.frames, np.ndarray)
    return dataclasses.replace(chunk, frames=frames_at(chunk.frames, tier))


def frames_at(pictures: np.ndarray, tier: Tier) -> np.ndarray | tuple[bytes, ...]:
    if tier == LARGE:
        return tuple(cv2.imencode(".jpg", p[..., ::-1])[1].tobytes() for p in pictures)
    size = (tier.width, tier.height)
    return np.stack([cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in pictures])


def _arm(number: int) -> list[Chunk]:
    background, block = texture(100 + number), texture(200 + number, 18, 18)
    rng = np.random.default_rng(300 + number)
    at, start, chunks = np.array([20, 30]), 0, []
    for step, n in enumerate(LENGTHS):
        controls = np.zeros((n, NUM_SLOTS), np.float32)
        pictures = np.repeat(background[None], n, 0)
        for i in range(n):
            if start + i:
                move = rng.integers(-2, 3, 2)
                move = np.clip(at + move, 2, (26, 58)) - at
                at = at + move
                controls[i, :2] = 0.01 * move[::-1]
            pictures[i, at[0] : at[0] + 18, at[1] : at[1] + 18] = block
        chunks.append(
            fake_chunk(
                dataset="arm",
                episode_id=f"arm-{number:02d}",
                step=step,
                split="val" if number == 7 else "train",
                frames=pictures,
                times=((start + np.arange(n)) / 5).astype(np.float32),
                fps=5.0,
                text=MOVES[(number + step) % len(MOVES)],
                controls=controls,
                control_mask=mask_of(["ee_dx", "ee_dy", "gripper"]),
                is_last=step == len(LENGTHS) - 1,
            )
        )
        start += n
    return chunks


def _drone(number: int) -> list[Chunk]:
    world = texture(400 + number, 96, 400)
    chunks, at = [], 0
    for step in range(2):
        controls = np.zeros((8, NUM_SLOTS), np.float32)
        pictures = []
        for i in range(8):
            if step + i:
                at += 8
                controls[i] = np.where(mask_of(["camera_dyaw"]), 0.1, 0)
            pictures.append(world[20:68, at : at + 80])
        chunks.append(
            fake_chunk(
                dataset="drone",
                episode_id=f"flight-{number}",
                step=step,
                split="test" if number == 5 else "train",
                frames=np.stack(pictures),
                times=((8 * step + np.arange(8)) / 2).astype(np.float32),
                fps=2.0,
                text=f"turn left over field {number}",
                controls=controls,
                control_mask=mask_of(CAMERA),
                is_last=step == 1,
            )
        )
    return chunks


def _photo(number: int) -> list[Chunk]:
    return [
        fake_chunk(
            dataset="photos",
            episode_id=f"photo-{number:02d}",
            step=0,
            split="val" if number % 8 == 7 else "train",
            frames=texture(500 + number)[None],
            times=np.zeros(1, np.float32),
            fps=0.0,
            text=f"a picture of the number {number}",
            controls=np.zeros((1, NUM_SLOTS), np.float32),
            control_mask=np.zeros(NUM_SLOTS, bool),
            is_last=True,
        )
    ]


def resign(table: Path, *names: str) -> None:
    """Puts the digests of these files, or of all there are, into the manifest as they are now."""
    path = table / MANIFEST
    manifest = json.loads(path.read_text())
    for name in names or list(manifest["files"]):
        if (table / name).exists():
            manifest["files"][name] = files.digest(str(table / name))
    path.write_text(json.dumps(manifest))


def change_manifest(table: Path, change: Callable[[dict], None]) -> None:
    path = table / MANIFEST
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def change_index(table: Path, name: str, change: Callable[[list[dict]], list[dict]]) -> None:
    """Changes the rows of a dataset's first part of the index, and signs it."""
    path = min((table / "index.parquet").glob(f"{name}-00000-*"))
    rows = change(pq.read_table(path).to_pylist())
    pq.write_table(pa.Table.from_pylist(rows, INDEX_SCHEMA), path)
    resign(table, path.relative_to(table).as_posix())


def frames_of(table: Path, name: str, tier: Tier = SMALL, split: str = "train") -> Path:
    """A dataset's first file of frames."""
    return min((table / f"frames-{tier.name}").rglob(f"{name}-{split}.array_record-00000-*"))


def rewrite(table: Path, path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Writes an ArrayRecord file anew, with its records changed, and signs it."""
    reader = ArrayRecordReader(str(path))
    records = change(list(reader.read_all()))
    reader.close()
    writer = ArrayRecordWriter(str(path), WRITER_OPTIONS)
    for record in records:
        writer.write(record)
    writer.close()
    resign(table, path.relative_to(table).as_posix())
