"""The low-resolution video that a super-resolution model refines, and the noise that it wears.

A cascade hands on what a coarser model made, with that model's faults. Noise of a known strength
hides them, and a model trained on it does not trust detail that it cannot (noise conditioning
augmentation: Ho et al. 2022, "Cascaded Diffusion Models").
"""

from __future__ import annotations

import dataclasses

import jax
from jaxtyping import Array, Float

from trainer.diffusion.schedule import CosineSchedule, alpha_sigma
from trainer.model import Conditioning


def shrunk(frames: Float[Array, "b t h w 3"], factor: int) -> Float[Array, "b t p q 3"]:
    """Frames at 1/`factor` of their height and width, each pixel the mean of a square."""
    b, t, h, w, c = frames.shape
    return frames.reshape(b, t, h // factor, factor, w // factor, factor, c).mean((3, 5))


def with_low(
    cond: Conditioning,
    low: Float[Array, "b t p q 3"],
    log_snr: Float[Array, " b"],
    key: jax.Array,
) -> Conditioning:
    """The conditioning with the low-resolution video, noised to `log_snr`.

    Args:
        low: in [-1, 1].
        key: draws the noise.
    """
    alpha, sigma = (v[:, None, None, None, None] for v in alpha_sigma(log_snr))
    noisy = alpha * low + sigma * jax.random.normal(key, low.shape)
    return dataclasses.replace(cond, low=noisy, low_log_snr=log_snr)


def drawn_low(
    cond: Conditioning,
    frames: Float[Array, "b t h w 3"],
    factor: int,
    schedule: CosineSchedule,
    most: float,
    key: jax.Array,
) -> Conditioning:
    """The conditioning for training: the frames themselves, shrunk, at a time uniform in
    [0, `most`] of the schedule."""
    time_key, noise_key = jax.random.split(key)
    log_snr = schedule.log_snr(most * jax.random.uniform(time_key, frames.shape[:1]))
    return with_low(cond, shrunk(frames, factor), log_snr, noise_key)
