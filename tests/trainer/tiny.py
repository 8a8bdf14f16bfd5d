"""A tiny video U-Net and random batches for it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from schemas import BINS, NUM_SLOTS
from trainer.model import Conditioning, ModelConfig, VideoUNet


def config(**changes) -> ModelConfig:
    """Two levels, with attention at the coarse one."""
    return ModelConfig(
        **{
            "channels": 8,
            "multipliers": (1, 2),
            "blocks": 1,
            "attention": (1,),
            "heads": (2,),
            "head_width": 8,
            "cond_width": 16,
            "cond_mlp_layers": 2,
            "control_width": 16,
            "text_width": 12,
            "history_frames": 2,
            "norm_groups": 4,
            "dropout": 0.0,
        }
        | changes
    )


def model(**changes) -> VideoUNet:
    """A U-Net whose every parameter is random, as zeros would hide what passes through them."""
    graph, shapes = nnx.split(
        nnx.eval_shape(lambda: VideoUNet(config(**changes), rngs=nnx.Rngs(0)))
    )
    draw = np.random.default_rng(0)

    def fill(x: jax.ShapeDtypeStruct) -> jax.Array:
        spread = 1 / np.sqrt(np.prod(x.shape[:-1])) if len(x.shape) > 1 else 0.3
        return jnp.asarray(0.1 * (len(x.shape) == 1) + spread * draw.normal(size=x.shape), x.dtype)

    return nnx.merge(graph, jax.tree.map(fill, shapes))


@nnx.jit
def predict(unet: VideoUNet, noisy, log_snr, cond, dropout_key=None) -> jax.Array:
    """The U-Net's prediction, compiled once per shape."""
    return unet(noisy, log_snr, cond, dropout_key=dropout_key)


def batch(
    b: int = 2,
    t: int = 4,
    h: int = 8,
    w: int = 12,
    tokens: int = 5,
    seed: int = 0,
    history: int = 2,
) -> tuple[jax.Array, jax.Array, Conditioning]:
    """Noised frames, log SNR and conditioning, everything present."""
    draw = np.random.default_rng(seed)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(draw.normal(size=shape), jnp.float32)

    cond = Conditioning(
        history=jnp.clip(normal(b, history, h, w, 3), -1, 1),
        history_mask=jnp.ones((b, history), bool),
        tokens=normal(b, tokens, 12),
        token_mask=jnp.ones((b, tokens), bool),
        controls=jnp.asarray(draw.integers(0, BINS, (b, t, NUM_SLOTS)), jnp.int32),
        control_mask=jnp.asarray(draw.random((b, NUM_SLOTS)) < 0.5),
        frame_mask=jnp.ones((b, t), bool),
    )
    return normal(b, t, h, w, 3), jnp.linspace(-4.0, 4.0, b), cond
