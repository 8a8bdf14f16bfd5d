"""The second super-resolution model: 48×80 to 192×320. Open: the paper gives none of its sizes.

It has attention where its frames are as small as the base model's.
"""

import dataclasses

from trainer.configs import base
from trainer.model import ModelConfig

CONFIG = dataclasses.replace(
    base.CONFIG,
    model=ModelConfig(
        channels=128,
        multipliers=(1, 2, 4, 8, 8),
        blocks=2,
        attention=(3, 4),
        heads=(8, 8),
        cond_width=1024,
        cond_mlp_layers=4,
        history_frames=4,
        dropout=0.1,
        temporal="convolution",
        upscale=4,
        dtype="bfloat16",
        scan=True,
        remat="blocks",
    ),
    tier="192x320",
)
