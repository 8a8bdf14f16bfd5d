"""`Conditioning`: what a video is conditioned on, h_{t-1} and a_{t-1} of UniSim's p(o_t | h, a)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditioning:
    """History, action and masks of a batch. A pytree, so it goes through jit, grad and sharding.

    What lies behind a false mask never matters: the model clears it before it looks.

    Attributes:
        history: the frames before, oldest first, in [-1, 1]; zeros where absent.
        history_mask: the history frames that exist.
        tokens: T5 embeddings of the action text, zero padded.
        token_mask: the tokens that are real.
        controls: bins 0..4095 of `schemas.controls`; row i is the motion that led to frame i.
        control_mask: the control slots that exist; none for an action that is text alone.
        frame_mask: the future frames that are real; a still image is a video of one real frame.
        low: the same video smaller, with noise, which super-resolution models refine.
        low_log_snr: how much noise: log(α²/σ²) of `low` = α·video + σ·ε.
    """

    history: Float[Array, "b k h w 3"]
    history_mask: Bool[Array, "b k"]
    tokens: Float[Array, "b l d"]
    token_mask: Bool[Array, "b l"]
    controls: Int[Array, "b t s"]
    control_mask: Bool[Array, "b s"]
    frame_mask: Bool[Array, "b t"]
    low: Float[Array, "b t p q 3"] | None = None
    low_log_snr: Float[Array, " b"] | None = None


def drop_action(
    cond: Conditioning,
    drop: Bool[Array, " b"],
    empty_tokens: Float[Array, "l d"],
    empty_mask: Bool[Array, " l"],
) -> Conditioning:
    """The conditioning without its action where `drop`: the unconditional branch of guidance.

    The text becomes the empty text and the controls go; the history stays (UniSim, section 2.2), so
    guidance sharpens the action and not the past.

    Args:
        drop: the samples whose action goes.
        empty_tokens, empty_mask: embedding of "", padded like `cond.tokens`.
    """
    tokens = empty_tokens.astype(cond.tokens.dtype)
    return dataclasses.replace(
        cond,
        tokens=jnp.where(drop[:, None, None], tokens, cond.tokens),
        token_mask=jnp.where(drop[:, None], empty_mask, cond.token_mask),
        control_mask=cond.control_mask & ~drop[:, None],
    )
