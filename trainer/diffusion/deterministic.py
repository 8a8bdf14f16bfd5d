"""Samplers that draw noise once, at the start: DDIM and DPM-Solver++(2M).

Both integrate the probability-flow equation, so a video is a function of its first noise, and
fewer steps do: the first method has an error that falls with the number of steps, the second with
its square.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from trainer.diffusion.clip import Clip
from trainer.diffusion.denoise import DenoiseFn
from trainer.diffusion.sampler import Point, check_steps, walk
from trainer.diffusion.schedule import CosineSchedule, alpha_sigma
from trainer.model import Conditioning


@dataclasses.dataclass(frozen=True, kw_only=True)
class DDIMSampler:
    """A `Sampler` without noise between steps (Song et al. 2021): z_s = α_s·x̂ + σ_s·ε̂.

    Attributes:
        steps: from t = 1 to t = 0.
        schedule: as in training.
        clip: of predicted clean videos.
    """

    steps: int = 64
    schedule: CosineSchedule = dataclasses.field(default_factory=CosineSchedule)
    clip: Clip = "static"

    def __post_init__(self):
        check_steps(self.steps)

    def sample(
        self, denoise: DenoiseFn, cond: Conditioning, shape: tuple[int, ...], key: jax.Array
    ) -> Float[Array, "b t h w 3"]:
        """See `Sampler`."""
        return self.from_noise(denoise, cond, jax.random.normal(key, shape))

    def from_noise(
        self, denoise: DenoiseFn, cond: Conditioning, start: Float[Array, "b t h w 3"]
    ) -> Float[Array, "b t h w 3"]:
        """The video that this noise becomes."""

        def move(point: Point, _: None) -> tuple[Array, None]:
            alpha, sigma = alpha_sigma(point.log_snr_next)
            return alpha * point.clean + sigma * point.noise, None

        return walk(self, denoise, cond, start, move)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPMSolver:
    """A `Sampler` of second order: DPM-Solver++(2M) (Lu et al. 2022, algorithm 2).

    With h = (λ_s - λ_t)/2 the exact solution is z_s = (σ_s/σ_t)·z_t + α_s·(1 - e^{-h})·D for a D
    that is a mean of x̂ over the step; D is x̂ at λ_t, extrapolated to the step's middle through x̂
    of the step before. The first step has none before it.

    Attributes:
        steps: from t = 1 to t = 0.
        schedule: as in training.
        clip: of predicted clean videos.
    """

    steps: int = 32
    schedule: CosineSchedule = dataclasses.field(default_factory=CosineSchedule)
    clip: Clip = "static"

    def __post_init__(self):
        check_steps(self.steps)

    def sample(
        self, denoise: DenoiseFn, cond: Conditioning, shape: tuple[int, ...], key: jax.Array
    ) -> Float[Array, "b t h w 3"]:
        """See `Sampler`."""
        return self.from_noise(denoise, cond, jax.random.normal(key, shape))

    def from_noise(
        self, denoise: DenoiseFn, cond: Conditioning, start: Float[Array, "b t h w 3"]
    ) -> Float[Array, "b t h w 3"]:
        """The video that this noise becomes."""

        def move(point: Point, before: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
            clean_before, stride_before = before
            stride = (point.log_snr_next - point.log_snr) / 2
            ahead = jnp.where(point.index == 0, 0, stride / (2 * stride_before))
            mean = point.clean + ahead * (point.clean - clean_before)
            # σ_s / σ_t, and both as logarithms: they lie many powers of ten apart
            fade = jax.nn.log_sigmoid(-point.log_snr_next) - jax.nn.log_sigmoid(-point.log_snr)
            alpha, _ = alpha_sigma(point.log_snr_next)
            noisy = jnp.exp(fade / 2) * point.noisy - alpha * jnp.expm1(-stride) * mean
            return noisy, (point.clean, stride)

        return walk(self, denoise, cond, start, move, (jnp.zeros_like(start), jnp.ones(())))
