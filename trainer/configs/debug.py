"""A small model that learns something on a laptop's CPU within minutes."""

from trainer.configs.config import TrainConfig
from trainer.model import ModelConfig

CONFIG = TrainConfig(
    model=ModelConfig(
        channels=32,
        multipliers=(1, 2),
        blocks=1,
        attention=(1,),
        heads=(2,),
        cond_width=64,
        cond_mlp_layers=2,
        control_width=64,
        history_frames=4,
        norm_groups=8,
        patch=2,
        dropout=0.0,
    ),
    tier="24x40",
    frames=16,
    tokens=64,
    batch_size=8,
    steps=200,
    learning_rate=1e-3,
    warmup_steps=10,
    clip_norm=1.0,
    ema_decay=0.98,
    save_every=100,
    keep=2,
    log_every=10,
    read_threads=2,
)
