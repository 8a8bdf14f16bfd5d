"""The training loss of UniSim, section 2.2."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from trainer.diffusion.denoise import DenoiseFn
from trainer.diffusion.schedule import CosineSchedule, alpha_sigma
from trainer.model import Conditioning


def diffusion_loss(
    denoise: DenoiseFn,
    schedule: CosineSchedule,
    frames: Float[Array, "b t h w 3"],
    cond: Conditioning,
    key: jax.Array,
) -> Float[Array, ""]:
    """E‖ε - ε_θ(α·o_t + σ·ε, λ | h, a)‖², the mean over pixels of real frames.

    Every real frame of the batch has the same weight, whatever video it is in. Each sample has its
    own time, uniform in [0, 1]. What padded frames hold changes neither value nor gradient.

    Args:
        denoise: the model.
        schedule: gives the noise level of a time.
        frames: o_t in [-1, 1].
        cond: h_{t-1}, a_{t-1} and the masks.
        key: draws times and noise.

    Returns:
        The mean; 0 if no frame is real.
    """
    time_key, noise_key = jax.random.split(key)
    real = cond.frame_mask
    pixels = real[:, :, None, None, None]
    frames = jnp.where(pixels, frames.astype(jnp.float32), 0)
    log_snr = schedule.log_snr(jax.random.uniform(time_key, frames.shape[:1]))
    noise = jax.random.normal(noise_key, frames.shape)
    alpha, sigma = (v[:, None, None, None, None] for v in alpha_sigma(log_snr))
    error = denoise(alpha * frames + sigma * noise, log_snr, cond) - noise
    each = jnp.square(jnp.where(pixels, error, 0)).mean((2, 3, 4))
    return each.sum() / jnp.maximum(real.sum(), 1)
