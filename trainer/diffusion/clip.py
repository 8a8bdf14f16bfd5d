"""Clipping of a predicted clean video, which keeps early steps, where ε is amplified by 1/α, from
running away."""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Clip = Literal["static", "dynamic", "none"]
"""How: to [-1, 1]; by a quantile of the video itself; not at all."""

_QUANTILE = 0.995


def clipped(
    clean: Float[Array, "b t h w 3"], frame_mask: Bool[Array, "b t"], clip: Clip
) -> Float[Array, "b t h w 3"]:
    """The video within [-1, 1], or as it is for "none".

    "dynamic" (Imagen, section 2.3) takes s, the 0.995 quantile of |x| over a video's real frames,
    clips to [-s, s] and divides by s where s exceeds 1: strong guidance then pulls a video back
    instead of saturating it.
    """
    if clip == "none":
        return clean
    if clip == "static":
        return jnp.clip(clean, -1, 1)
    # ordering NaN last, a video's quantile does not depend on what its padded frames hold
    there = jnp.broadcast_to(frame_mask[:, :, None, None, None], clean.shape)
    sizes = jnp.where(there, jnp.abs(clean), jnp.nan).reshape(clean.shape[0], -1)
    reach = jnp.nan_to_num(jnp.nanquantile(sizes, _QUANTILE, axis=1), nan=1.0)
    reach = jnp.maximum(reach, 1)[:, None, None, None, None]
    return jnp.clip(clean, -reach, reach) / reach
