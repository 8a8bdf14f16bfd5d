"""`AncestralSampler`: noise to video, step by step (UniSim, appendix; Video Diffusion Models)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from schemas import UsageError
from trainer.diffusion.denoise import DenoiseFn
from trainer.diffusion.schedule import CosineSchedule, alpha_sigma
from trainer.model import Conditioning


def posterior(
    noisy: Float[Array, "*n"],
    clean: Float[Array, "*n"],
    log_snr: Float[Array, ""],
    log_snr_next: Float[Array, ""],
    gamma: float,
) -> tuple[Float[Array, "*n"], Float[Array, ""]]:
    """Mean and variance of z_s given z_t and x, from λ_t = `log_snr` to the higher λ_s.

    The mean is that of the forward process, μ̃ = e^{λt-λs}·(α_s/α_t)·z_t + (1-e^{λt-λs})·α_s·x. The
    variance (σ̃²_{s|t})^{1-γ}·(σ²_{t|s})^γ lies between the forward process's own
    σ̃² = (1-e^{λt-λs})·σ_s², at γ = 0, and σ²_{t|s} = (1-e^{λt-λs})·σ_t², at γ = 1.
    """
    kept = jnp.exp(log_snr - log_snr_next)
    renewed = -jnp.expm1(log_snr - log_snr_next)
    alpha, _ = alpha_sigma(log_snr)
    alpha_next, _ = alpha_sigma(log_snr_next)
    mean = kept * (alpha_next / alpha) * noisy + renewed * alpha_next * clean
    # log σ² at both ends; interpolated as logarithms, and finite however small they are
    late, early = jax.nn.log_sigmoid(-log_snr_next), jax.nn.log_sigmoid(-log_snr)
    return mean, renewed * jnp.exp((1 - gamma) * late + gamma * early)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AncestralSampler:
    """Draws videos with `steps` evaluations at uniformly spaced times.

    Attributes:
        steps: from t = 1 to t = 0 (Table 6: 256).
        gamma: γ of the variance, see `posterior` (Table 6: 0.1).
        schedule: as in training.
        clip: limits every predicted clean video to [-1, 1], which keeps early steps, where ε is
            amplified by 1/α, from running away.
    """

    steps: int = 256
    gamma: float = 0.1
    schedule: CosineSchedule = dataclasses.field(default_factory=CosineSchedule)
    clip: bool = True

    def __post_init__(self):
        if self.steps < 1:
            raise UsageError(f"sampler: {self.steps} steps, wanted at least 1")
        if not 0 <= self.gamma <= 1:
            raise UsageError(f"sampler: gamma is {self.gamma}, wanted 0..1")

    def sample(
        self,
        denoise: DenoiseFn,
        cond: Conditioning,
        shape: tuple[int, ...],
        key: jax.Array,
    ) -> Float[Array, "b t h w 3"]:
        """Videos o_t given h_{t-1}, a_{t-1}; within [-1, 1] if `clip`. Padded frames mean nothing.

        One loop, its body compiled once; call it under `jax.jit` to share that between calls.

        Args:
            denoise: the model, guided or not.
            cond: h_{t-1}, a_{t-1} and the masks.
            shape: (b, t, h, w, 3) of the videos.
            key: draws all the noise.
        """
        start_key, step_key = jax.random.split(key)
        times = jnp.arange(self.steps, -1, -1) / self.steps
        levels = self.schedule.log_snr(times)

        def step(noisy: Array, step: tuple[Array, Array, Array]) -> tuple[Array, None]:
            index, log_snr, log_snr_next = step
            noise = denoise(noisy, jnp.broadcast_to(log_snr, shape[:1]), cond)
            alpha, sigma = alpha_sigma(log_snr)
            mean, variance = posterior(
                noisy,
                self._limit((noisy - sigma * noise) / alpha),
                log_snr,
                log_snr_next,
                self.gamma,
            )
            fresh = jax.random.normal(jax.random.fold_in(step_key, index), shape)
            last = index == self.steps - 1
            return mean + jnp.where(last, 0, jnp.sqrt(variance)) * fresh, None

        start = jax.random.normal(start_key, shape)
        steps = (jnp.arange(self.steps), levels[:-1], levels[1:])
        frames, _ = lax.scan(step, start, steps)
        return self._limit(frames)

    def _limit(self, frames: Array) -> Array:
        return jnp.clip(frames, -1, 1) if self.clip else frames
