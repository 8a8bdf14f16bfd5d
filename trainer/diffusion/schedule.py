"""`CosineSchedule`: how much noise there is at a time t in [0, 1]; 0 is clean, 1 is noise.

Noise levels are told by λ = log(α²/σ²), the log signal-to-noise ratio, of the variance-preserving
process z = α·x + σ·ε with α² + σ² = 1.
"""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from schemas import UsageError
from trainer.model.noise import alpha_sigma

__all__ = ["CosineSchedule", "alpha_sigma"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CosineSchedule:
    """λ(t) = -2·log tan(a·t + b), b = atan(e^{-λmax/2}), a = atan(e^{-λmin/2}) - b.

    A shift moves the λ at which most time is spent from 0, and leaves the ends where they are: the
    same formula for λ - shift (Hoogeboom et al. 2023, "Simple diffusion", section 3.1).

    Attributes:
        log_snr_min, log_snr_max: λ at t = 1 and at t = 0 (Table 6: -20 and 20).
        shift: of λ; below 0 there is more noise at most times.
    """

    log_snr_min: float = -20.0
    log_snr_max: float = 20.0
    shift: float = 0.0

    def __post_init__(self):
        if not self.log_snr_min < self.log_snr_max:
            raise UsageError(
                f"schedule: log_snr_min {self.log_snr_min} is not below log_snr_max"
                f" {self.log_snr_max}; swap them"
            )

    def log_snr(self, t: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """λ at time t."""
        # near t = 1 the angle is near π/2, where float32 has no digits left for it; there its
        # complement a·(1-t) + (π/2 - a - b) is used, as tan(π/2 - x) = 1 / tan(x)
        t = jnp.asarray(t)
        late = t > 0.5
        low, high, slope = self._angles()
        angle = slope * jnp.where(late, 1 - t, t) + jnp.where(late, high, low)
        return jnp.where(late, 2.0, -2.0) * jnp.log(jnp.tan(angle)) + self.shift

    def time(self, log_snr: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """The time t at which λ is `log_snr`: the inverse of `log_snr`."""
        log_snr = jnp.asarray(log_snr) - self.shift
        low, high, slope = self._angles()
        angle = jnp.arctan(jnp.exp(-jnp.abs(log_snr) / 2))
        return jnp.where(log_snr > 0, (angle - low) / slope, 1 - (angle - high) / slope)

    def _angles(self) -> tuple[float, float, float]:
        low = math.atan(math.exp(-(self.log_snr_max - self.shift) / 2))
        high = math.atan(math.exp((self.log_snr_min - self.shift) / 2))
        return low, high, math.pi / 2 - low - high
