"""A T5 directory with random weights, of any size."""

import json
import shutil
from pathlib import Path

import numpy as np
import safetensors.numpy

from pipelines.text.config import T5Config


def write_random(folder: Path, spiece: Path, **sizes: int) -> str:
    """Writes it, with T5's own vocabulary `spiece`; gives its path.

    Args:
        sizes: config.json's, over those of a small encoder whose layers eight devices can share.
    """
    folder.mkdir()
    settings = {"model_type": "t5", "feed_forward_proj": "gated-gelu", "vocab_size": 32128}
    settings |= {"d_model": 64, "d_kv": 8, "d_ff": 128, "num_layers": 3, "num_heads": 8} | sizes
    (folder / "config.json").write_text(json.dumps(settings))
    shutil.copy(spiece, folder / "spiece.model")
    draw = np.random.default_rng(0)
    shapes = T5Config.from_json(json.dumps(settings)).tensors()
    tensors = {
        name: draw.normal(1.0 if len(shape) == 1 else 0.0, shape[-1] ** -0.5, shape)
        for name, shape in shapes.items()
    }
    single = {name: value.astype(np.float32) for name, value in tensors.items()}
    safetensors.numpy.save_file(single, folder / "model.safetensors")
    return str(folder)
