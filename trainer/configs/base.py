"""UniSim's base model: 16 frames of 24×40, as in Table 6 of the paper."""

from trainer.configs.config import PAPER_WEIGHTS, TrainConfig
from trainer.model import ModelConfig

CONFIG = TrainConfig(
    model=ModelConfig(
        channels=1024,
        multipliers=(1, 2, 4),
        blocks=3,
        attention=(0, 1, 2),
        heads=(8, 16, 16),
        cond_width=4096,
        cond_mlp_layers=4,
        history_frames=4,
        dropout=0.1,
        dtype="bfloat16",  # open: the paper does not say
        scan=True,
        remat="blocks",
    ),
    tier="24x40",
    frames=16,
    history="recent",
    tokens=64,
    weights=PAPER_WEIGHTS,
    batch_size=256,
    steps=1_000_000,
    learning_rate=1e-4,
    adam_b1=0.9,
    adam_b2=0.99,
    weight_decay=0.0,
    ema_decay=0.9999,
    log_snr_min=-20.0,
    log_snr_max=20.0,
    prediction="noise",
    action_dropout=0.1,  # open
    warmup_steps=10_000,  # open
    clip_norm=1.0,  # open
)
