"""A model so small that a test compiles it in seconds, and a table for it."""

import dataclasses
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from trainer.configs.config import TrainConfig
from trainer.data.fake import FakeSpec, write_fake_table
from trainer.model import ModelConfig

CONFIG = TrainConfig(
    model=ModelConfig(
        channels=4,
        multipliers=(1,),
        blocks=1,
        attention=(0,),
        heads=(1,),
        text_width=0,
        cond_width=8,
        cond_mlp_layers=1,
        control_width=8,
        history_frames=2,
        norm_groups=1,
        patch=4,
        dropout=0.1,
    ),
    tier="8x16",
    frames=4,
    tokens=8,
    batch_size=4,
    steps=6,
    learning_rate=1e-2,
    clip_norm=1.0,
    ema_decay=0.9,
    action_dropout=0.5,
    save_every=3,
    log_every=2,
    keep=2,
)


def config(**changes) -> TrainConfig:
    """`CONFIG` with other fields."""
    return dataclasses.replace(CONFIG, **changes)


def table(folder: Path, seed: int = 0) -> str:
    """A fake table of that size; returns its path."""
    spec = FakeSpec(tiers=("8x16:raw",), episodes=5, images=4, width=8)
    return str(write_fake_table(folder, seed, spec))


def cache_compilations(folder: Path) -> None:
    """Lets the many runs of a test session share what XLA compiled: they compile the same step."""
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    compilation_cache.reset_cache()
