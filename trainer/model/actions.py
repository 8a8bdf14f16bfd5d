"""`ActionEncoder`: text and controls become tokens to attend to and an embedding for each frame."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from trainer.model.conditioning import Conditioning
from trainer.model.config import ModelConfig
from trainer.model.layers import Dense, waves

# 2 / 2^8 of a slot's range is 16 bins: neighbouring bins always stay close on the finest wave
_OCTAVES = 9
_POSITION_FEATURES = 64


class Action(NamedTuple):
    """An encoded action.

    Attributes:
        tokens, mask: the text's tokens, whose last places the controls take, one for each real
            frame. An action of neither is one learned token.
        frame: what is added to each frame's embedding.
    """

    tokens: Float[Array, "b l e"]
    mask: Bool[Array, "b l"]
    frame: Float[Array, "b t e"]


def control_features(
    bins: Int[Array, "b t s"], mask: Bool[Array, "b s"], count: int
) -> Float[Array, "b t s f"]:
    """Smooth features of each control: presence, value, and waves of it; zeros for absent slots.

    The middle of a bin, as a number in [-1, 1], is read by sines and cosines of nine octaves. An
    embedding that is linear in them keeps what a table of 4096 rows per slot would have to learn:
    that bin 2049 is next to bin 2050. The coarse octaves order the range; the finest has a period
    of 16 bins of 4096, so that small motions, which are most of all motions, are told apart.

    Args:
        bins: 0 .. count - 1.
        mask: the slots that exist.
        count: bins per slot.
    """
    value = (bins.astype(jnp.float32) + 0.5) * (2 / count) - 1
    angles = jnp.pi * value[..., None] * 2.0 ** jnp.arange(_OCTAVES)
    parts = (jnp.ones_like(value)[..., None], value[..., None], jnp.sin(angles), jnp.cos(angles))
    return jnp.where(mask[:, None, :, None], jnp.concatenate(parts, -1), 0)


class ActionEncoder(nnx.Module):
    """Projects T5 tokens, and embeds the controls of every future frame.

    A frame's controls are one token: the sum over present slots of an embedding that is linear in
    the slot's features (one matrix product), through one hidden layer, plus the frame's position.
    The motion of frame i is about frame i, so the token also enters that frame's own embedding.

    Text and controls share the `l` places of the text (64 in UniSim): frame i of t takes place
    l - t + i, which only a text of more than l - t tokens had a use for.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        width = config.cond_width
        self.text_norm = nnx.LayerNorm(config.text_width, dtype=config.compute, rngs=rngs)
        self.text = Dense(config.text_width, width, config, rngs=rngs)
        self.pooled = Dense(width, width, config, rngs=rngs)
        features = config.control_slots * (2 + 2 * _OCTAVES)
        self.control_in = Dense(features, config.control_width, config, rngs=rngs)
        self.control_out = Dense(config.control_width, width, config, rngs=rngs)
        self.position = Dense(_POSITION_FEATURES, width, config, rngs=rngs)
        self.none = nnx.Param(nnx.initializers.normal(1.0)(rngs.params(), (width,), jnp.float32))
        self.norm = nnx.LayerNorm(width, dtype=config.compute, rngs=rngs)
        self.bins = config.control_bins

    def __call__(self, cond: Conditioning) -> Action:
        batch, frames = cond.frame_mask.shape
        there = cond.token_mask[..., None]
        text = self.text(self.text_norm(jnp.where(there, cond.tokens, 0)))
        text = jnp.where(there, text, 0)
        pooled = text.sum(1) / jnp.maximum(there.sum(1), 1).astype(text.dtype)

        present = cond.frame_mask & cond.control_mask.any(-1, keepdims=True)
        bins = jnp.where(cond.frame_mask[..., None], cond.controls, 0)
        features = control_features(bins, cond.control_mask, self.bins)
        hidden = nnx.silu(self.control_in(features.reshape(batch, frames, -1)))
        control = jnp.where(present[..., None], self.control_out(hidden), 0)
        position = self.position(waves(jnp.arange(frames), _POSITION_FEATURES, 4.0, 256.0))

        early = ((0, 0), (text.shape[1] - frames, 0))
        moves = jnp.pad(present, early)
        placed = jnp.pad(control + position, (*early, (0, 0)))
        tokens = jnp.where(moves[..., None], placed, text)
        mask = cond.token_mask | moves
        first = jnp.arange(text.shape[1]) == 0
        neither = ~mask.any(1, keepdims=True) & first
        return Action(
            tokens=self.norm(jnp.where(neither[..., None], self.none[...], tokens)),
            mask=mask | neither,
            frame=self.pooled(pooled)[:, None] + control + position,
        )
