"""A toy that a CPU learns in minutes: a block drifts over an 8×16 table as its controls say.

The controls say how far it moves to the right in each frame; up and down it wanders by chance, so
that one start and one action have many futures, and a sampler a distribution to draw from.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from schemas import NUM_SLOTS, discretise, mask_of
from tests.bench.timing import progress
from trainer.configs.config import TrainConfig
from trainer.model import ModelConfig
from trainer.train.state import Params, abstract, graph_of, init
from trainer.train.step import train_step

HEIGHT, WIDTH, FRAMES = 8, 16, 16
_BLOCK = 1.5  # half a side, pixels
_METRES = 0.5  # what a pixel stands for: controls reach a metre
_TEXT = 8

CONFIG = TrainConfig(
    model=ModelConfig(
        channels=48,
        multipliers=(1,),
        blocks=1,
        attention=(0,),
        heads=(2,),
        head_width=16,
        text_width=_TEXT,
        cond_width=64,
        cond_mlp_layers=1,
        control_width=64,
        history_frames=1,
        norm_groups=8,
        patch=4,
        dropout=0.0,
        residual=0.2,
    ),
    tier=f"{HEIGHT}x{WIDTH}",
    frames=FRAMES,
    tokens=FRAMES,
    batch_size=16,
    steps=1000,
    learning_rate=2e-3,
    warmup_steps=50,
    clip_norm=1.0,
    ema_decay=0.99,
    action_dropout=0.1,
    log_snr_min=-10.0,
    log_snr_max=10.0,
    prediction="velocity",
)


class Starts(NamedTuple):
    """Where blocks are, n of them: float `[n, 2]` (y, x) pixels, `[n, 3]` colours of block and of
    table, 0..255, and float `[n, T]` pixels to the right in each frame to come."""

    places: np.ndarray
    block: np.ndarray
    table: np.ndarray
    moves: np.ndarray


def starts(count: int, rng: np.random.Generator) -> Starts:
    """Random ones."""
    edge = _BLOCK + 0.5
    places = rng.uniform([edge, edge], [HEIGHT - edge, WIDTH - edge], (count, 2))
    colours = rng.uniform(0, 100, (count, 3)), rng.uniform(150, 255, (count, 3))
    speed = rng.uniform(-1, 1, (count, 1)) + rng.uniform(-0.4, 0.4, (count, FRAMES))
    return Starts(places, colours[1], colours[0], speed)


def futures(begin: Starts, rng: np.random.Generator) -> np.ndarray:
    """The start and what may follow, uint8 `[n, 1 + T, h, w, 3]`."""
    wander = rng.normal(0, 0.5, (len(begin.moves), FRAMES))
    moves = np.stack([wander, begin.moves], -1)
    path, place = [begin.places], begin.places
    for i in range(FRAMES):
        place = np.clip(place + moves[:, i], _BLOCK, [HEIGHT - _BLOCK, WIDTH - _BLOCK])
        path.append(place)
    at = np.stack(path, 1)
    # how much of each pixel the block covers, along each axis
    rows, columns = (
        np.clip(_BLOCK + 0.5 - np.abs(np.arange(n) + 0.5 - at[..., i, None]), 0, 1)
        for i, n in enumerate((HEIGHT, WIDTH))
    )
    cover = (rows[..., :, None] * columns[..., None, :])[..., None]
    table, block = (c[:, None, None, None] for c in (begin.table, begin.block))
    return np.round(table + cover * (block - table)).astype(np.uint8)


def batch_of(begin: Starts, video: np.ndarray) -> dict[str, np.ndarray]:
    """As the trainer takes it."""
    count = len(video)
    mask = mask_of(["ee_dx"])
    controls = np.where(mask, begin.moves[..., None] * _METRES, 0)
    return {
        "frames": video[:, 1:],
        "history": video[:, :1],
        "history_mask": np.ones((count, 1), bool),
        "tokens": np.zeros((count, CONFIG.tokens, _TEXT), np.float32),
        "token_mask": np.zeros((count, CONFIG.tokens), bool),
        "controls": discretise(controls, mask),
        "control_mask": np.broadcast_to(mask, (count, NUM_SLOTS)),
        "frame_mask": np.ones((count, FRAMES), bool),
    }


def trained(cache: Path) -> Params:
    """The moving average of a trained toy; trained once, then read from the folder `cache`."""
    name = hashlib.sha256(f"{CONFIG} {Path(__file__).read_text()}".encode()).hexdigest()[:12]
    path = cache / f"toy-{name}.npz"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(path, *(np.asarray(leaf) for leaf in jax.tree.leaves(_train())))
    with np.load(path) as arrays:
        leaves = [jnp.asarray(arrays[name]) for name in arrays.files]
    return jax.tree.unflatten(jax.tree.structure(abstract(CONFIG).ema), leaves)


def _train() -> Params:
    empty = (jnp.zeros((CONFIG.tokens, _TEXT)), jnp.zeros(CONFIG.tokens, bool))
    step = jax.jit(train_step(CONFIG, graph_of(CONFIG.model)), donate_argnums=0)
    state, rng, losses = init(CONFIG), np.random.default_rng(0), []
    for i in range(CONFIG.steps):
        begin = starts(CONFIG.batch_size, rng)
        state, metrics = step(state, batch_of(begin, futures(begin, rng)), empty)
        losses.append(metrics["loss"])
        if (i + 1) % 100 == 0:
            progress(f"toy: step {i + 1}, loss {np.mean([float(v) for v in losses[-100:]]):.4f}")
    return state.ema
