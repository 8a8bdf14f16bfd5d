"""`Sampler`: from noise to video, step by step; `walk` is the loop that all of them share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from schemas import UsageError
from trainer.diffusion.clip import Clip, clipped
from trainer.diffusion.denoise import DenoiseFn
from trainer.diffusion.schedule import CosineSchedule, alpha_sigma
from trainer.model import Conditioning


class Sampler(Protocol):
    """Draws videos o_t given h_{t-1}, a_{t-1}."""

    def sample(
        self, denoise: DenoiseFn, cond: Conditioning, shape: tuple[int, ...], key: jax.Array
    ) -> Float[Array, "b t h w 3"]:
        """Videos, within [-1, 1] unless the sampler does not clip. Padded frames mean nothing.

        One loop, its body compiled once; call it under `jax.jit` to share that between calls.

        Args:
            denoise: the model, guided or not.
            cond: h_{t-1}, a_{t-1} and the masks.
            shape: (b, t, h, w, 3) of the videos.
            key: draws all the noise.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Point:
    """Where a walk is: z_t, what the model says of it, λ_t, and the higher λ_s it goes to.

    Attributes:
        index: of the step, 0 is from pure noise.
        noisy: z_t = α·x + σ·ε.
        clean, noise: x̂ and ε̂ of it, after clipping; they satisfy that equation.
    """

    index: Int[Array, ""]
    noisy: Float[Array, "b t h w 3"]
    clean: Float[Array, "b t h w 3"]
    noise: Float[Array, "b t h w 3"]
    log_snr: Float[Array, ""]
    log_snr_next: Float[Array, ""]


class Steps(Protocol):
    """How a sampler walks.

    Attributes:
        steps: from t = 1 to t = 0, at uniformly spaced times.
        schedule: as in training.
        clip: of predicted clean videos.
    """

    @property
    def steps(self) -> int: ...

    @property
    def schedule(self) -> CosineSchedule: ...

    @property
    def clip(self) -> Clip: ...


Move = Callable[[Point, Any], tuple[Array, Any]]
"""From a point and what the walk remembers to z_s and what it remembers next."""


def walk(
    by: Steps,
    denoise: DenoiseFn,
    cond: Conditioning,
    start: Float[Array, "b t h w 3"],
    move: Move,
    memory: Any = None,
) -> Float[Array, "b t h w 3"]:
    """From pure noise at t = 1 to a video.

    The last step is to what the model then says the clean video is, rather than to z at t = 0: of a
    schedule that ends at λ = 20 that is the same, of a shorter one it leaves no noise behind.
    """
    levels = by.schedule.log_snr(jnp.arange(by.steps, -1, -1) / by.steps)

    def step(carry: tuple[Array, Any], at: tuple[Array, Array, Array]):
        (noisy, memory), (index, log_snr, log_snr_next) = carry, at
        noise = denoise(noisy, jnp.broadcast_to(log_snr, noisy.shape[:1]), cond)
        alpha, sigma = alpha_sigma(log_snr)
        clean = clipped((noisy - sigma * noise) / alpha, cond.frame_mask, by.clip)
        if by.clip != "none":
            noise = (noisy - alpha * clean) / sigma
        moved, memory = move(Point(index, noisy, clean, noise, log_snr, log_snr_next), memory)
        return (jnp.where(index == by.steps - 1, clean, moved), memory), None

    at = (jnp.arange(by.steps), levels[:-1], levels[1:])
    (frames, _), _ = lax.scan(step, (start, memory), at)
    return frames if by.clip == "none" else jnp.clip(frames, -1, 1)


def check_steps(steps: int) -> None:
    """Raises UsageError for a walk of no steps."""
    if steps < 1:
        raise UsageError(f"sampler: {steps} steps, wanted at least 1")
