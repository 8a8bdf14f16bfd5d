"""α and σ of the variance-preserving process z = α·x + σ·ε, told by its log SNR λ = log(α²/σ²)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def alpha_sigma(
    log_snr: Float[Array, "*b"],
) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
    """α and σ at a log SNR."""
    return jnp.sqrt(jax.nn.sigmoid(log_snr)), jnp.sqrt(jax.nn.sigmoid(-log_snr))
