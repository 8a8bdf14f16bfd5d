"""`AncestralSampler`: fresh noise at every step (UniSim, appendix; Video Diffusion Models)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from schemas import UsageError
from trainer.diffusion.clip import Clip
from trainer.diffusion.denoise import DenoiseFn
from trainer.diffusion.sampler import Point, check_steps, walk
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
    """A `Sampler` after the forward process, turned round.

    Attributes:
        steps: from t = 1 to t = 0 (Table 6: 256).
        gamma: γ of the variance, see `posterior` (Table 6: 0.1).
        schedule: as in training.
        clip: of predicted clean videos.
    """

    steps: int = 256
    gamma: float = 0.1
    schedule: CosineSchedule = dataclasses.field(default_factory=CosineSchedule)
    clip: Clip = "static"

    def __post_init__(self):
        check_steps(self.steps)
        if not 0 <= self.gamma <= 1:
            raise UsageError(f"sampler: gamma is {self.gamma}, wanted 0..1")

    def sample(
        self,
        denoise: DenoiseFn,
        cond: Conditioning,
        shape: tuple[int, ...],
        key: jax.Array,
    ) -> Float[Array, "b t h w 3"]:
        """See `Sampler`."""
        start_key, step_key = jax.random.split(key)

        def move(point: Point, _: None) -> tuple[Array, None]:
            mean, variance = posterior(
                point.noisy, point.clean, point.log_snr, point.log_snr_next, self.gamma
            )
            fresh = jax.random.normal(jax.random.fold_in(step_key, point.index), shape)
            return mean + jnp.sqrt(variance) * fresh, None

        start = jax.random.normal(start_key, shape)
        return walk(self, denoise, cond, start, move)
