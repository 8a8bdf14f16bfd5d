"""A tiny video U-Net and random batches for it."""

from __future__ import annotations

import dataclasses

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

    def fill_each(path, x: jax.ShapeDtypeStruct) -> jax.Array:
        """A stack's parameters have those of its blocks one after another."""
        if "blocks" not in map(str, (getattr(key, "key", "") for key in path)):
            return fill(x)
        one = jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
        return jnp.stack([fill(one) for _ in range(x.shape[0])])

    return nnx.merge(graph, jax.tree.map_with_path(fill_each, shapes))


@nnx.jit
def predict(unet: VideoUNet, noisy, log_snr, cond, dropout_key=None) -> jax.Array:
    """The U-Net's prediction, compiled once per shape."""
    return unet(noisy, log_snr, cond, dropout_key=dropout_key)


def batch(
    b: int = 2,
    t: int = 4,
    h: int = 8,
    w: int = 12,
    tokens: int = 8,
    seed: int = 0,
    history: int = 2,
    upscale: int = 1,
) -> tuple[jax.Array, jax.Array, Conditioning]:
    """Noised frames, log SNR and conditioning, everything present; the text's last tokens give way
    to controls."""
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
    if upscale > 1:
        low = normal(b, t, h // upscale, w // upscale, 3)
        cond = dataclasses.replace(cond, low=low, low_log_snr=jnp.linspace(3.0, 5.0, b))
    return normal(b, t, h, w, 3), jnp.linspace(-4.0, 4.0, b), cond
