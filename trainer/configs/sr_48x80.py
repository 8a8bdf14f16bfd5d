"""The first super-resolution model: 24×40 to 48×80. Open: the paper gives none of its sizes."""

import dataclasses

from trainer.configs import base
from trainer.model import ModelConfig

CONFIG = dataclasses.replace(
    base.CONFIG,
    model=ModelConfig(
        channels=384,
        multipliers=(1, 2, 3, 4),
        blocks=3,
        attention=(2, 3),
        heads=(9, 12),
        cond_width=2048,
        cond_mlp_layers=4,
        history_frames=4,
        dropout=0.1,
        temporal="convolution",
        upscale=2,
        dtype="bfloat16",
        scan=True,
        remat="blocks",
    ),
    tier="48x80",
)
