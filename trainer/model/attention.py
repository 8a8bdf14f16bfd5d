"""Attention of the video U-Net: within a frame, to the action, and between frames.

Every layer is a residual that starts as the identity, and every mask leaves each query at least one
key, so a softmax never meets an empty row and a weight behind a mask is exactly zero.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from trainer.model.config import ModelConfig
from trainer.model.layers import Dense
from trainer.model.placement import ANYWHERE, Placement


def weights_of(
    logits: Float[Array, "*n q k"], mask: Bool[Array, ...] | None = None
) -> Float[Array, "*n q k"]:
    """The softmax in float32; exactly zero where the mask, which broadcasts, is false."""
    logits = logits.astype(jnp.float32)
    if mask is not None:
        logits = jnp.where(mask, logits, -jnp.inf)
    return jax.nn.softmax(logits, axis=-1)


def _split(x: Array, heads: int) -> Array:
    return x.reshape(*x.shape[:-1], heads, -1)


class SpatialAttention(nnx.Module):
    """Every pixel of a frame attends to all pixels of that frame."""

    def __init__(self, channels: int, heads: int, config: ModelConfig, *, rngs: nnx.Rngs):
        inner = heads * config.head_width
        self.norm = nnx.LayerNorm(channels, dtype=config.compute, rngs=rngs)
        self.qkv = Dense(channels, 3 * inner, config, use_bias=False, rngs=rngs)
        self.out = Dense(inner, channels, config, zero=True, rngs=rngs)
        self.heads = heads

    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
        flat = self.norm(x).reshape(x.shape[0] * x.shape[1], -1, x.shape[-1])
        q, k, v = (_split(y, self.heads) for y in jnp.split(self.qkv(flat), 3, -1))
        logits = jnp.einsum("fqnd,fknd->fnqk", q * q.shape[-1] ** -0.5, k)
        mixed = jnp.einsum("fnqk,fknd->fqnd", weights_of(logits).astype(v.dtype), v)
        return x + self.out(mixed.reshape(*x.shape[:-1], -1))


class ActionAttention(nnx.Module):
    """Every pixel of every frame attends to the action's tokens (text and controls)."""

    def __init__(self, channels: int, heads: int, config: ModelConfig, *, rngs: nnx.Rngs):
        inner = heads * config.head_width
        self.norm = nnx.LayerNorm(channels, dtype=config.compute, rngs=rngs)
        self.query = Dense(channels, inner, config, use_bias=False, rngs=rngs)
        self.keys = Dense(config.cond_width, 2 * inner, config, use_bias=False, rngs=rngs)
        self.out = Dense(inner, channels, config, zero=True, rngs=rngs)
        self.heads = heads

    def __call__(
        self,
        x: Float[Array, "b t h w c"],
        tokens: Float[Array, "b m e"],
        mask: Bool[Array, "b m"],
    ) -> Float[Array, "b t h w c"]:
        """`mask` must let every sample see at least one token."""
        flat = self.norm(x).reshape(x.shape[0], -1, x.shape[-1])
        q = _split(self.query(flat), self.heads)
        k, v = (_split(y, self.heads) for y in jnp.split(self.keys(tokens), 2, -1))
        logits = jnp.einsum("bqnd,bknd->bnqk", q * q.shape[-1] ** -0.5, k)
        weights = weights_of(logits, mask[:, None, None, :])
        mixed = jnp.einsum("bnqk,bknd->bqnd", weights.astype(v.dtype), v)
        return x + self.out(mixed.reshape(*x.shape[:-1], -1))


class TemporalAttention(nnx.Module):
    """Every pixel attends to the same place in the real frames, with a bias for their distance.

    A frame that is alone attends to itself only: the weights are the identity, which is how images
    train with videos (Video Diffusion Models, section 3). Padded frames attend to themselves too.
    """

    def __init__(self, channels: int, heads: int, config: ModelConfig, *, rngs: nnx.Rngs):
        inner = heads * config.head_width
        self.norm = nnx.LayerNorm(channels, dtype=config.compute, rngs=rngs)
        self.qkv = Dense(channels, 3 * inner, config, use_bias=False, rngs=rngs)
        self.out = Dense(inner, channels, config, zero=True, rngs=rngs)
        # one number per head and per offset -(max_frames - 1) .. max_frames - 1
        self.bias = nnx.Param(jnp.zeros((heads, 2 * config.max_frames - 1)))
        self.heads = heads

    def __call__(
        self,
        x: Float[Array, "b t h w c"],
        frame_mask: Bool[Array, "b t"],
        placement: Placement = ANYWHERE,
    ) -> Float[Array, "b t h w c"]:
        flat = placement.positions(self.norm(x).reshape(*x.shape[:2], -1, x.shape[-1]))
        q, k, v = (_split(y, self.heads) for y in jnp.split(self.qkv(flat), 3, -1))
        logits = jnp.einsum("bqpnd,bkpnd->bpnqk", q * q.shape[-1] ** -0.5, k)
        weights = weights_of(
            logits.astype(jnp.float32) + self.relative(x.shape[1]),
            temporal_mask(frame_mask)[:, None, None],
        )
        mixed = jnp.einsum("bpnqk,bkpnd->bqpnd", weights.astype(v.dtype), v)
        flat = placement.positions(self.out(mixed.reshape(*flat.shape[:-1], -1)))
        return x + placement.frames(flat.reshape(x.shape))

    def relative(self, frames: int) -> Float[Array, "n t t"]:
        """The bias of each pair of frames; offsets beyond the table take its ends."""
        reach = (self.bias.shape[-1] - 1) // 2
        index = jnp.arange(frames)
        offset = jnp.clip(index[None, :] - index[:, None], -reach, reach) + reach
        return self.bias[...][:, offset]


def temporal_mask(frame_mask: Bool[Array, "b t"]) -> Bool[Array, "b t t"]:
    """Which frame may look at which: real ones at real ones, and every frame at itself."""
    real = frame_mask[:, :, None] & frame_mask[:, None, :]
    return real | jnp.eye(frame_mask.shape[1], dtype=bool)
