"""`write_fake_table`: a small, complete, valid table without Beam, for tests and first steps.

Two datasets: `moving`, episodes of several chunks in which a block moves as text and controls say,
and `still`, one-frame images. Chunks have uneven lengths, so that a history reaches across more
than one row. A model can learn it, so a falling loss means something. Equal arguments, equal bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

from schemas import (
    NUM_SLOTS,
    SCHEMA_VERSION,
    SLOTS,
    Chunk,
    DatasetInfo,
    EncoderInfo,
    Manifest,
    Tier,
    columns,
    discretise,
    encode,
    mask_of,
    text_key,
)
from schemas import table as layout
from schemas.record import digest
from schemas.validate import check

ENCODER = "fake"
CHUNK_LENGTHS = (16, 2, 16, 7)
MOVES = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
_VERSION = "1.0.0"
_LICENSE = "CC0-1.0"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FakeSpec:
    """How large a fake table is.

    Attributes:
        episodes: of `moving`; episode i has 1 + i % 4 chunks, the last episode is in split "val".
        images: of `still`, the last one in split "val".
        shards: of each dataset.
        tiers: as text, "24x40:raw".
        width: of the embeddings.
    """

    episodes: int = 8
    images: int = 12
    shards: int = 2
    tiers: tuple[str, ...] = ("24x40:raw",)
    width: int = 32


Episodes = Mapping[Tier, Sequence[Sequence[Chunk]]]
"""The episodes of a dataset at each tier, each the chunks of its steps."""


def write_fake_table(out: Path, seed: int = 0, spec: FakeSpec | None = None) -> Path:
    """Writes the table into the folder `out` and returns it. The manifest comes last."""
    spec = spec or FakeSpec()
    tiers = [Tier.parse(text) for text in spec.tiers]
    moving = {t: [_moving(e, spec, t, seed) for e in range(spec.episodes)] for t in tiers}
    still = {t: [_still(i, spec, t, seed) for i in range(spec.images)] for t in tiers}
    plan = digest(f"{seed} {spec}".encode()).hex()
    datasets = {"moving": moving, "still": still}
    return write_chunks(out, datasets, shards=spec.shards, width=spec.width, seed=seed, plan=plan)


def write_chunks(
    out: Path,
    datasets: Mapping[str, Episodes],
    *,
    shards: int,
    width: int,
    seed: int = 0,
    plan: str = "",
    checked: bool = True,
) -> Path:
    """Writes any chunks as a table into the folder `out` and returns it.

    Args:
        datasets: by name; all have the same tiers.
        shards: of each dataset.
        width: of the embeddings.
        plan: hex digest for the manifest.
        checked: whether what breaks a rule is refused.
    """
    if checked:
        for tier, episode in (
            (t, e) for found in datasets.values() for t in found for e in found[t]
        ):
            for chunk in episode:
                check(chunk, tier)
    infos = [_write_dataset(out, name, found, shards) for name, found in datasets.items()]
    tiers = list(next(iter(datasets.values())))
    texts = {c.text for found in datasets.values() for e in found[tiers[0]] for c in e}
    encoder = _write_embeddings(out, sorted({"", *texts}), width, seed)
    pq.write_table(columns.DEAD_LETTER_SCHEMA.empty_table(), out / layout.DEAD_LETTERS)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        plan=plan,
        tiers=[str(tier) for tier in tiers],
        datasets=infos,
        encoders=(encoder,),
        files={
            path.relative_to(out).as_posix(): [path.stat().st_size, digest(path.read_bytes()).hex()]
            for path in sorted(out.rglob("*"))
            if path.is_file()
        },
    )
    (out / layout.MANIFEST).write_text(manifest.to_json())
    return out


def _moving(episode: int, spec: FakeSpec, tier: Tier, seed: int) -> list[Chunk]:
    """An episode: in each chunk the block moves one way, a cell of a 12 x 20 grid per frame."""
    rng = np.random.default_rng([seed, 0, episode])
    lengths = CHUNK_LENGTHS[: 1 + episode % len(CHUNK_LENGTHS)]
    place, background = rng.integers(4, 8, 2), rng.integers(0, 96, 3)
    chunks, t = [], 0
    for step, n in enumerate(lengths):
        move = str(rng.choice(list(MOVES)))
        frames, controls = [], np.zeros((n, NUM_SLOTS), np.float32)
        for i in range(n):
            delta = np.array(MOVES[move]) * (t + i > 0)
            place = (place + delta) % (20, 12)
            controls[i, :2] = delta * 0.05
            frames.append(_draw(place, background, tier))
        chunks.append(
            fake_chunk(
                dataset="moving",
                episode_id=f"episode-{episode:03d}",
                step=step,
                split="val" if episode == spec.episodes - 1 else "train",
                frames=_encoded(np.stack(frames), tier),
                times=(np.arange(t, t + n) / 5).astype(np.float32),
                fps=5.0,
                text=f"push the red block {move}",
                controls=controls,
                control_mask=mask_of(["ee_dx", "ee_dy"]),
                is_last=step == len(lengths) - 1,
            )
        )
        t += n
    return chunks


def _still(image: int, spec: FakeSpec, tier: Tier, seed: int) -> list[Chunk]:
    rng = np.random.default_rng([seed, 1, image])
    frame = _draw(rng.integers(2, 10, 2), rng.integers(0, 96, 3), tier)
    return [
        fake_chunk(
            dataset="still",
            episode_id=f"image-{image:03d}",
            step=0,
            split="val" if image == spec.images - 1 else "train",
            frames=_encoded(frame[None], tier),
            times=np.zeros(1, np.float32),
            fps=0.0,
            text=f"a red block, picture {image}",
            controls=np.zeros((1, NUM_SLOTS), np.float32),
            control_mask=np.zeros(NUM_SLOTS, bool),
            is_last=True,
        )
    ]


def fake_chunk(*, text: str, controls: np.ndarray, control_mask: np.ndarray, **fields) -> Chunk:
    """A chunk with these fields, and a passport that says that it is none of the real ones."""
    return Chunk(
        text=text,
        text_key=text_key(text),
        controls=controls,
        control_bins=discretise(controls, control_mask),
        control_mask=control_mask,
        overlap=np.full(len(controls), np.nan, np.float32),
        is_first=fields["step"] == 0,
        source_uri="fake",
        source_range=fields["episode_id"],
        source_version=_VERSION,
        license=_LICENSE,
        recipe="fake",
        **fields,
    )


def _draw(place: np.ndarray, background: np.ndarray, tier: Tier) -> np.ndarray:
    """A frame with the block at a cell (x, y) of the grid, uint8 `[h, w, 3]`."""
    ys = np.arange(tier.height) * 12 // tier.height
    xs = np.arange(tier.width) * 20 // tier.width
    block = ((ys - place[1]) % 12 < 3)[:, None] & ((xs - place[0]) % 20 < 3)[None]
    return np.where(block[..., None], (230, 40, 40), background).astype(np.uint8)


def _encoded(frames: np.ndarray, tier: Tier) -> np.ndarray | tuple[bytes, ...]:
    if tier.encoding == "raw":
        return frames
    import cv2

    return tuple(cv2.imencode(".jpg", f[..., ::-1])[1].tobytes() for f in frames)


def _write_dataset(out: Path, name: str, episodes: Episodes, shards: int) -> DatasetInfo:
    """Frames of every tier, and the index; episode i goes to shard i % shards."""
    shard_rows: dict[str, list[int]] = {split: [] for split in layout.SPLITS}
    for shard in range(shards):
        rows: list[dict] = []
        for split in layout.SPLITS:
            members = {
                tier: [c for e in found[shard::shards] for c in e if c.split == split]
                for tier, found in episodes.items()
            }
            records = {tier: [encode(c) for c in chunks] for tier, chunks in members.items()}
            for tier in episodes:
                file = layout.frames_file(tier, name, _VERSION, split, shard, shards)
                _write_records(out / file, records[tier])
            first = next(iter(episodes))
            for position, chunk in enumerate(members[first]):
                digests = [(tier.name, digest(records[tier][position])) for tier in episodes]
                rows.append(_index_row(chunk, shard, shards, position, digests))
            shard_rows[split].append(len(members[first]))
        path = out / layout.index_file(name, shard, shards)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, columns.INDEX_SCHEMA), path)
    info = _info(name, next(iter(episodes.values())), shard_rows, shards)
    for tier in episodes:
        _write_tfds(out / layout.frames_dir(tier, name, _VERSION), info, tier)
    return info


def _write_records(path: Path, records: Sequence[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = array_record_module.ArrayRecordWriter(str(path), layout.WRITER_OPTIONS)
    for record in records:
        writer.write(record)
    writer.close()


def _write_tfds(folder: Path, info: DatasetInfo, tier: Tier) -> None:
    sizes = {
        split: sum(p.stat().st_size for p in folder.glob(f"*-{split}.*")) for split in layout.SPLITS
    }
    for file, text in layout.tfds_files(info, tier, sizes).items():
        (folder / file).write_text(text)


def _index_row(
    chunk: Chunk, shard: int, shards: int, position: int, digests: list[tuple[str, bytes]]
) -> dict:
    return columns.index_fields(chunk) | {
        "clipped": 0,
        "shard": shard,
        "num_shards": shards,
        "position": position,
        "digests": digests,
    }


def _info(
    name: str, episodes: Sequence[Sequence[Chunk]], shard_rows: dict[str, list[int]], shards: int
) -> DatasetInfo:
    chunks = [c for episode in episodes for c in episode]
    mask = chunks[0].control_mask
    later = np.concatenate([np.concatenate([c.controls for c in e])[1:] for e in episodes])
    statistics = {
        slot.name: {f: float(getattr(later[:, i], f)()) for f in ("min", "max", "mean", "std")}
        for i, slot in enumerate(SLOTS)
        if mask[i]
    }
    return DatasetInfo(
        name=name,
        version=_VERSION,
        license=_LICENSE,
        num_shards=shards,
        shard_rows=shard_rows,
        episodes=len(episodes),
        views=len(episodes),
        chunks=len(chunks),
        frames=sum(c.num_frames for c in chunks),
        dead_letters=0,
        declared_losses=0,
        losses={},
        clipped={},
        controls=statistics,
        slots=list(statistics),
    )


def _write_embeddings(out: Path, texts: list[str], width: int, seed: int) -> EncoderInfo:
    """Random unit vectors, as many tokens as the text has words and one for its end."""
    texts = sorted(texts, key=text_key)
    middle = len(texts) // 2
    parts = [texts[:middle], texts[middle:]]
    for shard, part in enumerate(parts):
        records = []
        for text in part:
            rng = np.random.default_rng([seed, 2, *text_key(text)])
            vectors = rng.standard_normal((len(text.split()) + 1, width))
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            records.append(vectors.astype(ml_dtypes.bfloat16).tobytes())
        name = layout.text_file(ENCODER, shard, len(parts), len(records))
        _write_records(out / name, records)
    info = EncoderInfo(
        name=ENCODER,
        width=width,
        max_tokens=64,
        digest=digest(f"fake encoder {width} {seed}".encode()).hex(),
        description="Random vectors: a fake encoder for tests, not a language model.",
        shard_rows=tuple(map(len, parts)),
    )
    keys = b"".join(map(text_key, texts))
    place = out / layout.text_keys(ENCODER, len(texts))
    np.save(place, np.frombuffer(keys, np.uint8).reshape(-1, 16))
    return info
