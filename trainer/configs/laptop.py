"""A model that learns to obey on a laptop's CPU within the hour; `make obedience` trains it.

Frames are 12×20, which it sees as 6×10 squares of 2×2 pixels.
"""

from trainer.configs.config import TrainConfig
from trainer.model import ModelConfig

CONFIG = TrainConfig(
    model=ModelConfig(
        channels=64,
        multipliers=(1, 2),
        blocks=1,
        attention=(0, 1),
        heads=(2, 4),
        head_width=32,
        text_width=0,  # whatever the table has
        cond_width=128,
        cond_mlp_layers=2,
        control_width=128,
        history_frames=4,
        max_frames=8,
        norm_groups=8,
        patch=2,
        dropout=0.0,
        # most of a segment is as it was before, and the network is spared from saying so
        residual=0.2,
    ),
    tier="12x20",
    frames=8,
    tokens=16,
    batch_size=16,
    steps=3000,
    learning_rate=1e-3,
    warmup_steps=50,
    clip_norm=1.0,
    ema_decay=0.995,
    single_action=0.67,
    # what follows an action is decided where there is most noise, so most time is spent there
    log_snr_min=-12.0,
    log_snr_max=6.0,
    log_snr_shift=-2.0,
    prediction="velocity",
    save_every=500,
    keep=3,
    log_every=50,
)
