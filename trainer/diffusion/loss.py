"""The training loss of UniSim, section 2.2."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from trainer.diffusion.denoise import DenoiseFn
from trainer.diffusion.schedule import CosineSchedule, alpha_sigma
from trainer.model import Conditioning

Prediction = Literal["noise", "velocity"]
"""What the error is of: ε (Table 6), or v = α·ε - σ·x (Salimans and Ho 2022)."""


def diffusion_loss(
    denoise: DenoiseFn,
    schedule: CosineSchedule,
    frames: Float[Array, "b t h w 3"],
    cond: Conditioning,
    key: jax.Array,
    prediction: Prediction = "noise",
    spread: Float[Array, " b"] | float = 1.0,
) -> Float[Array, ""]:
    """E‖ε - ε_θ(α·o_t + σ·ε, λ | h, a)‖², the mean over pixels of real frames.

    With "velocity", E‖v - v_θ‖². As z = α·x + σ·ε fixes x once ε is said, v_θ - v is
    (ε_θ - ε)/α: levels with more noise weigh more, and nothing else changes. That suits videos of
    unit variance; if what is to be learned of them has the standard deviation s, the velocity's
    unit is s/√(α²s² + σ²), which makes all levels equally hard (Karras et al. 2022, section 5).

    Every real frame of the batch has the same weight, whatever video it is in. Each sample has its
    own time, uniform in [0, 1]. What padded frames hold changes neither value nor gradient.

    Args:
        denoise: the model.
        schedule: gives the noise level of a time.
        frames: o_t in [-1, 1].
        cond: h_{t-1}, a_{t-1} and the masks.
        key: draws times and noise.
        prediction: what the error is of.
        spread: s, of every sample or of all, for "velocity".

    Returns:
        The mean; 0 if no frame is real.
    """
    time_key, noise_key = jax.random.split(key)
    times = jax.random.uniform(time_key, frames.shape[:1])
    noise = jax.random.normal(noise_key, frames.shape)
    each = frame_errors(denoise, schedule, frames, cond, times, noise, prediction, spread)
    return each.sum() / jnp.maximum(cond.frame_mask.sum(), 1)


def frame_errors(
    denoise: DenoiseFn,
    schedule: CosineSchedule,
    frames: Float[Array, "b t h w 3"],
    cond: Conditioning,
    times: Float[Array, " b"],
    noise: Float[Array, "b t h w 3"],
    prediction: Prediction = "noise",
    spread: Float[Array, " b"] | float = 1.0,
) -> Float[Array, "b t"]:
    """Squared errors as `diffusion_loss` averages them, the mean over each frame's pixels; 0 of
    padded frames.

    Args:
        times: of each sample, in [0, 1].
        noise: ε.
    """
    pixels = cond.frame_mask[:, :, None, None, None]
    frames = jnp.where(pixels, frames.astype(jnp.float32), 0)
    log_snr = schedule.log_snr(times)
    alpha, sigma = (v[:, None, None, None, None] for v in alpha_sigma(log_snr))
    error = denoise(alpha * frames + sigma * noise, log_snr, cond) - noise
    if prediction == "velocity":
        spread = jnp.reshape(jnp.asarray(spread), (-1, 1, 1, 1, 1))
        error *= jnp.sqrt(jnp.square(alpha * spread) + jnp.square(sigma)) / (alpha * spread)
    return jnp.square(jnp.where(pixels, error, 0)).mean((2, 3, 4))
