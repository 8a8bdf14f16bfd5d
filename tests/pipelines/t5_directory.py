"""A T5 directory with random weights, of any size, and T5's own vocabulary."""

import json
import shutil
from pathlib import Path

import numpy as np
import safetensors.numpy

from pipelines.text.config import T5Config
from pipelines.text.tiny import deviation_of

T5_SMALL = {"d_model": 512, "d_kv": 64, "d_ff": 1024, "num_layers": 8, "num_heads": 6}
"""The sizes of t5-v1_1-small."""


def write_random(folder: Path, spiece: Path, **sizes: int) -> str:
    """Writes it, with the vocabulary `spiece`; gives its path.

    Args:
        sizes: config.json's, over those of a small encoder whose layers eight devices can share.
    """
    folder.mkdir()
    settings = {"model_type": "t5", "feed_forward_proj": "gated-gelu", "vocab_size": 32128}
    settings |= {"d_model": 64, "d_kv": 8, "d_ff": 128, "num_layers": 3, "num_heads": 8} | sizes
    (folder / "config.json").write_text(json.dumps(settings))
    shutil.copyfile(spiece, folder / "spiece.model")
    config = T5Config.from_json(json.dumps(settings))
    draw = np.random.default_rng(0)

    def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
        values = draw.standard_normal(shape, np.float32)
        if len(shape) == 1:  # a norm
            return 1 + np.float32(0.1) * values
        return values * np.float32(deviation_of(name, shape, config))

    tensors = {name: tensor(name, shape) for name, shape in config.tensors().items()}
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    return str(folder)
