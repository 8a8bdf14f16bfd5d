"""Clips for the loaders: a table of ours, and the same pixels as plain arrays for the peers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np

from schemas import NUM_SLOTS, Chunk, Tier, mask_of
from trainer.data.fake import fake_chunk, write_chunks

SLOTS = ["ee_dx", "ee_dy", "ee_dz", "ee_droll", "ee_dpitch", "ee_dyaw", "gripper"]
FRAMES = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clips:
    """What is made.

    Attributes:
        tier: "64x64:raw".
        episodes: how many, each of so many chunks of 16 frames.
        chunks: of an episode.
        texts: how many distinct ones.
        history: frames that a peer's clip has before its 16, as its loader cannot look back.
        tokens, width: of an embedding that a peer's clip has; 0 is none.
    """

    tier: str
    episodes: int
    chunks: int
    texts: int = 64
    history: int = 0
    tokens: int = 0
    width: int = 8


def write_clips(out: Path, clips: Clips) -> tuple[Path, Path]:
    """The table, and the folder for the peers."""
    table, peers, tier = out / "table", out / "peers", Tier.parse(clips.tier)
    if not (table / "manifest.json").exists():
        episodes = [_episode(i, clips, tier) for i in range(clips.episodes)]
        write_chunks(table, {"clips": {tier: episodes}}, shards=16, width=clips.width)
    if not (peers / "frames.npy").exists() and not (peers / "jpegs.npy").exists():
        peers.mkdir(parents=True, exist_ok=True)
        episodes = [_episode(i, clips, tier) for i in range(clips.episodes)]
        _write_arrays(peers, [chunk for episode in episodes for chunk in episode], clips, tier)
    return table, peers


def _episode(number: int, clips: Clips, tier: Tier) -> list[Chunk]:
    rng = np.random.default_rng([7, number])
    frames = _frames(rng, clips.chunks * FRAMES, tier)
    controls = np.zeros((len(frames), NUM_SLOTS), np.float32)
    mask = mask_of(SLOTS)
    controls[:, mask] = rng.uniform(0, 0.01, (len(frames), int(mask.sum())))
    found = []
    for step in range(clips.chunks):
        part = slice(step * FRAMES, (step + 1) * FRAMES)
        pixels = frames[part]
        found.append(
            fake_chunk(
                dataset="clips",
                episode_id=f"episode-{number:05d}",
                step=step,
                split="train",
                frames=pixels if tier.encoding == "raw" else _jpegs(pixels),
                times=(np.arange(part.start, part.stop) / 5).astype(np.float32),
                fps=5.0,
                text=f"move as in text {number % clips.texts}",
                controls=controls[part],
                control_mask=mask,
                is_last=step == clips.chunks - 1,
            )
        )
    return found


def _frames(rng: np.random.Generator, count: int, tier: Tier) -> np.ndarray:
    """Smooth noise that drifts, with a grain as of a camera's: uint8 `[count, h, w, 3]`."""
    coarse = rng.uniform(0, 255, (tier.height // 8 + 3, tier.width // 8 + 3 + count // 8, 3))
    size = (coarse.shape[1] * 8, coarse.shape[0] * 8)
    scene = cv2.resize(coarse.astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
    grain = rng.normal(0, 3, (tier.height, tier.width, 3)).astype(np.float32)
    views = (scene[8 : 8 + tier.height, 8 + i : 8 + i + tier.width] for i in range(count))
    return np.stack(
        [np.clip(view + np.roll(grain, i, 0), 0, 255) for i, view in enumerate(views)]
    ).astype(np.uint8)


def _jpegs(frames: np.ndarray) -> tuple[bytes, ...]:
    quality = [cv2.IMWRITE_JPEG_QUALITY, 95]
    return tuple(cv2.imencode(".jpg", f[..., ::-1], quality)[1].tobytes() for f in frames)


def _write_arrays(out: Path, chunks: list[Chunk], clips: Clips, tier: Tier) -> None:
    """One clip per chunk."""
    if tier.encoding == "jpeg":
        parts = [data for chunk in chunks for data in chunk.frames]
        np.save(out / "sizes.npy", np.array([len(d) for d in parts], np.int32).reshape(-1, FRAMES))
        np.save(out / "jpegs.npy", np.frombuffer(b"".join(parts), np.uint8))
        return
    frames = np.stack([chunk.pixels() for chunk in chunks])
    if clips.history:  # the end of the clip before, whichever it was: as many bytes
        frames = np.concatenate([np.roll(frames, 1, 0)[:, -clips.history :], frames], 1)
    np.save(out / "frames.npy", frames)
    if clips.tokens:
        rng = np.random.default_rng(3)
        shape = (len(chunks), clips.tokens, clips.width)
        np.save(out / "tokens.npy", rng.normal(size=shape).astype(np.float16))
        mask = chunks[0].control_mask
        np.save(out / "controls.npy", np.stack([chunk.controls[:, mask] for chunk in chunks]))
