"""A small model that learns something on a laptop's CPU within minutes."""

from trainer.configs.config import TrainConfig
from trainer.model import ModelConfig

CONFIG = TrainConfig(
    model=ModelConfig(
        channels=24,
        multipliers=(1, 2, 4),
        blocks=1,
        attention=(2,),
        heads=(3,),
        head_width=32,
        text_width=0,  # whatever the table has
        cond_width=96,
        cond_mlp_layers=2,
        control_width=96,
        history_frames=4,
        norm_groups=8,
        dropout=0.0,
        # most of a segment is as it was before, and the network is spared from saying so
        residual=0.1,
    ),
    tier="24x40",
    frames=16,
    tokens=64,
    batch_size=4,
    steps=500,
    learning_rate=2e-3,
    warmup_steps=10,
    clip_norm=1.0,
    ema_decay=0.99,
    # so few pixels are lost in noise, and told from it, long before the paper's ±20; what changes
    # in them is small, and lost in less noise yet
    log_snr_min=-12.0,
    log_snr_max=6.0,
    log_snr_shift=-3.0,
    save_every=100,
    keep=2,
    log_every=10,
)
